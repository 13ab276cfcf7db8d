"""Graphs made by hand, of what a model might hold: quantised in every precision, they compute the same in ONNX Runtime,
and what is rewritten of them otherwise stays what it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import export.onnx
import export.onnx_folder
import zoo
from export.onnx_folder import write_onnx_folder
from export.onnx_graph import Graph, fuse_layer_norms, save
from export.onnx_quantize import PRECISIONS, _quantize
from export.onnx_weights import REDUCED, SMALLEST

# The norm of the difference of the outputs, divided by that of the outputs; measured, at most: 0.00036, 0.027, 0.141.
DIFFERENCE = {"float16": 0.0005, "int8": 0.03, "int4": 0.16}
ROWS = 16
node = helper.make_node


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Large ones, normal numbers whose columns, and rows, are of many sizes."""
    rng = np.random.default_rng(0)
    assert all(np.prod(shape) >= SMALLEST for shape in shapes.values())
    return {
        name: (rng.normal(size=shape) * rng.uniform(0.2, 1, shape[-1]) * rng.uniform(0.2, 1, (shape[-2], 1))).astype(
            "float32"
        )
        for name, shape in shapes.items()
    }


def model_of(
    nodes: list[Any], constants: dict[str, np.ndarray], output: int = 2, x: tuple[Any, ...] = (None, 64)
) -> onnx.ModelProto:
    """A model of `x`, float32, and `ids`, int32 (tokens,), if it takes them; `y` has so many axes."""
    taken = {name for each in nodes for name in each.input}
    inputs = {"x": (TensorProto.FLOAT, x), "ids": (TensorProto.INT32, [None])}
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info(name, *inputs[name]) for name in inputs if name in taken],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(file: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The last output."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {each.name: inputs[each.name] for each in session.get_inputs()})[-1]


def kept_in(file: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


def quantized(model: onnx.ModelProto, precision: str, folder: Path) -> tuple[Path, Path]:
    """A model's file, and that of what is made of it."""
    whole, small = folder / "whole.onnx", folder / f"{precision}.onnx"
    onnx.save(model, whole)
    _quantize({"file": str(whole), "out": str(small), "precision": precision, "external_above": 2**31})
    return whole, small


def branches(weight: str, value: str, out: str = "y", rank: int = 2) -> Any:
    """An If that takes a weight, and a value, of the graph around it: the product of them, or of the negative value."""

    def branch(name: str, *before: Any) -> Any:
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        taken = before[0].output[0] if before else value
        return helper.make_graph([*before, node("MatMul", [taken, weight], [name])], name, [], [result])

    return node(
        "If",
        ["yes"],
        [out],
        then_branch=branch("positive"),
        else_branch=branch("negative", node("Neg", [value], ["negated"])),
    )


def transpose(name: str, out: str, perm: list[int] | None = None) -> Any:
    return node("Transpose", [name], [out], **({"perm": perm} if perm else {}))


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "a product straight into a product": lambda: model_of(
        [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])], weights(a=(64, 32), b=(32, 64))
    ),
    "a LoRA adapter": lambda: model_of(
        [
            node("MatMul", ["x", "kernel"], ["dense"]),
            node("MatMul", ["x", "lora.a"], ["low"]),
            node("MatMul", ["low", "lora.b"], ["high"]),
            node("Mul", ["high", "scale"], ["added"]),
            node("Add", ["dense", "added"], ["y"]),
        ],
        weights(**{"kernel": (64, 96), "lora.a": (64, 16), "lora.b": (16, 96)}) | {"scale": np.float32(0.5)[None]},
    ),
    "what is looked up straight into a product": lambda: model_of(
        [node("Gather", ["table", "ids"], ["h"], axis=0), node("MatMul", ["h", "b"], ["y"])],
        weights(table=(64, 32), b=(32, 64)),
    ),
    "what is looked up, multiplied with and put out": lambda: model_of(
        [
            node("Gather", ["table", "ids"], ["h"], axis=0),
            node("MatMul", ["h", "b"], ["m"]),
            node("Concat", ["h", "m"], ["y"], axis=1),
        ],
        weights(table=(64, 32), b=(32, 64)),
    ),
    "both ways round": lambda: model_of(
        [
            node("MatMul", ["x", "a"], ["h"]),
            node("Relu", ["h"], ["k"]),
            transpose("a", "turned", [1, 0]),
            node("MatMul", ["k", "turned"], ["y"]),
        ],
        weights(a=(64, 32)),
    ),
    "tied, of a width that is no multiple of a block": lambda: model_of(
        [
            node("Gather", ["table", "ids"], ["h"]),
            transpose("table", "turned"),
            node("MatMul", ["h", "turned"], ["y"]),
        ],
        weights(table=(64, 48)),
    ),
    "looked up and multiplied with as it is": lambda: model_of(
        [
            node("Gather", ["table", "ids"], ["h"]),
            node("MatMul", ["x", "table"], ["m"]),
            node("Add", ["h", "m"], ["y"]),
        ],
        weights(table=(64, 32)),
    ),
    "used as it is, then multiplied with": lambda: model_of(
        [
            node("Abs", ["a"], ["positive"]),
            node("MatMul", ["x", "a"], ["m"]),
            node("MatMul", ["x", "positive"], ["n"]),
            node("Add", ["m", "n"], ["y"]),
        ],
        weights(a=(64, 32)),
    ),
    "multiplied with, then used as it is": lambda: model_of(
        [
            transpose("a", "turned"),
            node("MatMul", ["x", "turned"], ["m"]),
            node("MatMul", ["m", "c"], ["n"]),
            node("Slice", ["a", "zero", "rows"], ["some"]),
            node("Mul", ["some", "n"], ["y"]),
        ],
        weights(a=(32, 64), c=(32, 64)) | {"zero": np.array([0]), "rows": np.array([ROWS])},
    ),
    "columns that are looked up": lambda: model_of(
        [node("Gather", ["table", "ids"], ["h"], axis=1), node("MatMul", ["x", "h"], ["y"])], weights(table=(64, 64))
    ),
    "matrices that are looked up": lambda: model_of(
        [node("Gather", ["table", "ids"], ["h"]), node("MatMul", ["x", "h"], ["y"])], weights(table=(64, 64, 8)), 3
    ),
    "several matrices at once": lambda: model_of([node("MatMul", ["x", "a"], ["y"])], weights(a=(3, 64, 32)), 3),
    "a transposition that turns nothing": lambda: model_of(
        [transpose("a", "same", [0, 1]), node("MatMul", ["x", "same"], ["y"])], weights(a=(64, 32))
    ),
    "the product of two weights": lambda: model_of(
        [node("MatMul", ["a", "b"], ["ab"]), node("MatMul", ["x", "ab"], ["y"])], weights(a=(64, 32), b=(32, 64))
    ),
    "a branch that takes a weight and a product": lambda: model_of(
        [
            node("MatMul", ["x", "a"], ["h"]),
            node("MatMul", ["h", "b"], ["k"]),
            node("Greater", ["three", "two"], ["yes"]),
            branches("b", "k"),
        ],
        weights(a=(64, 32), b=(32, 32)) | {"three": np.float32(3), "two": np.float32(2)},
    ),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_rounded_computes_nearly_the_same(name: str, precision: str, tmp_path: Path) -> None:
    """And keeps no large weight in float32."""
    rng = np.random.default_rng(1)
    inputs = {"x": rng.normal(size=(ROWS, 64)).astype("float32"), "ids": rng.integers(0, 64, ROWS).astype("int32")}
    whole, small = quantized(GRAPHS[name](), precision, tmp_path)
    expected, found = run(whole, inputs), run(small, inputs)
    assert 0 < np.linalg.norm(found - expected) <= DIFFERENCE[precision] * np.linalg.norm(expected)
    assert not kept_in(whole).keys() & {key for key, value in kept_in(small).items() if value.size >= SMALLEST}


@pytest.mark.parametrize("name", ["used as it is, then multiplied with", "multiplied with, then used as it is"])
def test_a_weight_of_products_has_7_bits_and_is_kept_once(name: str, tmp_path: Path) -> None:
    """Whoever takes it first: more would overflow where a processor adds two products of 8 bits in 16."""
    kept = kept_in(quantized(GRAPHS[name](), "int8", tmp_path)[1])
    integers = {key: value for key, value in kept.items() if value.dtype == np.int8 and value.ndim == 2}
    assert integers.keys() == ({"a.int8"} if "then multiplied" in name else {"a.int8", "c.int8"})
    assert {np.abs(value.astype(int)).max() for value in integers.values()} == {REDUCED}


def test_a_table_of_products_is_looked_up_in_blocks_of_4_bits(tmp_path: Path) -> None:
    """In those that it is multiplied with, and nowhere else."""
    name = "tied, of a width that is no multiple of a block"
    kept = kept_in(quantized(GRAPHS[name](), "int4", tmp_path)[1])
    assert [key for key in kept if key.startswith("table")] == ["table.int4", "table.scales"]


def test_a_product_in_float16_is_taken_as_it_is(tmp_path: Path) -> None:
    """By the next one: float32 in between would be cast to and from for nothing."""
    _, small = quantized(GRAPHS["a product straight into a product"](), "float16", tmp_path)
    assert [each.op_type for each in onnx.load(small).graph.node] == ["Cast", "MatMul", "MatMul", "Cast"]


def test_a_name_that_is_taken_is_not_taken_for_it() -> None:
    graph = Graph(model_of([node("MatMul", ["x", "a"], ["y"])], weights(a=(64, 32))))
    assert graph.keep("last", np.array([-1])) == graph.keep("last", np.array([-1])) == "last"
    for name in ("last", "y"):
        with pytest.raises(ValueError, match=f"another tensor named '{name}'"):
            graph.keep(name, np.array([1]))


def layer_norm(axis: int, rank: int, sizes: list[int], keepdims: int = 1) -> onnx.ModelProto:
    """As TensorFlow makes it of Keras's."""
    nodes = [
        node("ReduceMean", ["x", "axes"], ["mean"], keepdims=keepdims),
        node("Sub", ["x", "mean"], ["difference"]),
        node("Mul", ["difference", "difference"], ["square"]),
        node("ReduceMean", ["square", "axes"], ["variance"], keepdims=keepdims),
        node("Add", ["variance", "epsilon"], ["sum"]),
        node("Sqrt", ["sum"], ["root"]),
        node("Reciprocal", ["root"], ["reciprocal"]),
        node("Reshape", ["gamma", "sizes"], ["gammas"]),
        node("Reshape", ["beta", "sizes"], ["betas"]),
        node("Mul", ["reciprocal", "gammas"], ["scale"]),
        node("Neg", ["mean"], ["negative"]),
        node("Mul", ["negative", "scale"], ["moved"]),
        node("Add", ["moved", "betas"], ["shift"]),
        node("Mul", ["x", "scale"], ["scaled"]),
        node("Add", ["scaled", "shift"], ["y"]),
    ]
    rng = np.random.default_rng(2)
    constants = {"gamma": rng.normal(size=6).astype("float32"), "beta": rng.normal(size=6).astype("float32")}
    constants |= {"axes": np.array([axis]), "sizes": np.array(sizes), "epsilon": np.float32(1e-3)}
    return model_of(nodes, constants, rank, (6,) * rank)


@pytest.mark.parametrize(
    ("axis", "rank", "sizes", "keepdims", "fused"),
    [
        (-1, 3, [1, 1, 6], 1, True),
        (-1, 2, [1, 6], 1, True),
        (-1, 2, [-1], 1, True),
        (2, 4, [1, 1, 6], 1, False),  # the last but one
        (1, 3, [1, 1, 6], 1, False),
        (-1, 3, [1, 6, 1], 1, False),  # gamma and beta lie along another axis
        (-1, 3, [1, 1, 6], 0, False),
    ],
)
def test_only_a_layer_norm_is_fused(
    axis: int, rank: int, sizes: list[int], keepdims: int, fused: bool, tmp_path: Path
) -> None:
    model = layer_norm(axis, rank, sizes, keepdims)
    save(model, tmp_path / "plain.onnx", 2**31)
    fuse_layer_norms(Graph(model))
    assert ([each.op_type for each in model.graph.node] == ["LayerNormalization"]) == fused
    save(model, tmp_path / "fused.onnx", 2**31)
    x = {"x": np.random.default_rng(3).normal(size=(6,) * rank).astype("float32")}
    np.testing.assert_allclose(run(tmp_path / "fused.onnx", x), run(tmp_path / "plain.onnx", x), rtol=0, atol=1e-5)


def test_a_folder_keeps_large_weights_beside_as_the_hub_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `model.onnx_data`, not `model.onnx.data`; and what a branch takes is renamed there too."""
    monkeypatch.setattr(export.onnx, "EXTERNAL_ABOVE", 1000)
    monkeypatch.setattr(  # in this process
        export.onnx_folder,
        "run_child",
        lambda command, _: export.onnx_folder._rewrite(json.loads(Path(command[-1]).read_text())),
    )
    text = [TensorProto.INT32, ["batch", "tokens"]]
    graph = helper.make_graph(
        [
            node("Gather", ["table", "token_ids"], ["sequence"]),
            node("Greater", ["three", "two"], ["yes"]),
            branches("a", "sequence", "pooled", 3),
        ],
        "by_hand",
        [helper.make_tensor_value_info("token_ids", *text)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in ("sequence", "pooled")],
        [numpy_helper.from_array(value, name) for name, value in weights(table=(64, 64), a=(64, 32)).items()]
        + [numpy_helper.from_array(np.float32(value), name) for name, value in (("three", 3), ("two", 2))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    files = dict(zip(("float32", "float16"), quantized(model, "float16", tmp_path), strict=True))
    write_onnx_folder(zoo.create("bert-nano"), {"serving_default": files}, tmp_path / "folder", 60)
    onnx_folder = tmp_path / "folder/onnx"
    names = ["model.onnx", "model.onnx_data", "model_fp16.onnx", "model_fp16.onnx_data"]
    assert sorted(each.name for each in onnx_folder.iterdir()) == names
    ids = np.array([[1, 5, 7], [0, 63, 2]])
    for name, file in (("model.onnx", files["float32"]), ("model_fp16.onnx", files["float16"])):
        assert (onnx_folder / name).stat().st_size < 0.5 * (onnx_folder / f"{name}_data").stat().st_size
        found = run(onnx_folder / name, {"input_ids": ids})
        np.testing.assert_array_equal(found, run(file, {"token_ids": ids.astype("int32")}))


def test_what_a_branch_takes_stays(tmp_path: Path) -> None:
    """Nodes and constants, whatever else takes them."""
    model = model_of(
        [
            node("Relu", ["x"], ["h"]),
            node("Neg", ["x"], ["unused"]),
            node("Greater", ["three", "two"], ["yes"]),
            branches("a", "h"),
        ],
        weights(a=(64, 32), b=(64, 32)) | {"three": np.float32(3), "two": np.float32(2)},
    )
    graph = Graph(model)
    assert [each.op_type for each in graph.takers["h"]] == [each.op_type for each in graph.takers["a"]] == ["If"]
    graph.replace({})
    assert [each.op_type for each in model.graph.node] == ["Relu", "Greater", "If"]
    assert graph.constants.keys() == {"a", "three", "two"}
    save(model, tmp_path / "model.onnx", 2**31)
    x = np.random.default_rng(4).normal(size=(2, 64)).astype("float32")
    expected = np.maximum(x, 0) @ numpy_helper.to_array(graph.constants["a"])
    np.testing.assert_allclose(run(tmp_path / "model.onnx", {"x": x}), expected, rtol=0, atol=1e-4)

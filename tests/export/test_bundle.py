"""Exported files compute what the model computes, and a bundle appears whole or not at all."""

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import export.artefacts
import zoo
from export.artefacts import Plan
from export.bundle import export_bundle
from export.manifest import Manifest
from export.onnx import write_onnx
from export.processes import ChildFailure
from export.report import Report
from export.saved_model import write_saved_model
from export.signatures import signatures
from export.tflite import write_tflite
from zoo.errors import UserError
from zoo.gpt import GPTConfig
from zoo.model import Axis, TensorSpec, ZooModel
from zoo.text import Tokenizer

# What needs no shared bundle stands first: another process may be making it.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"formats": ("onnx", "pickle")}, "unknown format 'pickle': known are saved_model, tflite, onnx, huggingface"),
        ({"formats": ()}, "no format given"),
        (
            {"precisions": ("float32", "int3")},
            "unknown precision 'int3': known are float32, float16, int8, int8_full, int4",
        ),
        ({"precisions": ()}, "no precision given"),
        ({"tokens": 0}, "the fixed number of tokens is 0, and must be 1 or more"),
        ({"formats": ("saved_model",), "precisions": ("float32", "int8")}, "a SavedModel is float32"),
        ({"formats": ("onnx",), "precisions": ("int8_full",)}, "int8_full is for TFLite: ONNX files come in float32, "),
        ({"formats": ("tflite", "huggingface")}, "the huggingface folder is made of the ONNX files: ask for onnx too"),
    ],
)
def test_plans_of_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan(**fields)


def test_plans_that_a_model_does_not_fit_are_refused(model: ZooModel, tmp_path: Path) -> None:
    half, clip = zoo.create("gpt-nano", dtype="mixed_bfloat16"), zoo.create("clip-nano")
    images_alone, lines = "int8_full is for models that see images, in TFLite", list[str]()
    for refused, plan, message in [
        (half, Plan(), "the model computes in bfloat16: load it with dtype float32"),
        (model, Plan(tokens=65), "the fixed number of tokens is 65, and the model reads at most 64"),
        (clip, Plan(tokens=17), "the fixed number of tokens is 17, and the model reads at most 16"),
        (model, Plan(("tflite",), ("int8_full",)), images_alone),
        (clip, Plan(("saved_model", "onnx"), ("float32", "int8_full")), images_alone),
        (zoo.create("bert-nano", "pretrain"), Plan(("onnx", "huggingface")), "Optimum knows no input like masked_pos"),
    ]:
        with pytest.raises(UserError, match=message):
            export_bundle(refused, tmp_path / "out", plan=plan, progress=lines.append)
    assert list(tmp_path.iterdir()) == [] and lines == []  # no work was begun


def test_refused_before_any_work(model: ZooModel, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    with pytest.raises(UserError, match="taken is not empty"):
        export_bundle(model, tmp_path / "taken")
    with pytest.raises(UserError, match=r"^(File exists|Not a directory) .*nothing was written to"):
        export_bundle(model, tmp_path / "taken/file/out")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_converter_that_fails_leaves_nothing(
    model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ChildFailure("TFLite has no Cholesky")

    monkeypatch.setattr(export.artefacts, "write_tflite", refuse)
    with pytest.raises(UserError, match=r"conversion to tflite failed: TFLite has no Cholesky: nothing was written"):
        export_bundle(model, tmp_path / "out", plan=Plan(("tflite",)))
    assert list(tmp_path.iterdir()) == []


class Factorization(ZooModel):
    """What neither TFLite nor ONNX has an operator for, but TFLite with Flex has."""

    family = "factorization"
    config_class = GPTConfig
    tasks = ("backbone",)
    output_names = ("factors",)
    input_specs = (TensorSpec("images", "float32", (Axis("batch"), 4, 4)),)

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        return {"factors": tf.linalg.cholesky(inputs["images"])}


def test_operators_that_a_format_lacks_are_named(tmp_path: Path) -> None:
    model = Factorization({})
    functions = signatures(model)
    write_saved_model(model, tmp_path / "saved", functions)
    conversions = {
        "tflite": lambda: write_tflite(model, functions, tmp_path / "model.tflite", timeout=100),
        "onnx": lambda: write_onnx(model, functions[0], tmp_path / "saved", tmp_path / "model.onnx", 100),
    }
    with ThreadPoolExecutor() as pool:
        running = {name: pool.submit(convert) for name, convert in conversions.items()}
    failures = {name: future.exception() for name, future in running.items()}
    assert all(isinstance(failure, ChildFailure) for failure in failures.values())
    assert str(failures["tflite"]) == "TFLite has no Cholesky"
    assert re.fullmatch(r"tf2onnx: Tensorflow op \[.*: Cholesky\] is not supported.*", str(failures["onnx"]))
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]


def test_a_file_of_fixed_shapes_takes_shorter_texts_padded(model: ZooModel, texts: list[str], tmp_path: Path) -> None:
    report = export_bundle(model, tmp_path / "bundle", plan=Plan(("tflite",), tokens=40), texts=texts)
    (artefact,) = report.artefacts
    assert report.passed and artefact.max_error is not None and artefact.latency_p50_ms is not None
    runner = Interpreter(str(tmp_path / "bundle/model.tflite")).get_signature_runner("serving_default")
    assert {tuple(detail["shape"]) for detail in runner.get_input_details().values()} == {(1, 40)}
    assert report.latency_inputs["serving_default"]["token_ids"] == [1, 40]


# --- of all formats


def run_saved_model(bundle: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    signature = tf.saved_model.load(bundle / "saved_model/gpt/1").signatures["serving_default"]
    return signature(**{name: tf.constant(value) for name, value in inputs.items()})["logits"].numpy()


def run_tflite(bundle: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    run = Interpreter(str(bundle / "model.tflite")).get_signature_runner("serving_default")
    rows = [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(len(inputs["token_ids"]))]
    return np.concatenate([run(**row)["logits"] for row in rows])  # it takes one text at a time


def run_onnx(bundle: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    token_ids = inputs["token_ids"]
    positions = np.broadcast_to(np.arange(token_ids.shape[1], dtype="int32"), token_ids.shape)
    past = {
        each.name: np.zeros((len(token_ids), each.shape[1], 0, each.shape[3]), "float32")
        for each in session.get_inputs()
        if each.name.startswith("past_")
    }
    return session.run(["logits"], {**inputs, **past, "positions": positions})[0]


@pytest.mark.parametrize("run", [run_saved_model, run_tflite, run_onnx])
def test_artefacts_equal_the_model_at_shapes_they_were_not_verified_at(run: Any, bundle: Path, model: ZooModel) -> None:
    rng = np.random.default_rng(1)
    for batch, tokens in [(1, 2), (3, 11), (4, 64)]:
        token_ids = rng.integers(0, model.config.vocabulary_size, (batch, tokens), "int32")
        padding_mask = np.ones_like(token_ids)
        padding_mask[0, tokens // 2 + 1 :] = 0
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        expected = model(inputs)["logits"].numpy()
        assert expected.std() > 0.5  # else nothing would be compared
        np.testing.assert_allclose(run(bundle, inputs), expected, rtol=0, atol=1e-4)
    one_token = {name: value[:, :1] for name, value in inputs.items()}  # a token does not see those after it
    np.testing.assert_allclose(run(bundle, one_token), expected[:, :1], rtol=0, atol=1e-4)


def test_report_of_an_export(exported: tuple[Path, Report]) -> None:
    bundle, report = exported
    assert report.passed
    names = ["saved_model", "saved_model_text", "tflite", "tflite_int8", "onnx", "onnx_int8"]
    assert [artefact.name for artefact in report.artefacts] == names
    for artefact in report.artefacts:
        assert (artefact.precision, artefact.failures) == ("int8" if "int8" in artefact.name else "float32", [])
        assert 0 < artefact.latency_p50_ms <= artefact.latency_p95_ms  # type: ignore[operator]
        assert artefact.first_ms > 0 and artefact.load_ms > 0 and artefact.peak_memory_mb > 30  # type: ignore[operator]
        path = bundle / artefact.path
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        assert artefact.bytes == sum(file.stat().st_size for file in files)
        if artefact.name == "saved_model_text":  # which answers in text
            continue
        assert 0 < artefact.mean_error < artefact.max_error  # type: ignore[operator]
        assert artefact.token_ms > 0 and artefact.smallest_gap > 0  # type: ignore[operator]
        if artefact.precision == "float32":
            assert artefact.max_error < 1e-4  # type: ignore[operator]
            assert artefact.top_agreement == artefact.continued == 1.0
            assert artefact.metrics == []
        else:
            assert artefact.max_error > 1e-2  # type: ignore[operator]
            assert {metric.name for metric in artefact.metrics} == {
                "perplexity",
                "agreement",
                "perplexity of continuations",
            }
    lines = (bundle / "report.md").read_text().splitlines()
    assert [line.split("|")[-2].strip() for line in lines if line.startswith("| ") and "`" in line] == ["ok"] * 6
    with Image.open(bundle / "report.png") as picture:
        assert picture.format == "PNG" and np.asarray(picture).std() > 10  # something is drawn


def test_operator_counts(exported: tuple[Path, Report]) -> None:
    bundle, report = exported
    found = {artefact.name: artefact.operators for artefact in report.artefacts}
    saved_model, tflite = found["saved_model"], found["tflite"]
    assert found["onnx"] == Counter(node.op_type for node in onnx.load(bundle / "model.onnx").graph.node)
    details = Interpreter(str(bundle / "model.tflite"))._get_ops_details()
    # An interpreter adds the parts that it hands to XNNPACK as operators of its own, and tells of one graph only.
    first = Counter(detail["op_name"] for detail in details if detail["op_name"] != "DELEGATE")
    assert first["SOFTMAX"] == 2 and first <= Counter(tflite)  # blocks
    # Of serving_default and decode all, of prefill_8 none of the last block, which makes nothing of a cache.
    assert tflite["SOFTMAX"] == 2 + 2 + 1
    assert "CUSTOM" not in tflite.keys() | found["tflite_int8"].keys()  # which Flex operators are
    assert saved_model["Softmax"] == 3 * 2  # serving_default, prefill and decode
    # Nothing that a server might lack: what it does not know makes it refuse the model as a whole.
    assert not [name for name in saved_model if name.startswith(("Xla", "Custom", "PyFunc"))]
    text = found["saved_model_text"]
    assert text["RegexSplitWithOffsets"] > 0 and {"While", "StatelessWhile"} & text.keys()
    # Of integers: two tables, each looked up by three functions; four matrices a block, and the table turned round.
    assert found["tflite_int8"]["EMBEDDING_LOOKUP"] == 2 * 3
    assert found["onnx_int8"]["MatMulInteger"] == 4 * 2 + 1


def test_onnx_file_is_valid_and_named(bundle: Path, model: ZooModel) -> None:
    onnx.checker.check_model(bundle / "model.onnx", full_check=True)
    graph = onnx.load(bundle / "model.onnx").graph
    shapes = {value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    cache = [f"{part}_{block}" for block in range(2) for part in ("key", "value")]
    assert shapes == {
        "token_ids": ["batch", "tokens"],
        "positions": ["batch", "tokens"],
        "padding_mask": ["batch", "past + tokens"],
        **{f"past_{name}": ["batch", "", "past", ""] for name in cache},
    }
    assert {value.name for value in graph.output} == {"logits", *(f"present_{name}" for name in cache)}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, weight in model.named_weights().items():
        np.testing.assert_array_equal(weights[name], weight.numpy())


def test_onnx_weights_beyond_the_limit_go_into_a_file_beside(other: tuple[Path, list[str]], bundle: Path) -> None:
    out, _ = other
    assert (out / "model.onnx.data").stat().st_size > 0.9 * (bundle / "model.onnx").stat().st_size / 2
    assert set(Manifest.read(out).artefacts["onnx"].files) == {"model.onnx", "model.onnx.data"}
    report = Report.read(out)  # it was verified, file beside and all
    assert report.passed
    assert report.artefacts[0].bytes == sum((out / f"model.onnx{end}").stat().st_size for end in ("", ".data"))


def test_bundle_brings_tokenizer_and_config(bundle: Path, model: ZooModel, texts: list[str]) -> None:
    assert Tokenizer.load(bundle / "tokenizer").encode(texts[0]) == model.tokenizer.encode(texts[0])
    assert json.loads((bundle / "config.json").read_text())["config"] == model.config.to_dict()


def test_only_the_formats_asked_for(other: tuple[Path, list[str]]) -> None:
    out, lines = other
    files = ["bundle.json", "config.json", "model.onnx", "model.onnx.data", "reference"]
    files += ["report.json", "report.md", "report.png"]
    assert sorted(file.name for file in out.iterdir()) == [*files, "tokenizer"]
    assert lines == ["writing saved_model", "converting to onnx", "computing the reference", "verifying onnx (1 of 1)"]


def test_a_bundle_out_of_tolerance_needs_force(
    model: ZooModel, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(model: ZooModel, function: Any, saved_model: Path, file: Path, timeout: float) -> None:
        wrong = onnx.load(bundle / "model.onnx")
        table = next(tensor for tensor in wrong.graph.initializer if tensor.name.endswith("token_embedding.table"))
        table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table) * 1.001, table.name))
        onnx.save(wrong, file)

    monkeypatch.setattr(export.artefacts, "write_onnx", write_wrong)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"onnx: differs from the Keras model by .* nothing was written to .*out"):
        export_bundle(model, out, plan=Plan(("onnx",)))
    assert list(tmp_path.iterdir()) == []
    report = export_bundle(model, out, plan=Plan(("onnx",)), force=True)
    assert not report.passed
    assert Report.read(out) == report

"""ONNX files compute what the model computes, in ONNX Runtime; small ones nearly so."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import export.onnx_quantize
import zoo
from export.onnx import write_onnx
from export.onnx_folder import write_onnx_folder
from export.onnx_quantize import PRECISIONS, quantize_onnx
from export.processes import ChildFailure
from export.saved_model import write_saved_model
from export.signatures import Signature, growing_cache_signature, signatures
from zoo.errors import UserError
from zoo.model import ZooModel
from zoo.text import train_bpe

SHARE = {"float16": 0.55, "int8": 0.30, "int4": 0.25}  # of the float32 file, at most
# The norm of the difference of the outputs, divided by that of the outputs.
# Measured: 0.0004, 0.026 and 0.123. One scale for a whole tensor of int8 leaves 0.034, and int4 0.149 where a block's
# scale is its largest number divided by 7.
DIFFERENCE = {"float16": 0.001, "int8": 0.03, "int4": 0.14}


@pytest.fixture(scope="module")
def models(enliven: Callable[..., ZooModel]) -> dict[str, ZooModel]:
    gpt = enliven(zoo.create("gpt-nano", vocabulary_size=500, width=256, depth=2, num_heads=4), seed=1)
    gpt.tokenizer = train_bpe(["to be, or not to be"], vocabulary_size=260)
    return {
        "gpt": gpt,
        "bert": enliven(zoo.create("bert-nano", task="answer"), seed=2),
        "clip": enliven(zoo.create("clip-nano"), seed=3),
    }


@pytest.fixture(scope="module")
def files(models: dict[str, ZooModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each of several functions, and of the language model's the small variants."""
    folder = tmp_path_factory.mktemp("onnx")
    functions = {
        "gpt": [growing_cache_signature(models["gpt"])],
        "bert": signatures(models["bert"]),
        "clip": [_encoder(models["clip"], "image")],
    }
    with ThreadPoolExecutor(2) as pool:
        waiting = []
        for name, model in models.items():
            saved_model = tmp_path_factory.mktemp(name)
            write_saved_model(model, saved_model, functions[name][:1])
            for each in functions[name]:
                waiting.append(pool.submit(write_onnx, model, each, saved_model, folder / f"{each.name}.onnx", 300))
        for each in waiting:
            each.result()
        for name in ("decode_with_past", "encode_image"):
            for precision in PRECISIONS:
                out = folder / f"{name}.{precision}.onnx"
                waiting.append(pool.submit(quantize_onnx, folder / f"{name}.onnx", out, precision, 300))
        for each in waiting:
            each.result()
    return folder


@pytest.fixture(scope="module")
def text_encoder(models: dict[str, ZooModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The other tower, beside its SavedModel."""
    folder = tmp_path_factory.mktemp("text")
    function = _encoder(models["clip"], "text")
    write_saved_model(models["clip"], folder / "saved_model", [function])
    write_onnx(models["clip"], function, folder / "saved_model", folder / "encode_text.onnx", 300)
    return folder / "encode_text.onnx"


def _encoder(model: ZooModel, tower: str) -> Signature:
    (function,) = (each for each in signatures(model) if each.name == f"encode_{tower}")
    return function


def run(file: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def read_with_past(file: Path, model: ZooModel, rows: list[list[int]], steps: list[int]) -> np.ndarray:
    """Read rows, the shorter ones after padding, in pieces of so many tokens: the logits (rows, tokens, vocabulary)."""
    c = model.config
    length = max(map(len, rows))
    token_ids = np.array([[0] * (length - len(row)) + row for row in rows], "int32")
    mask = np.array([[0] * (length - len(row)) + [1] * len(row) for row in rows], "int32")
    positions = np.maximum(np.cumsum(mask, axis=1, dtype="int32") - 1, 0)
    empty = np.zeros((len(rows), c.num_heads, 0, c.width // c.num_heads), "float32")
    past = {f"past_{part}_{block}": empty for block in range(c.depth) for part in ("key", "value")}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    logits, start = [], 0
    for count in steps:
        new = slice(start, start + count)
        inputs = {
            "token_ids": token_ids[:, new],
            "positions": positions[:, new],
            "padding_mask": mask[:, : new.stop],
            **past,
        }
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        past = {name: outputs[name.replace("past", "present")] for name in past}
        logits.append(outputs["logits"])
        start = new.stop
    assert past["past_key_0"].shape == (len(rows), c.num_heads, length, c.width // c.num_heads)
    return np.concatenate(logits, axis=1)


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 500, length).tolist() for length in (23, 9, 16)]


def test_read_token_by_token_with_a_cache_that_grows(
    files: Path, models: dict[str, ZooModel], rows: list[list[int]]
) -> None:
    for steps in ([23], [14, *[1] * 9], [5, 18]):
        logits = read_with_past(files / "decode_with_past.onnx", models["gpt"], rows, steps)
        for row, found in zip(rows, logits, strict=True):
            expected = models["gpt"]({"token_ids": np.array([row], "int32")})["logits"].numpy()[
                0
            ]  # no padding, no cache
            assert expected.std() > 0.5  # else nothing would be compared
            np.testing.assert_allclose(found[-len(row) :], expected, rtol=0, atol=1e-4)


def test_answers_are_found_in_the_graph(files: Path, models: dict[str, ZooModel]) -> None:
    rng = np.random.default_rng(1)
    for batch, tokens in [(1, 12), (5, 64)]:
        segments = (np.arange(tokens) >= 5).astype("int32") * np.ones((batch, 1), "int32")
        mask = np.ones((batch, tokens), "int32")
        mask[0, tokens - 4 :] = 0
        inputs = {
            "token_ids": rng.integers(0, 512, (batch, tokens), "int32"),
            "padding_mask": mask,
            "segment_ids": segments * mask,
        }
        outputs = run(files / "serving_default.onnx", inputs)
        expected = models["bert"](inputs)
        for name in ("start_logits", "end_logits"):
            np.testing.assert_allclose(outputs[name], expected[name].numpy(), rtol=0, atol=1e-4)
        for row in range(batch):
            last = mask[row].sum() - 1  # the mark at the end is no part of an answer
            starts, ends = outputs["start_logits"][row], outputs["end_logits"][row]
            found = [(starts[i] + ends[j], i, j) for i in range(5, last) for j in range(i, min(i + 30, last))]
            score, start, end = max(found)
            assert (outputs["start"][row], outputs["end"][row]) == (start, end)
            assert outputs["score"][row] == pytest.approx(score, abs=1e-5)
        assert outputs["start"].dtype == outputs["end"].dtype == np.int32


def test_an_image_encoder_alone(files: Path, models: dict[str, ZooModel]) -> None:
    model = models["clip"]
    images = np.random.default_rng(2).normal(size=(3, *model.config.vision.image_size, 3)).astype("float32")
    (embedding,) = run(files / "encode_image.onnx", {"images": images}).values()
    np.testing.assert_allclose(embedding, model.encode_image(images).numpy(), rtol=0, atol=1e-4)
    _assert_own_weights(files / "encode_image.onnx", model, ("vision.", "image_projection.kernel"))


@pytest.mark.full  # a conversion of its own; of the two towers the quick tier has the one with a convolution
def test_a_text_encoder_alone(text_encoder: Path, models: dict[str, ZooModel], tmp_path: Path) -> None:
    """By itself, and in a folder like Hugging Face's."""
    model = models["clip"]
    token_ids = np.random.default_rng(2).integers(0, model.config.text.vocabulary_size, (4, 11), "int32")
    mask = np.ones_like(token_ids)
    mask[1, 6:] = 0
    expected = model.encode_text(token_ids, mask).numpy()
    (embedding,) = run(text_encoder, {"token_ids": token_ids, "padding_mask": mask}).values()
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-4)
    _assert_own_weights(text_encoder, model, ("text.", "text_projection.kernel"))

    write_onnx_folder(model, {"encode_text": {"float32": text_encoder}}, tmp_path / "folder", 300)
    file = tmp_path / "folder/onnx/text_model.onnx"
    tokens = ("(int64)", ["batch_size", "sequence_length"])
    assert _tensors(file) == ({"input_ids": tokens, "attention_mask": tokens}, ["text_embeds"])
    (embedding,) = run(file, {"input_ids": token_ids.astype(int), "attention_mask": mask.astype(int)}).values()
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-4)


def _assert_own_weights(file: Path, model: ZooModel, beginnings: tuple[str, ...]) -> None:
    weights = model.named_weights()
    kept = {tensor.name: tensor for tensor in onnx.load(file).graph.initializer if tensor.name in weights}
    assert set(kept) == {name for name in weights if name.startswith(beginnings)}
    for name, tensor in kept.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), weights[name].numpy())


def _tensors(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The inputs of a file, their types and axes, and the names of its outputs."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = {each.name: (each.type.removeprefix("tensor"), each.shape) for each in session.get_inputs()}
    return inputs, [each.name for each in session.get_outputs()]


def test_files_are_of_opset_18(files: Path) -> None:
    """And have no operators but the standard's, and ONNX Runtime's for 4 bits."""
    for file in files.glob("*.onnx"):
        model = onnx.load(file)
        versions = {each.domain: each.version for each in model.opset_import}
        assert versions[""] == 18, file.name
        others = {node.domain for node in model.graph.node} - {""}
        assert others == ({"com.microsoft"} if ".int4" in file.name else set()), file.name
        assert others <= versions.keys()


def test_inputs_have_named_axes(files: Path) -> None:
    def inputs(name: str) -> dict[str, list[Any]]:
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in onnx.load(files / f"{name}.onnx").graph.input
        }

    past = {f"past_{part}_{block}": ["batch", 4, "past", 64] for block in range(2) for part in ("key", "value")}
    tokens = ["batch", "tokens"]
    mask = ["batch", "past + tokens"]
    expected = {"token_ids": tokens, "positions": tokens, "padding_mask": mask, **past}
    assert inputs("decode_with_past") == expected
    for precision in PRECISIONS:
        assert inputs(f"decode_with_past.{precision}") == expected
    assert inputs("encode_image") == {"images": ["batch", 32, 32, 3]}


def test_layer_norms_are_one_operator(files: Path) -> None:
    graph = onnx.load(files / "decode_with_past.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("LayerNormalization") == 5  # two a block, and the last
    assert "Sqrt" not in operators


@pytest.mark.parametrize("precision", PRECISIONS)
def test_small_files_are_small_and_close(precision: str, files: Path, models: dict[str, ZooModel]) -> None:
    small, whole = files / f"decode_with_past.{precision}.onnx", files / "decode_with_past.onnx"
    assert small.stat().st_size <= SHARE[precision] * whole.stat().st_size
    # So many tokens that what is measured hangs on none of them.
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 500, length).tolist() for length in (64, *rng.integers(1, 64, 50))]
    real = np.array([[i >= 64 - len(row) for i in range(64)] for row in rows])
    found, expected = (read_with_past(file, models["gpt"], rows, [55, *[1] * 9])[real] for file in (small, whole))
    assert 0 < np.linalg.norm(found - expected) <= DIFFERENCE[precision] * np.linalg.norm(expected)
    agreed = (found.argmax(-1) == expected.argmax(-1)).mean()
    assert agreed >= {"float16": 0.995, "int8": 0.94, "int4": 0.79}[precision]  # measured: 0.999, 0.956 and 0.833


@pytest.mark.parametrize("precision", PRECISIONS)
def test_small_image_encoders_are_close(precision: str, files: Path, models: dict[str, ZooModel]) -> None:
    images = np.random.default_rng(3).normal(size=(8, *models["clip"].config.vision.image_size, 3)).astype("float32")
    (expected,) = run(files / "encode_image.onnx", {"images": images}).values()
    (found,) = run(files / f"encode_image.{precision}.onnx", {"images": images}).values()
    cosine = (found * expected).sum(-1)  # of vectors of length 1
    assert (cosine >= {"float16": 0.99999, "int8": 0.995, "int4": 0.97}[precision]).all()


def test_what_is_kept_in_fewer_bits(files: Path) -> None:
    """No weight of size stays float32, none is kept twice, and products with weights are of integers."""
    for name, operators in {
        "decode_with_past": {"int8": {"MatMulInteger": 9}, "int4": {"MatMulNBits": 9, "GatherBlockQuantized": 1}},
        "encode_image": {"int8": {"MatMulInteger": 8}, "int4": {"MatMulNBits": 8}},
    }.items():
        for precision in PRECISIONS:
            graph = onnx.load(files / f"{name}.{precision}.onnx").graph
            large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) >= 1024]
            scales = [tensor for tensor in large if tensor.data_type == onnx.TensorProto.FLOAT]
            assert all("scale" in tensor.name or len(tensor.dims) < 2 for tensor in scales)
            tables = [
                tensor.name
                for tensor in large
                if tensor.name.startswith("backbone.token_embedding") and "scale" not in tensor.name
            ]
            assert len(tables) == (name == "decode_with_past")
            found = [node.op_type for node in graph.node]
            for operator, count in operators.get(precision, {}).items():
                assert found.count(operator) == count


def test_products_of_integers_have_a_scale_for_each_output(files: Path) -> None:
    """And weights of 7 bits: processors without instructions for it add two products of 8 bits in 16, which more would
    overflow."""
    for name, count in (("decode_with_past", 9), ("encode_image", 8)):
        graph = onnx.load(files / f"{name}.int8.onnx").graph
        kept, whole = (
            {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in each.initializer}
            for each in (graph, onnx.load(files / f"{name}.onnx").graph)
        )
        turned = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
        products = [node.input[1] for node in graph.node if node.op_type == "MatMulInteger"]
        assert len(products) == count
        for second in products:
            weight = turned.get(second, second).removesuffix(".int8")
            integers, scales, columns = kept[f"{weight}.int8"], kept[f"{weight}.scale"], whole[weight]
            if second in turned:
                integers, columns = integers.T, columns.T
            assert np.abs(integers.astype(int)).max() == 64
            np.testing.assert_allclose(scales, np.abs(columns).max(0) / 64, rtol=1e-6)
            assert len(set(scales.tolist())) > 0.9 * columns.shape[1]  # by chance some are the same
            assert (np.abs(integers * scales - columns) <= 0.5001 * scales).all()


def test_weights_beyond_the_limit_lie_beside(
    files: Path, models: dict[str, ZooModel], tmp_path: Path, rows: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.onnx_quantize, "EXTERNAL_ABOVE", 1000)
    quantize_onnx(files / "decode_with_past.onnx", tmp_path / "half.onnx", "float16", 300)
    quantize_onnx(tmp_path / "half.onnx", tmp_path / "same.onnx", "int8", 300)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "half.onnx",
        "half.onnx.data",
        "same.onnx",
        "same.onnx.data",
    ]
    assert (tmp_path / "half.onnx").stat().st_size < 0.1 * (tmp_path / "half.onnx.data").stat().st_size
    found = read_with_past(tmp_path / "half.onnx", models["gpt"], rows, [23])
    np.testing.assert_array_equal(
        found, read_with_past(files / "decode_with_past.float16.onnx", models["gpt"], rows, [23])
    )


def test_a_failure_leaves_nothing(files: Path, models: dict[str, ZooModel], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no protocol buffer")
    with pytest.raises(ChildFailure, match=r"^DecodeError"):
        quantize_onnx(tmp_path / "broken.onnx", tmp_path / "out.onnx", "int8", 300)
    with pytest.raises(UserError, match="unknown precision 'int2': known are float16, int8, int4"):
        quantize_onnx(files / "encode_image.onnx", tmp_path / "out.onnx", "int2", 300)
    with pytest.raises(ChildFailure, match=r"did not finish within 0 seconds"):
        write_onnx(models["bert"], signatures(models["bert"])[0], tmp_path, tmp_path / "out.onnx", 0.1)
    assert [each.name for each in tmp_path.iterdir()] == ["broken.onnx"]


@pytest.fixture(scope="module")
def folders(files: Path, models: dict[str, ZooModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like Hugging Face's for each model."""
    out = tmp_path_factory.mktemp("folders")
    small = {precision: files / f"decode_with_past.{precision}.onnx" for precision in PRECISIONS}
    functions: dict[str, dict[str, dict[str, Path]]] = {
        "gpt": {"decode_with_past": {"float32": files / "decode_with_past.onnx", **small}},
        "bert": {"serving_default": {"float32": files / "serving_default.onnx"}},
        "clip": {"encode_image": {"float32": files / "encode_image.onnx"}},
    }
    for name, model in models.items():
        write_onnx_folder(model, functions[name], out / name, 300)
    return out


def test_folders_have_the_files_and_names_of_optimum(folders: Path) -> None:
    def files(name: str) -> list[str]:
        return sorted(str(each.relative_to(folders / name)) for each in (folders / name).rglob("*") if each.is_file())

    tokenizer = ["merges.txt", "onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_int8.onnx", "onnx/model_q4.onnx"]
    assert files("gpt") == ["config.json", *tokenizer, "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    assert files("bert") == ["config.json", "onnx/model.onnx"]
    assert files("clip") == ["config.json", "onnx/vision_model.onnx", "preprocessor_config.json"]
    assert json.loads((folders / "gpt/config.json").read_text())["model_type"] == "gpt2"

    tokens = ("(int64)", ["batch_size", "sequence_length"])
    past = ("(float)", ["batch_size", 4, "past_sequence_length", 64])
    for suffix in ("", "_fp16", "_int8", "_q4"):
        inputs, outputs = _tensors(folders / f"gpt/onnx/model{suffix}.onnx")
        assert inputs == {
            "input_ids": tokens,
            "attention_mask": ("(int64)", ["batch_size", "past_sequence_length + sequence_length"]),
            "position_ids": tokens,
            **{f"past_key_values.{block}.{part}": past for block in range(2) for part in ("key", "value")},
        }
        assert set(outputs) == {
            "logits",
            *(f"present.{block}.{part}" for block in range(2) for part in ("key", "value")),
        }
    inputs, outputs = _tensors(folders / "bert/onnx/model.onnx")
    assert inputs == {"input_ids": tokens, "attention_mask": tokens, "token_type_ids": tokens}
    assert set(outputs) == {"start_logits", "end_logits"}
    inputs, outputs = _tensors(folders / "clip/onnx/vision_model.onnx")
    assert (inputs, outputs) == ({"pixel_values": ("(float)", ["batch_size", 3, 32, 32])}, ["image_embeds"])


def test_folders_compute_the_same(files: Path, folders: Path, models: dict[str, ZooModel]) -> None:
    rng = np.random.default_rng(4)
    images = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    (found,) = run(folders / "clip/onnx/vision_model.onnx", {"pixel_values": images.transpose(0, 3, 1, 2)}).values()
    np.testing.assert_allclose(found, models["clip"].encode_image(images).numpy(), rtol=0, atol=1e-4)
    token_ids = rng.integers(0, 500, (2, 7))
    past = {
        f"{part}_{block}": rng.normal(size=(2, 4, 3, 64)).astype("float32")
        for block in (0, 1)
        for part in ("key", "value")
    }
    inputs = {
        "token_ids": token_ids,
        "positions": np.tile(np.arange(3, 10), (2, 1)),
        "padding_mask": np.ones((2, 10), int),
    }
    plain = {name: value.astype("int32") for name, value in inputs.items()} | {
        f"past_{name}": value for name, value in past.items()
    }
    theirs = {
        "input_ids": inputs["token_ids"],
        "position_ids": inputs["positions"],
        "attention_mask": inputs["padding_mask"],
    }
    for name, value in past.items():
        part, block = name.split("_")
        theirs[f"past_key_values.{block}.{part}"] = value
    expected = run(files / "decode_with_past.onnx", plain)
    found = run(folders / "gpt/onnx/model.onnx", theirs)
    np.testing.assert_array_equal(found["logits"], expected["logits"])
    np.testing.assert_array_equal(found["present.1.value"], expected["present_value_1"])


def test_folders_that_cannot_be(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    some = {"serving_default": {"float32": files / "serving_default.onnx"}}
    with pytest.raises(
        UserError, match=r"Optimum knows no input like masked_positions, which a bert model for 'pretrain'"
    ):
        write_onnx_folder(zoo.create("bert-nano", task="pretrain"), some, out, 300)
    with pytest.raises(UserError, match=r"patch_bias is False, and Hugging Face's layout has True alone"):
        write_onnx_folder(zoo.create("vit-nano", patch_bias=False), some, out, 300)
    missing = {"serving_default": {"float32": tmp_path / "missing.onnx"}}
    with pytest.raises(ChildFailure, match=r"No such file"):
        write_onnx_folder(zoo.create("bert-nano"), missing, out, 300)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peers
def test_transformers_reads_a_folder(folders: Path, models: dict[str, ZooModel], tmp_path: Path) -> None:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folders / "gpt")
    assert (config.n_layer, config.n_head, config.n_embd) == (2, 4, 256)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders / "gpt")
    text = "to be or not"
    assert tokenizer(text)["input_ids"] == models["gpt"].tokenizer.encode(text)
    assert transformers.AutoImageProcessor.from_pretrained(folders / "clip").size["shortest_edge"] == 32

    zoo.save(models["gpt"], tmp_path / "gpt", layout="hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt")
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).logits.numpy()
    empty = np.zeros((1, 4, 0, 64), "float32")
    token_ids = inputs["input_ids"].numpy()
    found = run(
        folders / "gpt/onnx/model.onnx",
        {
            **{name: value.numpy() for name, value in inputs.items()},
            "position_ids": np.arange(token_ids.shape[1])[None],
            **{f"past_key_values.{block}.{part}": empty for block in range(2) for part in ("key", "value")},
        },
    )
    np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=1e-3)

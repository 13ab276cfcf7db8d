"""LiteRT files: every precision computes what the model does, is small, and XNNPACK takes it nearly whole; and the
driver that generates with one."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

import zoo
from export import generate_tflite, tflite_quantize
from export.generate_tflite import DeviceGenerator, choose_token
from export.signatures import SERVING, Signature, device_cache_signatures, signatures
from export.tflite import fix_shapes, write_tflite
from export.tflite_file import builtin_codes, file_content, read_file
from export.tflite_observe import observe
from tests.partitions import count_partitions
from zoo.generation import Generator
from zoo.model import ZooModel

TOKENS = 16
CLOSE = 3e-4  # absolute, of logits whose standard deviation is 17: those of the BERT below


def fixed(model: ZooModel) -> list[Signature]:
    return [fix_shapes(each, 1, TOKENS) for each in signatures(model)]


def run(file: Path | bytes, inputs: dict[str, np.ndarray], name: str = SERVING) -> dict[str, np.ndarray]:
    source = {"model_content": file} if isinstance(file, bytes) else {"model_path": str(file)}
    return Interpreter(**source, num_threads=1).get_signature_runner(name)(**inputs)


def quantized(file: Path, bits: int, samples: list[dict[str, np.ndarray]] | None = None) -> bytes:
    """What the child process makes of a float32 file, made in this one."""
    content = file.read_bytes()
    model = read_file(content)
    tflite_quantize.quantize(model, bits, observe(content, samples or []))
    return bytes(file_content(model))


def operators(content: bytes) -> set[str]:
    model = read_file(content)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0].isupper()}
    codes = builtin_codes(model)
    return {names[codes[operator.opcodeIndex]] for graph in model.subgraphs for operator in graph.operators}


def custom_operators(content: bytes) -> list[bytes]:
    """The names of those that no runtime has unless it is given them. TensorFlow's own, Flex, are such: "FlexErf"."""
    model = read_file(content)
    codes = zip(model.operatorCodes, builtin_codes(model), strict=True)
    return [code.customCode for code, builtin in codes if builtin == schema.BuiltinOperator.CUSTOM]


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


@pytest.fixture(scope="module")
def bert(enliven: Callable[..., ZooModel]) -> ZooModel:
    """Of width 256, so that its file is weights for the most part, with a table that is looked up and turned round
    into logits."""
    sizes = {"vocabulary_size": 3000, "max_length": 128, "width": 256, "depth": 2, "num_heads": 4}
    return enliven(zoo.create("bert-nano", "masked_lm", **sizes))


@pytest.fixture(scope="module")
def text() -> dict[str, np.ndarray]:
    token_ids = np.random.default_rng(0).integers(0, 3000, (1, TOKENS)).astype("int32")
    mask = (np.arange(TOKENS) < 12).astype("int32")[None]
    return {"token_ids": token_ids, "padding_mask": mask, "segment_ids": (np.arange(TOKENS) > 6).astype("int32")[None]}


@pytest.fixture(scope="module")
def bert_file(bert: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of fixed shape, and as another signature, `free`, of any length."""
    file = tmp_path_factory.mktemp("bert") / "model.tflite"
    free = [dataclasses.replace(fix_shapes(each, 1), name="free") for each in signatures(bert)]
    write_tflite(bert, [*fixed(bert), *free], file, timeout=200)
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    return file


@pytest.fixture(scope="module")
def vit(enliven: Callable[..., ZooModel]) -> ZooModel:
    return enliven(zoo.create("vit-nano", "classify"))


@pytest.fixture(scope="module")
def images() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"images": rng.normal(size=(1, 32, 32, 3)).astype("float32")} for _ in range(8)]


@pytest.fixture(scope="module")
def vit_files(
    vit: ZooModel, images: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A float32 file with a free batch, and one of integers."""
    folder = tmp_path_factory.mktemp("vit")
    files = {precision: folder / f"{precision}.tflite" for precision in ("float32", "int8_full")}
    write_tflite(vit, signatures(vit), files["float32"], timeout=200)
    files["int8_full"].write_bytes(quantized(files["float32"], 8, images[:4]))
    return files


@pytest.fixture(scope="module")
def gpt_file(language_model: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a context of 320 tokens whose file has 40 slots, so that they are soon full."""
    file = tmp_path_factory.mktemp("gpt") / "model.tflite"
    functions = [*signatures(language_model), *device_cache_signatures(language_model, 40, (8, 16))]
    write_tflite(language_model, functions, file, timeout=200)
    return file


def test_fix_shapes(bert: ZooModel) -> None:
    (function,) = signatures(bert)
    assert fix_shapes(function).inputs == function.inputs
    for batch, tokens in ((3, None), (None, 7), (2, 9)):
        for before, after in zip(function.inputs, fix_shapes(function, batch, tokens).inputs, strict=True):
            assert after.shape == (batch or before.shape[0], tokens or before.shape[1])
            assert (after.name, after.dtype, after.highest) == (before.name, before.dtype, before.highest)


def test_float32_equals_the_model_and_is_delegated(bert: ZooModel, bert_file: Path, text: Any) -> None:
    np.testing.assert_allclose(run(bert_file, text)["logits"], bert(text)["logits"].numpy(), atol=CLOSE)
    assert 1 <= count_partitions(bert_file, dict.fromkeys(text, (1, 7)))[SERVING] <= 3
    assert custom_operators(bert_file.read_bytes()) == []


def test_free_lengths_are_delegated_too(bert: ZooModel, bert_file: Path, text: Any) -> None:
    assert 1 <= count_partitions(bert_file, dict.fromkeys(text, (1, 7)))["free"] <= 6
    small = quantized(bert_file, 8)
    for length in (1, 11, TOKENS):
        inputs = {name: value[:, :length] for name, value in text.items()}
        expected = bert(inputs)["logits"].numpy()
        np.testing.assert_allclose(run(bert_file, inputs, "free")["logits"], expected, atol=CLOSE)
        assert cosine(run(small, inputs, "free")["logits"], expected) > 0.999


@pytest.mark.full  # a conversion of its own, where the precisions of the quick tier are made of one float32 file
def test_float16_is_the_model_with_rounded_weights(text: Any, enliven: Callable[..., Any], tmp_path: Path) -> None:
    model = enliven(zoo.create("bert-nano", "embed", vocabulary_size=3000))
    file = tmp_path / "model.tflite"
    write_tflite(model, fixed(model), file, precision="float16", timeout=200)
    for weight in model.weights:
        weight.assign(weight.numpy().astype("float16").astype("float32"))
    np.testing.assert_allclose(run(file, text)["embedding"], model(text)["embedding"].numpy(), atol=1e-5)
    assert 1 <= count_partitions(file, {})[SERVING] <= 3


@pytest.mark.parametrize(("bits", "most", "least"), [(8, 0.28, 0.9995), (4, 0.24, 0.97)])
def test_rounded_weights_of_a_text_model(
    bits: int, most: float, least: float, bert: ZooModel, bert_file: Path, text: Any, tmp_path: Path
) -> None:
    """Small enough that the table of tokens must be there once."""
    content = quantized(bert_file, bits)
    assert len(content) < most * bert_file.stat().st_size
    assert cosine(run(content, text)["logits"], bert(text)["logits"].numpy()) > least
    assert "EMBEDDING_LOOKUP" in operators(content)
    assert custom_operators(content) == []
    (tmp_path / "small.tflite").write_bytes(content)
    assert 1 <= count_partitions(tmp_path / "small.tflite", dict.fromkeys(text, (1, 7)))[SERVING] <= 3


def test_images_in_every_precision(vit: ZooModel, vit_files: dict[str, Path], images: Any) -> None:
    whole, integers = vit_files["float32"], vit_files["int8_full"].read_bytes()
    batch = {"images": np.concatenate([each["images"] for each in images])}
    expected = vit(batch)["logits"].numpy()
    outputs = run(whole, batch)
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"], tf.nn.softmax(expected).numpy(), atol=1e-5)
    for content, least in ((quantized(whole, 8), 0.9995), (quantized(whole, 4), 0.98), (integers, 0.995)):
        outputs = run(content, batch)
        assert outputs["logits"].dtype == np.float32
        assert cosine(outputs["logits"], expected) > least
    for file in vit_files.values():
        assert 1 <= count_partitions(file, {"images": (2, 32, 32, 3)})[SERVING] <= 3
        assert custom_operators(file.read_bytes()) == []


def test_integers_are_what_calibration_saw(vit_files: dict[str, Path], images: Any) -> None:
    """Dense layers and convolutions compute in integers, with the ranges of the samples; nothing else does."""
    whole, integers = vit_files["float32"].read_bytes(), vit_files["int8_full"].read_bytes()
    model = read_file(integers)
    graph, types = model.subgraphs[0], schema.TensorType
    codes = builtin_codes(model)
    builtin = schema.BuiltinOperator
    for operator in graph.operators:
        kinds = {graph.tensors[i].type for i in (operator.inputs[0], operator.outputs[0])}
        is_dense = codes[operator.opcodeIndex] in (builtin.FULLY_CONNECTED, builtin.CONV_2D)
        if is_dense and np.prod(graph.tensors[operator.inputs[1]].shape) >= tflite_quantize.SMALLEST:
            assert kinds == {types.INT8}
        elif codes[operator.opcodeIndex] not in (builtin.QUANTIZE, builtin.DEQUANTIZE):
            assert types.INT8 not in kinds
    (ranges,) = observe(whole, images[:4]).values()
    values = np.stack([each["images"] for each in images[:4]])
    assert ranges[graph.inputs[0]] == (values.min(), values.max())
    (first,) = (each for each in graph.operators if each.inputs[0] == graph.inputs[0])
    scale = graph.tensors[first.outputs[0]].quantization.scale[0]
    assert scale == pytest.approx((values.max() - values.min()) / 255)


@pytest.mark.full  # a conversion and a process, for what the quick tier does in its own
def test_integers_by_all_that_is_done_for_a_file(
    vit: ZooModel, vit_files: dict[str, Path], images: Any, tmp_path: Path
) -> None:
    file = tmp_path / "model.tflite"
    write_tflite(vit, signatures(vit), file, precision="int8_full", calibration=iter(images[:4]), timeout=200)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
    outputs, expected = (run(each, images[5])["logits"] for each in (file, vit_files["int8_full"]))
    np.testing.assert_array_equal(outputs, expected)


def test_signatures_share_their_weights(language_model: ZooModel, gpt_file: Path) -> None:
    size = sum(4 * int(np.prod(weight.shape)) for weight in language_model.weights)
    graphs = 4 * 50_000  # what operators take
    assert size < gpt_file.stat().st_size < size + graphs
    assert custom_operators(gpt_file.read_bytes()) == []
    assert set(Interpreter(str(gpt_file)).get_signature_list()) == {SERVING, "prefill_8", "prefill_16", "decode"}


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Shorter than a chunk, as long as one or two, one more and one less, as long as the slots, and longer."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 97, n).tolist() for n in (1, 2, 5, 9, 10, 17, 24, 33, 40, 53)]


def test_the_driver_generates_what_the_model_does(language_model: Any, gpt_file: Path, prompts: Any) -> None:
    """Ten prompts, 64 tokens each, in 40 slots: each of them is full at least once."""
    reference, driver = Generator(language_model), DeviceGenerator(gpt_file)
    reference.context = driver.slots
    for prompt in prompts:
        (expected,) = reference.generate([prompt], 64)
        assert driver.generate(prompt, 64) == expected
        assert len(set(expected)) > 5


def test_the_driver_writes_within_the_slots_alone(gpt_file: Path, prompts: Any, monkeypatch: Any) -> None:
    driver, calls = DeviceGenerator(gpt_file), []
    run_step = DeviceGenerator._run

    def watch(runner: Any, tokens: list[int], position: int, cache: Any) -> Any:
        calls.append((position, len(tokens)))
        return run_step(runner, tokens, position, cache)

    monkeypatch.setattr(DeviceGenerator, "_run", staticmethod(watch))
    driver.generate(prompts[-1], 3)
    assert calls == [(0, 16), (16, 16), (31, 8), (39, 1), (0, 16), (11, 8), (19, 1), (20, 1)]
    assert all(position + count <= driver.slots for position, count in calls)


def test_the_driver_draws(gpt_file: Path) -> None:
    driver = DeviceGenerator(gpt_file)
    drawn = [driver.generate([1, 2], 12, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert driver.generate([1, 2], 12, temperature=1.5, top_k=1) == driver.generate([1, 2], 12)
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    rng = np.random.default_rng(0)
    counts = np.bincount([choose_token(logits, 1.0, 3, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0, 4 / 9, 2 / 9, 3 / 9], atol=0.03)
    few = DeviceGenerator(gpt_file, vocabulary_size=5)
    assert max(few.generate([1], 30, temperature=100.0)) < 5


def test_the_driver_is_a_program(gpt_file: Path, bert_file: Path) -> None:
    def call(*arguments: str) -> Any:
        command = [sys.executable, "-I", generate_tflite.__file__, *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    done = call(str(gpt_file), "--ids", "[5, 6]", "--count", "7")
    assert json.loads(done.stdout) == DeviceGenerator(gpt_file).generate([5, 6], 7)
    assert "it has no signature 'decode' but free, serving_default" in call(str(bert_file), "--ids", "[1]").stderr
    assert "token ids from 0 to 96" in call(str(gpt_file), "--ids", "[97]").stderr
    assert "--prompt needs --tokenizer" in call(str(gpt_file), "--prompt", "a").stderr


def test_the_driver_reads_and_writes_text(
    gpt_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a tokenizer of fewer words than the model has tokens, whose mark at the beginning has no place in a prompt."""
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(60)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="w1 $A", special_tokens=[("w1", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    expected = DeviceGenerator(gpt_file, vocabulary_size=60).generate([5, 6], 30)
    assert expected != DeviceGenerator(gpt_file).generate([5, 6], 30)
    for prompt in (["--prompt", "w5  w6"], ["--ids", "[5, 6]"]):
        arguments = [str(gpt_file), *prompt, "--tokenizer", str(tmp_path / "tokenizer.json"), "--count", "30"]
        monkeypatch.setattr(sys, "argv", ["generate_tflite.py", *arguments])
        generate_tflite.main()
        assert capsys.readouterr().out.split() == [f"w{number}" for number in (5, 6, *expected)]


def test_a_precision_that_cannot_be_leaves_nothing(bert: ZooModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'int8_full': needs calibration"):
        write_tflite(bert, fixed(bert), tmp_path / "model.tflite", precision="int8_full", timeout=200)
    with pytest.raises(ValueError, match="'int2': unknown"):
        write_tflite(bert, fixed(bert), tmp_path / "model.tflite", precision="int2", timeout=200)
    assert not list(tmp_path.iterdir())


def test_rounding() -> None:
    weights = np.random.default_rng(0).normal(size=(6, 96)).astype("float32")
    weights[2] = 0
    rounded, scales = tflite_quantize.round_to_8_bits(weights)
    assert np.abs(rounded).max() == 127
    assert (np.abs(rounded * scales[:, None] - weights) <= scales[:, None] * 0.5001).all()
    packed, blocks = tflite_quantize.round_to_4_bits(weights)
    nibbles = np.stack([packed & 15, packed >> 4], 1).reshape(weights.shape).astype("int8")
    values = (nibbles - 16 * (nibbles > 7)) * np.repeat(blocks.astype("float32"), 32, axis=1)
    plain = np.maximum(np.abs(weights.reshape(6, 3, 32)).max(2, keepdims=True), 1e-6) / 7
    expected = np.clip(np.rint(weights.reshape(6, 3, 32) / plain), -8, 7) * plain
    error = ((values - weights) ** 2).sum()
    assert 0 < error < 1.01 * ((expected.reshape(6, 96) - weights) ** 2).sum()
    assert (values[2] == 0).all()

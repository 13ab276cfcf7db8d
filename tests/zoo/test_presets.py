"""`zoo.presets`, `zoo.directory` and `zoo.registry`: models created, saved and loaded, and files that are not right."""

import dataclasses
import json
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import zoo
from zoo import presets
from zoo.directory import Saved, find_model_directory, read_saved
from zoo.errors import UserError
from zoo.files import LARGEST_JSON
from zoo.gpt import PRESETS
from zoo.gpt.model import GPTBackbone, GPTLanguageModel
from zoo.registry import FAMILIES, find_family
from zoo.tensors import open_tensors
from zoo.text import train_characters

TINY = {"vocabulary_size": 300, "max_length": 12, "width": 8, "depth": 1, "num_heads": 2}
IDS = np.array([[1, 5, 299, 0], [7, 7, 7, 2]], "int32")


@pytest.fixture(scope="module")
def model(enliven) -> Any:
    """A model with a tokenizer that the tests below do not change."""
    model = enliven(zoo.create("gpt-nano", **TINY))
    model.tokenizer = train_characters(["the quick brown fox"])
    return model


@pytest.fixture(scope="module")
def saved_once(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    zoo.save(model, directory)
    return directory


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A model directory to spoil."""
    directory = tmp_path / "model"
    directory.mkdir()
    for path in saved_once.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refusal(call: Callable[[], Any]) -> str:
    """The message with which `call` is refused: one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 1000
    return message


def edit_config(directory: Path, **fields: Any) -> None:
    """Change fields of the record, or of the config inside it; None for `drop` removes one."""
    path = directory / "config.json"
    record = json.loads(path.read_text())
    inner = fields.pop("config", {})
    record.update(fields)
    if isinstance(inner, dict):
        record["config"].update(inner)
    else:
        record["config"] = inner
    path.write_text(json.dumps(record))


def write_weights(directory: Path, edit: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    edit(tensors)
    safetensors.numpy.save_file(tensors, path)
    return path


def assign(model: Any, saved: Saved) -> None:
    """Give a model the weights of a directory, as `zoo.load` does to one that it has made."""
    with open_tensors(saved.directory / "model.safetensors") as tensors:
        presets._assign(model, tensors, saved)


# --- create


def test_create_makes_the_named_size_for_the_task() -> None:
    model = zoo.create("gpt-nano")
    assert isinstance(model, GPTLanguageModel)
    assert model.config == PRESETS["gpt-nano"] and model.task == "generate" and model.tokenizer is None
    assert model.count_params() == model.config.count_parameters("generate")
    backbone = zoo.create("gpt-nano", task="backbone", dtype="mixed_bfloat16", dropout=0.3, **TINY)
    assert isinstance(backbone, GPTBackbone) and backbone.task == "backbone"
    assert backbone.config == PRESETS["gpt-nano"].replace(dropout=0.3, **TINY)
    assert backbone.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.create("gpt2-larg"), "unknown preset 'gpt2-larg': did you mean 'gpt2-large'"),
        (lambda: zoo.create("llama"), "unknown preset 'llama': known are bert-nano, bert-tiny, bert-mini, bert-small"),
        (lambda: zoo.create("gpt-nano", task="generat"), "gpt has no task 'generat': did you mean 'generate'?"),
        (lambda: zoo.create("gpt-nano", widht=8), "GPTConfig: unknown field 'widht': did you mean 'width'"),
        (lambda: zoo.create("gpt-nano", width=0), "GPTConfig: width is 0, and must be int >= 1"),
        (lambda: zoo.create("gpt-nano", width=33), "width is 33, and must be a multiple of num_heads 2"),
        (lambda: find_family("gtp"), "unknown family 'gtp': did you mean 'gpt'?"),
        (lambda: find_family(["gpt"]), "unknown family ['gpt']"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(call: Callable[[], Any], message: str) -> None:
    assert message in refusal(call)


def test_every_task_has_its_class() -> None:
    for family in FAMILIES.values():
        for task in family.tasks:
            assert family.model_class(task).family == family.name
            assert family.model_class(task).config_class is family.config_class
        assert all(type(config) is family.config_class for config in family.presets.values())


# --- save and load


def test_a_model_comes_back_bit_for_bit(model, saved: Path) -> None:
    again = zoo.load(saved)
    assert type(again) is type(model) and again.config == model.config and again.task == "generate"
    assert list(again.named_weights()) == list(model.named_weights())
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(again({"token_ids": IDS})["logits"], model({"token_ids": IDS})["logits"])
    assert again.tokenizer.same_as(model.tokenizer)
    zoo.save(again, saved.parent / "second")
    assert content(saved.parent / "second") == content(saved)


def test_a_model_directory_holds_what_it_should(model, saved: Path) -> None:
    assert set(content(saved)) == {"config.json", "model.safetensors", "README.md", "tokenizer.json"}
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    assert {name: value.shape for name, value in tensors.items()} == {
        name: tuple(weight.shape) for name, weight in model.named_weights().items()
    }
    assert json.loads((saved / "config.json").read_text()) == {
        "zoo": 1,
        "family": "gpt",
        "task": "generate",
        "config": model.config.to_dict(),
    }
    assert f"{model.count_params():,} parameters" in (saved / "README.md").read_text()


def test_a_model_without_text_has_no_tokenizer(tmp_path: Path) -> None:
    model = zoo.create("gpt-nano", **TINY)
    zoo.save(model, tmp_path / "model")
    assert set(content(tmp_path / "model")) == {"config.json", "model.safetensors", "README.md"}
    assert zoo.load(tmp_path / "model").tokenizer is None


def test_a_run_directory_stands_for_its_model(saved: Path) -> None:
    assert find_model_directory(saved.parent) == saved
    assert zoo.load(str(saved.parent)).config.width == 8


def test_load_for_another_task(model, saved: Path) -> None:
    backbone = zoo.load(saved, task="backbone")
    assert isinstance(backbone, GPTBackbone) and backbone.task == "backbone"
    np.testing.assert_array_equal(
        backbone({"token_ids": IDS})["sequence"], model.backbone({"token_ids": IDS})["sequence"]
    )
    zoo.save(backbone, saved.parent / "backbone")
    whole = zoo.load(saved.parent / "backbone", task="generate")
    assert isinstance(whole, GPTLanguageModel) and whole.task == "generate"
    np.testing.assert_array_equal(whole({"token_ids": IDS})["logits"], model({"token_ids": IDS})["logits"])
    assert "gpt has no task 'fly'" in refusal(lambda: zoo.load(saved, task="fly"))


def test_another_task_may_lack_weights_of_its_head_but_not_of_the_backbone(model, saved: Path) -> None:
    own = read_saved(saved)
    other = dataclasses.replace(own, task="classify")
    write_weights(saved, lambda tensors: tensors.update({"head.kernel": np.ones((2, 2), "float32")}))
    assert "unexpected 'head.kernel' (2, 2)" in refusal(lambda: assign(model, own))
    assign(model, other)
    write_weights(saved, lambda tensors: tensors.update({"backbone.extra": np.ones((2, 2), "float32")}))
    assert "unexpected 'backbone.extra' (2, 2)" in refusal(lambda: assign(model, other))
    write_weights(saved, lambda tensors: [tensors.pop("backbone.extra"), tensors.pop("backbone.final_norm.beta")])
    assert "missing backbone.final_norm.beta (8,)" in refusal(lambda: assign(model, other))


def test_overrides_change_the_config_and_must_fit_the_weights(model, saved: Path) -> None:
    again = zoo.load(saved, dropout=0.5, dtype="mixed_bfloat16")
    assert again.config == model.config.replace(dropout=0.5)
    assert again.backbone.dropout.rate == 0.5 and again.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(again.weights[0].numpy(), model.weights[0].numpy())
    message = refusal(lambda: zoo.load(saved, max_length=13))
    assert "backbone.position_embedding.table is (12, 8) and must be (13, 8)" in message
    assert "unknown field 'heads'" in refusal(lambda: zoo.load(saved, heads=2))


@pytest.mark.parametrize("dtype", ["float16", "float64", "float32"])
def test_any_floating_point_file_is_read(model, saved: Path, dtype: str) -> None:
    write_weights(saved, lambda t: t.update({name: value.astype(dtype) for name, value in t.items()}))
    again = zoo.load(saved)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        assert theirs.dtype == "float32"
        np.testing.assert_array_equal(theirs.numpy(), ours.numpy().astype(dtype).astype("float32"))


def test_a_fresh_head_is_announced(model, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = zoo.load(saved, task="classify", num_classes=3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{saved} has no classifier.kernel: they are fresh, and to be trained"
    ]
    assert classifier.config == model.config.replace(num_classes=3)
    np.testing.assert_array_equal(classifier.weights[0].numpy(), model.weights[0].numpy())
    assert 0 < np.abs(classifier.classifier.kernel.numpy()).max() < 0.2
    zoo.save(classifier, saved.parent / "classifier")
    write_weights(saved.parent / "classifier", lambda tensors: tensors.pop("classifier.kernel"))
    assert "missing classifier.kernel (8, 3)" in refusal(lambda: zoo.load(saved.parent / "classifier"))


def test_another_number_of_classes_makes_a_fresh_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = zoo.create("vit-nano", width=8, depth=1, num_classes=3)
    model.labels = ("cat", "dog", "a cow")
    zoo.save(model, tmp_path / "three")
    assert (tmp_path / "three" / "labels.txt").read_text() == "cat\ndog\na cow\n"
    assert zoo.load(tmp_path / "three").labels == model.labels
    assert caplog.records == []
    four = zoo.load(tmp_path / "three", num_classes=4)
    assert four.labels is None and four.classifier.kernel.shape == (8, 4)
    assert "has no classifier.bias, classifier.kernel: they are fresh" in caplog.text
    np.testing.assert_array_equal(four.weights[0].numpy(), model.weights[0].numpy())


def test_a_pooler_that_was_never_there_is_no_part_of_a_backbone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"width": 8, "depth": 1, "num_heads": 1, "max_length": 8, "vocabulary_size": 20}
    zoo.save(zoo.create("bert-nano", task="answer", **sizes), tmp_path / "answerer")
    backbone = zoo.load(tmp_path / "answerer", task="backbone")
    assert backbone.pooler is None and backbone.config.pooler is False
    assert caplog.records == []
    assert zoo.load(tmp_path / "answerer", task="classify").backbone.pooler is not None
    assert "has no backbone.pooler.bias, backbone.pooler.kernel, classifier.bias, classifier.kernel" in caplog.text


# --- writing over something


def test_a_directory_in_use_is_left_alone(model, saved: Path) -> None:
    (saved / "mine.txt").write_text("mine")
    before = content(saved)
    assert "is not empty" in refusal(lambda: zoo.save(model, saved))
    assert content(saved) == before
    zoo.save(model, saved, force=True)
    assert "mine.txt" not in content(saved)
    assert {**content(saved), "mine.txt": b"mine"} == before


@pytest.mark.parametrize("where", ["write_tensors", "_card"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_the_old_model(
    model, saved: Path, monkeypatch: pytest.MonkeyPatch, where: str, interruption: type[BaseException]
) -> None:
    before = content(saved)
    original = getattr(presets, where)

    def interrupt(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise interruption

    monkeypatch.setattr(presets, where, interrupt)
    with pytest.raises(interruption):
        zoo.save(model, saved, force=True)
    assert content(saved) == before
    with pytest.raises(interruption):
        zoo.save(model, saved.parent / "new")
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


# --- files that are not right


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a model fails: what is refused is refused before anything is allocated."""
    monkeypatch.setattr(presets, "build", lambda *arguments: pytest.fail("a model was built"))


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"zoo": 1,}', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"zoo": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b"[]", "not a model of this zoo"),
        (b"null", "not a model of this zoo"),
        (b'{"type": "gpt2"}', "not a model of this zoo (it has no 'zoo' field), nor Hugging Face's ('model_type')"),
        (b'{"class_name": "Functional"}', "Keras's own, which is not read here"),
    ],
)
def test_a_config_that_is_no_config_is_refused(saved: Path, text: bytes, message: str) -> None:
    (saved / "config.json").write_bytes(text)
    answer = refusal(lambda: zoo.load(saved))
    assert answer.startswith(f"{saved / 'config.json'}: ") and message in answer


@pytest.mark.usefixtures("nothing_is_built")
def test_a_config_of_absurd_size_is_not_read(saved: Path) -> None:
    (saved / "config.json").write_bytes(b" " * (LARGEST_JSON + 1))
    assert f"{saved / 'config.json'}: more than 16,777,216 bytes is too large" in refusal(lambda: zoo.load(saved))


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zoo": 2}, "format 2 is not 1"),
        ({"zoo": None}, "format None is not 1"),
        ({"family": "gtp"}, "unknown family 'gtp': did you mean 'gpt'?"),
        ({"family": []}, "unknown family []"),
        ({"family": {}}, "unknown family {}"),
        ({"family": None}, "unknown family None"),
        ({"task": "generat"}, "no task 'generat': did you mean 'generate'?"),
        ({"task": ["generate"]}, "no task"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"config": []}, "expected an object with fields"),
        ({"config": {"widht": 8}}, "unknown field 'widht': did you mean 'width'"),
        ({"config": {"width": "8"}}, "width is '8', and must be int >= 1"),
        ({"config": {"width": 8.0}}, "width is 8.0, and must be int >= 1"),
        ({"config": {"depth": 0}}, "depth is 0, and must be int >= 1"),
        ({"config": {"num_heads": 3}}, "width is 8, and must be a multiple of num_heads 3"),
        ({"config": {"dropout": float("nan")}}, "dropout is nan"),
        ({"config": {"activation": "swish"}}, "activation is 'swish', and must be one of gelu_tanh"),
        ({"config": {"width": 10**300}}, "width is 1000"),
        ({"zoo": "x\n" * 10_000}, "format 'x"),
        ({"family": "x\n" * 10_000}, "unknown family 'x"),
        ({"task": "x\n" * 10_000}, "no task 'x"),
        ({"x\n" * 10_000: 1}, "unknown field 'x"),
    ],
)
def test_a_wrong_field_is_named(saved: Path, fields: dict[str, Any], message: str) -> None:
    edit_config(saved, **fields)
    answer = refusal(lambda: zoo.load(saved))
    assert answer.startswith(f"{saved / 'config.json'}: ") and message in answer


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize("field", ["zoo", "family", "task", "config"])
def test_a_missing_field_is_named(saved: Path, field: str) -> None:
    record = json.loads((saved / "config.json").read_text())
    del record[field]
    (saved / "config.json").write_text(json.dumps(record))
    answer = refusal(lambda: zoo.load(saved))
    assert f"the field '{field}' is missing" in answer or "has no 'zoo' field" in answer


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    "sizes",
    [
        {"vocabulary_size": 10_000_000, "width": 100_000, "depth": 1_000, "max_length": 1_000_000},
        {"vocabulary_size": 10_000_000},
        {"max_length": 1_000_000},
        {"depth": 1_000},
        {"mlp_width": 1_000_000},
        {"width": 100_000},
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(saved: Path, sizes: dict[str, int]) -> None:
    edit_config(saved, config=sizes)
    answer = refusal(lambda: zoo.load(saved))
    assert re.search(r"model\.safetensors: [\d,]+ bytes cannot hold the [\d,]+ weights that config\.json asks", answer)


def test_what_is_not_there_is_named(saved: Path, tmp_path: Path) -> None:
    assert "there is no such directory" in refusal(lambda: zoo.load(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    assert "no model directory (it has no config.json)" in refusal(lambda: zoo.load(tmp_path / "empty"))
    (saved / "model.safetensors").unlink()
    assert "there is no model.safetensors" in refusal(lambda: zoo.load(saved))


@pytest.mark.usefixtures("nothing_is_built")
def test_a_vocabulary_that_does_not_fit_is_refused(model, saved: Path) -> None:
    edit_config(saved, config={"vocabulary_size": 100})
    answer = refusal(lambda: zoo.load(saved))
    size = model.tokenizer.vocabulary_size
    assert f"the tokenizer has {size} tokens, and the model's vocabulary_size is 100" in answer


def test_tensors_that_do_not_fit_are_listed(model, saved: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        del tensors["backbone.final_norm.beta"]
        tensors["backbone.extra"] = np.zeros((2, 3), "float32")
        tensors["backbone.final_norm.gamma"] = np.zeros((4, 2), "float32")

    path = write_weights(saved, spoil)
    before = [weight.numpy() for weight in model.weights]
    answer = refusal(lambda: zoo.load(saved))
    assert answer == (
        f"{path}: does not fit config.json: missing backbone.final_norm.beta (8,); unexpected 'backbone.extra' (2, 3); "
        "backbone.final_norm.gamma is (4, 2) and must be (8,)"
    )
    refusal(lambda: assign(model, read_saved(saved)))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_a_long_list_is_cut_with_a_count(saved: Path) -> None:
    write_weights(saved, lambda tensors: tensors.update({f"x{i}": np.zeros(1, "float32") for i in range(9)}))
    answer = refusal(lambda: zoo.load(saved))
    assert answer.count("unexpected") == 5 and answer.endswith("; and 4 more")


def test_the_names_in_a_file_cannot_break_the_line(saved: Path) -> None:
    write_weights(saved, lambda tensors: tensors.update({"a\nb" + "c" * 5000: np.zeros(1, "float32")}))
    assert "unexpected" in refusal(lambda: zoo.load(saved))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_numbers_that_are_no_weights_are_refused(saved: Path, dtype: str) -> None:
    write_weights(saved, lambda t: t.update({"backbone.final_norm.beta": t["backbone.final_norm.beta"].astype(dtype)}))
    answer = refusal(lambda: zoo.load(saved))
    assert f"'backbone.final_norm.beta' holds {dtype}, and must hold floating-point numbers" in answer


def header(fields: Any) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


HUGE = 2**60
SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"not a safetensors file at all" * 2000,
    "zeros": lambda whole: bytes(len(whole)),
    "header longer than the file": lambda whole: struct.pack("<Q", HUGE) + whole[8:],
    "largest header": lambda whole: b"\xff" * 8 + whole[8:],
    "header of a wrong kind": lambda whole: header([1, 2]) + whole,
    "no data": lambda whole: whole[: 8 + struct.unpack("<Q", whole[:8])[0]],
    "one byte short": lambda whole: whole[:-1],
    "one byte long": lambda whole: whole + b"\0",
    "absurd shape": lambda whole: (
        header({"backbone.final_norm.beta": {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 32]}}) + whole
    ),
    "shape beyond the file": lambda whole: (
        header({"backbone.final_norm.beta": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}) + whole
    ),
    "negative offset": lambda whole: (
        header({"backbone.final_norm.beta": {"dtype": "F32", "shape": [8], "data_offsets": [-32, 0]}}) + whole
    ),
}


@pytest.mark.parametrize("damage", SPOILED)
def test_a_damaged_file_is_refused(model, saved: Path, damage: str) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(SPOILED[damage](path.read_bytes()))
    assert str(path) in refusal(lambda: assign(model, read_saved(saved)))
    if damage in ("empty", "one byte short"):
        assert str(path) in refusal(lambda: zoo.load(saved))


def mutate(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut the file, or change a few of its bytes, most of them in the header."""
    if rng.random() < 0.25:
        return whole[: rng.integers(len(whole))]
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    spoiled = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        spoiled[rng.integers(end if rng.random() < 0.7 else len(whole))] = rng.integers(256)
    return bytes(spoiled)


def test_no_mutation_of_the_file_does_anything_but_load_or_be_refused(model, saved: Path) -> None:
    rng, path = np.random.default_rng(0), saved / "model.safetensors"
    whole, outcomes = path.read_bytes(), {"loaded": 0, "refused": 0}
    before, described = [weight.numpy() for weight in model.weights], read_saved(saved)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(100):
        path.write_bytes(mutate(whole, rng))
        try:
            if i % 20:
                assign(model, described)
            else:
                zoo.load(saved)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            outcomes["loaded"] += 1
    assert min(outcomes.values()) >= 5, outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # KiB
    for weight, value in zip(model.weights, before, strict=True):
        weight.assign(value)


def test_loading_runs_no_code(saved: Path) -> None:
    """Files that other loaders would run are not even opened."""
    for name in ("pytorch_model.bin", "model.pkl", "model.py", "__init__.py", "saved_model.pb", "model.keras"):
        (saved / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    described = read_saved(saved)
    assert (described.family.name, described.task, described.config.width) == ("gpt", "generate", 8)
    assert np.isfinite(tf.reduce_sum(zoo.load(saved)({"token_ids": IDS})["logits"]))

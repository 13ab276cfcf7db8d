"""Every family and task head against the reference implementation's outputs in `tests/golden/models`, and the same
checkpoints in the older layouts that are found on the hub."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.golden import MODELS, NAMES, Arrays, calls_of, copy_checkpoint
from tests.zoo.reference import assert_close
from zoo import presets

INPUTS = ("token_ids", "padding_mask", "segment_ids", "images")
ROUNDED = ("float16", "bfloat16")  # calls of the same model with rounded weights
CALLS = [(name, call) for name in NAMES for call in calls_of(name) if call not in ROUNDED]
PREFIXES = {"bert": "bert.", "gpt": "transformer.", "vit": "vit."}


class Golden:
    """A checkpoint as we load it, kept for all tests: building a model is what costs time."""

    def __init__(self, name: str) -> None:
        self.name, self.family = name, name.partition("-")[0]
        self.model = zoo.load(MODELS / name)
        self.calls = calls_of(name)
        self.first = "own" if "own" in self.calls else "long"
        self.values = [weight.numpy() for weight in self.model.weights]

    def inputs(self, call: str) -> Arrays:
        return {name: value for name, value in self.calls[call].items() if name in INPUTS}

    def assert_reproduced(self, rounded: str | None = None) -> None:
        """The outputs of the first call are the reference's: with weights as they are, or rounded."""
        outputs = self.model(self.inputs(self.first))
        wanted = self.calls[rounded or self.first]
        for name in self.model.output_names:
            assert_close(outputs[name], wanted[name])


@pytest.fixture(scope="module")
def loaded() -> dict[str, Golden]:
    return {}


@pytest.fixture
def golden(request: pytest.FixtureRequest, loaded: dict[str, Golden]) -> Iterator[Golden]:
    """The checkpoint that the test's parameter `name` names."""
    name = request.getfixturevalue("name")
    if name not in loaded:
        loaded[name] = Golden(name)
    yield loaded[name]
    for weight, value in zip(loaded[name].model.weights, loaded[name].values, strict=True):
        weight.assign(value)


@pytest.fixture
def reload(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`reload(directory)` loads another form of the checkpoint into the model that is built already."""

    def build(family: Any, config: Any, task: str, dtype: str) -> Any:
        model = golden.model
        assert (family.name, config, task, dtype) == (model.family, model.config, model.task, "float32")
        for weight in model.weights:
            weight.assign(np.full(weight.shape, np.nan))
        return model

    def reload(directory: Path) -> None:
        monkeypatch.setattr(presets, "build", build)
        assert zoo.load(directory) is golden.model

    return reload


# --- outputs


def test_every_family_and_head_has_its_golden() -> None:
    models = {(zoo_name.partition("-")[0], zoo_name.split("-")[1]) for zoo_name in NAMES}
    bert = {("bert", task) for task in ("backbone", "pretrain", "masked_lm", "classify", "tag", "answer", "embed")}
    gpt = {("gpt", task) for task in ("backbone", "generate", "classify", "embed")}
    assert models == bert | gpt | {("vit", "backbone"), ("vit", "classify"), ("clip", "contrast")}


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_outputs_are_the_references(name: str, call: str, golden: Golden) -> None:
    assert golden.model.task == name.split("-")[1]
    outputs = golden.model(golden.inputs(call), return_weights=True)
    expected = dict(golden.calls[call])
    for output in golden.model.output_names:
        assert_close(outputs[output], expected.pop(output))
    for kind in ("attention", "image_attention", "text_attention"):
        layers = [layer for layer in expected if layer.startswith(f"{kind}.")]
        if layers:
            assert len(layers) == len(outputs[kind])
        for layer in layers:
            assert_close(outputs[kind][int(layer.rpartition(".")[2])], expected.pop(layer))
    # Nothing of the reference's goes unseen: what is left are inputs, and what the losses are for.
    labels = {"labels", "next_sentence_label", "start_positions", "end_positions", "loss"}
    assert expected.keys() - labels <= set(INPUTS)


def test_attention_weights_are_there_for_each_family() -> None:
    kinds = {
        (name.partition("-")[0], what.partition(".")[0])
        for name in NAMES
        for c in calls_of(name).values()
        for what in c
    }
    wanted = {(family, "attention") for family in ("bert", "gpt", "vit")}
    assert wanted | {("clip", "image_attention"), ("clip", "text_attention")} <= kinds


# --- losses, as they are given to `compile`


def cross_entropy(**settings: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **settings)


def loss_of(model: Any, loss: Any, x: Any, y: Any = None, sample_weight: Any = None, **settings: Any) -> float:
    model.compile(loss=loss, run_eagerly=True, **settings)
    return float(model.test_on_batch(x, y, sample_weight=sample_weight, return_dict=True)["loss"])


def with_loss(*names: str) -> list[tuple[str, str]]:
    return [(name, call) for name, call in CALLS if name in names and "loss" in calls_of(name)[call]]


@pytest.mark.parametrize(("name", "call"), with_loss("bert-pretrain"))
def test_loss_of_bert_pretraining(name: str, call: str, golden: Golden) -> None:
    """Only the masked positions are projected: a row with fewer repeats one, with weight 0."""
    expected = golden.calls[call]
    chosen = [np.flatnonzero(row != -100) for row in expected["labels"]]
    most = max(map(len, chosen))
    assert min(map(len, chosen)) < most
    positions = np.array([np.resize(row, most) for row in chosen], "int32")
    weights = np.array([np.arange(most) < len(row) for row in chosen], "float32")
    y = {
        "logits": np.take_along_axis(expected["labels"], positions, axis=1),
        "next_sentence": expected["next_sentence_label"],
    }
    losses = {"logits": cross_entropy(reduction="mean_with_sample_weight"), "next_sentence": cross_entropy()}
    x = {**golden.inputs(call), "masked_positions": positions}
    got = loss_of(golden.model, losses, x, y, {"logits": weights, "next_sentence": np.ones(2, "float32")})
    assert_close([got], expected["loss"][None])


@pytest.mark.parametrize(("name", "call"), with_loss("bert-masked_lm", "bert-tag"))
def test_loss_of_some_tokens(name: str, call: str, golden: Golden) -> None:
    expected = golden.calls[call]
    weights = (expected["labels"] != -100).astype("float32")
    x, y = golden.inputs(call), expected["labels"]
    assert_close([loss_of(golden.model, cross_entropy(ignore_class=-100), x, y)], expected["loss"][None])
    weighted = cross_entropy(reduction="mean_with_sample_weight")
    assert_close([loss_of(golden.model, weighted, x, np.maximum(y, 0), weights)], expected["loss"][None])


@pytest.mark.parametrize(("name", "call"), with_loss("gpt-generate"))
def test_loss_of_the_next_token(name: str, call: str, golden: Golden) -> None:
    inputs, expected = golden.inputs(call), golden.calls[call]["loss"]
    x = {key: value[:, :-1] for key, value in inputs.items()}
    loss = cross_entropy(reduction="mean_with_sample_weight")
    weights = inputs["padding_mask"][:, 1:].astype("float32")
    assert_close([loss_of(golden.model, loss, x, inputs["token_ids"][:, 1:], weights)], expected[None])


@pytest.mark.parametrize(("name", "call"), with_loss("bert-classify", "gpt-classify", "vit-classify"))
def test_loss_of_classes(name: str, call: str, golden: Golden) -> None:
    expected = golden.calls[call]
    assert_close(
        [loss_of(golden.model, cross_entropy(), golden.inputs(call), expected["labels"])], expected["loss"][None]
    )


@pytest.mark.parametrize(("name", "call"), with_loss("bert-answer"))
def test_loss_of_spans(name: str, call: str, golden: Golden) -> None:
    expected = golden.calls[call]
    ends = {"start_logits": expected["start_positions"], "end_logits": expected["end_positions"]}
    losses = {end: cross_entropy() for end in ends}
    got = loss_of(golden.model, losses, golden.inputs(call), ends, loss_weights=dict.fromkeys(ends, 0.5))
    assert_close([got], expected["loss"][None])


@pytest.mark.parametrize(("name", "call"), with_loss("clip-contrast", "clip-contrast-highest"))
def test_loss_of_pairs(name: str, call: str, golden: Golden) -> None:
    """The model brings its own loss: none is compiled."""
    assert_close([loss_of(golden.model, None, golden.inputs(call))], golden.calls[call]["loss"][None])


def test_every_loss_is_compared() -> None:
    tested = [case for case in CALLS if case[0].split("-")[1] not in ("backbone", "embed")]
    assert {
        case for case in tested if case != ("clip-contrast", "long") and case != ("clip-contrast-highest", "long")
    } == {case for case in CALLS if "loss" in calls_of(case[0])[case[1]]}


# --- parts of the outputs


@pytest.mark.parametrize("name", ["bert-pretrain", "bert-masked_lm"])
def test_logits_of_masked_positions_are_those_of_all(name: str, golden: Golden) -> None:
    positions = np.array([[0, 11, 3], [5, 5, 2]], "int32")
    outputs = golden.model({**golden.inputs("long"), "masked_positions": positions})
    wanted = np.take_along_axis(golden.calls["long"]["logits"], positions[..., None], axis=1)
    assert_close(outputs["logits"], wanted)


@pytest.mark.parametrize("name", ["bert-pretrain"])
@pytest.mark.parametrize("task", ["masked_lm", "backbone"])
def test_a_part_of_the_pretrained_model(name: str, task: str, golden: Golden) -> None:
    part = zoo.load(MODELS / name, task=task)
    outputs = part(golden.inputs("long"))
    if task == "masked_lm":
        assert_close(outputs["logits"], golden.calls["long"]["logits"])
    else:
        head = golden.model.next_sentence
        assert_close(head(outputs["pooled"]), golden.calls["long"]["next_sentence"])


@pytest.mark.parametrize("name", ["vit-backbone"])
def test_an_image_is_embedded_by_its_class_token_or_its_patches(name: str, golden: Golden) -> None:
    inputs, sequence = golden.inputs("own"), golden.calls["own"]["sequence"]
    first = zoo.load(MODELS / name, task="embed")
    assert_close(first(inputs)["embedding"], sequence[:, 0])
    mean = zoo.load(MODELS / name, task="embed", pooling="mean", normalize=True)
    patches = sequence[:, 1:].mean(axis=1, dtype="float64")
    assert_close(mean(inputs)["embedding"], patches / np.linalg.norm(patches, axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["vit-classify"])
@pytest.mark.parametrize(("call", "size"), [("larger", (20, 28)), ("odd", (13, 23))])
def test_positions_are_interpolated_when_a_model_is_loaded_for_another_size(
    name: str, call: str, size: tuple[int, int], golden: Golden
) -> None:
    model = zoo.load(MODELS / name, image_size=size)
    assert model.backbone.position_embedding.table.shape[0] == 1 + (size[0] // 4) * (size[1] // 4)
    assert_close(model(golden.inputs(call))["logits"], golden.calls[call]["logits"])


@pytest.mark.parametrize("name", ["clip-contrast", "clip-contrast-highest"])
def test_either_tower_alone(name: str, golden: Golden) -> None:
    inputs, expected = golden.inputs("long"), golden.calls["long"]
    assert_close(golden.model.encode_image(inputs["images"]), expected["image_embedding"])
    text = golden.model.encode_text(inputs["token_ids"], inputs["padding_mask"])
    assert_close(text, expected["text_embedding"])


# --- the same checkpoints in older layouts


def rename(tensors: Arrays, new_name: Callable[[str], str]) -> None:
    content = dict(tensors)
    tensors.clear()
    tensors.update({new_name(name): value for name, value in content.items()})
    assert len(tensors) == len(content) and tensors.keys() != content.keys()


def prefix_of(tensors: Arrays, family: str) -> str:
    prefix = PREFIXES.get(family, "")
    return prefix if any(name.startswith(prefix) for name in tensors) else ""


def with_tensorflow_names(tensors: Arrays, record: dict[str, Any]) -> None:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    rename(tensors, lambda name: re.sub(r"LayerNorm\.(weight|bias)$", lambda match: old[match[0]], name))


def with_other_prefix(tensors: Arrays, record: dict[str, Any]) -> None:
    """As of a model with a head where this is a bare one, and the other way round."""
    prefix = PREFIXES[{"gpt2": "gpt"}.get(record["model_type"], record["model_type"])]
    if any(name.startswith(prefix) for name in tensors):
        rename(tensors, lambda name: name.removeprefix(prefix))
    else:
        rename(tensors, lambda name: prefix + name)


def with_buffers(tensors: Arrays, record: dict[str, Any]) -> None:
    family = {"gpt2": "gpt"}.get(record["model_type"], record["model_type"])
    prefix = prefix_of(tensors, family)
    if family == "bert":
        tensors[f"{prefix}embeddings.position_ids"] = np.arange(record["max_position_embeddings"])[None]
    elif family == "gpt":
        n = record["n_positions"]
        for i in range(record["n_layer"]):
            # Of three kinds in the versions that stored it.
            kind = ("bool", "uint8", "float32")[i % 3]
            tensors[f"{prefix}h.{i}.attn.bias"] = np.tril(np.ones((1, 1, n, n), kind))
            tensors[f"{prefix}h.{i}.attn.masked_bias"] = np.array(-1e4, "float32")
    elif family == "vit":
        tensors[f"{prefix}embeddings.mask_token"] = np.ones((1, 1, record["hidden_size"]), "float32")
    else:
        for tower in ("text_model", "vision_model"):
            rows = len(tensors[f"{tower}.embeddings.position_embedding.weight"])
            tensors[f"{tower}.embeddings.position_ids"] = np.arange(rows)[None]


TIED = {
    "bert-pretrain": {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "gpt-generate": {"lm_head.weight": "transformer.wte.weight"},
}
TIED["bert-masked_lm"] = TIED["bert-pretrain"]


def with_tied_twice(tensors: Arrays, record: dict[str, Any]) -> None:
    pairs = TIED["gpt-generate" if record["model_type"] == "gpt2" else "bert-pretrain"]
    tensors.update({copy: tensors[original].copy() for copy, original in pairs.items()})


def with_tied_under_the_other_name(tensors: Arrays, record: dict[str, Any]) -> None:
    pairs = TIED["gpt-generate" if record["model_type"] == "gpt2" else "bert-pretrain"]
    tensors.update({copy: tensors.pop(original) for copy, original in pairs.items()})


def with_old_towers(tensors: Arrays, record: dict[str, Any]) -> None:
    """The first writers put what they meant into `..._config_dict`, and defaults into `..._config`."""
    for tower, defaults in (("text_config", {"hidden_size": 512}), ("vision_config", {"hidden_size": 768})):
        record[f"{tower}_dict"] = record[tower]
        record[tower] = {"model_type": record[tower]["model_type"], "intermediate_size": 2048, **defaults}


FAMILY = {name: name.partition("-")[0] for name in NAMES}
LAYOUTS: list[tuple[str, Callable[[Arrays, dict[str, Any]], None]]] = [
    *((name, with_tensorflow_names) for name in NAMES if FAMILY[name] == "bert"),
    *((name, with_other_prefix) for name in NAMES if FAMILY[name] != "clip"),
    *((name, with_buffers) for name in NAMES),
    *((name, with_tied_twice) for name in TIED),
    *((name, with_tied_under_the_other_name) for name in TIED),
    *((name, with_old_towers) for name in NAMES if FAMILY[name] == "clip"),
]


@pytest.mark.parametrize(("name", "change"), LAYOUTS, ids=lambda value: getattr(value, "__name__", value))
def test_an_older_layout(
    name: str,
    change: Callable[[Arrays, dict[str, Any]], None],
    golden: Golden,
    reload: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    record = json.loads((MODELS / name / "config.json").read_text())
    directory = copy_checkpoint(name, tmp_path / name, tensors=lambda tensors: change(tensors, record))
    (directory / "config.json").write_text(json.dumps(record))
    reload(directory)
    for weight, value in zip(golden.model.weights, golden.values, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    golden.assert_reproduced()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=ROUNDED)
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_half_the_precision(
    name: str, dtype: Any, golden: Golden, reload: Callable[[Path], None], tmp_path: Path
) -> None:
    """The outputs are those of the reference with weights that were rounded so."""

    def halve(tensors: Arrays) -> None:
        tensors.update({key: value.astype(dtype) for key, value in tensors.items()})

    reload(copy_checkpoint(name, tmp_path / name, tensors=halve))
    golden.assert_reproduced(rounded=np.dtype(dtype).name)


@pytest.mark.parametrize("name", NAMES)
def test_a_sharded_checkpoint(name: str, golden: Golden, reload: Callable[[Path], None], tmp_path: Path) -> None:
    directory = copy_checkpoint(name, tmp_path / name)
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    places = {key: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, key in enumerate(tensors)}
    for file in set(places.values()):
        part = {key: value for key, value in tensors.items() if places[key] == file}
        safetensors.numpy.save_file(part, directory / file, metadata={"format": "pt"})
    total = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    reload(directory)
    golden.assert_reproduced()

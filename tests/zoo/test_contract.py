"""What every model promises, whichever its family and task: each test here runs over all that the registry knows."""

import functools
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo.reference import assert_close
from zoo.huggingface import find_layout
from zoo.model import Axis, TaskModel, ZooModel
from zoo.registry import FAMILIES

# One block: that several follow each other is the matter of `test_layers.py`, and most of the time here is tracing.
TOWER = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 24}
TEXT = {**TOWER, "vocabulary_size": 41, "max_length": 12}
IMAGE = {**TOWER, "image_size": (8, 12), "patch_size": 4}  # six patches
SMALL: dict[str, dict[str, Any]] = {
    "bert": {**TEXT, "num_segments": 3, "num_classes": 5},
    "gpt": {**TEXT, "num_classes": 5},
    "vit": {**IMAGE, "num_classes": 5},
    "clip": {"vision": IMAGE, "text": {**TEXT, "width": 12}, "projection_width": 10, "end_token": 40},
}
ODD: dict[str, dict[str, Any]] = {
    "bert": {"vocabulary_size": 13, "max_length": 7, "num_segments": 1, "width": 15, "depth": 1, "num_heads": 5}
    | {"mlp_width": 4, "pooler": False, "num_classes": 1},
    "gpt": {"vocabulary_size": 13, "max_length": 7, "width": 15, "depth": 3, "num_heads": 5, "num_classes": 1},
    "vit": {"image_size": (19, 10), "channels": 1, "patch_size": 5, "width": 15, "depth": 1, "num_heads": 3}
    | {"patch_bias": False, "embedding_norm": True, "pooler": False, "num_classes": 7},
    "clip": {"vision": {"patch_size": 16, "channels": 2, "width": 20, "depth": 1, "num_heads": 5}}
    | {"text": {"vocabulary_size": 9, "width": 9, "num_heads": 3}, "end_token": None, "loss": "sigmoid"},
}

# The shapes of the outputs, axes that vary by their names.
B, T, M = "batch", "tokens", "masked"
EMBEDDING = {"embedding": (B, 16)}
PAIRS = {
    "image_embedding": (B, 10),
    "text_embedding": (B, 10),
    "logits_per_image": (B, B),
    "logits_per_text": (B, B),
}
OUTPUTS: dict[tuple[str, str], dict[str, tuple[str | int, ...]]] = {
    ("bert", "backbone"): {"sequence": (B, T, 16), "pooled": (B, 16)},
    ("bert", "pretrain"): {"logits": (B, M, 41), "next_sentence": (B, 2)},
    ("bert", "masked_lm"): {"logits": (B, T, 41)},
    ("bert", "classify"): {"logits": (B, 5)},
    ("bert", "tag"): {"logits": (B, T, 5)},
    ("bert", "answer"): {"start_logits": (B, T), "end_logits": (B, T)},
    ("bert", "embed"): EMBEDDING,
    ("gpt", "backbone"): {"sequence": (B, T, 16)},
    ("gpt", "pretrain"): {"logits": (B, T, 41)},
    ("gpt", "generate"): {"logits": (B, T, 41)},
    ("gpt", "classify"): {"logits": (B, 5)},
    ("gpt", "embed"): EMBEDDING,
    ("vit", "backbone"): {"sequence": (B, 7, 16), "pooled": (B, 16)},
    ("vit", "pretrain"): {"logits": (B, 5)},
    ("vit", "classify"): {"logits": (B, 5)},
    ("vit", "embed"): EMBEDDING,
    ("clip", "pretrain"): PAIRS,
    ("clip", "contrast"): PAIRS,
}
TASKS = [(family.name, task) for family in FAMILIES.values() for task in family.tasks]
SIZES = {B: 3, T: 9, M: 4}

# The gradients of these weights are zero: what they add is the same for all that a softmax compares.
WITHOUT_GRADIENT = {("bert", "answer"): {"span.bias", "backbone.transformer.block_0.feed_forward_norm.beta"}}


def small(family: str, task: str, **overrides: Any) -> ZooModel:
    """A fresh one, smaller than nano and without dropout."""
    still: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0} if family != "clip" else {}
    return zoo.create(f"{family}-nano", task=task, **{**SMALL[family], **still, **overrides})


# Building one takes a second: all tests look at the same ones.
shared = functools.cache(small)


@pytest.fixture(scope="module", params=TASKS, ids="-".join)
def model(request: pytest.FixtureRequest, enliven: Any) -> ZooModel:
    """A model with lively weights that no test changes."""
    return enliven(shared(*request.param))


def draw(model: ZooModel, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Inputs as the model states them, nothing padded. A text ends with its highest id, which is CLIP's end token and
    stands nowhere else."""
    sizes = {**SIZES, **sizes}
    rng = np.random.default_rng(seed)
    inputs = {}
    for spec in model.input_specs:
        shape = tuple(sizes[each.name] if isinstance(each, Axis) else each for each in spec.shape)
        if spec.dtype == "float32":
            inputs[spec.name] = rng.normal(size=shape).astype("float32")
        elif spec.name == "padding_mask":
            inputs[spec.name] = np.ones(shape, "int32")
        else:
            highest = sizes[T] - 1 if spec.highest is None else spec.highest
            inputs[spec.name] = rng.integers(0, max(highest, 1), shape, dtype="int32")
            if spec.name == "token_ids":
                inputs[spec.name][:, -1] = highest
    return inputs


def pad(inputs: dict[str, np.ndarray], length: int, seed: int = 1) -> dict[str, np.ndarray]:
    """The same texts with something arbitrary behind them that is no part of them."""
    padded = dict(inputs)
    rng = np.random.default_rng(seed)
    for name in ("token_ids", "segment_ids", "padding_mask"):
        if name in inputs:
            batch, before = inputs[name].shape
            highest = {"token_ids": 39, "segment_ids": 2, "padding_mask": 0}[name]
            behind = rng.integers(0, highest, (batch, length - before), endpoint=True, dtype="int32")
            padded[name] = np.concatenate([inputs[name], behind], axis=1)
    return padded


def outputs_of(model: ZooModel) -> dict[str, tuple[str | int, ...]]:
    return OUTPUTS[model.family, model.task]


def has_text(model: ZooModel) -> bool:
    return any(spec.name == "padding_mask" for spec in model.input_specs)


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Bit for bit."""
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_tables_here_are_whole() -> None:
    assert set(OUTPUTS) == set(TASKS)
    assert set(SMALL) == set(ODD) == set(FAMILIES)


# --- forward


def test_the_vectors_stay_where_they_are_to_be_kept(model) -> None:
    """Of every model that has a head over a backbone."""
    if not isinstance(model, TaskModel):
        assert not hasattr(model, "keeps_sequence")
        return
    inputs = draw(model)
    assert not model.keeps_sequence
    plain = model(inputs)
    try:
        model.keeps_sequence = True
        outputs = model(inputs)
    finally:
        model.keeps_sequence = False
    sequence = outputs.pop("sequence")
    assert_same(outputs, plain)
    np.testing.assert_array_equal(sequence, model.backbone(inputs)["sequence"])


def test_the_outputs_are_those_stated(model) -> None:
    for sizes in ({B: 3, T: 9, M: 4}, {B: 1, T: 1, M: 1}, {B: 2, T: 12, M: 12}):
        outputs = model(draw(model, **sizes))
        assert tuple(outputs) == model.output_names == tuple(outputs_of(model))
        for name, shape in outputs_of(model).items():
            assert outputs[name].shape == tuple(sizes.get(each, each) for each in shape), name
            assert outputs[name].dtype == tf.float32
            assert np.isfinite(outputs[name]).all()


def test_the_inputs_are_those_stated(model) -> None:
    """Each one matters, no other is looked for, and the limits are what they say."""
    specs = {spec.name: spec for spec in model.input_specs}
    inputs = draw(model)
    before = model(inputs)
    for name, spec in specs.items():
        assert inputs[name].dtype == spec.dtype
        other = {**inputs, name: draw(model, seed=9)[name]}
        if name == "padding_mask":
            other[name] = np.concatenate([inputs[name][:, :-4], 0 * inputs[name][:, -4:]], axis=1)
        after = model(other)
        assert any(np.abs(after[each] - before[each]).max() > 1e-4 for each in before), name
    for name in ("token_ids", "segment_ids"):
        if name in specs:
            model({**inputs, name: np.full_like(inputs[name], specs[name].highest)})
            with pytest.raises(tf.errors.InvalidArgumentError):
                model({**inputs, name: np.full_like(inputs[name], specs[name].highest + 1)})
    if has_text(model):
        longest = specs["token_ids"].shape[1].maximum
        model(draw(model, tokens=longest))
        with pytest.raises(tf.errors.InvalidArgumentError):
            model(draw(model, tokens=longest + 1))


def test_one_graph_takes_any_batch_and_length(model) -> None:
    signature = {
        spec.name: tf.TensorSpec([None if isinstance(size, Axis) else size for size in spec.shape], spec.dtype)
        for spec in model.input_specs
    }
    graph = tf.function(lambda inputs: model(inputs, training=False), input_signature=[signature])
    graph = graph.get_concrete_function()
    for sizes in ({B: 1, T: 1, M: 1}, {B: 3, T: 7, M: 2}, {B: 2, T: 12, M: 5}):
        inputs = draw(model, **sizes)
        outputs = graph({name: tf.constant(value) for name, value in inputs.items()})
        for name, expected in model(inputs).items():
            assert_close(outputs[name], expected)


def test_padding_changes_nothing(model) -> None:
    if not has_text(model):
        assert not {T, M} & {axis for shape in outputs_of(model).values() for axis in shape}
        return
    inputs = draw(model, tokens=5)
    padded = model(pad(inputs, 12))
    for name, expected in model(inputs).items():
        real = padded[name][:, :5] if outputs_of(model)[name][1] == T else padded[name]
        assert_close(real, expected)


def test_a_text_that_is_all_padding_stays_finite(model) -> None:
    """With its gradient, and without touching the others."""
    if not has_text(model):
        return
    inputs = draw(model)
    expected = model(inputs)
    inputs["padding_mask"][1] = 0
    with tf.GradientTape() as tape:
        outputs = model(inputs)
        total = tf.add_n([tf.reduce_sum(value * value) for value in outputs.values()])
    for name, value in outputs.items():
        assert np.isfinite(value).all()
        if not name.startswith("logits_per"):
            np.testing.assert_array_equal(value[0], expected[name][0])
            np.testing.assert_array_equal(value[2], expected[name][2])
    for weight, gradient in zip(model.trainable_weights, tape.gradient(total, model.trainable_weights), strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), weight.path


def test_attention_weights_are_shares(model) -> None:
    inputs = draw(model)
    if has_text(model):
        inputs["padding_mask"][0, 5:] = 0
    outputs = model(inputs, return_weights=True)
    for name, value in model(inputs).items():
        np.testing.assert_array_equal(outputs.pop(name), value)
    tokens = {"attention": 7 if model.family == "vit" else 9, "image_attention": 7, "text_attention": 9}
    assert list(outputs) == (["image_attention", "text_attention"] if model.family == "clip" else ["attention"])
    for name, blocks in outputs.items():
        assert [block.shape for block in blocks] == [(3, 2, tokens[name], tokens[name])]
        for block in blocks:
            np.testing.assert_allclose(np.sum(block, axis=-1), 1.0, atol=1e-6)
            assert np.min(block) >= 0.0
            if tokens[name] == 9:
                assert np.abs(block[0, :, :, 5:]).max() == 0.0


# --- training


def fit(model: ZooModel, steps: int, **options: Any) -> list[float]:
    """Train for some steps as the task is trained: with cross-entropy where it gives logits, towards vectors where it
    gives vectors, and CLIP with what it brings along."""
    rng = np.random.default_rng(2)
    inputs = draw(model, batch=4)
    losses, labels = {}, {}
    for name, shape in outputs_of(model).items() if model.family != "clip" else ():
        sizes = tuple({**SIZES, B: 4}.get(each, each) for each in shape)
        if "logits" in name or name == "next_sentence":
            losses[name] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            labels[name] = rng.integers(0, sizes[-1], sizes[:-1], dtype="int32")
        else:
            losses[name] = keras.losses.MeanSquaredError()
            labels[name] = rng.normal(size=sizes).astype("float32")
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=losses or None, **options)
    return model.fit(inputs, labels or None, batch_size=4, epochs=steps, shuffle=False, verbose=0).history["loss"]


def test_fit_moves_every_weight(model, caplog: pytest.LogCaptureFixture) -> None:
    trained = small(model.family, model.task)
    trained.set_weights(model.get_weights())
    with caplog.at_level(logging.WARNING):
        # XLA takes longer to compile these than to train them: `test_gpt.py` shows that it computes the same.
        losses = fit(trained, steps=2, jit_compile=False)
    # TensorFlow takes the many models of this test for one that is traced again and again.
    assert [record for record in caplog.records if "retracing" not in record.message] == []
    assert len(losses) == 2 and losses[1] < losses[0] < np.inf
    before = model.named_weights()
    for name, weight in trained.named_weights().items():
        assert np.isfinite(weight.numpy()).all()
        fixed = model.task == "embed" and name.startswith("backbone.pooler.")
        assert fixed != any(weight is each for each in trained.trainable_weights)
        if name not in WITHOUT_GRADIENT.get((model.family, model.task), ()):
            assert np.array_equal(weight.numpy(), before[name].numpy()) == fixed, name


def test_mixed_precision_stays_near_float32_and_trains(model) -> None:
    mixed = type(model).from_config({**model.get_config(), "dtype": "mixed_bfloat16"})
    mixed.set_weights(model.get_weights())
    exact, outputs = model(draw(model)), mixed(draw(model))
    assert mixed.compute_dtype == "bfloat16"
    for name, value in outputs.items():
        # What a backbone gives is for layers to go on with; what a task gives is for losses.
        assert value.dtype == (tf.bfloat16 if model.task == "backbone" else tf.float32)
        assert_close(tf.cast(value, tf.float32), exact[name], tolerance=0.04)
        assert np.abs(tf.cast(value, tf.float32) - exact[name]).max() > 0
    (loss,) = fit(mixed, steps=1, run_eagerly=True)
    assert np.isfinite(loss)
    for name, weight in mixed.named_weights().items():
        assert weight.dtype == "float32" and np.isfinite(weight.numpy()).all(), name
    assert not np.array_equal(mixed.weights[0].numpy(), model.weights[0].numpy())


# --- save and load


def test_a_saved_model_comes_back(model, tmp_path: Path) -> None:
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert (type(again), again.task, again.config) == (type(model), model.task, model.config)
    assert_same(again(draw(model)), model(draw(model)))


def test_keras_saves_and_loads_it(model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (type(again), again.task, again.config) == (type(model), model.task, model.config)
    assert_same(again(draw(model)), model(draw(model)))


def test_get_config_is_json_that_makes_the_model_again(model) -> None:
    config = model.get_config()
    again = type(model)(**json.loads(json.dumps(config)))  # not built: its weights are no part of its config
    assert again.get_config() == config
    assert (again.task, again.config, again.name) == (model.task, model.config, model.name)


# --- weights


def matches(pattern: str, names: Any) -> Iterator[str]:
    """Those of the names that a row of a table stands for."""
    expression = re.compile(re.escape(pattern).replace(re.escape("{i}"), "[0-9]+"))
    return (name for name in names if expression.fullmatch(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_has_its_row_and_every_row_its_weight(family: str) -> None:
    table = find_layout(family)
    used: set[str] = set()
    for task in FAMILIES[family].tasks:
        for name, weight in shared(family, task).named_weights().items():
            (row,) = [row for row in table.weights if list(matches(row.ours, [name]))]
            chosen, theirs = table.weight_for(name)
            assert chosen is row
            shapes = row.transform.shapes(tuple(weight.shape))
            assert len(theirs) == len(shapes) and "{" not in "".join(theirs)
            parts = row.transform.split(weight.numpy())
            assert [part.shape for part in parts] == shapes
            np.testing.assert_array_equal(row.transform.join(parts), weight.numpy())
            used.add(row.ours)
    assert used == {row.ours for row in table.weights}
    theirs = [name for row in table.weights for name in row.theirs]
    assert len(set(theirs)) == len(theirs)


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_parameters_are_counted_without_a_model(family: str, task: str) -> None:
    for model in (shared(family, task), zoo.create(f"{family}-nano", task=task, **ODD[family])):
        assert model.count_params() == model.config.count_parameters(task)

"""`zoo.gpt` and `zoo.model`: sizes, the same numbers as KerasHub's GPT-2, and life as a Keras model."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo.reference import assert_close
from zoo.gpt import PRESETS, GPTConfig
from zoo.gpt.model import GPTBackbone, GPTLanguageModel
from zoo.model import Axis, TensorSpec

COUNTS = {
    "gpt-nano": 43_904,
    "gpt-mini": 1_071_872,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
SMALL = GPTConfig(vocabulary_size=61, max_length=16, width=16, depth=2, num_heads=2, dropout=0.0, attention_dropout=0.0)


def tokens(batch: int, length: int, vocabulary_size: int = 61, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary_size, (batch, length)).astype("int32")


def inputs(batch: int, length: int, vocabulary_size: int = 61, seed: int = 0) -> dict[str, np.ndarray]:
    ids = tokens(batch, length, vocabulary_size, seed)
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


@pytest.fixture(scope="module")
def small(enliven) -> GPTLanguageModel:
    """A model that the tests below do not change."""
    model = GPTLanguageModel(SMALL)
    model.build()
    return enliven(model)


# --- sizes and fresh weights


@pytest.mark.parametrize("preset", COUNTS)
def test_parameter_counts_are_gpt2_s(preset: str) -> None:
    assert PRESETS[preset].count_parameters("generate") == COUNTS[preset]


def test_every_preset_is_pinned() -> None:
    assert set(PRESETS) == set(COUNTS)


@pytest.fixture(scope="module")
def mini() -> GPTLanguageModel:
    keras.utils.set_random_seed(3)
    return zoo.create("gpt-mini")


def test_built_models_have_the_parameters_counted(mini) -> None:
    assert mini.count_params() == COUNTS["gpt-mini"]
    assert zoo.create("gpt-nano").count_params() == COUNTS["gpt-nano"]
    odd = SMALL.replace(mlp_width=50, depth=3)
    model = GPTBackbone(odd)
    model.build()
    assert model.count_params() == odd.count_parameters("backbone")


def test_fresh_weights_are_gpt2_s(mini) -> None:
    kinds = {
        "table": 0.02,
        "qkv.kernel": 0.02,
        "up.kernel": 0.02,
        "output.kernel": 0.02 / (2 * 4) ** 0.5,
        "down.kernel": 0.02 / (2 * 4) ** 0.5,
    }
    seen = 0
    for name, weight in mini.named_weights().items():
        value = weight.numpy()
        kind = next((kind for kind in kinds if name.endswith(kind)), None)
        if kind is not None:
            seen += 1
            # Of n numbers, mean and deviation scatter by 1/sqrt(n) and 1/sqrt(2n) of the deviation.
            assert abs(value.mean()) < 4.5 * kinds[kind] / value.size**0.5, name
            assert abs(value.std() / kinds[kind] - 1) < 4.5 / (2 * value.size) ** 0.5, name
            assert np.abs(value).max() > 3 * kinds[kind]  # normal, not uniform
        else:
            np.testing.assert_array_equal(value, 1.0 if name.endswith("gamma") else 0.0)
    assert seen == 2 + 4 * 4
    values = [w.numpy().ravel()[:100] for name, w in mini.named_weights().items() if "qkv.kernel" in name]
    assert not np.allclose(values[0], values[1])  # no two layers start alike


def test_names_of_weights_are_the_checkpoint_s(small) -> None:
    names = small.named_weights()
    assert len(names) == len(small.weights) == 2 + 2 * 12 + 2
    assert "backbone.token_embedding.table" in names
    assert "backbone.transformer.block_1.attention.qkv.kernel" in names
    assert "backbone.transformer.block_0.feed_forward.down.bias" in names
    assert "backbone.final_norm.gamma" in names
    alone = GPTBackbone(SMALL)
    alone.build()
    assert list(alone.named_weights()) == list(names)
    renamed = GPTLanguageModel(SMALL, name="other")
    renamed.build()
    assert list(renamed.named_weights()) == list(names)


# --- the function


@pytest.fixture(scope="module")
def keras_hub_gpt2(small) -> Any:
    """KerasHub's GPT-2 with the weights of `small`: a function of ids and mask to hidden states and logits."""
    from keras_nlp.models import GPT2Backbone

    theirs = GPT2Backbone(
        vocabulary_size=61,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=64,
        dropout=0.0,
        max_sequence_length=16,
    )
    ours = {name.removeprefix("backbone."): weight.numpy() for name, weight in small.named_weights().items()}
    theirs.token_embedding.embeddings.assign(ours["token_embedding.table"])
    theirs.position_embedding.position_embeddings.assign(ours["position_embedding.table"])

    def copy(layer: Any, name: str, part: slice = slice(None)) -> None:
        for weight, kind in zip(layer.weights, ("kernel", "bias"), strict=True):
            weight.assign(np.reshape(ours[f"{name}.{kind}"][..., part], weight.shape))

    def copy_norm(layer: Any, name: str) -> None:
        layer.gamma.assign(ours[f"{name}.gamma"])
        layer.beta.assign(ours[f"{name}.beta"])

    for i, layer in enumerate(theirs.transformer_layers):
        block, attention = f"transformer.block_{i}", layer._self_attention_layer
        for j, dense in enumerate((attention._query_dense, attention._key_dense, attention._value_dense)):
            copy(dense, f"{block}.attention.qkv", slice(16 * j, 16 * (j + 1)))
        copy(attention._output_dense, f"{block}.attention.output")
        copy(layer._feedforward_intermediate_dense, f"{block}.feed_forward.up")
        copy(layer._feedforward_output_dense, f"{block}.feed_forward.down")
        copy_norm(layer._self_attention_layer_norm, f"{block}.attention_norm")
        copy_norm(layer._feedforward_layer_norm, f"{block}.feed_forward_norm")
    copy_norm(theirs.layer_norm, "final_norm")

    def run(given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        hidden = theirs(given)
        return hidden.numpy(), theirs.token_embedding(hidden, reverse=True).numpy()

    return run


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 5), (2, 16)])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_keras_hub_s_gpt2(small, keras_hub_gpt2, batch: int, length: int, padded: bool) -> None:
    given = inputs(batch, length, seed=length)
    if padded:
        for row in range(batch):
            given["padding_mask"][row, max(1, length - 2 * row) :] = 0
    hidden, logits = keras_hub_gpt2(given)
    assert np.abs(logits).max() > 1.0
    real = given["padding_mask"][:, :, None]
    ours = small(given)
    assert list(ours) == ["logits"] and ours["logits"].dtype == tf.float32
    assert_close(ours["logits"] * real, logits * real)
    assert_close(small.backbone(given)["sequence"] * real, hidden * real)
    if not padded:
        np.testing.assert_array_equal(small({"token_ids": given["token_ids"]})["logits"], ours["logits"])


def test_a_later_token_never_changes_earlier_logits(small) -> None:
    given = inputs(2, 12)
    before = small(given)["logits"].numpy()
    for position in (1, 6, 11):
        changed = {**given, "token_ids": given["token_ids"].copy()}
        changed["token_ids"][:, position] = (changed["token_ids"][:, position] + 7) % 61
        after = small(changed)["logits"].numpy()
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert (np.abs(after[:, position:] - before[:, position:]).max(axis=-1) > 1e-4).all()


def test_left_padding_with_positions_changes_nothing(small) -> None:
    given = inputs(1, 6)
    ids = np.concatenate([[[9, 9, 9]], given["token_ids"]], axis=1).astype("int32")
    mask = np.array([[0] * 3 + [1] * 6], "int32")
    positions = np.array([[0] * 3 + list(range(6))], "int32")
    shifted = small({"token_ids": ids, "padding_mask": mask, "positions": positions})["logits"]
    assert_close(shifted[:, 3:], small(given)["logits"])


@pytest.mark.parametrize("sizes", [[9], [4, 1, 1, 3], [1] * 9])
def test_the_cache_gives_what_the_whole_gives(small, sizes: list[int]) -> None:
    ids = tokens(2, 9)
    cache, outputs, start = small.backbone.empty_cache(2, 12), [], 0
    for size in sizes:
        output = small({"token_ids": ids[:, start : start + size]}, cache=cache, cache_index=start)
        cache = output["cache"]
        outputs.append(output["logits"])
        start += size
    assert_close(np.concatenate(outputs, axis=1), small({"token_ids": ids})["logits"])
    assert len(cache) == SMALL.depth


def test_attention_weights_on_request(small) -> None:
    outputs = small(inputs(2, 5), return_weights=True)
    assert list(outputs) == ["logits", "attention"]
    assert [value.shape for value in outputs["attention"]] == [(2, 2, 5, 5)] * 2
    for value in outputs["attention"]:
        np.testing.assert_allclose(np.sum(value, -1), 1.0, atol=1e-6)
    cached = small(
        {"token_ids": tokens(2, 5)}, cache=small.backbone.empty_cache(2, 8), cache_index=0, return_weights=True
    )
    assert list(cached) == ["logits", "cache", "attention"]
    assert [value.shape for value in cached["attention"]] == [(2, 2, 5, 8)] * 2


def test_one_graph_takes_any_batch_and_length(small) -> None:
    signature = {spec.name: tf.TensorSpec((None, None), spec.dtype) for spec in small.input_specs}
    graph = tf.function(lambda x: small(x, training=False), input_signature=[signature]).get_concrete_function()
    assert graph.structured_outputs["logits"].shape.as_list() == [None, None, 61]
    for batch, length in ((1, 1), (3, 7), (2, 16)):
        given = inputs(batch, length)
        outputs = graph({name: tf.constant(value) for name, value in given.items()})
        np.testing.assert_allclose(outputs["logits"], small(given)["logits"], rtol=0, atol=1e-5)


def test_inputs_are_stated_once(small) -> None:
    shape = (Axis("batch"), Axis("tokens", 16))
    assert small.input_specs == (
        TensorSpec("token_ids", "int32", shape, highest=60),
        TensorSpec("padding_mask", "int32", shape, highest=1),
    )
    assert small.backbone.input_specs == small.input_specs
    assert set(small(inputs(1, 2))) == set(small.output_names)
    assert set(small.backbone(inputs(1, 2))) == set(small.backbone.output_names)


def test_mixed_precision_gives_float32_logits_near_float32_s(small) -> None:
    mixed = GPTLanguageModel(SMALL, dtype="mixed_bfloat16")
    mixed.build()
    mixed.set_weights(small.get_weights())
    given = inputs(2, 12)
    logits = mixed(given)["logits"]
    assert logits.dtype == tf.float32
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert mixed.backbone.empty_cache(1, 4)[0]["key"].dtype == tf.bfloat16
    exact = small(given)["logits"]
    assert_close(logits, exact, tolerance=0.03)
    # bfloat16 has 8 bits: logits rounded to it would all be equal to their own rounding.
    assert np.mean(np.asarray(tf.cast(logits, tf.bfloat16), "float32") == logits) < 0.05


def test_dropout_acts_in_training_only(enliven) -> None:
    given = inputs(2, 8)
    for field in ("dropout", "attention_dropout"):
        model = GPTLanguageModel(SMALL.replace(**{field: 0.3}))
        model.build()
        enliven(model)
        assert_close(model(given)["logits"], enliven(model)(given, training=False)["logits"])
        difference = np.abs(model(given, training=True)["logits"] - model(given)["logits"])
        assert (difference.max(axis=-1)[:, 1:] > 1e-3).all()


# --- life as a Keras model


def test_gradients_reach_every_weight(small) -> None:
    given = inputs(4, 16)
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(
            tokens(4, 16, seed=1), small(given)["logits"], from_logits=True
        )
        loss = tf.reduce_mean(loss)
    for weight, gradient in zip(small.trainable_weights, tape.gradient(loss, small.trainable_weights), strict=True):
        assert gradient is not None, weight.path
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(gradient).all()
        largest = np.abs(gradient).max()
        assert largest > 1e-4, weight.path
        if weight.path.endswith("qkv/bias"):  # a key's bias moves all scores of a query alike
            assert np.abs(gradient[16:32]).max() < 1e-5 * largest
            assert np.abs(gradient[:16]).max() > 1e-4 and np.abs(gradient[32:]).max() > 1e-4


def fit(model: GPTLanguageModel, **options: Any) -> list[float]:
    """Two steps of plain `fit` on one batch."""
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss={"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        **options,
    )
    x, y = inputs(4, 8), {"logits": tokens(4, 8, seed=1)}
    return [model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0).history["loss"][0] for _ in range(2)]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_two_steps_of_fit_follow_the_gradient(enliven, jit_compile: bool) -> None:
    model, mirror = GPTLanguageModel(SMALL), GPTLanguageModel(SMALL)
    for each in (model, mirror):
        each.build()
        enliven(each)
    losses = fit(model, jit_compile=jit_compile)
    expected = []
    for _ in range(2):
        with tf.GradientTape() as tape:
            logits = mirror(inputs(4, 8))["logits"]
            # Cross-entropy by hand: log of the sum of exponentials less the logit of the target.
            target = tf.gather(logits, tokens(4, 8, seed=1), batch_dims=2)
            loss = tf.reduce_mean(tf.reduce_logsumexp(logits, axis=-1) - target)
        expected.append(float(loss))
        for weight, gradient in zip(mirror.weights, tape.gradient(loss, mirror.trainable_weights), strict=True):
            weight.assign(weight - 0.1 * tf.convert_to_tensor(gradient))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for ours, wanted in zip(model.weights, mirror.weights, strict=True):
        assert_close(ours.numpy(), wanted.numpy(), tolerance=1e-5)


def test_keras_saves_and_loads_it(small, tmp_path: Path) -> None:
    for model in (small, GPTBackbone(SMALL)):
        model.build()
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert type(again) is type(model) and again.config == model.config
        for name, value in model(inputs(2, 6)).items():
            np.testing.assert_array_equal(again(inputs(2, 6))[name], value)


def test_a_compiled_model_comes_back_able_to_go_on(tmp_path: Path) -> None:
    model = GPTLanguageModel(SMALL)
    model.build()
    fit(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x, y = inputs(4, 8), {"logits": tokens(4, 8, seed=1)}
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)
    assert again.optimizer.iterations == 2


def test_get_config_makes_the_model_again() -> None:
    model = GPTLanguageModel(SMALL, name="named", dtype="mixed_bfloat16")
    config = model.get_config()
    assert config == {
        "config": dataclasses.asdict(SMALL),
        "task": "generate",
        "name": "named",
        "dtype": "mixed_bfloat16",
    }
    again = GPTLanguageModel.from_config(config)
    assert again.get_config() == config
    assert again.built and again.count_params() == SMALL.count_parameters("generate")
    assert again.backbone.dtype_policy.name == "mixed_bfloat16"


def test_the_config_reaches_every_layer() -> None:
    config = SMALL.replace(
        mlp_width=24, activation="relu", dropout=0.2, attention_dropout=0.3, epsilon=0.125, stddev=0.5, num_heads=4
    )
    model = GPTBackbone(config)
    model.build()
    assert model.dropout.rate == 0.2 and model.final_norm.epsilon == 0.125
    for block in model.transformer.blocks:
        assert block.attention.causal and block.attention.num_heads == 4
        assert block.dropout.rate == 0.2 and block.attention.dropout.rate == 0.3
        assert block.feed_forward.up.units == 24
        assert block.attention_norm.epsilon == block.feed_forward_norm.epsilon == 0.125
        assert block.feed_forward.up.kernel.numpy().std() == pytest.approx(0.5, rel=0.2)
        assert block.feed_forward.down.kernel.numpy().std() == pytest.approx(0.25, rel=0.2)
        np.testing.assert_array_equal(block.feed_forward.activation(np.array([-1.0, 2.0], "float32")), [0.0, 2.0])

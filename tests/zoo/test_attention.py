"""`zoo.layers.attention` against the definition in NumPy, and its cache against itself without one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.reference import assert_close, attention, weights_of
from zoo.layers import MultiHeadAttention, empty_cache

BATCH, TOKENS, CONTEXT, WIDTH, HEADS = 3, 7, 5, 12, 3
SLOTS = 10
KINDS = {"self": {}, "causal": {"causal": True}, "cross": {"cross": True}}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def padding(side: str, keys: int) -> np.ndarray | None:
    """Rows with 0, 1 and 3 padded keys on one side, or on both."""
    if side == "none":
        return None
    mask = np.ones((BATCH, keys), "int32")
    for row, hidden in enumerate((0, 1, 3)):
        if side in ("left", "both"):
            mask[row, :hidden] = 0
        if side in ("right", "both"):
            mask[row, keys - min(hidden, 1 if side == "both" else hidden) :] = 0
    return mask


@pytest.fixture(scope="module")
def layers(enliven) -> dict[str, MultiHeadAttention]:
    made = {}
    for seed, (kind, options) in enumerate(KINDS.items()):
        made[kind] = MultiHeadAttention(WIDTH, HEADS, name=kind, **options)
        made[kind](random(1, 2, WIDTH), **({"context": random(1, 3, WIDTH)} if kind == "cross" else {}))
        enliven(made[kind], seed)
        for weight in made[kind].weights:  # scores that spread, so that the softmax matters
            weight.assign(weight * 2.0)
    return made


@pytest.mark.parametrize("side", ["none", "left", "right", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(layers, kind: str, side: str) -> None:
    x, layer = random(BATCH, TOKENS, WIDTH), layers[kind]
    context = random(BATCH, CONTEXT, WIDTH, seed=1) if kind == "cross" else None
    mask = padding(side, CONTEXT if kind == "cross" else TOKENS)
    output, shares = layer(x, context=context, padding_mask=mask, return_weights=True)
    wanted, wanted_shares = attention(x, weights_of(layer), HEADS, kind == "causal", context, mask)
    # A causal query among left padding sees no key: what it gets is nobody's business, as long as it is finite.
    seen = wanted_shares.sum(-1, keepdims=True) > 0
    assert_close(np.where(seen, shares, 0), wanted_shares)
    real = seen.all(axis=1)
    assert_close(np.where(real, output, 0), np.where(real, wanted, 0))
    assert real.sum() >= BATCH * (TOKENS - 3)
    assert_close(np.sum(shares, -1), np.ones(shares.shape[:-1]))
    np.testing.assert_array_equal(output, layer(x, context=context, padding_mask=mask))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_a_row_without_a_real_token_stays_finite(layers, kind: str, dtype: str) -> None:
    x = random(BATCH, TOKENS, WIDTH)
    context = random(BATCH, CONTEXT, WIDTH, seed=1) if kind == "cross" else None
    mask = np.ones((BATCH, CONTEXT if kind == "cross" else TOKENS), dtype)
    mask[1] = 0
    output, shares = layers[kind](x, context=context, padding_mask=mask, return_weights=True)
    assert np.isfinite(output).all()
    assert_close(np.sum(shares, -1), np.ones(shares.shape[:-1]))
    others = layers[kind](x, context=context)
    np.testing.assert_allclose(np.delete(output, 1, 0), np.delete(others, 1, 0), rtol=0, atol=1e-6)


def test_hidden_keys_have_no_weight_at_all(layers) -> None:
    mask = padding("both", TOKENS)
    _, shares = layers["self"](random(BATCH, TOKENS, WIDTH), padding_mask=mask, return_weights=True)
    hidden = np.broadcast_to(mask[:, None, None, :] == 0, shares.shape)
    assert hidden.any()
    assert (shares.numpy()[hidden] == 0).all()
    _, shares = layers["causal"](random(BATCH, TOKENS, WIDTH), return_weights=True)
    assert (shares.numpy()[..., np.triu(np.ones((TOKENS, TOKENS), bool), 1)] == 0).all()


def dirty_cache() -> dict[str, tf.Tensor]:
    """Slots that hold something already: what was not written must not be read."""
    cache = empty_cache(BATCH, HEADS, SLOTS, WIDTH // HEADS)
    assert set(cache) == {"key", "value"}
    assert {tuple(value.shape) for value in cache.values()} == {(BATCH, HEADS, SLOTS, WIDTH // HEADS)}
    assert all(not np.any(value) for value in cache.values())
    return {name: value + 7.0 for name, value in cache.items()}


def in_chunks(layer, x, mask, sizes: list[int]) -> np.ndarray:
    cache, outputs, start = dirty_cache(), [], 0
    for size in sizes:
        output, cache = layer(x[:, start : start + size], padding_mask=mask, cache=cache, cache_index=start)
        outputs.append(output)
        start += size
    return np.concatenate(outputs, axis=1)


@pytest.fixture(scope="module", params=["unpadded", "padded"])
def cached(request, layers):
    """A sequence, its mask over the slots, and what the layer makes of it without a cache."""
    x = random(BATCH, TOKENS, WIDTH, seed=3)
    if request.param == "unpadded":
        return x, None, layers["causal"](x).numpy()
    mask = padding("left", TOKENS)
    slots = np.pad(mask, ((0, 0), (0, SLOTS - TOKENS)), constant_values=1)
    return x, slots, layers["causal"](x, padding_mask=mask).numpy()


def assert_same_where_real(actual, expected, mask) -> None:
    real = np.ones((BATCH, TOKENS, 1)) if mask is None else mask[:, :TOKENS, None]
    assert_close(actual * real, expected * real)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 1, 2, 1], [1, 6]])
def test_the_cache_gives_what_the_whole_gives(layers, cached, sizes: list[int]) -> None:
    x, mask, expected = cached
    assert_same_where_real(in_chunks(layers["causal"], x, mask, sizes), expected, mask)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 1, 2, 1], [1, 6]])
def test_a_growing_cache_gives_what_the_whole_gives(layers, cached, sizes: list[int]) -> None:
    x, mask, expected = cached
    cache, outputs, start = empty_cache(BATCH, HEADS, 0, WIDTH // HEADS), [], 0
    for size in sizes:
        read = None if mask is None else mask[:, : start + size]
        output, cache = layers["causal"](x[:, start : start + size], padding_mask=read, cache=cache)
        outputs.append(output)
        start += size
        assert {tuple(value.shape) for value in cache.values()} == {(BATCH, HEADS, start, WIDTH // HEADS)}
    assert_same_where_real(np.concatenate(outputs, axis=1), expected, mask)


def test_a_step_writes_its_own_slots_only(layers) -> None:
    x, before = random(BATCH, 2, WIDTH), dirty_cache()
    output, after, shares = layers["causal"](x, cache=before, cache_index=4, return_weights=True)
    assert output.shape == (BATCH, 2, WIDTH)
    assert shares.shape == (BATCH, HEADS, 2, SLOTS)
    _, key, value = np.split(np.asarray(x, "float64") @ layers["causal"].qkv.kernel + layers["causal"].qkv.bias, 3, -1)
    for name, new in (("key", key), ("value", value)):
        untouched = np.delete(np.arange(SLOTS), [4, 5])
        np.testing.assert_array_equal(after[name].numpy()[:, :, untouched], before[name].numpy()[:, :, untouched])
        assert_close(after[name][:, :, 4:6], new.reshape(BATCH, 2, HEADS, -1).transpose(0, 2, 1, 3))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_cache_works_in_a_while_loop(layers, cached, jit_compile: bool) -> None:
    x, mask, expected = cached
    layer = layers["causal"]

    @tf.function(jit_compile=jit_compile)
    def run(x, cache):
        outputs = tf.TensorArray(tf.float32, size=TOKENS, element_shape=(BATCH, WIDTH))

        def step(i, cache, outputs):
            token = tf.slice(x, [0, i, 0], [-1, 1, -1])
            output, cache = layer(token, padding_mask=mask, cache=cache, cache_index=i)
            return i + 1, cache, outputs.write(i, output[:, 0])

        _, cache, outputs = tf.while_loop(lambda i, *_: i < TOKENS, step, (0, cache, outputs))
        return tf.transpose(outputs.stack(), (1, 0, 2)), cache

    output, cache = run(tf.constant(x), dirty_cache())
    assert_same_where_real(output.numpy(), expected, mask)
    assert cache["key"].shape == (BATCH, HEADS, SLOTS, WIDTH // HEADS)


def test_the_cache_goes_in_and_out_of_one_traced_graph(layers, cached) -> None:
    x, mask, expected = cached
    slot = tf.TensorSpec((None, HEADS, None, WIDTH // HEADS))

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, WIDTH)),
            tf.TensorSpec((None, None), tf.int32),
            {"key": slot, "value": slot},
            tf.TensorSpec((), tf.int32),
        ]
    )
    def step(x, mask, cache, index):
        return layers["causal"](x, padding_mask=mask, cache=cache, cache_index=index)

    graph = step.get_concrete_function()
    mask_in = np.ones((BATCH, SLOTS), "int32") if mask is None else mask
    cache, outputs, start = dirty_cache(), [], 0
    for size in (3, 1, 1, 2):
        output, cache = graph(tf.constant(x[:, start : start + size]), tf.constant(mask_in), cache, tf.constant(start))
        outputs.append(output.numpy())
        start += size
    assert_same_where_real(np.concatenate(outputs, axis=1), expected, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_key_gets_all_the_weight_without_a_warning(layers, kind: str) -> None:
    x = random(BATCH, 1, WIDTH)
    context = random(BATCH, 1, WIDTH, seed=1) if kind == "cross" else None
    weights = layers[kind].trainable_weights
    with tf.GradientTape() as tape:
        output, shares = layers[kind](x, context=context, return_weights=True)
    assert_close(output, attention(x, weights_of(layers[kind]), HEADS, kind == "causal", context)[0])
    np.testing.assert_array_equal(shares, np.ones((BATCH, HEADS, 1, 1)))
    assert all(gradient is not None for gradient in tape.gradient(output, weights))


def test_wrong_uses_are_refused(layers) -> None:
    x = random(BATCH, TOKENS, WIDTH)
    cache = empty_cache(BATCH, HEADS, SLOTS, WIDTH // HEADS)
    for make, message in (
        (lambda: MultiHeadAttention(10, 3), "width 10 is no multiple of num_heads 3"),
        (lambda: MultiHeadAttention(12, 3, causal=True, cross=True), "cannot be cross attention too"),
        (lambda: layers["self"](x, context=x), "self attention takes none"),
        (lambda: layers["cross"](x), "cross attention takes a context"),
        (lambda: layers["self"](x, cache=cache, cache_index=0), "only causal attention can append"),
        (lambda: layers["causal"](x, cache_index=2), "goes with a cache"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_gradients_reach_every_weight(layers) -> None:
    x, context = tf.constant(random(BATCH, TOKENS, WIDTH)), tf.constant(random(BATCH, CONTEXT, WIDTH, seed=1))
    pull = random(BATCH, TOKENS, WIDTH, seed=2)
    for kind, layer in layers.items():
        with tf.GradientTape() as tape:
            tape.watch([x, context])
            loss = tf.reduce_sum(layer(x, context=context if kind == "cross" else None) * pull)
        inputs = [x, context] if kind == "cross" else [x]
        for gradient in tape.gradient(loss, [*layer.trainable_weights, *inputs]):
            # All of the query and the value parts, too; a key's bias shifts all scores of a query alike.
            assert np.count_nonzero(gradient) >= 0.6 * tf.size(gradient).numpy()


def test_dropout_acts_in_training_only() -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, dropout=0.5)
    x = random(BATCH, TOKENS, WIDTH)
    plain = layer(x)
    np.testing.assert_array_equal(layer(x, training=False), plain)
    first, shares = layer(x, return_weights=True, training=True)
    assert np.abs(first - plain).max() > 0.1 * np.abs(plain).max()
    assert np.abs(first - layer(x, training=True)).max() > 0.1 * np.abs(plain).max()
    assert_close(np.sum(shares, -1), np.ones(shares.shape[:-1]))  # what is returned was not dropped


def test_mixed_precision_keeps_the_softmax_in_float32(layers) -> None:
    mixed = MultiHeadAttention(WIDTH, HEADS, causal=True, dtype="mixed_bfloat16")
    x = random(BATCH, TOKENS, WIDTH)
    mixed(x)
    mixed.set_weights(layers["causal"].get_weights())
    output, shares = mixed(x, return_weights=True)
    assert output.dtype == tf.bfloat16 and shares.dtype == tf.float32
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    # bfloat16 holds 8 bits; a softmax in it would not add up this closely.
    assert_close(np.sum(shares, -1), np.ones(shares.shape[:-1]))
    assert_close(tf.cast(output, tf.float32), layers["causal"](x), tolerance=0.03)


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_bfloat16", "bfloat16"), ("float32", "float32")])
def test_a_cache_has_the_compute_dtype(policy: str, dtype: str) -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, causal=True, dtype=policy)
    cache = empty_cache(BATCH, HEADS, SLOTS, WIDTH // HEADS, layer.compute_dtype)
    _, after = layer(random(BATCH, 1, WIDTH), cache=cache, cache_index=0)
    assert {value.dtype.name for value in (*cache.values(), *after.values())} == {dtype}


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_makes_the_layer_again(layers, kind: str) -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, dropout=0.1, stddev=0.3, output_stddev=0.1, name="a", **KINDS[kind])
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config
    assert (again.causal, again.cross, again.dropout.rate) == (layer.causal, layer.cross, 0.1)


def test_initial_kernels_have_the_deviations_asked_for() -> None:
    keras.utils.set_random_seed(0)
    layer = MultiHeadAttention(96, 4, stddev=0.3, output_stddev=0.05)
    layer(random(1, 2, 96))
    for kernel, stddev in ((layer.qkv.kernel, 0.3), (layer.output_projection.kernel, 0.05)):
        size = np.prod(kernel.shape)
        assert abs(np.std(kernel) / stddev - 1) < 4 / (2 * size) ** 0.5
    assert not np.any(layer.qkv.bias) and not np.any(layer.output_projection.bias)

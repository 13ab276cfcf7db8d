"""`zoo.layers` besides attention: against the definitions in NumPy, and as layers of an ordinary Keras model."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo import reference
from tests.zoo.reference import assert_close, inside, weights_of
from zoo.layers import (
    ACTIVATIONS,
    FeedForward,
    GridPositionEmbedding,
    PatchEmbedding,
    PositionEmbedding,
    SegmentEmbedding,
    TokenEmbedding,
    TokenPooling,
    TransformerBlock,
    TransformerStack,
    empty_cache,
    grid_interpolation,
    l2_normalize,
)

BATCH, TOKENS, CONTEXT, WIDTH, HEADS, INNER = 2, 5, 4, 8, 2, 20
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], "int32")
CONTEXT_MASK = np.array([[0, 1, 1, 1], [1, 1, 1, 1]], "int32")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# --- activations and the feed-forward network


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_follows_its_formula(name: str) -> None:
    x = np.concatenate([np.linspace(-9, 9, 2001), [0.0, -60.0, 60.0]]).astype("float32")
    expected = reference.each(reference.ACTIVATIONS[name], x)
    np.testing.assert_allclose(ACTIVATIONS[name](tf.constant(x)), expected, rtol=2e-6, atol=1e-6)


def test_the_two_approximations_are_not_the_exact_gelu() -> None:
    x = tf.constant(np.linspace(-3, 3, 101), "float32")
    exact = ACTIVATIONS["gelu"](x)
    assert 1e-4 < np.abs(ACTIVATIONS["gelu_tanh"](x) - exact).max() < 1e-3
    assert 1e-2 < np.abs(ACTIVATIONS["quick_gelu"](x) - exact).max() < 3e-2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_equals_the_definition(enliven, activation: str) -> None:
    layer = FeedForward(WIDTH, INNER, activation)
    x = random(BATCH, TOKENS, WIDTH)
    layer(x)
    assert_close(enliven(layer)(x), reference.feed_forward(x, weights_of(layer), activation))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown activation 'swish': known are gelu, gelu_tanh"):
        FeedForward(WIDTH, INNER, "swish")
    with pytest.raises(ValueError, match="norm is 'mid', and must be 'pre' or 'post'"):
        TransformerBlock(WIDTH, HEADS, INNER, norm="mid")
    with pytest.raises(ValueError, match="strategy is 'max', and must be one of first, last, mean, at"):
        TokenPooling("max")


# --- embeddings


def test_tokens_are_rows_and_logits_are_products_with_them() -> None:
    layer, ids = TokenEmbedding(11, WIDTH), np.array([[0, 10, 3], [3, 3, 7]], "int32")
    rows = layer(ids)
    np.testing.assert_array_equal(rows, layer.table.numpy()[ids])
    x = random(2, 3, WIDTH)
    logits = layer(x, reverse=True)
    assert_close(logits, x.astype("float64") @ layer.table.numpy().T)
    assert_close(layer(x[:, 0], reverse=True), logits[:, 0])
    assert len(layer.weights) == 1


def test_the_tied_table_learns_from_both_sides() -> None:
    layer, ids = TokenEmbedding(5, WIDTH), np.array([[1, 1]], "int32")
    pull_rows, pull_logits, x = random(1, 2, WIDTH), random(1, 2, 5, seed=1), random(1, 2, WIDTH, seed=2)
    layer(ids)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(ids) * pull_rows) + tf.reduce_sum(layer(x, reverse=True) * pull_logits)
    expected = pull_logits[0].T @ x[0]
    expected[1] += pull_rows[0].sum(0)
    assert_close(tf.convert_to_tensor(tape.gradient(loss, layer.table.value)), expected)


def test_positions_may_be_shared_or_each_row_s_own() -> None:
    layer = PositionEmbedding(9, WIDTH)
    shared, own = np.arange(3, 7, dtype="int32"), np.array([[0, 1, 2], [0, 0, 8]], "int32")
    for positions in (shared, own):
        np.testing.assert_array_equal(layer(positions), layer.table.numpy()[positions])
    assert layer(shared).shape == (4, WIDTH)


def test_segments_are_rows() -> None:
    layer, ids = SegmentEmbedding(2, WIDTH), np.array([[0, 0, 1], [1, 0, 1]], "int32")
    np.testing.assert_array_equal(layer(ids), layer.table.numpy()[ids])


@pytest.mark.parametrize(
    ("height", "width", "channels", "class_token", "bias"),
    [(12, 12, 3, True, True), (8, 16, 1, False, True), (17, 10, 4, True, False), (4, 7, 3, False, False)],
)
def test_patches_are_cut_out_and_projected(
    enliven, height: int, width: int, channels: int, class_token: bool, bias: bool
) -> None:
    size = 4
    layer = PatchEmbedding(size, WIDTH, class_token=class_token, bias=bias)
    images = random(BATCH, height, width, channels)
    layer(images)
    weights = weights_of(enliven(layer))
    flat = [
        images[:, row : row + size, column : column + size].reshape(BATCH, -1)
        for row in range(0, height - size + 1, size)
        for column in range(0, width - size + 1, size)
    ]
    expected = np.stack(flat, axis=1) @ weights["projection/kernel"].reshape(-1, WIDTH)
    if bias:
        expected = expected + weights["projection/bias"]
    if class_token:
        first = np.broadcast_to(weights["class_token"], (BATCH, 1, WIDTH))
        expected = np.concatenate([first, expected], axis=1)
    assert len(weights) == 1 + bias + class_token
    assert_close(layer(images), expected)


def test_patches_of_any_batch_and_size_in_one_graph(enliven) -> None:
    layer = PatchEmbedding(4, WIDTH)
    layer(random(1, 8, 8, 3))
    enliven(layer)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3))]).get_concrete_function()
    for shape in ((1, 8, 8, 3), (3, 12, 4, 3)):
        np.testing.assert_allclose(graph(tf.constant(random(*shape))), layer(random(*shape)), rtol=0, atol=1e-6)


def cubic(distance: float) -> float:
    """The weight of a pixel at a distance (Keys 1981, equation 15, before a is set): here a = -0.75."""
    x = abs(distance)
    if x < 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0


def resize(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """An image (rows, columns, width) resized bicubically, a pixel at a time: pixels are squares, sampled at their
    centres, and what lies outside has the value of the border."""
    old_rows, old_columns = image.shape[:2]
    resized = np.zeros((rows, columns, image.shape[2]))
    for row in range(rows):
        for column in range(columns):
            y, x = (row + 0.5) * old_rows / rows - 0.5, (column + 0.5) * old_columns / columns - 0.5
            for i in range(-3, old_rows + 3):
                for j in range(-3, old_columns + 3):
                    pixel = image[np.clip(i, 0, old_rows - 1), np.clip(j, 0, old_columns - 1)]
                    resized[row, column] += cubic(y - i) * cubic(x - j) * pixel
    return resized


@pytest.mark.parametrize(
    ("old", "new"), [((3, 5), (3, 5)), ((4, 4), (7, 7)), ((7, 7), (4, 4)), ((3, 5), (6, 2)), ((1, 1), (2, 3))]
)
def test_a_grid_is_interpolated_bicubically(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=(*old, 6))
    interpolated = grid_interpolation(old, new) @ image.reshape(-1, 6)
    np.testing.assert_allclose(interpolated, resize(image, *new).reshape(-1, 6), rtol=0, atol=1e-12)
    if old == new:
        np.testing.assert_allclose(interpolated, image.reshape(-1, 6), rtol=0, atol=1e-12)


def test_grid_positions_are_added_and_follow_the_grid() -> None:
    layer = GridPositionEmbedding((2, 3), WIDTH, stddev=1.0)
    x, wider = random(BATCH, 7, WIDTH), random(BATCH, 21, WIDTH)
    assert_close(layer(x, grid=(2, 3)), x + layer.table.numpy())
    assert layer.table.shape == (7, WIDTH)
    table = layer.table.numpy()
    grid = resize(table[1:].reshape(2, 3, WIDTH), 4, 5).reshape(-1, WIDTH)
    with tf.GradientTape() as tape:
        moved = layer(wider, grid=(4, 5))
        total = tf.reduce_sum(moved)
    assert_close(moved, wider + np.concatenate([table[:1], grid]))
    # What is learned at one size is learned for all: the weights of the interpolation add up to one for each patch.
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.table.value)).numpy()
    np.testing.assert_allclose(gradient[0], BATCH, rtol=1e-5)
    np.testing.assert_allclose(gradient[1:].sum(0), BATCH * 20, rtol=1e-5)
    half = GridPositionEmbedding((2, 3), WIDTH, dtype="mixed_bfloat16")
    assert half(x, grid=(1, 6)).dtype == tf.bfloat16


# --- pooling


def test_pooling_takes_what_its_name_says() -> None:
    x = random(4, TOKENS, WIDTH)
    right = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "int32")
    left = right[:, ::-1]
    np.testing.assert_array_equal(TokenPooling("first")(x, padding_mask=right), x[:, 0])
    last = TokenPooling("last")
    np.testing.assert_array_equal(last(x), x[:, -1])
    assert_close(last(x, padding_mask=right), x[np.arange(4), [4, 2, 0, 0]])
    assert_close(last(x, padding_mask=left)[:3], x[:3, -1])
    mean = TokenPooling("mean")
    assert_close(mean(x), x.astype("float64").mean(1))
    for mask in (right, left):
        expected = [x[i, mask[i] == 1].astype("float64").mean(0) if mask[i].any() else 0 * x[i, 0] for i in range(4)]
        assert_close(mean(x, padding_mask=mask), np.array(expected))
    assert_close(TokenPooling("at")(x, index=np.array([3, 0, 4, 1], "int32")), x[np.arange(4), [3, 0, 4, 1]])


def test_an_index_is_for_at_alone() -> None:
    x, index = random(2, TOKENS, WIDTH), np.zeros(2, "int32")
    with pytest.raises(ValueError, match="takes an index"):
        TokenPooling("at")(x)
    for strategy in ("first", "last", "mean"):
        with pytest.raises(ValueError, match="the others take none"):
            TokenPooling(strategy)(x, index=index)


def test_a_long_mean_does_not_overflow_in_half_precision() -> None:
    x = np.full((1, 300, WIDTH), 300.0, "float16")  # the sum, 90,000, is beyond float16
    pooled = TokenPooling("mean", dtype="float16")(x, padding_mask=np.ones((1, 300), "int32"))
    assert pooled.dtype == tf.float16
    np.testing.assert_allclose(pooled, 300.0, rtol=1e-3)


def test_normalized_vectors_have_length_one() -> None:
    x = 1e3 * random(3, 4, WIDTH)
    assert_close(l2_normalize(x), x / np.sqrt((x.astype("float64") ** 2).sum(-1, keepdims=True)))
    small = l2_normalize(tf.cast(1e-6 * x[0], tf.bfloat16))
    assert small.dtype == tf.float32
    np.testing.assert_allclose((small.numpy() ** 2).sum(-1), 1.0, rtol=1e-5)
    zeros = tf.zeros((2, WIDTH))
    with tf.GradientTape() as tape:
        tape.watch(zeros)
        output = l2_normalize(zeros)
    np.testing.assert_array_equal(output, 0.0)
    assert np.isfinite(tape.gradient(output, zeros)).all()


# --- block and stack


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_equals_the_definition(enliven, norm: str, causal: bool, cross: bool, padded: bool) -> None:
    layer = TransformerBlock(
        WIDTH, HEADS, INNER, norm, causal, cross_attention=cross, activation="quick_gelu", epsilon=1e-2, dropout=0.5
    )
    x = random(BATCH, TOKENS, WIDTH)
    arguments = {"padding_mask": MASK if padded else None}
    if cross:
        arguments |= {
            "context": random(BATCH, CONTEXT, WIDTH, seed=1),
            "context_mask": CONTEXT_MASK if padded else None,
        }
    layer(x, **arguments)
    weights = weights_of(enliven(layer))
    expected = reference.block(x, weights, HEADS, norm, "quick_gelu", 1e-2, causal, **arguments)
    assert_close(layer(x, **arguments), expected)


@pytest.fixture(scope="module")
def decoder(enliven) -> TransformerStack:
    """Three causal blocks with cross attention."""
    stack = TransformerStack(
        3, width=WIDTH, num_heads=HEADS, mlp_width=INNER, causal=True, cross_attention=True, epsilon=1e-3
    )
    stack(random(1, 2, WIDTH), context=random(1, 2, WIDTH))
    return enliven(stack)


def test_a_stack_is_its_blocks_one_after_the_other(decoder) -> None:
    x, context = random(BATCH, TOKENS, WIDTH), random(BATCH, CONTEXT, WIDTH, seed=1)
    weights = weights_of(decoder)
    output, shares, context_shares = decoder(
        x, padding_mask=MASK, context=context, context_mask=CONTEXT_MASK, return_weights=True
    )
    expected = x
    for i in range(3):
        inner = inside(weights, f"block_{i}")
        expected = reference.block(
            expected, inner, HEADS, "pre", "gelu", 1e-3, True, MASK, context=context, context_mask=CONTEXT_MASK
        )
    assert_close(output, expected)
    assert [value.shape for value in shares] == [(BATCH, HEADS, TOKENS, TOKENS)] * 3
    assert [value.shape for value in context_shares] == [(BATCH, HEADS, TOKENS, CONTEXT)] * 3
    h = reference.layer_norm(x, inside(weights, "block_0/attention_norm"), 1e-3)
    _, first = reference.attention(h, inside(weights, "block_0/attention"), HEADS, True, None, MASK)
    assert_close(shares[0], first)


def test_a_decoder_s_cache_gives_what_the_whole_gives(decoder) -> None:
    x, context = random(BATCH, TOKENS, WIDTH), random(BATCH, CONTEXT, WIDTH, seed=1)
    arguments = {"context": context, "context_mask": CONTEXT_MASK}
    expected, shares, context_shares = decoder(x, return_weights=True, **arguments)
    cache, outputs = tuple(empty_cache(BATCH, HEADS, TOKENS, WIDTH // HEADS) for _ in range(3)), []
    for i in range(TOKENS):
        output, cache, step_shares, step_context_shares = decoder(
            x[:, i : i + 1], cache=cache, cache_index=i, return_weights=True, **arguments
        )
        outputs.append(output)
        for whole, step in (*zip(shares, step_shares), *zip(context_shares, step_context_shares)):  # noqa: B905
            np.testing.assert_allclose(step[:, :, 0], whole[:, :, i], rtol=0, atol=1e-6)
    assert_close(np.concatenate(outputs, axis=1), expected)
    output, cache = decoder(x[:, -1:], cache=cache, cache_index=TOKENS - 1, **arguments)
    assert len(cache) == 3
    assert_close(output, expected[:, -1:])


def test_every_sublayer_has_its_name(decoder) -> None:
    parts = ("attention", "attention_norm", "cross_attention", "cross_norm", "feed_forward", "feed_forward_norm")
    holders = {path.rpartition("/")[0] for path in weights_of(decoder)}
    named = {f"block_{i}/{part}" for i in range(3) for part in parts}
    assert {"/".join(holder.split("/")[:2]) for holder in holders} == named
    assert "block_1/cross_attention/key_value" in holders and "block_2/feed_forward/down" in holders


def test_gradients_reach_every_weight(decoder) -> None:
    x, context = random(BATCH, TOKENS, WIDTH), random(BATCH, CONTEXT, WIDTH, seed=1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(decoder(x, context=context) * random(BATCH, TOKENS, WIDTH, seed=2))
    for weight, gradient in zip(decoder.trainable_weights, tape.gradient(loss, decoder.trainable_weights), strict=True):
        assert gradient is not None, weight.path
        assert np.abs(gradient).max() > 1e-3, weight.path


def test_dropout_acts_on_every_part_in_training_only() -> None:
    x = random(BATCH, TOKENS, WIDTH)
    block = TransformerBlock(WIDTH, HEADS, INNER, dropout=0.5)
    np.testing.assert_array_equal(block(x), block(x, training=False))
    for part in (block.attention, block.feed_forward):  # the other part adds nothing: the difference is this one's
        for weight in block.weights:
            weight.assign(tf.zeros_like(weight))
        last = part.output_projection if part is block.attention else part.down
        last.bias.assign(tf.ones_like(last.bias))
        added = np.asarray(block(x, training=True) - x)
        assert set(np.round(added.ravel(), 4)) == {0.0, 2.0}
        np.testing.assert_allclose(block(x) - x, 1.0, atol=1e-6)


# --- mixed precision


def operation_dtypes(function, *arguments) -> dict[str, set[str]]:
    """The output types of each kind of operation in a traced graph, functions inside it included."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    found: dict[str, set[str]] = {}
    for each in (graph, *(inner.graph for inner in graph._functions.values() if hasattr(inner, "graph"))):
        for operation in each.get_operations():
            found.setdefault(operation.type, set()).update(output.dtype.name for output in operation.outputs)
    return found


def test_mixed_precision_multiplies_in_bfloat16_and_normalises_in_float32() -> None:
    stack = TransformerStack(1, width=WIDTH, num_heads=HEADS, mlp_width=INNER, dtype="mixed_bfloat16")
    embedding = TokenEmbedding(11, WIDTH, dtype="mixed_bfloat16")

    def forward(ids):
        return embedding(stack(embedding(ids)), reverse=True)

    ids = tf.constant([[1, 2, 3]])
    assert embedding(ids).dtype == tf.bfloat16
    assert forward(ids).dtype == tf.float32
    dtypes = operation_dtypes(forward, ids)
    assert dtypes["Softmax"] == {"float32"}
    assert dtypes["Rsqrt"] == {"float32"}
    assert dtypes["Mean"] == {"float32"}
    assert dtypes["BatchMatMulV2"] == {"bfloat16"}  # attention
    assert dtypes["MatMul"] == {"bfloat16", "float32"}  # dense layers; the logits
    assert dtypes["Erf"] == {"bfloat16"}


def test_mixed_precision_logits_are_float32_all_the_way() -> None:
    table = TokenEmbedding(500, 64, dtype="mixed_bfloat16")
    table(tf.constant([[0]]))
    x = tf.cast(random(2, 3, 64), tf.bfloat16)
    exact = tf.cast(x, tf.float64).numpy() @ table.table.numpy().T.astype("float64")
    assert_close(table(x, reverse=True), exact)  # rounded to bfloat16 on the way, they would be off by 4e-3


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_mixed_precision_stays_near_float32(enliven, norm: str) -> None:
    arguments = {"width": 32, "num_heads": 4, "mlp_width": 64, "norm": norm}
    x = random(BATCH, TOKENS, 32)
    exact = TransformerStack(2, **arguments)
    mixed = TransformerStack(2, **arguments, dtype="mixed_bfloat16")
    exact(x), mixed(x)
    enliven(exact)
    mixed.set_weights(exact.get_weights())
    output = mixed(x)
    assert output.dtype == tf.bfloat16
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert_close(tf.cast(output, tf.float32), exact(x), tolerance=0.03)


# --- as layers of Keras


MAKERS = {
    "feed_forward": lambda: FeedForward(WIDTH, INNER, "relu", 0.1, 0.2, name="f"),
    "patches": lambda: PatchEmbedding(4, WIDTH, class_token=False, bias=False, stddev=0.3, name="p"),
    "grid": lambda: GridPositionEmbedding((2, 3), WIDTH, 0.5, name="g"),
    "positions": lambda: PositionEmbedding(9, WIDTH, 0.5, name="q"),
    "segments": lambda: SegmentEmbedding(2, WIDTH, 0.5, name="s"),
    "tokens": lambda: TokenEmbedding(11, WIDTH, stddev=0.5, name="t"),
    "pooling": lambda: TokenPooling("mean", name="m"),
    "block": lambda: TransformerBlock(
        WIDTH, HEADS, INNER, "post", False, True, "relu", 0.1, 0.2, 1e-12, 0.3, 0.1, name="b"
    ),
    "stack": lambda: TransformerStack(
        2, "k", "mixed_bfloat16", width=WIDTH, num_heads=HEADS, mlp_width=INNER, causal=True
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_config_makes_the_layer_again(name: str) -> None:
    layer = MAKERS[name]()
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert keras.saving.serialize_keras_object(again) == config
    assert (again.name, again.dtype_policy) == (layer.name, layer.dtype_policy)


def test_all_layers_work_in_a_functional_model_that_keras_saves(enliven, tmp_path: Path) -> None:
    ids, segments, positions = (keras.Input((None,), dtype="int32", name=name) for name in ("ids", "segments", "at"))
    mask, images = keras.Input((None,), dtype="int32", name="mask"), keras.Input((8, 12, 3), name="images")
    table = TokenEmbedding(11, WIDTH, name="tokens")
    x = table(ids) + PositionEmbedding(9, WIDTH, name="positions")(positions)
    x = x + SegmentEmbedding(2, WIDTH, name="segments_table")(segments)
    patches = PatchEmbedding(4, WIDTH, name="patches")(images)
    x = TransformerBlock(WIDTH, HEADS, INNER, "post", cross_attention=True, dropout=0.1, name="reader")(
        x, padding_mask=mask, context=patches
    )
    x, shares = TransformerStack(2, width=WIDTH, num_heads=HEADS, mlp_width=INNER, causal=True, name="writer")(
        x, padding_mask=mask, return_weights=True
    )
    outputs = {
        "pooled": TokenPooling("mean", name="pooling")(x, padding_mask=mask),
        "logits": table(x, reverse=True),
        "shares": shares[1],
    }
    model = enliven(keras.Model([ids, segments, positions, mask, images], outputs))
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(0, 11, (BATCH, TOKENS)).astype("int32"),
        rng.integers(0, 2, (BATCH, TOKENS)).astype("int32"),
        np.tile(np.arange(TOKENS, dtype="int32"), (BATCH, 1)),
        MASK,
        random(BATCH, 8, 12, 3),
    ]
    before = model(inputs)
    assert before["shares"].shape == (BATCH, HEADS, TOKENS, TOKENS)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    after = again(inputs)
    for name in outputs:
        np.testing.assert_array_equal(after[name], before[name])


def test_patch_kernels_have_the_deviation_asked_for() -> None:
    keras.utils.set_random_seed(0)
    layer = PatchEmbedding(4, 96, stddev=0.3)
    layer(random(1, 4, 4, 3))
    kernel = layer.projection.kernel.numpy()
    assert abs(kernel.std() / 0.3 - 1) < 4 / math.sqrt(2 * kernel.size)
    assert abs(layer.class_token.numpy().std() / 0.3 - 1) < 4 / math.sqrt(2 * 96)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_stochastic_depth_leaves_out_whole_parts_of_an_example(norm: str) -> None:
    """Huang et al. 2016, section 3: what is not left out is scaled up, here by two."""
    block = TransformerBlock(width=8, num_heads=2, mlp_width=16, norm=norm, stochastic_depth=0.5, stddev=0.5)
    x = np.random.default_rng(0).normal(size=(64, 3, 8)).astype("float32")
    found = np.asarray(block(x, training=True))

    def add(to: Any, part: Any, layer_norm: Any, scale: float) -> Any:
        if norm == "pre":
            return to + scale * part(layer_norm(to))
        return layer_norm(to + scale * part(to))

    ends = []
    for first in (0.0, 2.0):
        middle = add(x, block.attention, block.attention_norm, first)
        for second in (0.0, 2.0):
            ends.append(np.asarray(add(middle, block.feed_forward, block.feed_forward_norm, second)))
    distances = np.abs(np.stack(ends) - found).max(axis=(2, 3))  # (four ways, examples)
    assert (distances.min(axis=0) < 1e-5).all()
    assert (np.bincount(distances.argmin(axis=0), minlength=4) > 4).all()  # 16 each, on average
    expected = add(add(x, block.attention, block.attention_norm, 1.0), block.feed_forward, block.feed_forward_norm, 1.0)
    assert np.allclose(np.asarray(block(x)), np.asarray(expected), atol=1e-5)


def test_stochastic_depth_grows_with_depth() -> None:
    stack = TransformerStack(5, width=8, num_heads=2, mlp_width=16, stochastic_depth=0.2)
    rates = [0.0 if block.leave_out is None else block.leave_out.rate for block in stack.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    without = TransformerStack(5, width=8, num_heads=2, mlp_width=16)
    assert all(block.leave_out is None for block in without.blocks)

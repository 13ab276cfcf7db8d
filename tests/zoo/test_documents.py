"""Documents packed into one sequence: each is what it is alone, logits and gradients, and no document sees another."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo.reference import assert_close
from zoo.layers import MultiHeadAttention, empty_cache, positions_in_documents

WIDTH, HEADS, VOCABULARY = 12, 3, 23
SIZES = {"vocabulary_size": VOCABULARY, "max_length": 16, "width": 16, "depth": 2, "num_heads": 2}
# Of one token, of many, and in the second row one that ends with the sequence's beginning of padding.
IDS = np.array([[0, 0, 0, 1, 2, 2, 2, 2, 3, 3], [5, 5, 5, 5, 5, 5, 9, 9, 9, 9]], "int32")
MASK = np.array([[1] * 10, [1] * 9 + [0]], "int32")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def parts() -> list[tuple[int, np.ndarray]]:
    """Row and places of each document."""
    return [(row, np.flatnonzero(IDS[row] == number)) for row in range(len(IDS)) for number in np.unique(IDS[row])]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scattered", [False, True])
def test_attention_within_a_document_is_that_of_it_alone(enliven: Any, causal: bool, scattered: bool) -> None:
    """Also of documents that lie between one another."""
    layer = MultiHeadAttention(WIDTH, HEADS, causal=causal)
    x = random(2, 10, WIDTH)
    layer(x)
    enliven(layer)
    order = np.random.default_rng(1).permutation(10) if scattered else np.arange(10)
    ids, mask = IDS[:, order], MASK[:, order]
    output, shares = layer(x, padding_mask=mask, document_ids=ids, return_weights=True)
    for row, number in {(place, number) for place in range(2) for number in IDS[place]}:
        places = np.flatnonzero(ids[row] == number)
        alone = layer(x[row : row + 1, places], padding_mask=mask[row : row + 1, places])
        real = mask[row, places] > 0
        assert_close(output.numpy()[row, places[real]], alone.numpy()[0, real])
        others = np.flatnonzero(ids[row] != number)
        assert not shares.numpy()[row][:, places[real]][..., others].any()
    assert np.abs(output - layer(x, padding_mask=mask)).max() > 0.1


def test_positions_begin_anew() -> None:
    assert positions_in_documents(IDS).numpy().tolist() == [
        [0, 1, 2, 0, 0, 1, 2, 3, 0, 1],
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3],
    ]
    assert positions_in_documents(np.array([[7, 2, 7, 7, 2]])).numpy().tolist() == [[0, 0, 1, 2, 1]]
    assert positions_in_documents(IDS).dtype == tf.int32


@pytest.fixture(scope="module", params=["gpt", "bert"])
def model(request: pytest.FixtureRequest, enliven: Any) -> Any:
    still = {"dropout": 0.0, "attention_dropout": 0.0}
    task = {"gpt": "generate", "bert": "masked_lm"}[request.param]
    return enliven(zoo.create(f"{request.param}-nano", task=task, **SIZES, **still))


def loss_and_gradients(model: Any, inputs: dict[str, Any], pull: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits; and the gradients of some function of them."""
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)["logits"]
        loss = tf.reduce_sum(tf.nn.log_softmax(logits) * pull)
    found = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
    return logits.numpy(), [tf.convert_to_tensor(each).numpy() for each in found]


@pytest.mark.parametrize("recompute", [False, True])
def test_packed_documents_are_what_each_is_alone(model: Any, recompute: bool) -> None:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, IDS.shape).astype("int32")
    pull = random(*IDS.shape, VOCABULARY, seed=1) * MASK[..., None]
    model.recompute = recompute
    inputs = {"token_ids": tokens, "padding_mask": MASK, "document_ids": IDS}
    logits, gradients = loss_and_gradients(model, inputs, pull)
    total: list[Any] = [0.0] * len(gradients)
    for row, places in parts():
        alone = {"token_ids": tokens[row : row + 1, places], "padding_mask": MASK[row : row + 1, places]}
        expected, own = loss_and_gradients(model, alone, pull[row : row + 1, places])
        real = MASK[row, places] > 0
        assert_close(logits[row, places[real]], expected[0, real])
        total = [sum_so_far + each for sum_so_far, each in zip(total, own, strict=True)]
    largest = max(np.abs(each).max() for each in total)
    for weight, actual, wanted in zip(model.trainable_weights, gradients, total, strict=True):
        assert np.abs(actual - wanted).max() <= 1e-5 * largest, weight.path
    assert np.abs(model({"token_ids": tokens, "padding_mask": MASK})["logits"] - logits).max() > 0.1


def test_one_graph_under_xla_takes_documents_and_given_positions(model: Any) -> None:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, IDS.shape).astype("int32")
    inputs = {"token_ids": tokens, "document_ids": IDS}
    expected = model(inputs)["logits"]
    run = tf.function(lambda given: model(given, training=False)["logits"], jit_compile=True)
    assert_close(run({name: tf.constant(value) for name, value in inputs.items()}), expected)
    own = {**inputs, "positions": positions_in_documents(IDS)}
    np.testing.assert_array_equal(model(own)["logits"], expected)
    through = {**inputs, "positions": np.arange(10, dtype="int32")}
    assert np.abs(model(through)["logits"] - expected).max() > 0.1


def test_documents_are_told_apart_within_one_sequence_only() -> None:
    x = random(2, 10, WIDTH)
    cache = empty_cache(2, HEADS, 10, WIDTH // HEADS)
    for layer, options in (
        (MultiHeadAttention(WIDTH, HEADS, cross=True), {"context": x}),
        (MultiHeadAttention(WIDTH, HEADS, causal=True), {"cache": cache, "cache_index": 0}),
    ):
        with pytest.raises(ValueError, match="not over a context, nor over a cache"):
            layer(x, document_ids=IDS, **options)

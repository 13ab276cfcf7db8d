"""`zoo.gpt.loss`: the cross-entropy by parts is the cross-entropy, gradients included, from far less memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.reference import assert_close
from tests.zoo.training import cases
from zoo.errors import UserError
from zoo.gpt.loss import NextTokenLoss

BATCH, TOKENS, WIDTH, VOCABULARY = 3, 7, 5, 53
ROWS = BATCH * TOKENS
ONE_DEVICE = tf.distribute.get_strategy

WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
    "any shape": lambda function: tf.function(
        function, input_signature=[tf.TensorSpec((None, None, WIDTH)), tf.TensorSpec((None, None))]
    ),
}


def memory_for(rows: int, vocabulary: int = VOCABULARY) -> float:
    """MB that the logits of so many tokens take."""
    return 4 * rows * vocabulary / 1e6


def make_table() -> keras.Variable:
    return keras.Variable(np.random.default_rng(0).normal(size=(VOCABULARY, WIDTH)), dtype="float32")


def make_batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, next tokens, and a weight for each of their losses."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, VOCABULARY, (BATCH, TOKENS))
    labels[0, :2] = 0, VOCABULARY - 1
    return rng.normal(size=(BATCH, TOKENS, WIDTH)), labels, rng.normal(size=(BATCH, TOKENS))


def by_hand(vectors: np.ndarray, labels: np.ndarray, weights: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, ...]:
    """In float64: the losses, and the gradients of their weighted sum by the vectors and by the table."""
    logits = vectors @ table.T
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares = powers / powers.sum(-1, keepdims=True)
    right = np.eye(len(table))[labels]
    slopes = (shares - right) * weights[..., None]
    losses = -np.log((shares * right).sum(-1))
    return losses, slopes @ table, np.einsum("btv,btw->vw", slopes, vectors)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 4, 5, 11, ROWS], ids="at most {} at a time".format)
def test_losses_and_gradients_are_those_of_the_formula(way: str, rows: int) -> None:
    """Parts that the tokens do not divide into, single tokens, and all at once."""
    table, (vectors, labels, weights) = make_table(), make_batch()
    loss = NextTokenLoss(table, memory_for(rows))
    assert loss.most_rows == rows

    def run(vectors: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            losses = loss.call(labels, vectors)
            total = tf.reduce_sum(losses * tf.constant(weights, tf.float32))
        return losses, *tape.gradient(total, [vectors, table.value])

    found = WAYS[way](run)(tf.constant(vectors, tf.float32), tf.constant(labels, tf.float32))
    expected = by_hand(vectors, labels, weights, table.numpy().astype("float64"))
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted)


def test_it_is_keras_s_loss_with_weights_and_reductions() -> None:
    table, (vectors, labels, weights) = make_table(), make_batch()
    logits = vectors.astype("float32") @ table.numpy().T
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight", "sum", None):
        ours = NextTokenLoss(table, memory_for(4), reduction=reduction)
        theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        np.testing.assert_allclose(
            ours(labels, vectors, np.abs(weights)), theirs(labels, logits, np.abs(weights)), rtol=1e-5
        )
    with pytest.raises(UserError, match=r"use zoo\.save"):
        keras.saving.serialize_keras_object(ours)


def test_no_tokens_have_no_losses() -> None:
    """The part of a replica, where a batch has fewer rows than there are replicas."""
    table = make_table()

    @tf.function(input_signature=[tf.TensorSpec((None, TOKENS, WIDTH)), tf.TensorSpec((None, TOKENS))])
    def run(vectors: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = NextTokenLoss(table, memory_for(4)).call(labels, vectors)
        return losses, tape.gradient(losses, table.value)

    losses, gradient = run(tf.zeros((0, TOKENS, WIDTH)), tf.zeros((0, TOKENS)))
    assert losses.shape == (0, TOKENS)
    assert not np.any(gradient)


# --- in fit


def of_sequence(data: tf.data.Dataset) -> tf.data.Dataset:
    """The batches of `cases`, with labels and weights for the vectors, and of a size that is known beforehand."""

    def relabel(*batch: Any) -> Any:
        x, y, weights = tf.nest.map_structure(lambda each: tf.ensure_shape(each, (cases.BATCH, cases.LENGTH)), batch)
        return x, {"sequence": y["logits"]}, {"sequence": weights["logits"]}

    return data.map(relabel)


def train(strategy: tf.distribute.Strategy, rows: int = 13, frozen: bool = False, **options: Any) -> cases.Result:
    """As `cases.train`, by the loss of the vectors, from the logits of 13 tokens at a time: 12 are a row."""
    changes = {"dtype": options.pop("dtype", "float32")}
    with strategy.scope():
        model = cases.FAMILIES["gpt"][0](**changes)
        model.backbone.token_embedding.table.trainable = not frozen
        model.keeps_sequence = True
        table = model.backbone.token_embedding.table
        loss = NextTokenLoss(table, memory_for(rows, 37), reduction="mean_with_sample_weight")
        model.compile(cases.make_adamw(), loss={"sequence": loss}, **{"jit_compile": False, **options})
    model.set_weights(cases.make_start("gpt"))
    history = model.fit(of_sequence(cases.make_data("gpt")), shuffle=False, verbose=0).history
    return {weight.path.split("/", 1)[1]: weight.numpy() for weight in model.weights}, history


@pytest.fixture(scope="module")
def plain() -> cases.Result:
    """Five updates by Keras's loss of the logits, on one device, the batch as a whole."""
    return cases.train("gpt", ONE_DEVICE())


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"accumulate": 4}], ids=["graph", "xla", "accumulate"])
def test_fit_ends_with_the_weights_of_the_plain_loss(plain: cases.Result, options: dict[str, Any]) -> None:
    cases.assert_equal(train(ONE_DEVICE(), **options), plain)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_replicas_end_where_one_device_does(two_replicas: Any, plain: cases.Result, accumulate: int) -> None:
    cases.assert_equal(train(two_replicas, accumulate=accumulate), plain)


def test_short_batches_go_without_parts(plain: cases.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.gpt.loss._losses_in_parts", lambda *_: pytest.fail("it goes by parts"))
    cases.assert_equal(train(ONE_DEVICE(), rows=8 * 12), plain)


@pytest.mark.parametrize("dtype", [pytest.param("mixed_bfloat16", marks=pytest.mark.full), "mixed_float16"])
def test_mixed_precision_keeps_the_logits_in_float32(dtype: str) -> None:
    """From the same vectors the same loss, to float32's rounding; the loss scale of float16 is in the gradients."""
    expected = cases.train("gpt", ONE_DEVICE(), changes={"dtype": dtype})
    found = train(ONE_DEVICE(), dtype=dtype)
    assert found[1]["loss"] == pytest.approx(expected[1]["loss"], rel=2e-3)
    assert max(cases.distances(found, expected).values()) < 2e-2
    model = cases.FAMILIES["gpt"][0](dtype=dtype)
    model.set_weights(cases.make_start("gpt"))
    model.keeps_sequence = True
    (inputs, labels, _), *_ = cases.make_data("gpt", rows=8)
    outputs = model(inputs)
    loss = NextTokenLoss(model.backbone.token_embedding.table, memory_for(13, 37))
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert outputs["sequence"].dtype.name == dtype.removeprefix("mixed_")
    np.testing.assert_allclose(
        loss(labels["logits"], outputs["sequence"]), exact(labels["logits"], outputs["logits"]), rtol=1e-6
    )


def test_a_frozen_table_stays_and_the_rest_learns() -> None:
    weights, _ = train(ONE_DEVICE(), frozen=True)
    name = "backbone/token_embedding/table"
    start = dict(zip(weights, cases.make_start("gpt"), strict=True))
    np.testing.assert_array_equal(weights[name], start[name])
    assert all(np.abs(value - start[other]).max() > 1e-3 for other, value in weights.items() if other != name)


# --- memory


def test_nothing_in_the_compiled_step_is_as_large_as_the_logits() -> None:
    model = cases.FAMILIES["gpt"][0](vocabulary_size=199)
    model.keeps_sequence = True
    loss = NextTokenLoss(model.backbone.token_embedding.table, memory_for(13, 199))
    ids = tf.constant(np.arange(48).reshape(4, 12))

    @tf.function(jit_compile=True)
    def step() -> Any:
        with tf.GradientTape() as tape:
            total = loss(ids, model({"token_ids": ids}, training=True)["sequence"])
        return tape.gradient(total, [weight.value for weight in model.trainable_weights])

    text = step.experimental_get_compiler_ir()(stage="optimized_hlo")
    assert "f32[12,199]" in text  # 48 tokens in four parts
    assert "f32[4,12,199]" not in text and "f32[48,199]" not in text


LARGE = """
import numpy as np, zoo
from zoo.gpt.loss import NextTokenLoss
sizes = {"width": 16, "depth": 1, "num_heads": 1, "dropout": 0.0, "attention_dropout": 0.0}
model = zoo.create("gpt-nano", task="generate", vocabulary_size=50257, max_length=1024, **sizes)
model.keeps_sequence = True
ids = np.arange(4 * 1025, dtype="int32").reshape(4, 1025)

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

for xla in (False, True):
    loss = NextTokenLoss(model.backbone.token_embedding.table, logits_memory=32)
    model.compile("sgd", {"sequence": loss}, jit_compile=xla)
    model.evaluate({"token_ids": ids[:1, :8]}, {"sequence": ids[:1, :8]}, verbose=0)
    before = peak()
    model.fit({"token_ids": ids[:, :-1]}, {"sequence": ids[:, 1:]}, batch_size=4, verbose=0)
    model.evaluate({"token_ids": ids[:, :-1]}, {"sequence": ids[:, 1:]}, batch_size=4, verbose=0)
    print(peak() - before)
"""


@pytest.mark.full  # takes a gigabyte and a quarter of a minute
def test_a_long_vocabulary_takes_a_fraction_of_the_memory_of_its_logits() -> None:
    """MiB above what a fresh process took to begin, without XLA and with it: 4 x 1024 tokens of 50257, whose logits are
    786, and which the plain loss holds more than once."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", LARGE], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    graph, compiled = map(float, done.stdout.split())
    assert graph < 400 and compiled < 400, done.stdout

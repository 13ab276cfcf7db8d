"""`zoo.training`: two replicas end with the weights of one device on the same global batches, in plain `fit`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.gpt import GPTConfig
from zoo.gpt.model import GPTLanguageModel
from zoo.training import DistributedModel

BATCH, STEPS, LENGTH, WIDTH, VOCABULARY = 8, 3, 6, 16, 37
CONFIG = GPTConfig(
    vocabulary_size=VOCABULARY, max_length=8, width=WIDTH, depth=1, num_heads=2, dropout=0.0, attention_dropout=0.0
)
RATE = 0.01
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.5),
    "adamw": lambda: keras.optimizers.AdamW(RATE, weight_decay=0.1, epsilon=1e-8, global_clipnorm=0.5),
}


class StockGPT(GPTLanguageModel):
    """The same model with the training step that Keras has."""

    train_step = keras.Model.train_step


class BagOfWords(DistributedModel):
    """The mean of its tokens' rows to one label: a lookup whose gradient comes as slices, many of one row."""

    def __init__(self) -> None:
        super().__init__(name="bag")
        self.embedding = keras.layers.Embedding(VOCABULARY, WIDTH, name="embedding")
        self.head = keras.layers.Dense(VOCABULARY, name="head")

    def build(self, input_shape: Any = None) -> None:
        self.embedding.build((None, LENGTH))
        self.head.build((None, WIDTH))
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.head(keras.ops.mean(self.embedding(x), axis=1))


def batches(per_token: bool) -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    ids, labels = (rng.integers(0, VOCABULARY, (BATCH * STEPS, LENGTH)).astype("int32") for _ in range(2))
    ids[:, :2] = 3  # a row that many tokens share
    if per_token:
        data = ({"token_ids": ids, "padding_mask": np.ones_like(ids)}, {"logits": labels})
    else:
        data = (ids, labels[:, 0])
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


Result = tuple[dict[str, np.ndarray], dict[str, list[float]]]


def train(make: Callable[[], Any], optimizer: Callable[[], Any], strategy: Any, start: list[np.ndarray]) -> Result:
    """The weights after three steps from `start`, and the history."""
    with strategy.scope():
        model = make()
        model.build()
        per_token = isinstance(model, GPTLanguageModel)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        model.compile(
            optimizer(),
            loss={"logits": loss} if per_token else loss,
            metrics={"logits": [metric]} if per_token else [metric],
            jit_compile=False,
        )
    model.set_weights(start)
    history = model.fit(batches(per_token), epochs=1, shuffle=False, verbose=0).history
    return {weight.path.split("/", 1)[1]: weight.numpy() for weight in model.weights}, history


def distances(result: Result, expected: Result, without_key_bias: bool = False) -> dict[str, float]:
    """By weight: the norm of the difference over the norm of the weight."""
    found = {}
    for name, wanted in expected[0].items():
        actual = result[0][name]
        if without_key_bias and name.endswith("qkv/bias"):
            query_and_value = np.r_[0:WIDTH, 2 * WIDTH : 3 * WIDTH]
            actual, wanted = actual[query_and_value], wanted[query_and_value]
        found[name] = float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))
    return found


@pytest.fixture(scope="module")
def start() -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    model = GPTLanguageModel(CONFIG)
    model.build()
    return model.get_weights()


@pytest.fixture(scope="module")
def one_device(start: list[np.ndarray]) -> dict[str, Result]:
    """By optimizer."""
    strategy = tf.distribute.get_strategy()
    return {name: train(lambda: GPTLanguageModel(CONFIG), make, strategy, start) for name, make in OPTIMIZERS.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_replicas_equal_one_device(one_device, two_replicas, start, name: str) -> None:
    expected = one_device[name]
    result = train(lambda: GPTLanguageModel(CONFIG), OPTIMIZERS[name], two_replicas, start)
    off = distances(result, expected, without_key_bias=name == "adamw")
    assert max(off.values()) <= 1e-5, off
    # A key's bias has no true gradient, and Adam takes whatever rounding leaves for one.
    (bias,) = (value for weight, value in result[0].items() if weight.endswith("qkv/bias"))
    assert np.abs(bias[WIDTH : 2 * WIDTH]).max() <= 1e-2 * RATE
    for metric, values in expected[1].items():
        np.testing.assert_allclose(result[1][metric], values, rtol=1e-6)
    moved = distances((dict(zip(expected[0], start, strict=True)), {}), expected)
    assert min(moved.values()) > 1e-4, moved


def test_stock_keras_does_not(one_device, two_replicas, start) -> None:
    off = distances(train(lambda: StockGPT(CONFIG), OPTIMIZERS["sgd"], two_replicas, start), one_device["sgd"])
    assert max(off.values()) > 1e-2


def test_one_device_is_stock_keras(one_device, start) -> None:
    stock = train(lambda: StockGPT(CONFIG), OPTIMIZERS["sgd"], tf.distribute.get_strategy(), start)
    assert max(distances(stock, one_device["sgd"]).values()) <= 1e-6
    for metric, values in stock[1].items():
        np.testing.assert_allclose(one_device["sgd"][1][metric], values, rtol=1e-6)


@pytest.fixture(scope="module")
def bag_start() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        rng.normal(size=shape).astype("float32") for shape in ((VOCABULARY, WIDTH), (WIDTH, VOCABULARY), (VOCABULARY,))
    ]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.1),
        lambda: keras.optimizers.SGD(1.0, clipnorm=0.05),
        lambda: keras.optimizers.SGD(1.0, clipvalue=0.005),
        lambda: keras.optimizers.Adam(RATE),
    ],
    ids=["global_clipnorm", "clipnorm", "clipvalue", "adam"],
)
def test_every_limit_holds_for_the_global_gradient(optimizer, two_replicas, bag_start) -> None:
    """Compared with one more step done by hand: the dense gradient of the global batch, clipped, applied."""
    result = train(BagOfWords, optimizer, two_replicas, bag_start)
    alone = train(BagOfWords, optimizer, tf.distribute.get_strategy(), bag_start)
    weights = [tf.Variable(value) for value in bag_start]
    by_hand = optimizer()
    rule = {name: getattr(by_hand, name) for name in ("global_clipnorm", "clipnorm", "clipvalue")}
    by_hand.global_clipnorm = by_hand.clipnorm = by_hand.clipvalue = None
    by_hand.build(weights)
    for ids, labels in batches(per_token=False):
        with tf.GradientTape() as tape:
            table, kernel, bias = weights
            rows = tf.matmul(tf.one_hot(ids, VOCABULARY), table)  # a lookup without slices
            logits = tf.reduce_mean(rows, axis=1) @ kernel + bias
            target = tf.gather(logits, labels, batch_dims=1)
            loss = tf.reduce_mean(tf.reduce_logsumexp(logits, axis=-1) - target)
        gradients = tape.gradient(loss, weights)
        if rule["global_clipnorm"]:
            norm = np.sqrt(sum(float(tf.reduce_sum(gradient**2)) for gradient in gradients))
            assert norm > rule["global_clipnorm"]
            gradients = [gradient * rule["global_clipnorm"] / norm for gradient in gradients]
        if rule["clipnorm"]:
            norms = [float(tf.norm(gradient)) for gradient in gradients]
            assert max(norms) > rule["clipnorm"]
            gradients = [g * min(1.0, rule["clipnorm"] / norm) for g, norm in zip(gradients, norms, strict=True)]
        if rule["clipvalue"]:
            assert max(float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients) > rule["clipvalue"]
            gradients = [tf.clip_by_value(gradient, -rule["clipvalue"], rule["clipvalue"]) for gradient in gradients]
        by_hand.apply(gradients, weights)
    expected = (dict(zip(result[0], (weight.numpy() for weight in weights), strict=True)), {})
    for trained in (result, alone):
        off = distances(trained, expected)
        assert max(off.values()) <= 1e-5, off

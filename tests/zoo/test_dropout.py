"""`zoo.layers.Dropout`: each replica has masks of its own, and each mask can be drawn again."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import Dropout

RATE, SHAPE, SEED = 0.5, (40, 50), 7


def masks(layer: Any, strategy: Any, calls: int = 2) -> np.ndarray:
    """(calls, replicas, *SHAPE): what is kept of ones, on each replica, in one graph."""

    @tf.function
    def step() -> Any:
        return strategy.run(lambda: tf.stack([layer(tf.ones(SHAPE), training=True) for _ in range(calls)]))

    return np.stack([value.numpy() for value in strategy.experimental_local_results(step())], axis=1)


def made(strategy: Any, make: Callable[..., Any] = Dropout, seed: int = SEED) -> Any:
    with strategy.scope():
        return make(RATE, seed=seed)


@pytest.fixture(scope="module")
def one_device() -> Any:
    return tf.distribute.get_strategy()


def test_replicas_draw_masks_of_their_own_and_the_first_those_of_one_device(two_replicas, one_device) -> None:
    alone = masks(made(one_device), one_device)
    together = masks(made(two_replicas), two_replicas)
    stock = masks(made(one_device, keras.layers.Dropout), one_device)
    np.testing.assert_array_equal(alone, stock)
    np.testing.assert_array_equal(together[:, 0], alone[:, 0])
    four = together.reshape(4, -1) > 0
    for i in range(4):
        assert abs(four[i].mean() - 0.5) < 0.05
        for j in range(i):
            # Unrelated masks agree in half of their places; the deviation of that share is 0.011.
            assert abs((four[i] == four[j]).mean() - 0.5) < 0.05, (i, j)
    np.testing.assert_array_equal(masks(made(two_replicas), two_replicas), together)


def test_stock_keras_drops_the_same_places_on_every_replica(two_replicas) -> None:
    """Why this layer exists."""
    stock = masks(made(two_replicas, keras.layers.Dropout), two_replicas)
    np.testing.assert_array_equal(stock[:, 0], stock[:, 1])


def test_no_two_layers_share_a_stream(two_replicas) -> None:
    """The second replica of one layer and the first of the next, whose seed is one more."""
    layers = [made(two_replicas, seed=seed) for seed in (SEED, SEED + 1, SEED + 2)]
    drawn = [masks(layer, two_replicas, calls=4).reshape(8, -1) > 0 for layer in layers]
    streams = np.concatenate(drawn)
    agreement = (streams[:, None] == streams[None]).mean(-1)
    assert np.abs(agreement - 0.5)[~np.eye(len(streams), dtype=bool)].max() < 0.06


def test_the_state_is_one_and_goes_on(two_replicas) -> None:
    layer = made(two_replicas)
    first = masks(layer, two_replicas, calls=3)
    state = layer.seed_generator.state
    copies = two_replicas.experimental_local_results(state.value)
    assert [copy.numpy().tolist() for copy in copies] == [[SEED, 3]] * 2
    again = made(two_replicas)
    again.seed_generator.state.assign(np.array([SEED, 1]))
    np.testing.assert_array_equal(masks(again, two_replicas, calls=2), first[1:])


@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "xla"])
def test_on_one_device_it_is_stock_keras(one_device, jit: bool | None) -> None:
    """However it is run. (XLA draws other numbers from a seed than the rest of TensorFlow does.)"""
    drawn = []
    for make in (Dropout, keras.layers.Dropout):
        layer = made(one_device, make)
        call = lambda layer=layer: layer(tf.ones(SHAPE), training=True)  # noqa: E731
        call = call if jit is None else tf.function(call, jit_compile=jit)
        drawn.append([call(), call()])
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][0] != drawn[0][1]).numpy().any()


def test_outside_of_a_replica_it_draws_as_the_first(two_replicas) -> None:
    layer = made(two_replicas)
    with two_replicas.scope():
        outside = layer(tf.ones(SHAPE), training=True)
    np.testing.assert_array_equal(outside, masks(made(two_replicas), two_replicas)[0, 0])


def test_without_training_or_rate_nothing_changes() -> None:
    x = tf.random.normal((3, 4))
    for layer, training in ((Dropout(0.9), False), (Dropout(0.0), True)):
        np.testing.assert_array_equal(layer(x, training=training), x)
    assert Dropout(0.0).variables == []


def test_every_family_uses_it() -> None:
    import zoo

    for preset in ("bert-nano", "gpt-nano", "vit-nano", "clip-nano"):
        layers = [each for each in zoo.create(preset)._flatten_layers() if isinstance(each, keras.layers.Dropout)]
        assert layers and all(isinstance(each, Dropout) for each in layers), preset

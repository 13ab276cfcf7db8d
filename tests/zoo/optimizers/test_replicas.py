"""Two replicas update weights and state as one device does, all replicas alike."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.optimizers.test_updates import FACTORS, OPTIMIZERS
from tests.zoo.optimizers.weights import gradients, make_weights, start


def train(name: str, strategy: Any) -> list[list[np.ndarray]]:
    """For each weight, and each variable of the optimizer, its values on all replicas, after three steps."""
    with strategy.scope():
        weights = make_weights(start())
        rate = keras.optimizers.schedules.PolynomialDecay(0.05, 10)
        optimizer = OPTIMIZERS[name](factors=FACTORS, use_ema=True, ema_momentum=0.7)
        optimizer.learning_rate = rate
        optimizer.build(weights)
    replicas = strategy.num_replicas_in_sync

    def step(found: list[Any]) -> None:
        def replica_step() -> None:
            optimizer.apply([each / replicas for each in found], weights)  # it adds up what the replicas hand it

        strategy.run(replica_step)

    traced = step if replicas == 1 else tf.function(step)
    for found in gradients(3):
        traced([tf.constant(value, "float32") for value in found.values()])
    variables = [*weights, *optimizer.variables]
    return [[each.numpy() for each in strategy.experimental_local_results(v.value)] for v in variables]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_replicas_equal_one_device(name: str, two_replicas: Any) -> None:
    expected = train(name, tf.distribute.get_strategy())
    for alone, both in zip(expected, train(name, two_replicas), strict=True):
        assert len(both) == 2
        np.testing.assert_array_equal(both[0], both[1])
        np.testing.assert_allclose(both[0], alone[0], rtol=1e-6, atol=1e-6)

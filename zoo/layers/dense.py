"""The dense layer that everything here is made of."""

from typing import Any

import keras


def dense(units: int, stddev: float, **kwargs: Any) -> Any:
    """A Keras dense layer whose kernel is drawn from a normal distribution of deviation `stddev`; the other arguments
    are Keras's."""
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=stddev), **kwargs)

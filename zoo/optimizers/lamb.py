"""LAMB, for large batches (TensorFlow only)."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from zoo.optimizers.base import Optimizer
from zoo.optimizers.rules import count_fused


@keras.saving.register_keras_serializable("zoo")
class LAMB(Optimizer):
    """Layer-wise adaptive moments for batch training (You et al. 2020, algorithm 2): Adam's update and the weight decay
    together, scaled to the norm of the weight, so that every matrix changes by the same fraction of itself.

    Keras's `Lamb` decays apart from the ratio. As in the authors' code, what does not decay (biases, gains) is not
    scaled either. The matrices of a fused kernel have a ratio each. The arguments are those of
    `zoo.optimizers.base.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        factors: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, factors, **kwargs)

    def build_state(self, variables: list[Any], names: list[str]) -> None:
        super().build_state(variables, names)
        self._counts = tuple(count_fused(name) for name in names)

    def update(self, place: int, variable: tf.Variable, gradient: Any, rate: Any, weight_decay: float) -> None:
        momentum, velocity = self._momentums[place].value, self._velocities[place].value
        first = momentum + (1 - self.beta_1) * (gradient - momentum)
        second = velocity + (1 - self.beta_2) * (tf.square(gradient) - velocity)
        beta_1_power, beta_2_power = self.beta_powers(variable.dtype)
        update = (first / (1 - beta_1_power)) / (tf.sqrt(second / (1 - beta_2_power)) + self.epsilon)
        momentum.assign(first)
        velocity.assign(second)
        if self._decayed[place]:
            update = _scale_to(tf.convert_to_tensor(variable), update + weight_decay * variable, self._counts[place])
        variable.assign_sub(rate * update)


def _scale_to(weight: Any, update: Any, count: int) -> Any:
    """`update` times the ratio of the weight's norm to its own: 1 where one of them is 0, as at a zero start.

    Args:
        weight: (..., count * columns), `count` matrices side by side.
        update: of the same shape.
        count: each of them has its own ratio.
    """
    parts = (-1, count, weight.shape[-1] // count)
    norms = [tf.norm(tf.reshape(each, parts), axis=(0, 2), keepdims=True) for each in (weight, update)]
    ratio = tf.where(norms[1] > 0, tf.math.divide_no_nan(*norms), 1.0)
    ratio = tf.where(norms[0] > 0, ratio, 1.0)
    return tf.reshape(tf.reshape(update, parts) * ratio, update.shape)

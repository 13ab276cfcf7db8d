"""AdamW with a fused update (TensorFlow only)."""

from typing import Any

import keras
import tensorflow as tf

from zoo.optimizers.base import Optimizer


@keras.saving.register_keras_serializable("zoo")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), each weight in one fused operation.

    The numbers are those of `keras.optimizers.AdamW`, in less than half of its time; `epsilon` likewise is the
    "epsilon hat" of Kingma and Ba 2015, at the end of section 2. The arguments are those of
    `zoo.optimizers.base.Optimizer`.
    """

    def update(self, place: int, variable: tf.Variable, gradient: Any, rate: Any, weight_decay: float) -> None:
        if weight_decay:
            variable.assign_sub(variable * (rate * weight_decay))
        beta_1_power, beta_2_power = self.beta_powers(variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].value.handle,
            v=self._velocities[place].value.handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=rate,
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=gradient,
        )

"""Muon, which orthogonalises the updates of hidden matrices (TensorFlow only)."""

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from zoo.optimizers.adamw import AdamW
from zoo.optimizers.rules import count_fused

# Of the quintic iteration, and how often: Jordan et al. 2024.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS = 0.2  # of an update of AdamW, measured: Liu et al. 2025, section 2.2


@keras.saving.register_keras_serializable("zoo")
class Muon(AdamW):
    """Momentum whose update is made orthogonal, for the matrices of the blocks; AdamW for all other weights (Jordan et
    al. 2024, "Muon: An optimizer for hidden layers in neural networks").

    An update is scaled by 0.2 * sqrt(max(rows, columns)), to the root mean square of AdamW's (Liu et al. 2025,
    "Muon is scalable for LLM training", equation 4), so that a learning rate and a weight decay found for AdamW serve
    for both. The query, key and value matrices of a fused kernel are orthogonalised apart.

    Args:
        learning_rate, weight_decay: for all weights.
        momentum: decay of the momentum of the hidden matrices.
        hidden: patterns, as in `fnmatch`; a kernel of rank 2 whose name matches one is a hidden matrix.
        beta_1, beta_2, epsilon: of AdamW.
        factors, **kwargs: those of `zoo.optimizers.base.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        hidden: tuple[str, ...] = ("*.block_*.kernel",),
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        factors: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay, beta_1, beta_2, epsilon, factors, **kwargs)
        self.momentum, self.hidden = momentum, tuple(hidden)

    def build_state(self, variables: list[Any], names: list[str]) -> None:
        """A momentum for every weight, and a second moment for those that AdamW updates."""
        self._counts = tuple(
            count_fused(name)
            if len(variable.shape) == 2 and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.hidden)
            else 0
            for variable, name in zip(variables, names, strict=True)
        )
        self._momentums = [self.add_variable_from_reference(variable, name="momentum") for variable in variables]
        self._velocities = [
            None if count else self.add_variable_from_reference(variable, name="velocity")
            for variable, count in zip(variables, self._counts, strict=True)
        ]

    def update(self, place: int, variable: tf.Variable, gradient: Any, rate: Any, weight_decay: float) -> None:
        count = self._counts[place]
        if not count:
            super().update(place, variable, gradient, rate, weight_decay)
            return
        momentum = self._momentums[place].value
        sum_of_gradients = self.momentum * momentum + gradient
        momentum.assign(sum_of_gradients)
        nesterov = gradient + self.momentum * sum_of_gradients
        rows, columns = variable.shape[0], variable.shape[1] // count
        matrices = tf.transpose(tf.reshape(nesterov, (rows, count, columns)), (1, 0, 2))  # (count, rows, columns)
        update = tf.reshape(tf.transpose(orthogonalise(matrices), (1, 0, 2)), variable.shape)
        scale = RMS * math.sqrt(max(rows, columns))
        variable.assign_sub(rate * (scale * update + weight_decay * variable))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "hidden": list(self.hidden)}


def orthogonalise(matrices: Any) -> Any:
    """About the nearest orthogonal matrix to each of float matrices (..., rows, columns): singular values that are
    not tiny come to lie between 0.7 and 1.2 (the Newton-Schulz iteration of Jordan et al. 2024)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = tf.linalg.matrix_transpose(matrices) if tall else matrices
    x = x / (tf.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)  # no singular value is above 1
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
    return tf.linalg.matrix_transpose(x) if tall else x

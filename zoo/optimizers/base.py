"""What AdamW, LAMB and Muon share: rules per weight (TensorFlow only)."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from zoo.config import nearest
from zoo.optimizers.rules import is_decayed, weight_name


class Optimizer(keras.optimizers.Optimizer):
    """Adam's settings, decoupled weight decay of matrices only, and a factor on the learning rate of each weight.

    Args:
        learning_rate: a float, or a `keras.optimizers.schedules.LearningRateSchedule`.
        weight_decay: what a weight loses in an update, as a fraction, over the learning rate. Only what
            `zoo.optimizers.is_decayed` names decays, less what `exclude_from_weight_decay` takes out.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment.
        epsilon: keeps the division by the root of the second moment finite.
        factors: by name of weight, what its learning rate is multiplied by, as from `zoo.optimizers.layer_factors`;
            1 for a weight that is not named.
        **kwargs: those of any Keras optimizer: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, ...

    Raises:
        ValueError: on the first update, where `factors` names a weight that is not trained.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        factors: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.factors = tuple((factors or {}).items())  # Keras would track a dict as if it held variables

    def build(self, variables: list[Any]) -> None:
        """Make the state for these weights, and look up the rules of each."""
        if self.built:
            return
        super().build(variables)
        names = [weight_name(variable) for variable in variables]
        factors = dict(self.factors)
        for name in factors:
            if name not in names:
                raise ValueError(
                    f"factors has {name!r}, and no weight that is trained is called so{nearest(name, names)}"
                )
        self._rates = tuple(factors.get(name, 1.0) for name in names)
        self._decayed = tuple(is_decayed(variable) and self._use_weight_decay(variable) for variable in variables)
        self.build_state(variables, names)

    def build_state(self, variables: list[Any], names: list[str]) -> None:
        """Make what the optimizer remembers of each weight: Adam's two moments."""
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight on one device: `variable` is that device's own under a strategy."""
        place = self._get_variable_index(variable)
        if isinstance(variable, keras.Variable):
            variable = variable.value
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)  # the slices of a lookup are added up
        rate = tf.cast(learning_rate, variable.dtype) * self._rates[place]
        self.update(place, variable, gradient, rate, (self.weight_decay or 0.0) if self._decayed[place] else 0.0)

    def update(self, place: int, variable: tf.Variable, gradient: Any, rate: Any, weight_decay: float) -> None:
        """Update the weight number `place` by its dense gradient, at its own learning rate and weight decay."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it updates a weight")

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Nothing: decay is part of the update, where the weight's own learning rate is known."""

    def beta_powers(self, dtype: Any) -> tuple[Any, Any]:
        """Both betas to the power of this update's number, counted from 1: scalars that undo the bias to zero."""
        step = keras.ops.cast(self.iterations + 1, dtype)
        return tf.pow(tf.cast(self.beta_1, dtype), step), tf.pow(tf.cast(self.beta_2, dtype), step)

    def get_config(self) -> dict[str, Any]:
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own, "factors": {name: float(factor) for name, factor in self.factors}}

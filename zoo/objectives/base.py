"""The base of the objectives: a model in training, and what is around it meanwhile."""

import dataclasses
from typing import Any

import keras

from zoo.distribution import DistributedModel
from zoo.model import ZooModel


class Objective(DistributedModel):
    """Trains a model of the zoo, which is around while it is trained and no part of it afterwards.

    A subclass writes `call` and `compute_loss`. Compile and fit the objective; save, and predict with, its `model`. The
    names of the weights are those that the model gives them, for optimizers, adapters and checkpoints alike. Weights
    that a subclass makes beside them it adds to `named_weights`.

    Args:
        model: what is trained, built.
        name: of the objective.

    Attributes:
        model: the same.
        output_names: what `call` returns.
    """

    output_names: tuple[str, ...]

    def __init__(self, model: ZooModel, name: str) -> None:
        super().__init__(name=name, dtype=model.dtype_policy.name)
        self.model = model
        self.built = True

    def named_weights(self) -> dict[str, keras.Variable]:
        """Every weight that is trained or saved with the training, by its name in a checkpoint."""
        return self.model.named_weights()

    def is_head(self, name: str) -> bool:
        """As the model's; what is beside it is no part of its family either."""
        return self.model.is_head(name)

    @property
    def recompute(self) -> bool:
        """As the model's."""
        return self.model.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.model.recompute = value
        self.forget_traces()

    @property
    def lora(self) -> Any:
        """The model's adapters."""
        return self.model.lora

    @lora.setter
    def lora(self, value: Any) -> None:
        own = self.model.named_weights()
        trained = tuple(name for name in value.trained if name in own)
        self.model.lora = dataclasses.replace(value, trained=trained)

    def forget_traces(self) -> None:
        """Have `fit`, `evaluate` and `predict` trace the objective anew, now that the model computes something else."""
        for traced in ("train_function", "test_function", "predict_function"):
            setattr(self, traced, None)

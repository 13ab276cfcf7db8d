"""The settings that every recipe shares."""

import dataclasses
import math
from typing import ClassVar, Literal

from recipes.engine.optimizer import Optimization
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Training:
    """How long and how to train.

    Attributes:
        free: the settings that may change when a run goes on: the weights do not hang on them, but for the rounding
            of sums in another order (strategy, xla, recompute). `evaluate_every` decides which is found the best.
    """

    free: ClassVar[frozenset[str]] = frozenset(
        {"strategy", "cluster", "xla", "recompute", "evaluate_every", "save_every", "keep_last"}
    )

    steps: int = 2000
    """Number of updates."""
    epochs: float | None = None
    """Passes over the training data; where it is not None, they are counted instead of --steps."""
    batch_size: int = 32
    """Examples in an update, over all replicas."""
    accumulate: int = 1
    """Micro-batches that an update is computed in, one after the other, to save memory."""
    recompute: bool = False
    """Keep the input of each block alone, and compute the rest again for the backward pass, to save memory."""
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the layers; weights, softmax, norms and losses stay float32."""
    strategy: Literal["auto", "one", "mirrored", "multiworker", "tpu"] = "auto"
    """Devices: one; all GPUs of this machine in step (mirrored); those of several workers; a TPU; auto finds out."""
    cluster: str = "auto"
    """Where several workers find each other: tf_config, slurm, kubernetes:LABELS; auto is the first or the second."""
    xla: bool = True
    """Step compiled by XLA (one device only); --no-xla does without."""
    evaluate_every: int | None = 250
    """Updates between evaluations; None for a tenth of them all."""
    save_every: int | None = None
    """Updates between checkpoints; None for those between evaluations."""
    keep_last: int = 3
    """Checkpoints to keep, besides that of the best model."""
    seed: int = 0
    """Of weights, data order and dropout."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "keep_last"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "epochs", self.epochs is None or 0 < self.epochs < math.inf, "above 0")
        _require(self, "evaluate_every", self.evaluate_every is None or self.evaluate_every >= 1, "at least 1")
        _require(self, "save_every", self.save_every is None or self.save_every >= 1, "at least 1")
        _require(self, "batch_size", self.batch_size % self.accumulate == 0, f"a multiple of {self.accumulate}")
        _require(self, "seed", 0 <= self.seed < 2**32, "0 or more, and below 2**32")

    @property
    def interval(self) -> int:
        """Updates between evaluations."""
        return self.evaluate_every or math.ceil(self.steps / 10)

    def counted(self, batches_per_epoch: int) -> "Training":
        """With the updates of so many epochs, where these are given."""
        if self.epochs is None:
            return self
        return dataclasses.replace(self, steps=math.ceil(self.epochs * batches_per_epoch))


def require_trained(source: object, training: Training) -> None:
    """Raise UserError where only a part is to be trained of a model that nothing has trained before."""
    adapt = training.optimization.adapt
    if source is None and adapt != "full":
        raise UserError(f"--adapt {adapt} leaves most of a trained model as it is: give one with --from")


def _require(settings: object, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        option = name.replace("_", "-")
        raise UserError(f"--{option} is {getattr(settings, name)}, and must be {allowed}")

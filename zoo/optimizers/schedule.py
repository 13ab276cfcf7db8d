"""The learning rate over a run: warm-up, then one of four shapes."""

import math
from typing import Any

import keras
from keras import ops

SHAPES = ("cosine", "linear", "constant", "wsd")


@keras.saving.register_keras_serializable("zoo")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then down to `final` times the peak at the end, or not.

    Update number s, from 0, of the warm-up has the rate `peak * (s + 1) / (warmup_steps + 1)`, so that the first
    update is not lost and the first after the warm-up has the peak.

    Args:
        peak: the highest learning rate.
        steps: updates of the run; the rate stays at its last value after them.
        warmup_steps: updates below the peak; less than `steps`.
        shape: "cosine" (Loshchilov and Hutter 2017), "linear", "constant", or "wsd": warm-up, stable, decay (Zhai et
            al. 2022, section 3.5; Hu et al. 2024, section 4), where the decay is linear.
        final: where the decay ends, as a fraction of the peak.
        decay_fraction: the part of all `steps` that "wsd" decays in.

    Raises:
        ValueError: the shape is unknown, or the run is no longer than its warm-up.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_steps: int = 0,
        shape: str = "cosine",
        final: float = 0.1,
        decay_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        if shape not in SHAPES:
            raise ValueError(f"shape is {shape!r}, and must be one of {', '.join(SHAPES)}")
        if not 0 <= warmup_steps < steps:
            raise ValueError(f"warmup_steps is {warmup_steps}, and must be from 0 to below steps, which is {steps}")
        self.peak, self.steps, self.warmup_steps = peak, steps, warmup_steps
        self.shape, self.final, self.decay_fraction = shape, final, decay_fraction
        self.decay_steps = steps - warmup_steps
        if shape == "wsd":
            self.decay_steps = min(self.decay_steps, max(1, round(decay_fraction * steps)))

    def __call__(self, step: Any) -> Any:
        """The learning rate, a float32 scalar, of the update number `step`, an integer scalar from 0."""
        step = ops.cast(step, "float32")
        warmup = (step + 1.0) / (self.warmup_steps + 1)
        progress = ops.clip((step - (self.steps - self.decay_steps)) / self.decay_steps, 0.0, 1.0)
        if self.shape == "constant":
            left = ops.ones_like(progress)
        elif self.shape == "cosine":
            left = 0.5 * (1.0 + ops.cos(math.pi * progress))
        else:
            left = 1.0 - progress
        return self.peak * ops.minimum(warmup, self.final + (1.0 - self.final) * left)

    def get_config(self) -> dict[str, Any]:
        names = ("peak", "steps", "warmup_steps", "shape", "final", "decay_fraction")
        return {name: getattr(self, name) for name in names}

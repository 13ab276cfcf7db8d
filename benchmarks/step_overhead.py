"""What the distributed step costs on one device, over the step that Keras has.

    python -m benchmarks.step_overhead [--family gpt] [--rounds 15] [--no-xla] [--json]

Both sides train the same model with the same optimizer and clipping, in one process, in turn: a round is some steps of
one and then of the other, the order changing from round to round. The figure is the median of the rounds' ratios.
"""

import dataclasses
import json
import statistics
import time
from typing import Any, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time both steps."""

    family: Literal["gpt", "bert", "vit", "clip"] = "gpt"
    """What to train: a small model of this family."""
    rounds: int = 15
    """Pairs of measurements."""
    steps: int = 10
    """Steps in a measurement."""
    xla: bool = True
    """Compile both by XLA; --no-xla does without."""
    json: bool = False
    """Print one JSON object."""


def main(settings: Settings) -> None:
    import keras

    from benchmarks.workload import make_batches, make_losses, make_model

    def prepare(stock: bool) -> Any:
        """One step of either side, compiled and warm."""
        keras.utils.set_random_seed(0)
        model = make_model(settings.family)
        if stock:
            names = ("compile", "fit", "train_step", "make_train_function", "_maybe_symbolic_build")
            changes: dict[str, Any] = {name: getattr(keras.Model, name) for name in names}
            if settings.family == "clip":
                changes["compute_loss"] = _plain_contrast
            model.__class__ = type("Stock", (type(model),), changes)
        optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0)
        model.compile(optimizer, loss=make_losses(settings.family), jit_compile=settings.xla)
        data = iter(make_batches(settings.family).repeat())
        model.make_train_function()
        for _ in range(3):
            model.train_function(data)
        return lambda: [float(model.train_function(data)["loss"]) for _ in range(settings.steps)][-1]

    sides = {"keras": prepare(stock=True), "zoo": prepare(stock=False)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(settings.rounds):
        for name in sorted(sides, reverse=number % 2 == 0):
            began = time.perf_counter()
            sides[name]()
            times[name].append((time.perf_counter() - began) / settings.steps)
    ratios = [ours / stock for ours, stock in zip(times["zoo"], times["keras"], strict=True)]
    result = {
        "family": settings.family,
        "xla": settings.xla,
        "keras_ms": round(1000 * statistics.median(times["keras"]), 2),
        "zoo_ms": round(1000 * statistics.median(times["zoo"]), 2),
        "overhead": round(statistics.median(ratios) - 1, 4),
        "lowest_ratio": round(min(ratios), 4),
        "highest_ratio": round(max(ratios), 4),
    }
    if settings.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:14}{value}")


def _plain_contrast(
    self: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
) -> Any:
    """CLIP's loss as one would write it for one device."""
    from keras import ops

    logits = y_pred["logits_per_image"]
    right = ops.eye(ops.shape(logits)[0])
    both = ops.log_softmax(logits, axis=1) + ops.log_softmax(logits, axis=0)
    return -ops.sum(right * both) / ops.cast(2 * ops.shape(logits)[0], "float32")


if __name__ == "__main__":
    main(tyro.cli(Settings))

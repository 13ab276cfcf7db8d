"""One update of AdamW: Keras's, and the one in a single kernel a weight.

    python -m benchmarks.optimizer_update [--preset bert-mini] [--rounds 15] [--xla]

Both in one process, in turn, on the weights of one model with gradients of ones; decay on matrices only.
"""

import dataclasses
import statistics
import time
from typing import Any

import tyro


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time both updates."""

    preset: str = "bert-mini"
    """Whose weights."""
    rounds: int = 15
    """Pairs of measurements."""
    updates: int = 10
    """Updates in a measurement."""
    xla: bool = False
    """Compile both by XLA."""


def main(settings: Settings) -> None:
    import keras
    import tensorflow as tf

    import zoo.optimizers

    model = zoo.create(settings.preset, task="backbone")
    gradients = [tf.ones(weight.shape) for weight in model.trainable_variables]

    def prepare(optimizer: Any) -> Any:
        optimizer.build(model.trainable_variables)
        step = tf.function(lambda: optimizer.apply(gradients, model.trainable_variables), jit_compile=settings.xla)
        step()

        def run() -> None:
            for _ in range(settings.updates):
                step()
            model.trainable_variables[0].numpy()

        return run

    stock = keras.optimizers.AdamW(1e-5, weight_decay=0.1)
    stock.exclude_from_weight_decay([each for each in model.trainable_variables if not zoo.optimizers.is_decayed(each)])
    sides = {"keras": prepare(stock), "zoo": prepare(zoo.optimizers.AdamW(1e-5, weight_decay=0.1))}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(settings.rounds):
        for name in sorted(sides, reverse=number % 2 == 0):
            began = time.perf_counter()
            sides[name]()
            times[name].append(1000 * (time.perf_counter() - began) / settings.updates)
    ratios = [stock / ours for stock, ours in zip(times["keras"], times["zoo"], strict=True)]
    print(f"{model.count_params():,} weights: keras {statistics.median(times['keras']):.1f} ms, ", end="")
    print(f"zoo {statistics.median(times['zoo']):.1f} ms, ratio {statistics.median(ratios):.2f}", end="")
    print(f" (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main(tyro.cli(Settings))

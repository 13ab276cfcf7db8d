"""How long a training waits for its data.

    python -m benchmarks.input_share RECIPE --data PATH [any setting of zoo train RECIPE]

Runs the recipe for 60 steps, or as many as --steps says, in a run directory that is thrown away. The time from when a
step asks for its batch until it has it is `wait_ms`, the time between two such questions `step_ms` (medians, the first
ten steps left out; no evaluation is between them), and `share` the mean of the former over the latter. Since
batches are made ahead on the same cores, `work_ms` is the processor time of making one, all else at rest.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recipes.catalogue import RECIPES
from recipes.command.parsing import parse

WARM = 10
BATCHES = 50  # to make with all else at rest


def main(name: str, arguments: list[str]) -> None:
    import recipes.engine.loop as loop

    asked: list[float] = []
    waits: list[float] = []
    work: list[float] = []
    train = loop.train

    def train_timed(job: Any, training: Any, run: Any) -> dict[str, Any]:
        """In the place of the loop's own, which every recipe calls."""
        import tensorflow as tf

        def timed(first_step: int) -> Any:
            data = job.train_data(first_step)

            def generate() -> Any:
                batches = iter(data)
                while True:
                    asked.append(time.perf_counter())
                    batch = next(batches)
                    waits.append(time.perf_counter() - asked[-1])
                    yield batch

            return tf.data.Dataset.from_generator(generate, output_signature=data.element_spec)

        batches = iter(job.train_data(0))
        next(batches)
        began = time.process_time()
        for _ in range(BATCHES):
            next(batches)
        work.append((time.process_time() - began) / BATCHES)
        del batches
        return train(dataclasses.replace(job, train_data=timed), training, run)

    loop.train = train_timed
    given = {argument.partition("=")[0] for argument in arguments}
    steps = [] if "--steps" in given else ["--steps", "60"]
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["--out", str(Path(folder) / "run"), "--epochs", "None", "--evaluate-every", "1000000"]
        settings = parse(RECIPES[name].settings, [*arguments, *steps, *fixed], f"benchmarks.input_share {name}")
        RECIPES[name].train(settings)
    gaps = [later - earlier for earlier, later in zip(asked[WARM:], asked[WARM + 1 :], strict=False)]
    step = statistics.median(gaps)
    result = {
        "recipe": name,
        "step_ms": round(1000 * step, 2),
        "wait_ms": round(1000 * statistics.median(waits[WARM:]), 3),
        "work_ms": round(1000 * work[0], 2),
        "share": round(statistics.mean(waits[WARM : len(gaps) + WARM]) / step, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

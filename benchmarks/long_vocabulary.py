"""What the next-token loss takes over a long vocabulary, in memory and time: from all logits at once, and by parts.

    python -m benchmarks.long_vocabulary [--vocabulary-size 50257] [--logits-memory 64] [--rounds 3] [--no-xla] [--json]

Whole training steps of a GPT of 4 layers, 256 wide, by SGD. Each measurement is a process of its own, the sides in
turn: its peak of memory (VmHWM) above what it had taken before the first step, and of its steps the fastest, and the
one with the least work of all cores, which others on them disturb less. The figures are the medians of the rounds.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from typing import Literal

import tyro

from recipes.engine.memory import peak_memory


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure both sides."""

    vocabulary_size: int = 50257
    """Tokens to choose from."""
    batch_size: int = 4
    """Sequences in a step."""
    length: int = 1024
    """Tokens in a sequence."""
    logits_memory: float = 64.0
    """MB of logits that a part may take."""
    rounds: int = 3
    """Measurements of each side."""
    steps: int = 3
    """Steps in a measurement, after the first."""
    xla: bool = True
    """Compile the step by XLA; --no-xla does without."""
    json: bool = False
    """Print one JSON object."""
    side: Literal["whole", "parts"] | None = None
    """Measure this side alone, in this process."""


def main(settings: Settings) -> None:
    if settings.side is not None:
        print(json.dumps(measure(settings)))
        return
    found: dict[str, list[dict[str, float]]] = {"whole": [], "parts": []}
    for number in range(settings.rounds):
        for side in sorted(found, reverse=number % 2 == 0):
            command = [sys.executable, "-m", "benchmarks.long_vocabulary", *sys.argv[1:], "--side", side]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    result = {
        f"{side}_{name}": round(statistics.median(each[name] for each in rounds))
        for side, rounds in found.items()
        for name in rounds[0]
    }
    logits = settings.batch_size * settings.length * settings.vocabulary_size * 4 / 1e6
    result = {"vocabulary_size": settings.vocabulary_size, "xla": settings.xla, "logits_mb": round(logits), **result}
    if settings.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:18}{value}")


def measure(settings: Settings) -> dict[str, float]:
    """Peak of memory in MB; milliseconds of a step, and of work in it."""
    import keras
    import numpy as np
    import tensorflow as tf

    import zoo
    from benchmarks.workload import SIZES
    from zoo.gpt.loss import NextTokenLoss

    sizes = {"vocabulary_size": settings.vocabulary_size, "max_length": settings.length, **SIZES}
    model = zoo.create("gpt-nano", task="generate", dropout=0.0, attention_dropout=0.0, **sizes)
    if settings.side == "parts":
        model.keeps_sequence = True
        loss = {"sequence": NextTokenLoss(model.backbone.token_embedding.table, settings.logits_memory)}
    else:
        loss = {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile(keras.optimizers.SGD(1e-3), loss=loss, jit_compile=settings.xla)
    ids = np.random.default_rng(0).integers(0, settings.vocabulary_size, (settings.batch_size, settings.length + 1))
    batch = {"token_ids": ids[:, :-1]}, dict.fromkeys(loss, ids[:, 1:])
    data = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    model.make_train_function()
    before = peak_memory() or 0.0
    times, work = [], []
    for _ in range(1 + settings.steps):
        began, begun = time.perf_counter(), time.process_time()
        float(model.train_function(data)["loss"])
        times.append(time.perf_counter() - began)
        work.append(time.process_time() - begun)
    return {"mb": (peak_memory() or 0.0) - before, "ms": 1000 * min(times[1:]), "work_ms": 1000 * min(work[1:])}


if __name__ == "__main__":
    main(tyro.cli(Settings))

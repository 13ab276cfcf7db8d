"""The Keras model that a bundle was made of, timed as its artefacts are: `python -m export.keras_timing FOLDER`.

FOLDER is as for `export.runtimes`; the artefact is the bundle itself. Its configuration is what is read of it: the
weights are fresh, on which the time does not hang.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from export import runtimes
from export.runtimes.runtime import Tensors
from export.signatures import generates, signatures
from zoo.directory import read_saved
from zoo.generation import GREEDY, Generator
from zoo.presets import build


class Keras:
    """The model, in a `tf.function` as `predict` runs it."""

    def __init__(self) -> None:
        self.version = f"keras {keras.__version__}, tensorflow {tf.__version__}"

    def load(self, path: Path) -> None:
        saved = read_saved(path)
        model = build(saved.family, saved.config, str(saved.task), "float32")
        self.functions = {each.name: tf.function(each.compute, reduce_retracing=True) for each in signatures(model)}
        self.generator = Generator(model) if generates(model) else None

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        computed = self.functions[function]({name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in computed.items()}

    def generate(self, prompt: list[int], count: int) -> dict[str, Any]:
        """The milliseconds of each of `count` tokens after `prompt`, the likeliest, by the model's own generator."""
        if self.generator is None:
            raise ValueError("the model writes no text token by token")
        moments = [time.perf_counter()]
        self.generator.generate([prompt], count, GREEDY, on_token=lambda _: moments.append(time.perf_counter()))
        return {"milliseconds": [1000 * (end - start) for start, end in itertools.pairwise(moments)]}


if __name__ == "__main__":
    runtimes.RUNTIMES["keras"] = Keras
    folder = Path(sys.argv[1])
    try:
        text = json.dumps(runtimes.answer(folder))
    except Exception as error:
        text = json.dumps({"failure": f"{type(error).__name__}: {error}"})
    (folder / "answer.json").write_text(text)

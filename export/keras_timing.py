"""The Keras model that a bundle was made of, timed as its artefacts are: `python -m export.keras_timing FOLDER`.

FOLDER is as for `export.runtimes`; the artefact is the bundle itself. Its configuration is what is read of it: the
weights are fresh, on which the time does not hang.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import keras
import tensorflow as tf

from export import runtimes
from export.runtimes.runtime import Tensors
from export.signatures import signatures
from zoo.directory import read_saved
from zoo.presets import build


class Keras:
    """The model, in a `tf.function` as `predict` runs it."""

    def __init__(self) -> None:
        self.version = f"keras {keras.__version__}, tensorflow {tf.__version__}"

    def load(self, path: Path) -> None:
        saved = read_saved(path)
        model = build(saved.family, saved.config, str(saved.task), "float32")
        self.functions = {each.name: tf.function(each.compute, reduce_retracing=True) for each in signatures(model)}

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        computed = self.functions[function]({name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in computed.items()}


if __name__ == "__main__":
    runtimes.RUNTIMES["keras"] = Keras
    folder = Path(sys.argv[1])
    (folder / "answer.json").write_text(json.dumps(runtimes.answer(folder)))

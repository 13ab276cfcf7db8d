"""SavedModels in TensorFlow, with and without TensorFlow Text."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .runtime import Tensors


class TensorFlow:
    """A SavedModel, by TensorFlow's loader."""

    def __init__(self) -> None:
        import tensorflow

        self.tensorflow = tensorflow
        self.version = f"tensorflow {tensorflow.__version__}"

    def load(self, path: Path) -> None:
        self.loaded = self.tensorflow.saved_model.load(str(path))

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        tensors = {name: self.tensorflow.constant(value) for name, value in inputs.items()}
        values = {name: value.numpy() for name, value in self.loaded.signatures[function](**tensors).items()}
        return {name: value.astype("S") if value.dtype == object else value for name, value in values.items()}

    def operators(self, path: Path) -> Iterator[str]:
        from tensorflow.core.protobuf import saved_model_pb2

        graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
        for nodes in [graph.node, *(function.node_def for function in graph.library.function)]:
            yield from (node.op for node in nodes)

    def continuing(self) -> Callable[[list[int]], np.ndarray]:
        """A reader of one text: takes the next tokens, and gives the logits of the one after, (vocabulary,)."""
        cache: dict[str, Any] = {}
        filled = 0

        def read(tokens: list[int]) -> np.ndarray:
            nonlocal cache, filled
            positions = np.arange(filled, filled + len(tokens), dtype="int32")[None]
            filled += len(tokens)
            given = {"token_ids": [tokens], "positions": positions, "padding_mask": np.ones([1, filled])}
            tensors = {name: self.tensorflow.constant(value, "int32") for name, value in given.items()}
            outputs = self.loaded.signatures["decode" if cache else "prefill"](**tensors, **cache)
            logits: np.ndarray = outputs.pop("logits").numpy()[0]
            cache = outputs
            return logits

        return read


class TensorFlowText(TensorFlow):
    """A SavedModel with TensorFlow Text's operators, as a server has them: the libraries alone, since the package's
    Python needs Keras."""

    def __init__(self) -> None:
        from importlib.metadata import version
        from importlib.util import find_spec

        super().__init__()
        found = find_spec("tensorflow_text")
        for folder in found.submodule_search_locations or () if found else ():
            for library in sorted(Path(folder, "python", "ops").glob("*.so")):
                self.tensorflow.load_op_library(str(library))
        self.version += f", tensorflow-text {version('tensorflow-text')}"

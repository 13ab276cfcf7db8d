"""ONNX files in ONNX Runtime."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from .runtime import Tensors


class ONNXRuntime:
    """An .onnx file, by ONNX Runtime on the CPU."""

    names: Mapping[str, str] = {}  # ours to theirs, where the file has other names

    def __init__(self) -> None:
        import onnxruntime

        self.onnxruntime = onnxruntime
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def load(self, path: Path) -> None:
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self.session = self.onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ours = {theirs: name for name, theirs in self.names.items()}
        self.inputs = {ours.get(each.name, each.name): each for each in self.session.get_inputs()}
        self.outputs = [ours.get(each.name, each.name) for each in self.session.get_outputs()]

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        return self.call(inputs, [name for name in outputs if name in self.outputs])

    def call(self, inputs: Tensors, outputs: list[str]) -> Tensors:
        """Run with inputs and outputs under our names, where the file has others."""
        if not outputs:
            return {}
        given = {}
        for name, value in self._completed(inputs).items():
            if name != self.inputs[name].name and value.ndim == 4 and name == "images":
                value = value.transpose(0, 3, 1, 2)  # their images have the channels first
            given[self.inputs[name].name] = value.astype("int64") if "int64" in self.inputs[name].type else value
        wanted = [self.names.get(name, name) for name in outputs]
        return dict(zip(outputs, self.session.run(wanted, given), strict=True))

    def operators(self, path: Path) -> Iterator[str]:
        import onnx  # reads the file; ONNX Runtime does not tell what is in it

        for node in onnx.load(path, load_external_data=False).graph.node:
            yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type

    def continuing(self) -> Callable[[list[int]], np.ndarray]:
        """As `TensorFlow.continuing`."""
        cache: Tensors = {}
        filled = 0

        def read(tokens: list[int]) -> np.ndarray:
            nonlocal cache, filled
            token_ids = np.array([tokens], "int32")
            positions = np.arange(filled, filled + len(tokens), dtype="int32")[None]
            filled += len(tokens)
            given = {"token_ids": token_ids, "positions": positions, "padding_mask": np.ones([1, filled], "int32")}
            outputs = self.call({**given, **cache}, self.outputs)
            logits: np.ndarray = outputs.pop("logits")[0, -1]
            cache = {name.replace("present_", "past_"): value for name, value in outputs.items()}
            return logits

        return read

    def _completed(self, inputs: Tensors) -> Tensors:
        """With an empty cache, and with positions from 0, where the file takes them and they are not given."""
        missing: Tensors = {}
        for name, each in self.inputs.items():
            if name.startswith("past_") and name not in inputs:
                batch = len(inputs["token_ids"])
                missing[name] = np.zeros((batch, each.shape[1], 0, each.shape[3]), "float32")
            elif name == "positions" and name not in inputs:
                ids = inputs["token_ids"]
                missing[name] = np.broadcast_to(np.arange(ids.shape[1], dtype="int32"), ids.shape)
        return {**inputs, **missing}

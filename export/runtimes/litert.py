"""TFLite files in LiteRT."""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .runtime import Tensors


class LiteRT:
    """A .tflite file, by the LiteRT interpreter with XNNPACK, its default."""

    def __init__(self) -> None:
        from importlib.metadata import version

        from ai_edge_litert import interpreter

        self.interpreters = interpreter
        self.version = f"ai-edge-litert {version('ai-edge-litert')}"

    def load(self, path: Path) -> None:
        self.path = path
        self.interpreter = self.interpreters.Interpreter(model_path=str(path), num_threads=os.cpu_count())
        self.functions = self.interpreter.get_signature_list()
        # Kept runners count as users of the interpreter, whose own `resize_tensor_input` then refuses to work.
        self.runners = {name: self.interpreter.get_signature_runner(name) for name in self.functions}
        self.ran: dict[str, dict[str, tuple[int, ...]]] = {}

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        self.ran[function] = {name: value.shape for name, value in inputs.items()}
        return self.runners[function](**inputs)

    def partitions(self) -> dict[str, int]:
        """Into how many parts XNNPACK cuts each function that was run, at the shapes that it ran with last; nothing
        where an interpreter does not tell."""
        operators = {function: self._planned(function) for function in self.ran}
        return {function: names.count("DELEGATE") for function, names in operators.items() if names is not None}

    def _planned(self, function: str) -> list[str] | None:
        """The operators of a function as an interpreter runs them; None where it does not tell: what tells them is not
        public, and may go.

        It tells of the first graph of a file only: so the function's is put there.
        """
        from ai_edge_litert import schema_py_generated as schema

        content = bytearray(self.path.read_bytes())
        model = schema.Model.GetRootAs(content, 0)
        definitions = map(model.SignatureDefs, range(model.SignatureDefsLength()))
        graphs = {each.SignatureKey().decode(): each.SubgraphIndex() for each in definitions}
        table = model._tab
        start = table.Vector(table.Offset(8))  # of the offsets of the graphs, each counted from where it stands
        own = start + 4 * graphs[function]
        first, this = (place + struct.unpack_from("<I", content, place)[0] for place in (start, own))
        struct.pack_into("<I", content, start, this - start)
        struct.pack_into("<I", content, own, first - own)
        interpreter = self.interpreters.Interpreter(model_content=bytes(content), num_threads=1)
        for name, each in self.runners[function].get_input_details().items():
            interpreter.resize_tensor_input(each["index"], self.ran[function][name])
        interpreter.allocate_tensors()
        try:
            return [each["op_name"] for each in interpreter._get_ops_details()]
        except (AttributeError, KeyError, TypeError):
            return None

    def continuing(self) -> Callable[[list[int]], np.ndarray]:
        """As `TensorFlow.continuing`. The cache has as many slots as the file says."""
        details = self.runners["decode"].get_input_details()
        cache = {
            name: np.zeros(each["shape"], "float32")
            for name, each in details.items()
            if name not in ("token_ids", "position")
        }
        chunks = sorted(
            (int(name.split("_")[1]) for name in self.functions if name.startswith("prefill_")), reverse=True
        )
        filled = 0

        def call(function: str, tokens: list[int]) -> Tensors:
            nonlocal filled
            given = {"token_ids": np.array([tokens], "int32"), "position": np.array([filled], "int32")}
            filled += len(tokens)
            outputs: Tensors = self.runners[function](**given, **cache)
            cache.update({name: outputs[name] for name in cache})
            return outputs

        def read(tokens: list[int]) -> np.ndarray:
            while len(tokens) > 1:
                size = next((size for size in chunks if size < len(tokens)), 1)
                call(f"prefill_{size}" if size > 1 else "decode", tokens[:size])
                tokens = tokens[size:]
            return call("decode", tokens)["logits"][0]

        return read

    def operators(self, path: Path) -> Iterator[str]:
        from ai_edge_litert import schema_py_generated as schema

        known = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        model = schema.Model.GetRootAs(path.read_bytes(), 0)
        names = []
        for code in map(model.OperatorCodes, range(model.OperatorCodesLength())):
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            own = f":{(code.CustomCode() or b'').decode(errors='replace')}"  # the name of what no runtime must have
            kind = known.get(number, f"BUILTIN_{number}")  # of a later version of the format
            names.append(kind + own if number == schema.BuiltinOperator.CUSTOM else kind)
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            for operator in map(graph.Operators, range(graph.OperatorsLength())):
                yield names[operator.OpcodeIndex()]

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
        """Into how many parts XNNPACK cuts each function that was run, at the shapes that it ran with last.

        An interpreter tells it of the first graph of a file only: so each graph is put there in turn.
        """
        from ai_edge_litert import schema_py_generated as schema

        content = self.path.read_bytes()
        model = schema.Model.GetRootAs(content, 0)
        definitions = map(model.SignatureDefs, range(model.SignatureDefsLength()))
        graphs = {each.SignatureKey().decode(): each.SubgraphIndex() for each in definitions}
        table = model._tab
        start = table.Vector(table.Offset(8))  # of the offsets of the graphs, each counted from where it stands
        found = {}
        for function, shapes in self.ran.items():
            changed, own = bytearray(content), start + 4 * graphs[function]
            first, this = (place + struct.unpack_from("<I", content, place)[0] for place in (start, own))
            struct.pack_into("<I", changed, start, this - start)
            struct.pack_into("<I", changed, own, first - own)
            interpreter = self.interpreters.Interpreter(model_content=bytes(changed), num_threads=1)
            for name, each in self.runners[function].get_input_details().items():
                interpreter.resize_tensor_input(each["index"], shapes[name])
            interpreter.allocate_tensors()
            found[function] = sum(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
        return found

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

        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        model = schema.Model.GetRootAs(path.read_bytes(), 0)
        codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            for operator in map(graph.Operators, range(graph.OperatorsLength())):
                code = codes[operator.OpcodeIndex()]
                yield names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]

"""Run one artefact in its own runtime, alone: `python -I runtimes.py FOLDER`.

This file is a program of its own. It runs in a fresh process, in which neither this project nor Keras can be imported:
what it shows is that an artefact needs nothing but its runtime. FOLDER holds the work and takes the answer:

    request.json   runtime, artefact (a path), cases ({name: {output: positions to keep, or null}}), and, where asked
                   for, latency ({case, seconds}) and greedy ({prompt, count})
    inputs.npz     CASE/INPUT for every case
    outputs.npz    CASE/OUTPUT for every case
    answer.json    runtime (name and version), load_ms, operators, latency, greedy; or failure, one line
"""

import collections
import importlib.abc
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

REFUSED = ("zoo", "export", "recipes", "keras")
SIGNATURE = "serving_default"

Tensors = dict[str, np.ndarray]


class RefusedImports(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Put first into `sys.meta_path`, it makes the packages in `REFUSED` impossible to import.

    They are found, since TensorFlow asks where Keras is while it is imported itself; loading them is what fails.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in REFUSED else None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__} is refused here: an artefact has to do without it")


class TensorFlow:
    """A SavedModel, by TensorFlow's loader."""

    def __init__(self) -> None:
        import tensorflow

        self.tensorflow = tensorflow
        self.version = f"tensorflow {tensorflow.__version__}"

    def load(self, path: Path) -> None:
        self.loaded = self.tensorflow.saved_model.load(str(path))
        self.signature = self.loaded.signatures[SIGNATURE]

    def run(self, inputs: Tensors) -> Tensors:
        outputs = self.signature(**{name: self.tensorflow.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def operators(self, path: Path) -> Iterator[str]:
        from tensorflow.core.protobuf import saved_model_pb2

        graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
        for nodes in [graph.node, *(function.node_def for function in graph.library.function)]:
            yield from (node.op for node in nodes)


class LiteRT:
    """A .tflite file, by the LiteRT interpreter with XNNPACK, its default."""

    def __init__(self) -> None:
        from importlib.metadata import version

        from ai_edge_litert import interpreter

        self.interpreters = interpreter
        self.version = f"ai-edge-litert {version('ai-edge-litert')}"

    def load(self, path: Path) -> None:
        self.interpreter = self.interpreters.Interpreter(model_path=str(path), num_threads=os.cpu_count())
        runner = self.interpreter.get_signature_runner(SIGNATURE)
        self.inputs = {name: detail["index"] for name, detail in runner.get_input_details().items()}
        self.outputs = {name: detail["index"] for name, detail in runner.get_output_details().items()}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Tensors) -> Tensors:
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self.shapes:  # the signature runner would do it for every call, and cost time
            for name, index in self.inputs.items():
                self.interpreter.resize_tensor_input(index, shapes[name])
            self.interpreter.allocate_tensors()
            self.shapes = shapes
        for name, index in self.inputs.items():
            self.interpreter.set_tensor(index, inputs[name])
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(index) for name, index in self.outputs.items()}

    def operators(self, path: Path) -> Iterator[str]:
        from ai_edge_litert import schema_py_generated as schema

        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        model = schema.Model.GetRootAs(path.read_bytes(), 0)
        codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            for operator in map(graph.Operators, range(graph.OperatorsLength())):
                code = codes[operator.OpcodeIndex()]
                yield names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]


class ONNXRuntime:
    """An .onnx file, by ONNX Runtime on the CPU."""

    def __init__(self) -> None:
        import onnxruntime

        self.onnxruntime = onnxruntime
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def load(self, path: Path) -> None:
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self.session = self.onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        return dict(zip(self.outputs, self.session.run(self.outputs, inputs), strict=True))

    def operators(self, path: Path) -> Iterator[str]:
        import onnx  # reads the file; ONNX Runtime does not tell what is in it

        for node in onnx.load(path, load_external_data=False).graph.node:
            yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type


RUNTIMES: dict[str, Any] = {"tensorflow": TensorFlow, "litert": LiteRT, "onnxruntime": ONNXRuntime}


def measure_latency(runtime: Any, inputs: Tensors, seconds: float) -> dict[str, float]:
    """Milliseconds of one call, p50 and p95, over at least 20 calls and about `seconds`, after 5 to warm up."""
    for _ in range(5):
        runtime.run(inputs)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        runtime.run(inputs)
        times.append(1000 * (time.perf_counter() - start))
    return {"p50_ms": float(np.percentile(times, 50)), "p95_ms": float(np.percentile(times, 95)), "calls": len(times)}


def continue_greedily(runtime: Any, prompt: list[int], count: int) -> dict[str, Any]:
    """`count` tokens after `prompt`, each the most likely by a forward pass over all before it; and the smallest
    distance there was between the two best logits."""
    ids, gap = list(prompt), float("inf")
    for _ in range(count):
        token_ids = np.array([ids], "int32")
        logits = runtime.run({"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)})["logits"][0, -1]
        if not np.isfinite(logits).all():
            raise ValueError(f"the logits after {len(ids)} tokens are not finite")
        second, best = np.partition(logits, -2)[-2:]
        gap = min(gap, float(best - second))
        ids.append(int(np.argmax(logits)))
    return {"ids": ids[len(prompt) :], "smallest_gap": gap}


def answer(folder: Path) -> dict[str, Any]:
    """Do what `request.json` asks; write `outputs.npz`, and return what goes into `answer.json`."""
    request = json.loads((folder / "request.json").read_text())
    path = Path(request["artefact"])
    runtime = RUNTIMES[request["runtime"]]()
    start = time.perf_counter()
    runtime.load(path)
    result: dict[str, Any] = {"runtime": runtime.version, "load_ms": 1000 * (time.perf_counter() - start)}
    inputs: dict[str, Tensors] = collections.defaultdict(dict)
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            case, name = key.split("/")
            inputs[case][name] = arrays[key]
    outputs = {}
    for case, keep in request["cases"].items():
        for name, value in runtime.run(inputs[case]).items():
            positions = keep.get(name)
            outputs[f"{case}/{name}"] = value if positions is None else value[:, positions]
    np.savez(folder / "outputs.npz", **outputs)
    if "latency" in request:
        result["latency"] = measure_latency(runtime, inputs[request["latency"]["case"]], request["latency"]["seconds"])
        result["operators"] = collections.Counter(runtime.operators(path))
    if "greedy" in request:
        result["greedy"] = continue_greedily(runtime, **request["greedy"])
    return result


if __name__ == "__main__":
    sys.meta_path.insert(0, RefusedImports())
    target = Path(sys.argv[1])
    try:
        text = json.dumps(answer(target))
    except Exception as error:
        text = json.dumps({"failure": f"{type(error).__name__}: {error}"})
    (target / "answer.json").write_text(text)

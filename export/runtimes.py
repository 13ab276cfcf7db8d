"""Run one artefact in its own runtime, alone: `python -I runtimes.py FOLDER`.

This file is a program of its own. It runs in a fresh process, in which neither this project nor Keras can be imported:
what it shows is that an artefact needs nothing but its runtime. FOLDER holds the work and takes the answer:

    request.json   runtime, artefact (a path), names (of inputs and outputs, where the file has others than ours: an
                   .onnx file alone), sizes (of axes that are fixed), cases ({name: {function, outputs:
                   {output: {shape, positions to keep or null}}}}), kept (cases whose outputs are wanted), and, where
                   asked for, latency ({cases, seconds}), operators (true) and continue ({prompts, count})
    inputs.npz     CASE/INPUT for every case
    outputs.npz    CASE/OUTPUT for every case that is kept
    answer.json    runtime (name and version), load_ms, peak_memory_mb, latency by case, operators, partitions,
                   continuations or continuing_failed; or failure, one line
"""

import collections
import functools
import importlib.abc
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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


RUNTIMES: dict[str, Any] = {
    "tensorflow": TensorFlow,
    "tensorflow_text": TensorFlowText,
    "litert": LiteRT,
    "onnxruntime": ONNXRuntime,
}


def run_fitted(runtime: Any, case: dict[str, Any], inputs: Tensors, sizes: dict[str, int]) -> Tensors:
    """Run a case; where the artefact has fixed sizes, row by row, padded to them and cut again."""
    outputs = case["outputs"]
    if not sizes:
        return runtime.run(case["function"], inputs, outputs)
    rows = []
    for row in range(len(next(iter(inputs.values())))):
        padded = {}
        for name, value in inputs.items():
            missing = sizes["tokens"] - value.shape[1] if "tokens" in sizes and value.ndim == 2 else 0
            padded[name] = np.pad(value[row : row + 1], [(0, 0), (0, missing)]) if missing else value[row : row + 1]
        rows.append(runtime.run(case["function"], padded, outputs))
    whole = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    shapes = {name: each["shape"] for name, each in outputs.items() if each["shape"] is not None}
    return {
        name: value[tuple(slice(size) for size in shapes[name])] if name in shapes else value
        for name, value in whole.items()
    }


def measure_latency(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Milliseconds of one call, p50 and p95, over at least 20 calls and about `seconds`, after 5 to warm up; of calls
    that take long, fewer."""
    times: list[float] = []
    began = time.perf_counter()
    warm = 0
    while warm < 5 and (warm < 1 or time.perf_counter() - began < seconds):
        call()
        warm += 1
    began = time.perf_counter()
    while len(times) < 1000:
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
        spent = time.perf_counter() - began
        if (spent > seconds and len(times) >= 20) or spent > 5 * seconds:
            break
    return {"p50_ms": float(np.percentile(times, 50)), "p95_ms": float(np.percentile(times, 95)), "calls": len(times)}


def continue_greedily(read: Callable[[list[int]], np.ndarray], prompt: list[int], count: int) -> dict[str, Any]:
    """`count` tokens after `prompt`, each the most likely; and the smallest distance that there was between the two
    best logits, and the milliseconds of each token."""
    tokens, gap = list(prompt), float("inf")
    ids: list[int] = []
    times: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        logits = read(tokens)
        if not np.isfinite(logits).all():
            raise ValueError(f"the logits after {len(prompt) + len(ids)} tokens are not finite")
        second, best = np.partition(logits, -2)[-2:]
        gap = min(gap, float(best - second))
        tokens = [int(np.argmax(logits))]
        ids += tokens
        times.append(1000 * (time.perf_counter() - start))
    return {"ids": ids, "smallest_gap": gap, "milliseconds": times}


def peak_memory() -> float | None:
    """Of this process so far, in megabytes, as the operating system has it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no Linux
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)


def answer(folder: Path) -> dict[str, Any]:
    """Do what `request.json` asks; write `outputs.npz`, and return what goes into `answer.json`."""
    request = json.loads((folder / "request.json").read_text())
    path, sizes, cases = Path(request["artefact"]), request["sizes"], request["cases"]
    runtime = RUNTIMES[request["runtime"]]()
    if request["names"]:
        runtime.names = request["names"]
    start = time.perf_counter()
    runtime.load(path)
    result: dict[str, Any] = {"runtime": runtime.version, "load_ms": 1000 * (time.perf_counter() - start)}
    inputs: dict[str, Tensors] = collections.defaultdict(dict)
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            case, name = key.split("/")
            inputs[case][name] = arrays[key]
    timed = request.get("latency", {"cases": []})
    result["latency"] = {}
    for case in timed["cases"]:
        start = time.perf_counter()
        run_fitted(runtime, cases[case], inputs[case], sizes)
        result["latency"][case] = {"first_ms": 1000 * (time.perf_counter() - start)}
    outputs: dict[str, Any] = {}
    for case in request["kept"]:
        asked = cases[case]
        for name, value in run_fitted(runtime, asked, inputs[case], sizes).items():
            if name in asked["outputs"]:
                positions = asked["outputs"][name]["positions"]
                outputs[f"{case}/{name}"] = value if positions is None else value[:, positions]
    np.savez(folder / "outputs.npz", **outputs)
    for case in timed["cases"]:
        call = functools.partial(run_fitted, runtime, cases[case], inputs[case], sizes)
        result["latency"][case] |= measure_latency(call, timed["seconds"])
    if request.get("operators"):
        result["operators"] = collections.Counter(runtime.operators(path))
        if hasattr(runtime, "partitions"):
            result["partitions"] = runtime.partitions()
    if "continue" in request:
        prompts, count = (request["continue"][name] for name in ("prompts", "count"))
        try:
            result["continuations"] = [continue_greedily(runtime.continuing(), each, count) for each in prompts]
        except Exception as error:  # what else was found out is told all the same
            result["continuing_failed"] = f"{type(error).__name__}: {error}"
    result["peak_memory_mb"] = peak_memory()
    return result


if __name__ == "__main__":
    sys.meta_path.insert(0, RefusedImports())
    target = Path(sys.argv[1])
    try:
        text = json.dumps(answer(target))
    except Exception as error:
        text = json.dumps({"failure": f"{type(error).__name__}: {error}"})
    (target / "answer.json").write_text(text)

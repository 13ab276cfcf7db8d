"""Run one artefact in its own runtime: `answer(FOLDER)`. `__main__.py` does it in a process alone.

FOLDER holds the work and takes the answer:

    request.json   runtime, artefact (a path), names (of inputs and outputs, where the file has others than ours: an
                   .onnx file alone), sizes (of axes that are fixed), cases ({name: {function, outputs:
                   {output: {shape, positions to keep or null}}}}), kept (cases whose outputs are wanted), and, where
                   asked for, latency ({cases, seconds}), operators (true) and continue ({prompts, count, and
                   given: tokens to read on with, or null})
    inputs.npz     CASE/INPUT for every case
    outputs.npz    CASE/OUTPUT for every case that is kept
    answer.json    runtime (name and version), load_ms, peak_memory_mb, latency by case, operators, partitions,
                   continuations or continuing_failed; or failure, one line

Memory is that of running the artefact: what is in its file is looked up afterwards.
"""

import collections
import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from .litert import LiteRT
from .measuring import continue_greedily, measure_latency, peak_memory
from .onnx_runtime import ONNXRuntime
from .runtime import Runtime, Tensors
from .saved_model import TensorFlow, TensorFlowText

RUNTIMES: dict[str, Any] = {
    "tensorflow": TensorFlow,
    "tensorflow_text": TensorFlowText,
    "litert": LiteRT,
    "onnxruntime": ONNXRuntime,
}


def run_fitted(runtime: Runtime, case: dict[str, Any], inputs: Tensors, sizes: dict[str, int]) -> Tensors:
    """Run a case; where the artefact has fixed sizes, row by row, its texts padded to them and cut again.

    An input has a number for each token where it is a matrix as wide as `padding_mask`, or `token_ids` without one;
    others, like the positions that are masked, are given as they are. An output is cut on axis 1, and only where it
    has the file's number of tokens there and is to have the text's: whatever else differs is wrong, and is to be seen.
    """
    outputs = case["outputs"]
    if not sizes:
        return runtime.run(case["function"], inputs, outputs)
    text = inputs.get("padding_mask", inputs.get("token_ids"))
    given = 0 if text is None else text.shape[1]
    fixed = sizes.get("tokens", given)
    rows = []
    for row in range(len(next(iter(inputs.values())))):
        part = {name: value[row : row + 1] for name, value in inputs.items()}
        if given < fixed:
            part = {
                name: np.pad(value, [(0, 0), (0, fixed - given)]) if value.shape[1:] == (given,) else value
                for name, value in part.items()
            }
        rows.append(runtime.run(case["function"], part, outputs))
    whole = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    if given < fixed:
        for name in whole.keys() & outputs.keys():
            asked, found = outputs[name]["shape"] or [], whole[name].shape
            if [*asked[1:2], *found[1:2]] == [given, fixed]:
                whole[name] = whole[name][:, :given]
    return whole


def continue_prompt(runtime: Any, prompt: list[int], count: int, given: list[int] | None) -> dict[str, Any]:
    """As `continue_greedily` has it, or where the runtime generates by itself as much of that as it tells."""
    if hasattr(runtime, "generate"):
        return dict(runtime.generate(prompt, count))
    return continue_greedily(runtime.continuing(), prompt, count, given)


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
    if "continue" in request:
        asked = request["continue"]
        given = asked.get("given") or [None] * len(asked["prompts"])
        try:
            result["continuations"] = [
                continue_prompt(runtime, prompt, asked["count"], tokens)
                for prompt, tokens in zip(asked["prompts"], given, strict=True)
            ]
        except Exception as error:  # what else was found out is told all the same
            result["continuing_failed"] = f"{type(error).__name__}: {error}"
    result["peak_memory_mb"] = peak_memory()
    if request.get("operators"):
        result["operators"] = collections.Counter(runtime.operators(path))
        if hasattr(runtime, "partitions"):
            result["partitions"] = runtime.partitions()
    return result

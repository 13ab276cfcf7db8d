"""The proof: run every artefact of a bundle in its own runtime, and hold it to the Keras model's outputs.

Nothing here knows a format or a model: a bundle says what is in it, and brings the inputs and outputs to be matched.
"""

import collections
import dataclasses
import json
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.continuation import Continuation
from export.manifest import GENERATE, Artefact, Manifest
from export.metrics import PRECISIONS, TOLERANCE, Metric, compare, failures_of, judge
from export.processes import ChildFailure, one_line, raise_if_no_space, run_child, writing
from export.reference import Case, Tensors
from export.report import ArtefactReport, Report
from zoo.errors import UserError

LATENCY_SECONDS = 2.0
PROGRAM = Path(__file__).with_name("runtimes") / "__main__.py"

logger = logging.getLogger("zoo")


def verify_bundle(bundle: Path, progress: Callable[[str], None] = lambda line: None) -> Report:
    """Verify every artefact of a bundle and rewrite its report.

    Artefacts are programs: each runs in a process of its own, that cannot import this project. A file that is not
    the one that was exported is reported, and run all the same.

    Raises:
        UserError: `bundle` is no bundle, its reference cannot be read, or there is no space for temporary files.
    """
    bundle = Path(bundle)
    with writing(bundle):
        report = measure(bundle, progress)
    try:
        report.write(bundle)
    except OSError as error:
        logger.warning("the report of %s could not be rewritten: %s", bundle, error)
    return report


def measure(bundle: Path, progress: Callable[[str], None] = lambda line: None) -> Report:
    """As `verify_bundle`, but nothing is written."""
    manifest = Manifest.read(bundle)
    cases = load_cases(bundle, manifest)
    continuation = Continuation.load(bundle / manifest.reference.path)
    artefacts: list[ArtefactReport] = []
    began, total = time.monotonic(), len(manifest.artefacts)
    for number, (name, artefact) in enumerate(manifest.artefacts.items(), 1):
        left = (time.monotonic() - began) / max(number - 1, 1) * (total - number + 1)
        progress(f"verifying {name} ({number} of {total}{f', about {left:.0f} s left' if number > 1 else ''})")
        artefacts.append(_measure_artefact(bundle, name, artefact, cases, continuation))
    return Report(
        name=manifest.name,
        family=manifest.family,
        task=manifest.task,
        tolerance=TOLERANCE,
        cases={
            case.name: {
                "inputs": {name: list(value.shape) for name, value in case.inputs.items()},
                "positions": case.positions,
            }
            for case in cases
        },
        latency_inputs={
            case.function: {name: list(value.shape) for name, value in case.inputs.items()}
            for case in cases
            if case.purpose == "latency"
        },
        threads=os.cpu_count() or 1,
        artefacts=artefacts,
        failures=[
            *(f"{name} is missing or was altered after the export" for name in manifest.reference.altered(bundle)),
            *(f"{name} is missing or was altered after the export" for name in manifest.beside.altered(bundle)),
            *(f"{name} was added after the export" for name in manifest.added(bundle)),
        ],
    )


def load_cases(bundle: Path, manifest: Manifest) -> list[Case]:
    """The cases of a bundle.

    Raises:
        UserError: one cannot be read, or there is none to take the latency by.
    """
    names = [name for name in manifest.reference.files if name.endswith(".safetensors")]
    cases = [Case.load(bundle / name) for name in names]
    if not any(case.purpose == "latency" for case in cases):
        raise UserError(f"{bundle} has no reference case for the latency: export the model again")
    return cases


def continue_prompts(bundle: Path, artefact: str, prompts: Sequence[Sequence[int]], count: int) -> list[dict[str, Any]]:
    """Continue prompts with an artefact of a language model, each time with the most likely token, by its cache.

    Returns:
        For each prompt `ids`, the new tokens; `smallest_gap` between the two best logits; and `milliseconds` of each
        token, the first of which reads the prompt.

    Raises:
        UserError: no such artefact, one that does not generate, a prompt that is empty, out of the vocabulary or too
            long, or an artefact that fails.
    """
    bundle = Path(bundle)
    manifest = Manifest.read(bundle)
    part = find_artefact(bundle, manifest, artefact)
    if GENERATE not in part.functions:
        raise UserError(f"{artefact} of {bundle} cannot continue text")
    try:
        spec = next(spec for spec in manifest.inputs if spec["name"] == "token_ids")
        highest, longest = int(spec["highest"]), int(spec["shape"][1]["maximum"])
    except (StopIteration, KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{bundle} holds no language model: it cannot continue text") from None
    for prompt in prompts:
        if not 1 <= len(prompt) <= longest - count:
            room = f"with {count} new ones, 1 to {longest - count} are possible"
            raise UserError(f"the prompt has {len(prompt)} tokens: {room}")
        outside = [token for token in prompt if not 0 <= token <= highest]
        if outside:
            raise UserError(f"the prompt's token id {outside[0]} is not one of 0 to {highest}")
    asked = [[int(token) for token in prompt] for prompt in prompts]
    request = {"continue": {"prompts": asked, "count": count}}
    try:
        with writing(bundle):
            answer, _ = run_alone(bundle, part, [], request)
        if "continuing_failed" in answer:
            raise ChildFailure(one_line(answer["continuing_failed"]))
        found = answer["continuations"]
        return [{name: each[name] for name in ("ids", "smallest_gap", "milliseconds")} for each in found]
    except (ChildFailure, KeyError, TypeError) as error:
        raise UserError(f"{artefact} of {bundle} cannot continue the prompt: {error}") from None


def run_artefact(bundle: Path, artefact: str, function: str, inputs: Tensors) -> Tensors:
    """What an artefact makes of inputs, in its own runtime: the outputs of one of its functions by name.

    Args:
        bundle: that holds it.
        artefact: its name; where each function has a file of its own, without that function's.
        function: its name.
        inputs: by name, with a batch axis.

    Raises:
        UserError: no such artefact or function, or it fails.
    """
    bundle = Path(bundle)
    manifest = Manifest.read(bundle)
    alone = f"{artefact}_{function}"
    part = find_artefact(bundle, manifest, alone if alone in manifest.artefacts else artefact)
    known = [case for case in load_cases(bundle, manifest) if case.function == function]
    if not known or function not in part.functions:
        raise UserError(f"{artefact} of {bundle} has no function {function!r}: it has {', '.join(part.functions)}")
    case = Case("given", function, "shapes", inputs, _stand_ins(known, inputs))
    try:
        with writing(bundle):
            _, outputs = run_alone(bundle, part, [case], {})
        return outputs[case.name]
    except (ChildFailure, KeyError) as error:
        raise UserError(f"{artefact} of {bundle} cannot run: {error}") from None


def find_artefact(bundle: Path, manifest: Manifest, name: str) -> Artefact:
    """The artefact of that name.

    Raises:
        UserError: there is none.
    """
    if name not in manifest.artefacts:
        raise UserError(f"{bundle} has no artefact {name!r}: it has {', '.join(manifest.artefacts)}")
    return manifest.artefacts[name]


def _measure_artefact(
    bundle: Path, name: str, artefact: Artefact, cases: Sequence[Case], continuation: Continuation | None
) -> ArtefactReport:
    failures = [f"{file} is missing or was altered after the export" for file in artefact.altered(bundle)]
    report = ArtefactReport(name, artefact.path, artefact.precision, artefact.size(bundle), failures)
    continued: list[Metric] = []
    cases = [_part_of(case, artefact) for case in cases if artefact.takes(case)]
    timed = [case.name for case in cases if case.purpose == "latency"]
    request: dict[str, Any] = {"latency": {"cases": timed, "seconds": LATENCY_SECONDS}, "operators": True}
    continues = continuation is not None and GENERATE in artefact.functions
    if continuation is not None and continues:
        request["continue"] = continuation.request()
    try:
        answer, outputs = run_alone(bundle, artefact, cases, request)
        latency = [answer["latency"][case] for case in timed]
        figures: dict[str, Any] = {
            "runtime": answer["runtime"],
            "load_ms": answer["load_ms"],
            "peak_memory_mb": answer["peak_memory_mb"],
            "operators": answer["operators"],
            "partitions": answer.get("partitions", {}),
        }
        if latency:  # of several functions, all of them one after the other
            for ours, theirs in (("first", "first"), ("latency_p50", "p50"), ("latency_p95", "p95")):
                figures[f"{ours}_ms"] = sum(each[f"{theirs}_ms"] for each in latency)
        if "continuing_failed" in answer:
            failures.append(f"cannot continue prompts: {one_line(answer['continuing_failed'])}")
        elif continuation is not None and continues:
            figures |= continuation.judge(answer["continuations"], artefact.precision, failures)
            continued = figures.pop("metrics")
    except ChildFailure as failure:
        failures.append(str(failure))
        return report
    except (KeyError, TypeError, ValueError) as error:
        failures.append(f"its runtime gave no readable answer: {error!r}")
        return report
    limits = PRECISIONS[artefact.precision]
    wrong: list[str] = []
    figures |= compare(cases, outputs, limits.error, wrong)
    if not wrong and artefact.precision != "float32":
        real = [case for case in cases if case.purpose == "real"]
        metrics = judge(real, outputs)
        wrong = failures_of(metrics, limits)
        unjudged = artefact.functions.keys() - {GENERATE, *(case.function for case in real)}
        if unjudged or not metrics:
            wrong.append(f"there is nothing real to judge {', '.join(sorted(unjudged)) or 'it'} by: export with --data")
        figures["metrics"] = metrics + continued
    failures += wrong
    return dataclasses.replace(report, **figures)


def run_alone(
    bundle: Path, artefact: Artefact, cases: Sequence[Case], request: dict[str, Any], program: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """Run an artefact by `export.runtimes`; returns its answer, and the outputs by case.

    Args:
        bundle: that holds it.
        artefact: what to run.
        cases: what to run it on.
        request: what is asked besides, or instead, as `export.runtimes` has it.
        program: what follows `python`, of another program that answers like `export.runtimes`.

    Raises:
        ChildFailure: it crashed, hung, failed or gave nothing readable.
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-verify-") as name:
        folder = Path(name)
        work = {
            "runtime": artefact.runtime,
            "artefact": str((bundle / artefact.path).resolve()),
            "sizes": artefact.sizes,
            "names": artefact.names,
            "cases": {
                case.name: {"function": artefact.functions[case.function], "outputs": _asked_for(case)}
                for case in cases
            },
            "kept": [case.name for case in cases],
        }
        (folder / "request.json").write_text(json.dumps(work | request))
        inputs: dict[str, Any] = {f"{case.name}/{key}": value for case in cases for key, value in case.inputs.items()}
        np.savez(folder / "inputs.npz", **inputs)
        seconds = sum(case.seconds for case in cases)
        run_child([*(program or ("-I", str(PROGRAM))), name], time_limit(artefact.size(bundle), seconds))
        try:
            answer = json.loads((folder / "answer.json").read_text())
            failure = answer.get("failure")
            if failure is None:
                outputs: dict[str, Tensors] = collections.defaultdict(dict)
                # Opened here, since NumPy leaves a file open that is no archive.
                with (folder / "outputs.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    for key in arrays.files:
                        case, output = key.split("/")
                        outputs[case][output] = arrays[key]
                return answer, outputs
        except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ChildFailure(f"its runtime gave no readable answer: {error}") from None
        raise_if_no_space(failure)
        raise ChildFailure(one_line(failure))


def _stand_ins(known: Sequence[Case], inputs: Tensors) -> Tensors:
    """Outputs of the shapes that a function gives for inputs, as its cases show them: whether an output has a row for
    each row, and a position for each token."""
    found = {}
    for name, value in known[0].outputs.items():
        shape = list(value.shape)
        for axis in range(min(2, len(shape))):
            if all(_given_size(case.inputs, axis) == _whole_size(case, name, axis) for case in known):
                shape[axis] = _given_size(inputs, axis)
        found[name] = np.broadcast_to(np.zeros((), value.dtype), shape)
    return found


def _given_size(inputs: Tensors, axis: int) -> int | None:
    """Of the batch (axis 0), or of the tokens (axis 1); None without tokens."""
    if axis == 0:
        return next(len(value) for value in inputs.values() if value.ndim)  # what all rows share is a scalar
    return inputs["padding_mask"].shape[1] if "padding_mask" in inputs else None


def _part_of(case: Case, artefact: Artefact) -> Case:
    """The case with the outputs that the artefact gives."""
    if not artefact.names:
        return case
    outputs = {name: value for name, value in case.outputs.items() if name in artefact.names}
    return dataclasses.replace(case, outputs=outputs)


def _asked_for(case: Case) -> dict[str, dict[str, Any]]:
    """Of each output the shape that it has, whole, and the positions that are kept of it."""
    asked = {}
    for name, value in case.outputs.items():
        shape = [_whole_size(case, name, axis) for axis in range(value.ndim)]
        asked[name] = {"shape": shape, "positions": case.positions.get(name)}
    return asked


def _whole_size(case: Case, output: str, axis: int) -> int | None:
    """Of an axis of an output before it is cut to positions."""
    cut = axis == 1 and output in case.positions
    return _given_size(case.inputs, 1) if cut else case.outputs[output].shape[axis]


def time_limit(size: int, work: float = 0.0) -> float:
    """Seconds that converting or running a model of `size` bytes may take before it is held to hang: for what takes the
    Keras model `work` seconds, twenty times as many, since an operator may be slow in few bits and cases are repeated
    to take their time."""
    return 300 + size / 1_000_000 + 20 * work

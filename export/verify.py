"""The proof: run every artefact of a bundle in its own runtime, and hold it to the Keras model's outputs.

Nothing here knows a format or a model: a bundle says what is in it, and brings the inputs and outputs to be matched.
"""

import collections
import dataclasses
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.manifest import Artefact, Manifest
from export.processes import ChildFailure, one_line, raise_if_no_space, run_child, writing
from export.reference import LATENCY_CASE, Case, Tensors
from export.report import ArtefactReport, Report
from zoo.errors import UserError

TOLERANCE = 1e-4  # largest absolute error of a float32 artefact
LATENCY_SECONDS = 2.0
PROGRAM = Path(__file__).with_name("runtimes.py")

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class Continuation:
    """Text that an artefact wrote: the new token ids, and the smallest distance between the two best logits."""

    ids: list[int]
    smallest_gap: float


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
    cases = [Case.load(bundle / name) for name in manifest.reference.files]
    if LATENCY_CASE not in {case.name for case in cases}:
        raise UserError(f"{bundle} has no reference case named {LATENCY_CASE!r}: export the model again")
    artefacts = []
    for name, artefact in manifest.artefacts.items():
        progress(f"verifying {name}")
        artefacts.append(_measure_artefact(bundle, name, artefact, cases))
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
            name: list(value.shape)
            for case in cases
            if case.name == LATENCY_CASE
            for name, value in case.inputs.items()
        },
        threads=os.cpu_count() or 1,
        artefacts=artefacts,
        failures=[
            *(f"{name} is missing or was altered after the export" for name in manifest.reference.altered(bundle)),
            *(f"{name} is missing or was altered after the export" for name in manifest.beside.altered(bundle)),
            *(f"{name} was added after the export" for name in manifest.added(bundle)),
        ],
    )


def greedy(bundle: Path, artefact: str, prompt_ids: Sequence[int], count: int) -> Continuation:
    """Continue a prompt with an artefact of a language model, each time with the most likely token.

    Every token costs a forward pass over all before it.

    Raises:
        UserError: no such artefact, a prompt that is empty, out of the vocabulary or too long, or an artefact that
            fails.
    """
    bundle = Path(bundle)
    manifest = Manifest.read(bundle)
    if artefact not in manifest.artefacts:
        raise UserError(f"{bundle} has no artefact {artefact!r}: it has {', '.join(manifest.artefacts)}")
    try:
        spec = next(spec for spec in manifest.inputs if spec["name"] == "token_ids")
        highest, longest = int(spec["highest"]), int(spec["shape"][1]["maximum"])
    except (StopIteration, KeyError, TypeError, ValueError):
        raise UserError(f"{bundle} holds no language model: it cannot continue text") from None
    if not 1 <= len(prompt_ids) <= longest - count:
        room = f"with {count} new ones, 1 to {longest - count} are possible"
        raise UserError(f"the prompt has {len(prompt_ids)} tokens: {room}")
    outside = [token for token in prompt_ids if not 0 <= token <= highest]
    if outside:
        raise UserError(f"the prompt's token id {outside[0]} is not one of 0 to {highest}")
    request = {"greedy": {"prompt": [int(token) for token in prompt_ids], "count": count}}
    try:
        with writing(bundle):
            answer, _ = _run(bundle, manifest.artefacts[artefact], [], request)
        return Continuation(**answer["greedy"])
    except (ChildFailure, KeyError, TypeError) as error:
        raise UserError(f"{artefact} of {bundle} cannot continue the prompt: {error}") from None


def run_artefact(bundle: Path, artefact: str, inputs: Tensors) -> Tensors:
    """What an artefact makes of inputs, in its own runtime: its outputs by name.

    Args:
        bundle: that holds it.
        artefact: its name.
        inputs: by name, with a batch axis.

    Raises:
        UserError: no such artefact, or it fails.
    """
    bundle = Path(bundle)
    manifest = Manifest.read(bundle)
    if artefact not in manifest.artefacts:
        raise UserError(f"{bundle} has no artefact {artefact!r}: it has {', '.join(manifest.artefacts)}")
    case = Case("given", inputs, {}, {})
    try:
        with writing(bundle):
            _, outputs = _run(bundle, manifest.artefacts[artefact], [case], {})
        return outputs[case.name]
    except (ChildFailure, KeyError) as error:
        raise UserError(f"{artefact} of {bundle} cannot run: {error}") from None


def _measure_artefact(bundle: Path, name: str, artefact: Artefact, cases: Sequence[Case]) -> ArtefactReport:
    failures = [f"{file} is missing or was altered after the export" for file in artefact.altered(bundle)]
    report = ArtefactReport(name, artefact.path, artefact.size(bundle), failures)
    request = {"latency": {"case": LATENCY_CASE, "seconds": LATENCY_SECONDS}}
    try:
        answer, outputs = _run(bundle, artefact, cases, request)
        figures: dict[str, Any] = {
            "runtime": answer["runtime"],
            "load_ms": answer["load_ms"],
            "latency_p50_ms": answer["latency"]["p50_ms"],
            "latency_p95_ms": answer["latency"]["p95_ms"],
            "operators": answer["operators"],
        }
    except ChildFailure as failure:
        failures.append(str(failure))
        return report
    except (KeyError, TypeError) as error:
        failures.append(f"its runtime gave no readable answer: {error!r} is missing")
        return report
    return dataclasses.replace(report, **figures, **_compare(cases, outputs, failures))


def _compare(cases: Sequence[Case], outputs: dict[str, Tensors], failures: list[str]) -> dict[str, Any]:
    """The errors over all cases; adds to `failures`. A padded position counts as any other: what the model computes
    there is as well defined. Only its top token means nothing."""
    worst, total, count, agreed, ranked = 0.0, 0.0, 0, 0, 0
    problems: dict[str, list[str]] = collections.defaultdict(list)
    for case in cases:
        for name, expected in case.outputs.items():
            value = outputs.get(case.name, {}).get(name)
            if value is None:
                problems[f"{name} is missing"].append(case.name)
            elif value.shape != expected.shape or value.dtype != expected.dtype:
                problems[f"{name} has a wrong shape or type"].append(f"{case.name}, {value.dtype} {value.shape}")
            elif not np.isfinite(value).all():
                problems[f"{name} has NaN or infinite values"].append(case.name)
            else:
                error = np.abs(value.astype("float64") - expected)
                worst, total, count = max(worst, float(error.max())), total + float(error.sum()), count + error.size
                same = (value.argmax(-1) == expected.argmax(-1))[case.real(name)]
                agreed, ranked = agreed + int(same.sum()), ranked + same.size
    for problem, where in problems.items():
        failures.append(f"{problem} in {len(where)} of {len(cases)} cases ({where[0]})")
    if not count and not problems:
        failures.append("there is nothing to compare it with")
    if worst > TOLERANCE:
        failures.append(f"differs from the Keras model by {worst:.1e}, more than {TOLERANCE:g}")
    return {"max_error": worst, "mean_error": total / count, "top_agreement": agreed / ranked} if count else {}


def _run(
    bundle: Path, artefact: Artefact, cases: Sequence[Case], request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """Run an artefact by `runtimes.py`; returns its answer, and the outputs by case.

    Raises:
        ChildFailure: it crashed, hung, failed or gave nothing readable.
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-verify-") as name:
        folder = Path(name)
        work = {
            "runtime": artefact.runtime,
            "artefact": str((bundle / artefact.path).resolve()),
            "cases": {case.name: case.positions for case in cases},
        }
        (folder / "request.json").write_text(json.dumps(work | request))
        inputs: dict[str, Any] = {f"{case.name}/{key}": value for case in cases for key, value in case.inputs.items()}
        np.savez(folder / "inputs.npz", **inputs)
        run_child(["-I", str(PROGRAM), name], time_limit(artefact.size(bundle)))
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


def time_limit(size: int) -> float:
    """Seconds that converting or running a model of `size` bytes may take before it is held to hang."""
    return 300 + size / 1_000_000

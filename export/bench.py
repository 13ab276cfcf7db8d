"""How fast the artefacts of a bundle are beside the Keras model, and how large."""

import collections
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.chart import draw_chart
from export.manifest import BENCH, Artefact, Manifest
from export.processes import ChildFailure, run_child, writing
from export.reference import PREFIX, Case
from export.report import figure
from export.verify import PROGRAM, load_cases, time_limit
from zoo.directory import read_saved
from zoo.errors import UserError
from zoo.files import write_text

FORMAT_VERSION = 1
KERAS = "keras"


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one artefact takes. Milliseconds, the median over the rounds.

    Attributes:
        artefact: its name, "keras" for the model itself.
        function: which of its functions.
        batch, tokens: of the inputs; tokens None where there are none.
        bytes: its size; of the Keras model, its weights'.
        load_ms: to load it.
        first_ms: of the first call.
        p50_ms, p95_ms: of one call after that.
        speedup: how many times as fast as the Keras model in the same round, the median of the ratios; None for a
            function of strings, which it has not.
        peak_memory_mb: of the process, in megabytes.
    """

    artefact: str
    function: str
    batch: int
    tokens: int | None
    bytes: int
    load_ms: float
    first_ms: float
    p50_ms: float
    p95_ms: float
    speedup: float | None
    peak_memory_mb: float | None


@dataclasses.dataclass(frozen=True)
class Bench:
    """The timings of a bundle.

    Attributes:
        name, task: of the model.
        rounds: how often each artefact was measured.
        threads: processors that the runtimes had.
        timings: one for each artefact, function and shape that it can run.
        failures: artefacts that could not be run, one line each.
    """

    name: str
    task: str
    rounds: int
    threads: int
    timings: list[Timing]
    failures: list[str]

    def write(self, bundle: Path) -> None:
        """Write `bench.json`, `bench.md` and `bench.png` into the bundle, each whole or not at all."""
        content = {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)
        write_text(bundle / f"{BENCH}.json", json.dumps(content, indent=2) + "\n")
        write_text(bundle / f"{BENCH}.md", self.to_markdown())
        # Of several shapes the first, of several functions each.
        seen: dict[tuple[str, str], Timing] = {}
        for each in self.timings:
            seen.setdefault((each.artefact, each.function), each)
        several = len({each.function for each in self.timings}) > 1
        bars = [
            (f"{each.artefact}: {each.function}" if several else each.artefact, each.bytes / 1e6, each.p50_ms)
            for each in seen.values()
        ]
        draw_chart(bundle / f"{BENCH}.png", f"{self.name}, {self.task}", bars)

    def to_markdown(self) -> str:
        """The timings for people."""
        lines = [
            f"# {self.name}, {self.task}: size and latency",
            "",
            f"![size and latency of each artefact]({BENCH}.png)",
            "",
            f"On {self.threads} processors; medians of {self.rounds} rounds, in each of which every artefact ran in "
            "turn, in a fresh process. How many times as fast as the Keras model is the median of the rounds' ratios.",
            "",
            "| artefact | function | batch | tokens | MB | load ms | first ms | p50 ms | p95 ms | x Keras | peak MB |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for each in self.timings:
            memory = "-" if each.peak_memory_mb is None else f"{each.peak_memory_mb:.0f}"
            cells = [each.artefact, each.function, str(each.batch), str(each.tokens or "-"), f"{each.bytes / 1e6:.2f}"]
            cells += [f"{each.load_ms:.0f}", f"{each.first_ms:.1f}", f"{each.p50_ms:.2f}", f"{each.p95_ms:.2f}"]
            lines.append(f"| {' | '.join([*cells, figure(each.speedup, '.2f'), memory])} |")
        lines += ["", *(f"- **{failure}**" for failure in self.failures)] if self.failures else []
        return "\n".join(lines) + "\n"


def bench_bundle(
    bundle: Path,
    *,
    batches: Sequence[int] = (1,),
    tokens: Sequence[int] = (),
    rounds: int = 3,
    seconds: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bench:
    """Time every artefact of a bundle, and the Keras model, in turn; writes the result into the bundle.

    Args:
        bundle: what `export_bundle` wrote.
        batches: batch sizes.
        tokens: lengths of texts; without any, at most 128 tokens.
        rounds: how often; each artefact in a fresh process each time.
        seconds: to spend on each shape each time.
        progress: called with how many runs are done, of how many.

    Raises:
        UserError: no bundle, a shape that the model cannot take, or there is no space for files.
    """
    bundle = Path(bundle)
    manifest = Manifest.read(bundle)
    shapes = [case for case in load_cases(bundle, manifest) if case.purpose == "latency"]
    cases = [_shaped(case, batch, length) for case in shapes for batch in batches for length in _lengths(case, tokens)]
    parts: dict[str, Artefact | None] = {KERAS: None, **manifest.artefacts}
    found: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    failures: dict[str, str] = {}
    with writing(bundle):
        for turn in range(rounds):
            for place, (name, artefact) in enumerate(parts.items()):
                if name not in failures:
                    own = [case for case in cases if _can_run(artefact, case)]
                    try:
                        found[name].append(_run(bundle, artefact, own, seconds))
                    except ChildFailure as failure:
                        failures[name] = f"{name}: {failure}"
                progress(turn * len(parts) + place + 1, rounds * len(parts))
        if KERAS in failures:
            raise UserError(f"the model of {bundle} cannot be timed: {failures[KERAS]}")
        saved = read_saved(bundle)
        sizes = {name: part.size(bundle) for name, part in manifest.artefacts.items()}
        sizes[KERAS] = 4 * saved.config.count_parameters(str(saved.task))
        timings = [
            _timing(name, case, sizes[name], found[name], found[KERAS])
            for name in parts
            if name not in failures
            for case in cases
            if case.name in found[name][0]["latency"]
        ]
        bench = Bench(manifest.name, manifest.task, rounds, os.cpu_count() or 1, timings, list(failures.values()))
        bench.write(bundle)
    return bench


def _timing(name: str, case: Case, size: int, own: list[dict[str, Any]], keras: list[dict[str, Any]]) -> Timing:
    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(each) for each in own)

    def of_calls(figure: str) -> float:
        return median(lambda each: each["latency"][case.name][figure])

    ratios = [
        theirs["latency"][case.name]["p50_ms"] / ours["latency"][case.name]["p50_ms"]
        for theirs, ours in zip(keras, own, strict=True)
        if case.name in theirs["latency"]
    ]
    first = next(value for value in case.inputs.values() if value.ndim)
    mask = case.inputs.get("padding_mask")
    return Timing(
        artefact=name,
        function=case.function,
        batch=len(first),
        tokens=None if mask is None else mask.shape[1],
        bytes=size,
        load_ms=median(lambda each: each["load_ms"]),
        first_ms=of_calls("first_ms"),
        p50_ms=of_calls("p50_ms"),
        p95_ms=of_calls("p95_ms"),
        speedup=statistics.median(ratios) if ratios else None,
        peak_memory_mb=own[0]["peak_memory_mb"] and median(lambda each: each["peak_memory_mb"]),
    )


def _can_run(artefact: Artefact | None, case: Case) -> bool:
    """Whether an artefact has the function, or the Keras model where it is None."""
    return not case.function.startswith(PREFIX) if artefact is None else artefact.takes(case)


def _lengths(case: Case, tokens: Sequence[int]) -> Sequence[int | None]:
    return tokens if tokens and "padding_mask" in case.inputs else (None,)


def _shaped(case: Case, batch: int, tokens: int | None) -> Case:
    """The same in another shape, by repeating and cutting."""
    inputs = {}
    for name, value in case.inputs.items():
        if tokens is not None and value.ndim == 2:
            value = np.resize(value[0], (1, tokens))
        inputs[name] = np.repeat(value[:1], batch, axis=0) if value.ndim else value
    name = f"{case.function}-batch{batch}" + ("" if tokens is None else f"-tokens{tokens}")
    return dataclasses.replace(case, name=name, inputs=inputs, positions={})


def _run(bundle: Path, artefact: Artefact | None, cases: Sequence[Case], seconds: float) -> dict[str, Any]:
    """One round of one artefact, or of the Keras model where it is None: what `export.runtimes` answers."""
    names = {} if artefact is None else artefact.functions
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as name:
        folder = Path(name)
        request = {
            "runtime": KERAS if artefact is None else artefact.runtime,
            "artefact": str((bundle if artefact is None else bundle / artefact.path).resolve()),
            "sizes": {} if artefact is None else artefact.sizes,
            "names": {} if artefact is None else artefact.names,
            "cases": {
                case.name: {
                    "function": names.get(case.function, case.function),
                    "outputs": {output: {"shape": None, "positions": None} for output in case.outputs},
                }
                for case in cases
            },
            "kept": [],
            "latency": {"cases": [case.name for case in cases], "seconds": seconds},
        }
        (folder / "request.json").write_text(json.dumps(request))
        inputs: dict[str, Any] = {f"{case.name}/{key}": value for case in cases for key, value in case.inputs.items()}
        np.savez(folder / "inputs.npz", **inputs)
        program = ["-P", "-m", "export.keras_timing"] if artefact is None else ["-I", str(PROGRAM)]
        run_child([*program, name], time_limit(0 if artefact is None else artefact.size(bundle)))
        answer = json.loads((folder / "answer.json").read_text())
        if "failure" in answer:
            raise ChildFailure(answer["failure"])
        return dict(answer)

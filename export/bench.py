"""How fast the artefacts of a bundle are beside the Keras model, and how large."""

import collections
import dataclasses
import json
import logging
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.chart import draw_chart
from export.manifest import BENCH, GENERATE, Artefact, Manifest
from export.processes import ChildFailure, one_line, writing
from export.reference import PREFIX, Case
from export.report import figure
from export.verify import load_cases, run_alone
from zoo.directory import Saved, read_saved
from zoo.errors import UserError
from zoo.files import write_text

FORMAT_VERSION = 1
KERAS = "keras"
FIGURES = ("first_ms", "p50_ms", "p95_ms")
# What generating is made of: a text is read, up to the choice of the first token after it, and then token by token.
PREFILL, DECODE = "prefill", "decode"
NEW_TOKENS, TEXTS = 16, 4  # that are written, and how often, of which the first is the first call

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one artefact takes. Milliseconds, the median over the rounds.

    Attributes:
        artefact: its name, "keras" for the model itself.
        function: which of its functions. Where it generates from a cache, also "prefill", a prompt that is read, up
            to the choice of the first new token, and "decode", one more token; the likeliest ones, of one text.
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
        # Of several shapes the first, of several functions each, one after the other.
        seen: dict[str, dict[str, Timing]] = {}
        for each in self.timings:
            seen.setdefault(each.function, {}).setdefault(each.artefact, each)
        bars = [
            (name if len(seen) == 1 else f"{name}: {function}", each.bytes / 1e6, each.p50_ms)
            for function, by_artefact in seen.items()
            for name, each in by_artefact.items()
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
            *self._about_generation(),
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

    def _about_generation(self) -> list[str]:
        if not any(each.function == DECODE for each in self.timings):
            return []
        return [
            "",
            f"{PREFILL}: a prompt of so many tokens is read, up to the choice of the first new one; {DECODE}: one more "
            "token, from the cache. The Keras model's are those of its own generator.",
        ]


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

    A bundle that cannot be written to is a warning.

    Args:
        bundle: what `export_bundle` wrote.
        batches: batch sizes.
        tokens: lengths of texts; without any, at most 128 tokens.
        rounds: how often; each artefact in a fresh process each time.
        seconds: to spend on each shape each time; generation takes as long as its tokens do.
        progress: called with how many runs are done, of how many.

    Raises:
        UserError: no bundle, a shape that the model cannot take, a model that cannot be run, or there is no space for
            temporary files.
    """
    bundle = Path(bundle)
    manifest = Manifest.read(bundle)
    if KERAS in manifest.artefacts:
        raise UserError(f"{bundle} has an artefact {KERAS!r}, which is what the model itself is called: rename it")
    saved = read_saved(bundle)
    work = _plan(bundle, manifest, saved, batches, tokens, seconds)
    parts = {KERAS: _model_itself(work)} | {name: each for name, each in manifest.artefacts.items() if work.of(each)}
    for name in manifest.artefacts.keys() - parts.keys():
        logger.warning("%s of %s takes none of these shapes: it is not timed", name, bundle)
    found: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    failures: dict[str, str] = {}
    with writing(bundle):
        for turn in range(rounds):
            for place, (name, artefact) in enumerate(parts.items()):
                if name not in failures:
                    try:
                        found[name].append(_run(bundle, artefact, work))
                    except ChildFailure as failure:
                        if name == KERAS:
                            raise UserError(f"the model of {bundle} cannot be timed: {failure}") from None
                        failures[name] = f"{name}: {failure}"
                progress(turn * len(parts) + place + 1, rounds * len(parts))
    sizes = {name: part.size(bundle) for name, part in manifest.artefacts.items()}
    sizes[KERAS] = 4 * saved.config.count_parameters(str(saved.task))
    timings = [
        _timing(name, row, sizes[name], found[name], found[KERAS])
        for name, artefact in parts.items()
        if name not in failures
        for row in work.of(artefact)
    ]
    bench = Bench(manifest.name, manifest.task, rounds, os.cpu_count() or 1, timings, list(failures.values()))
    try:
        bench.write(bundle)
    except OSError as error:
        logger.warning("the timings of %s could not be written: %s", bundle, error)
    return bench


@dataclasses.dataclass(frozen=True)
class _Row:
    """What is timed of one artefact: as `Timing` has it, under a name of its own."""

    name: str
    function: str
    batch: int
    tokens: int | None


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is timed of each artefact that can do it.

    Attributes:
        cases: inputs of its functions.
        prompts: token ids, to go on from.
        count: how many tokens are written after each.
        seconds: to spend on each case.
    """

    cases: list[Case]
    prompts: list[list[int]]
    count: int
    seconds: float

    def cases_of(self, artefact: Artefact) -> list[Case]:
        return [case for case in self.cases if artefact.takes(case)]

    def prompts_of(self, artefact: Artefact) -> list[list[int]]:
        return self.prompts if GENERATE in artefact.functions else []

    def of(self, artefact: Artefact) -> list[_Row]:
        """All that is timed of an artefact."""
        rows = []
        for case in self.cases_of(artefact):
            first = next(value for value in case.inputs.values() if value.ndim)
            mask = case.inputs.get("padding_mask")
            rows.append(_Row(case.name, case.function, len(first), None if mask is None else mask.shape[1]))
        for prompt in self.prompts_of(artefact):
            rows += [_Row(_name(part, prompt), part, 1, len(prompt)) for part in (PREFILL, DECODE)]
        return rows


def _plan(
    bundle: Path, manifest: Manifest, saved: Saved, batches: Sequence[int], tokens: Sequence[int], seconds: float
) -> _Work:
    shapes = [case for case in load_cases(bundle, manifest) if case.purpose == "latency"]
    longest = getattr(saved.config, "max_length", 0)
    if longest and max(tokens, default=0) > longest:
        raise UserError(
            f"texts of {max(tokens)} tokens are asked for, and the model of {bundle} reads at most {longest}"
        )
    cases = [_shaped(case, batch, length) for case in shapes for batch in batches for length in _lengths(case, tokens)]
    prompts: list[list[int]] = []
    count = min(NEW_TOKENS, longest // 2)
    texts = [case.inputs["token_ids"] for case in shapes if "token_ids" in case.inputs]
    if texts and count > 1 and any(GENERATE in artefact.functions for artefact in manifest.artefacts.values()):
        lengths = (min(length, longest - count) for length in tokens or texts[0].shape[1:])
        prompts = [np.resize(texts[0][0], length).tolist() for length in dict.fromkeys(lengths)]
    return _Work(cases, prompts, count, seconds)


def _model_itself(work: _Work) -> Artefact:
    """The Keras model that a bundle was made of, as if it were in a file. It has no functions of strings."""
    functions = {case.function for case in work.cases if not case.function.startswith(PREFIX)}
    can = {name: name for name in functions | ({GENERATE} if work.prompts else set())}
    return Artefact(".", {}, KERAS, "float32", can, {}, {})


def _lengths(case: Case, tokens: Sequence[int]) -> Sequence[int | None]:
    return tokens if tokens and "padding_mask" in case.inputs else (None,)


def _shaped(case: Case, batch: int, tokens: int | None) -> Case:
    """The same in another shape, by repeating and cutting."""
    inputs = {}
    growth = float(batch)
    for name, value in case.inputs.items():
        if tokens is not None and value.ndim == 2:
            growth = batch * tokens / value.shape[1]
            value = np.resize(value[0], (1, tokens))
        inputs[name] = np.repeat(value[:1], batch, axis=0) if value.ndim else value
    name = f"{case.function}-batch{batch}" + ("" if tokens is None else f"-tokens{tokens}")
    return dataclasses.replace(case, name=name, inputs=inputs, positions={}, seconds=growth * case.seconds)


def _name(part: str, prompt: list[int]) -> str:
    return f"{part}-tokens{len(prompt)}"


def _run(bundle: Path, artefact: Artefact, work: _Work) -> dict[str, Any]:
    """One round of one artefact: `load_ms`, `peak_memory_mb`, and `latency`, the figures of each `_Row` by its name.

    Raises:
        ChildFailure: it crashed, hung, failed or gave nothing readable.
        OSError: the disk is full.
    """
    # It may take the time that is to be spent, beside that of the model.
    cases = [dataclasses.replace(case, seconds=case.seconds + work.seconds) for case in work.cases_of(artefact)]
    prompts = work.prompts_of(artefact)
    request: dict[str, Any] = {
        "kept": [],
        "latency": {"cases": [case.name for case in cases], "seconds": work.seconds},
    }
    if prompts:
        request["continue"] = {"prompts": [each for each in prompts for _ in range(TEXTS)], "count": work.count}
    program = ["-P", "-m", "export.keras_timing"] if artefact.runtime == KERAS else []
    answer, _ = run_alone(bundle, artefact, cases, request, program)
    if "continuing_failed" in answer:
        raise ChildFailure(f"cannot continue a prompt: {one_line(str(answer['continuing_failed']))}")
    try:
        latency = {case.name: {each: float(answer["latency"][case.name][each]) for each in FIGURES} for case in cases}
        for place, prompt in enumerate(prompts):
            texts = answer["continuations"][place * TEXTS : (place + 1) * TEXTS]
            first, *others = np.array([each["milliseconds"] for each in texts], float)
            latency[_name(PREFILL, prompt)] = _figures(first[0], [each[0] for each in others])
            latency[_name(DECODE, prompt)] = _figures(first[1], [time for each in others for time in each[1:]])
        return {"load_ms": float(answer["load_ms"]), "peak_memory_mb": answer["peak_memory_mb"], "latency": latency}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ChildFailure(f"its runtime gave no readable answer: {error!r}") from None


def _figures(first: float, others: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(others, [50, 95]).tolist()
    return dict(zip(FIGURES, (float(first), p50, p95), strict=True))


def _timing(name: str, row: _Row, size: int, own: list[dict[str, Any]], keras: list[dict[str, Any]]) -> Timing:
    """The medians of all rounds."""
    ratios = [
        theirs["latency"][row.name]["p50_ms"] / ours["latency"][row.name]["p50_ms"]
        for theirs, ours in zip(keras, own, strict=True)
        if row.name in theirs["latency"]
    ]
    first, p50, p95 = (statistics.median(each["latency"][row.name][figure] for each in own) for figure in FIGURES)
    memory = [each["peak_memory_mb"] for each in own]
    return Timing(
        artefact=name,
        function=row.function,
        batch=row.batch,
        tokens=row.tokens,
        bytes=size,
        load_ms=statistics.median(each["load_ms"] for each in own),
        first_ms=first,
        p50_ms=p50,
        p95_ms=p95,
        speedup=statistics.median(ratios) if ratios else None,
        peak_memory_mb=None if None in memory else statistics.median(memory),
    )

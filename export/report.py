"""The report of a bundle: what was measured of each artefact, for programs (.json) and for people (.md and .png)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from export.chart import draw_chart
from export.metrics import Metric
from zoo.files import write_text

FORMAT_VERSION = 2


@dataclasses.dataclass(frozen=True)
class ArtefactReport:
    """What was measured of one artefact. A figure that could not be measured is None.

    Attributes:
        name: of the artefact.
        path: where it is in the bundle.
        precision: what its weights are kept in.
        bytes: its size.
        failures: what is wrong with it, one line each; empty where all is well.
        runtime: what ran it, with its version.
        max_error: the largest absolute difference from the Keras model's outputs, over all cases.
        mean_error: the mean absolute difference.
        top_agreement: of the real (unpadded) rows of logits, the part at which both have the same largest entry.
        metrics: those of the task, over real inputs.
        continued: of the tokens that the model writes after the prompts, the part that the artefact writes too.
        smallest_gap: between the two best logits while it did.
        load_ms: milliseconds to load it, the import of the runtime not counted.
        first_ms: milliseconds of the first call.
        latency_p50_ms, latency_p95_ms: percentiles of one call, in milliseconds.
        token_ms: milliseconds of each further token, the median, where it generates from a cache.
        peak_memory_mb: of the process that ran it, the runtime included, in megabytes.
        operators: how many it has of each operator.
        partitions: by function, into how many parts XNNPACK cut what it runs.
    """

    name: str
    path: str
    precision: str
    bytes: int
    failures: list[str]
    runtime: str | None = None
    max_error: float | None = None
    mean_error: float | None = None
    top_agreement: float | None = None
    metrics: list[Metric] = dataclasses.field(default_factory=list)
    continued: float | None = None
    smallest_gap: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    token_ms: float | None = None
    peak_memory_mb: float | None = None
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    partitions: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured of a bundle.

    Attributes:
        name, family, task: of the model.
        tolerance: the largest absolute error of a float32 artefact that passes.
        cases: the inputs that were compared: name -> {"inputs": {name: shape}, "positions": {output: positions on
            axis 1 that were compared, where not all were}}.
        latency_inputs: the shapes that the latency was measured on, by function.
        threads: processors that the runtimes had.
        artefacts: one report each.
        failures: what is wrong with the bundle itself.
    """

    name: str
    family: str
    task: str
    tolerance: float
    cases: dict[str, dict[str, Any]]
    latency_inputs: dict[str, dict[str, list[int]]]
    threads: int
    artefacts: list[ArtefactReport]
    failures: list[str]

    @property
    def passed(self) -> bool:
        return not self.failures and all(artefact.passed for artefact in self.artefacts)

    def failure_lines(self) -> list[str]:
        """Every failure, one line each, the artefact's name first."""
        return [*self.failures, *(f"{a.name}: {failure}" for a in self.artefacts for failure in a.failures)]

    def write(self, bundle: Path) -> None:
        """Write `report.json`, `report.md` and `report.png` into the bundle, each whole or not at all."""
        content = {"format_version": FORMAT_VERSION, "passed": self.passed} | dataclasses.asdict(self)
        write_text(bundle / "report.json", json.dumps(content, indent=2) + "\n")
        write_text(bundle / "report.md", self.to_markdown())
        bars = [(a.name, a.bytes / 1e6, a.latency_p50_ms) for a in self.artefacts]
        draw_chart(bundle / "report.png", f"{self.name}, {self.task}", bars)

    @staticmethod
    def read(bundle: Path) -> "Report":
        """Read the `report.json` that `write` wrote."""
        content = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
        del content["format_version"], content["passed"]
        artefacts = [
            ArtefactReport(**fields | {"metrics": [Metric(**metric) for metric in fields["metrics"]]})
            for fields in content["artefacts"]
        ]
        return Report(**content | {"artefacts": artefacts})

    def to_markdown(self) -> str:
        """The report for people."""
        lines = [
            f"# {self.name} ({self.family}, {self.task}): {'passed' if self.passed else 'FAILED'}",
            "",
            "![size and latency of each artefact](report.png)",
            "",
            "| artefact | MB | max error | agreement | metric | first ms | p50 ms | p95 ms | ms a token | peak MB | |",
            "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for a in self.artefacts:
            cells = [
                f"{a.name} (`{a.path}`)",
                f"{a.bytes / 1e6:.2f}",
                figure(a.max_error, ".1e"),
                figure(a.top_agreement, ".2%"),
                shown(a.metrics),
                figure(a.first_ms, ".1f"),
                figure(a.latency_p50_ms, ".2f"),
                figure(a.latency_p95_ms, ".2f"),
                figure(a.token_ms, ".2f"),
                figure(a.peak_memory_mb, ".0f"),
                "ok" if a.passed else "FAILED",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        failures = [f"- **{line}**" for line in self.failure_lines()]
        lines += ["", *failures, *([""] if failures else [])]
        lines += [
            f"Compared with the Keras model on {len(self.cases)} inputs, every output at every position (padded ones "
            f"too; the top entry at real positions only): float32 by the absolute error, at most {self.tolerance:g}; "
            "other precisions by the metric of the task on real inputs, the model's first and the artefact's second.",
            "",
        ]
        for name, case in self.cases.items():
            cut = [f"; {output}: {len(kept)} positions" for output, kept in case["positions"].items()]
            lines.append(f"- {name}{''.join(cut)}")
        lines += ["", f"Latency: one call on {self.threads} processors, each artefact in a process of its own:", ""]
        for function, inputs in self.latency_inputs.items():
            shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in inputs.items())
            lines.append(f"- {function}: {shapes}")
        lines += [
            "",
            "| artefact | runtime | load ms | XNNPACK parts | operators |",
            "| --- | --- | ---: | --- | --- |",
        ]
        for a in self.artefacts:
            counted = sorted(a.operators.items(), key=lambda pair: (-pair[1], pair[0]))
            operators = f"{sum(a.operators.values())}: " + ", ".join(f"{name} {count}" for name, count in counted)
            parts = ", ".join(f"{name} {count}" for name, count in a.partitions.items()) or "-"
            lines.append(f"| {a.name} | {a.runtime or '-'} | {figure(a.load_ms, '.0f')} | {parts} | {operators} |")
        return "\n".join(lines) + "\n"


def shown(metrics: list[Metric]) -> str:
    """Metrics as one cell of a table."""
    cells = (f"{each.name} {each.model:.4g} to {each.artefact:.4g} ({each.count:,} rows)" for each in metrics)
    return "; ".join(cells) or "-"


def figure(value: float | None, form: str) -> str:
    """A figure as a cell of a table."""
    return "-" if value is None else format(value, form)

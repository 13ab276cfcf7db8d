"""The report of a bundle: what was measured of each artefact, for programs (report.json) and people (report.md)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from zoo.files import write_text

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ArtefactReport:
    """What was measured of one artefact. A figure that could not be measured is None.

    Attributes:
        name: of the artefact.
        path: where it is in the bundle.
        bytes: its size.
        failures: what is wrong with it, one line each; empty where all is well.
        runtime: what ran it, with its version.
        max_error: the largest absolute difference from the Keras model's outputs, over all cases.
        mean_error: the mean absolute difference.
        top_agreement: of the real (unpadded) positions, the part at which both have the same largest entry.
        load_ms: milliseconds to load it, the import of the runtime not counted.
        latency_p50_ms, latency_p95_ms: percentiles of one call, in milliseconds.
        operators: how many it has of each operator.
    """

    name: str
    path: str
    bytes: int
    failures: list[str]
    runtime: str | None = None
    max_error: float | None = None
    mean_error: float | None = None
    top_agreement: float | None = None
    load_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    operators: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured of a bundle.

    Attributes:
        name, family, task: of the model.
        tolerance: the largest absolute error that passes.
        cases: the inputs that were compared: name -> {"inputs": {name: shape}, "positions": {output: positions on
            axis 1 that were compared, where not all were}}.
        latency_inputs: the shapes that the latency was measured on.
        threads: processors that the runtimes had.
        artefacts: one report each.
        failures: what is wrong with the bundle itself.
    """

    name: str
    family: str
    task: str
    tolerance: float
    cases: dict[str, dict[str, Any]]
    latency_inputs: dict[str, list[int]]
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
        """Write `report.json` and `report.md` into the bundle, each whole or not at all."""
        content = {"format_version": FORMAT_VERSION, "passed": self.passed} | dataclasses.asdict(self)
        write_text(bundle / "report.json", json.dumps(content, indent=2) + "\n")
        write_text(bundle / "report.md", self.to_markdown())

    @staticmethod
    def read(bundle: Path) -> "Report":
        """Read the `report.json` that `write` wrote."""
        content = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
        del content["format_version"], content["passed"]
        return Report(**content | {"artefacts": [ArtefactReport(**fields) for fields in content["artefacts"]]})

    def to_markdown(self) -> str:
        """The report for people."""
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in self.latency_inputs.items())
        lines = [
            f"# {self.name} ({self.family}, {self.task}): {'passed' if self.passed else 'FAILED'}",
            "",
            "| artefact | bytes | max error | mean error | top-token agreement | p50 ms | p95 ms | verdict |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        for a in self.artefacts:
            cells = [_figure(a.max_error, ".1e"), _figure(a.mean_error, ".1e"), _figure(a.top_agreement, ".2%")]
            cells += [_figure(a.latency_p50_ms, ".2f"), _figure(a.latency_p95_ms, ".2f")]
            verdict = "ok" if a.passed else "FAILED"
            lines.append(f"| {a.name} (`{a.path}`) | {a.bytes} | {' | '.join(cells)} | {verdict} |")
        failures = [f"- **{line}**" for line in self.failure_lines()]
        lines += ["", *failures, *([""] if failures else [])]
        lines += [
            f"Compared with the Keras model on {len(self.cases)} inputs, every output at every position (padded ones "
            f"too; the top token at real positions only), absolute error at most {self.tolerance:g}:",
            "",
        ]
        for name, case in self.cases.items():
            cut = [f"; {output}: {len(kept)} positions" for output, kept in case["positions"].items()]
            lines.append(f"- {name}{''.join(cut)}")
        lines += [
            "",
            f"Latency: one call with {shapes} on {self.threads} processors, each runtime in a process of its own.",
            "",
            "| artefact | runtime | load ms | operators |",
            "| --- | --- | ---: | --- |",
        ]
        for a in self.artefacts:
            counted = sorted(a.operators.items(), key=lambda pair: (-pair[1], pair[0]))
            operators = f"{sum(a.operators.values())}: " + ", ".join(f"{name} {count}" for name, count in counted)
            lines.append(f"| {a.name} | {a.runtime or '-'} | {_figure(a.load_ms, '.0f')} | {operators} |")
        return "\n".join(lines) + "\n"


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

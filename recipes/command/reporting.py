"""How a verification is shown, and how far a long work is."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from export.report import Report

SECONDS_BETWEEN_LINES = 10.0


def print_report(report: Report, as_json: bool) -> None:
    """Print the table of a report, or the whole of it as one JSON object, on standard output."""
    if as_json:
        print(json.dumps({"passed": report.passed, **dataclasses.asdict(report)}))
        return
    console = Console(highlight=False)
    console.print(report_table(report))
    for line in report.failure_lines():
        console.print(line, style="red", markup=False)


def report_table(report: Report) -> Table:
    """One row an artefact: size, error, agreement, latency, verdict."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=f"{report.name}, {report.task}: each artefact in its own runtime",
    )
    for heading in ("artefact", "MB", "max error", "mean error", "top token", "p50 ms", "p95 ms", ""):
        table.add_column(heading, justify="left" if heading in ("artefact", "") else "right", no_wrap=True)
    for artefact in report.artefacts:
        table.add_row(
            artefact.name,
            f"{artefact.bytes / 1e6:.2f}",
            _shown(artefact.max_error, ".1e"),
            _shown(artefact.mean_error, ".1e"),
            _shown(artefact.top_agreement, ".2%"),
            _shown(artefact.latency_p50_ms, ".2f"),
            _shown(artefact.latency_p95_ms, ".2f"),
            "ok" if artefact.passed else "[red]FAILED[/red]",
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def tell(line: str) -> None:
    """Say on standard error what is being done."""
    Console(stderr=True, highlight=False).print(f"{line} ...", style="dim", markup=False)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what is to be told of how many are done, of how many: shown on standard error with the time that is left,
    by a bar on a terminal, by a line now and then anywhere else. What was done at first took no time."""
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn(what), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    task = bar.add_task(what, total=None)
    began = shown = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal shown, first
        first = done if first is None else first
        if console.is_terminal:
            bar.start()  # not before there is anything to show; again, it does nothing
            bar.update(task, completed=done, total=total)
        elif time.monotonic() - shown > SECONDS_BETWEEN_LINES and first < done < total:
            shown = time.monotonic()
            left = (shown - began) / (done - first) * (total - done)
            console.print(f"{what}: {done:,} of {total:,}, {left:,.0f} s left", markup=False, soft_wrap=True)

    try:
        yield show
    finally:
        if console.is_terminal:  # anywhere else it would end with an empty line
            bar.stop()

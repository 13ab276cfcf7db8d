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

from export.bench import Bench
from export.report import Report, figure, shown

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
    """One row an artefact: size, how near it is to the model, latency, verdict."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=f"{report.name}, {report.task}: each artefact in its own runtime",
    )
    for heading in ("artefact", "MB", "max error", "top", "metric", "p50 ms", "p95 ms", ""):
        left = heading in ("artefact", "metric", "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "metric")
    for artefact in report.artefacts:
        table.add_row(
            artefact.name,
            f"{artefact.bytes / 1e6:.2f}",
            figure(artefact.max_error, ".1e"),
            figure(artefact.top_agreement, ".2%"),
            shown(artefact.metrics[:1]),
            figure(artefact.latency_p50_ms, ".2f"),
            figure(artefact.latency_p95_ms, ".2f"),
            "ok" if artefact.passed else "[red]FAILED[/red]",
        )
    return table


def print_bench(bench: Bench, as_json: bool) -> None:
    """Print the table of timings, or all of them as one JSON object, on standard output."""
    if as_json:
        print(json.dumps(dataclasses.asdict(bench)))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{bench.name}, {bench.task}: latency")
    several = len({each.function for each in bench.timings}) > 1
    for heading in ("artefact", "batch", "MB", "load ms", "first ms", "p50 ms", "p95 ms", "x Keras"):
        table.add_column(heading, justify="left" if heading == "artefact" else "right", no_wrap=True)
    for each in bench.timings:
        table.add_row(
            f"{each.artefact} {each.function}" if several else each.artefact,
            f"{each.batch}" if each.tokens is None else f"{each.batch} x {each.tokens}",
            f"{each.bytes / 1e6:.2f}",
            f"{each.load_ms:.0f}",
            f"{each.first_ms:.1f}",
            f"{each.p50_ms:.2f}",
            f"{each.p95_ms:.2f}",
            figure(each.speedup, ".2f"),
        )
    console = Console(highlight=False)
    console.print(table)
    for line in bench.failures:
        console.print(line, style="red", markup=False)


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

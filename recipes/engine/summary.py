"""`summary.md`: a run on one page, written when it is done."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from recipes.engine.directory import SUMMARY, Run
from recipes.engine.state import RunState
from zoo.files import write_text


def write_summary(run: Run, state: RunState, unit: str, costs: dict[str, Any], pages: list[str]) -> None:
    """Write what came of a run, from which data and settings, and what there is to look at.

    Args:
        run: where.
        state: at its end.
        unit: what its speed is counted in.
        costs: what the training took, besides time.
        pages: lines of Markdown of the recipe's own.
    """
    assert state.best is not None  # every run ends with an evaluation
    last = state.rows[-1]
    measured = {name: value for name, value in state.best.items() if name.startswith(("loss", "validation_"))}
    outcome = {
        "best step": f"{state.best['step']:,} of {state.step:,}",
        **{name.replace("_", " "): _shown(value) for name, value in measured.items()},
        "seconds": f"{last['seconds']:,.0f}",
        f"{unit} a second": f"{last[f'{unit}_per_second']:,}",
        **{name.replace("_", " ").replace(" mb", " (MB)"): _shown(value) for name, value in costs.items()},
    }
    facts = {name.replace("_", " "): _shown(value) for name, value in run.facts.items() if name != "data"}
    settings = {name: str(value) for name, value in changed_settings(run.settings)}
    lines = [f"# {run.recipe}", "", *_table("result", outcome), "![losses](loss.png)", "", *pages]
    lines += ["", "## What it was made from", "", *_table("data", facts), *_table("setting", settings)]
    lines += ["`recipe.json` has every setting, `metrics.jsonl` every evaluation, `model/` the best model."]
    write_text(run.directory / SUMMARY, "\n".join(lines) + "\n")


def changed_settings(settings: Any) -> Iterator[tuple[str, Any]]:
    """Those that are not what they are by default: name, as in the dataclass, and value."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = typing.cast(Any, field.default_factory)()
        if dataclasses.is_dataclass(value):
            before = dict(_leaves(default))
            yield from ((name, each) for name, each in _leaves(value) if each != before[name])
        elif value != default:
            yield field.name, value


def _leaves(settings: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value)
        else:
            yield field.name, value


def _table(heading: str, rows: dict[str, str]) -> list[str]:
    cells = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return [f"| {heading} | |", "| --- | --- |", *cells, ""]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

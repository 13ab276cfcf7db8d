"""What the tests of the recipes that train on examples share: commands, what a run leaves, and a stop on the way."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from recipes.command import run as zoo_command
from recipes.data.grouping import GroupedBatches
from tests.recipes.resuming import newest_step

STEPS = 90
# As small as can learn the rules of these tests; with dropout, so that a run that goes on has random states.
OPTIONS = (
    "--preset bert-nano --vocabulary-size 300 --batch-size 16 --learning-rate 5e-3 --warmup-steps 5 --dropout 0.02 "
    f"--steps {STEPS} --evaluate-every 30"
)


def command(recipe: str, data: Path, out: Path | None, *options: object) -> list[str]:
    """The arguments of `zoo`."""
    where = [] if out is None else ["--out", str(out)]
    return ["train", recipe, "--data", str(data), *where, *OPTIONS.split(), *map(str, options)]


def going_on(recipe: str, data: Path, out: Path, source: Path, *options: object) -> list[str]:
    """The same, from a model that is there."""
    arguments = command(recipe, data, out, "--from", source, *options)
    for name in ("--preset", "--vocabulary-size"):
        place = arguments.index(name)
        del arguments[place : place + 2]
    return arguments


def rows_of(run: Path) -> list[dict[str, Any]]:
    """One for each evaluation."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def best_of(run: Path, figure: str) -> dict[str, Any]:
    """The row of the evaluation in which a figure is highest; of several, that with the lowest loss."""
    return max(rows_of(run), key=lambda row: (row[figure], -row["validation_loss"]))


def facts_of(run: Path) -> dict[str, Any]:
    """What was found in the data."""
    return json.loads((run / "recipe.json").read_text())["facts"]


def refuse(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    """A command must end in one line on standard error that has these words, with exit code 2."""
    assert zoo_command(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    assert captured.out == "" and len(lines) == 1, captured
    assert lines[0].startswith("zoo: ") and all(word in lines[0] for word in words), lines[0]


def figures(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What `zoo eval` measures."""
    capsys.readouterr()
    assert zoo_command(["eval", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    """What `zoo predict` says."""
    capsys.readouterr()
    assert zoo_command(["predict", *map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def stop_and_go_on(arguments: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run by SIGTERM while it fetches a batch in the middle of an interval, and give the command again."""
    fetch = GroupedBatches.batch

    def signal_and_fetch(self: GroupedBatches, step: int) -> Any:
        if self.num_batches is None and step == STEPS // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return fetch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(GroupedBatches, "batch", signal_and_fetch)
        with pytest.raises(SystemExit) as stopped:
            zoo_command(arguments)
        assert stopped.value.code == 75
    assert 0 < newest_step(out) < STEPS
    assert zoo_command(arguments) == 0

"""A run that was stopped, by whatever, and started again by the same command ends as one that never was, bit by bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share

from recipes.command import run as zoo_command
from recipes.data.batches import TrainingBatches, ValidationBatches
from tests.recipes.resuming import ROOT, STEPS, command, kill, newest_step, outcome, start, wait_until


@pytest.fixture(scope="module")
def uninterrupted(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run that was let be."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert zoo_command(command(text_file, out)) == 0
    return out


@pytest.fixture
def copy(uninterrupted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(uninterrupted, tmp_path / "run")


def go_on(data: Path, out: Path, *options: str) -> None:
    assert zoo_command(command(data, out, *options)) == 0


# The process ends itself while the thread that saves is in the middle of a file, the second of a checkpoint.
KILL_IN_A_SAVE = """
import os, signal
from recipes.engine import checkpoint
write, calls = checkpoint.write_tensors, []
def die(tensors, path, framework):
    calls.append(path)
    write(tensors, path, framework)
    if len(calls) == 10:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_tensors = die
"""


@pytest.mark.full  # five processes; a signal amid an evaluation is in the quick tier
def test_killed_in_a_save_and_at_some_moment(text_file: Path, tmp_path: Path, uninterrupted: Path) -> None:
    out = tmp_path / "run"
    first = start(command(text_file, out), KILL_IN_A_SAVE)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert newest_step(out) == 12
    assert len(list((out / "checkpoints").glob(".step-00000015.partial-*"))) == 1

    second = start(command(text_file, out))
    assert wait_until(second, lambda: newest_step(out) >= 24)
    code, told = kill(second)
    assert code == -signal.SIGKILL
    assert "going on from step 12" in told
    assert 24 <= newest_step(out) < STEPS

    go_on(text_file, out)
    assert outcome(out) == outcome(uninterrupted)


def test_the_run_is_worth_the_comparison(uninterrupted: Path) -> None:
    found = outcome(uninterrupted)
    assert [row["step"] for row in found["metrics"]] == [10, 20, 30, 40]
    assert found["state"]["mid_interval"] is False
    assert any(name.startswith("random.") for name in found["optimizer"])
    assert sum(name.startswith("optimizer.") for name in found["optimizer"]) > 2 * len(found["weights"])
    assert {"step.skipped", "step.skipped_in_a_row"} <= found["optimizer"].keys()
    assert found["model"] == found["weights"]
    assert found["hidden"] == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [("evaluating", signal.SIGTERM), pytest.param("compiling", signal.SIGINT, marks=pytest.mark.full)],
)
def test_a_signal_saves_and_stops(
    text_file: Path,
    tmp_path: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    moment: str,
    number: signal.Signals,
) -> None:
    out = tmp_path / "run"
    kind: Any = ValidationBatches if moment == "evaluating" else TrainingBatches
    fetch = kind.batch

    def signal_and_fetch(self: Any, step: int) -> Any:
        if step == 0:
            os.kill(os.getpid(), number)
        return fetch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "batch", signal_and_fetch)
        if number == signal.SIGTERM:
            with pytest.raises(SystemExit) as stopped:
                zoo_command(command(text_file, out))
            assert stopped.value.code == 75
        else:
            assert zoo_command(command(text_file, out)) == 130
    told = capsys.readouterr().err
    at = newest_step(out)
    assert at == {"compiling": 1, "evaluating": 10}[moment]
    assert f"stopped at step {at}: the same command goes on from {out / 'checkpoints' / f'step-{at:08}'}" in told
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    go_on(text_file, out)
    assert outcome(out) == outcome(uninterrupted)


def test_a_second_signal_ends_at_once() -> None:
    program = """
import os, signal, sys, time
from recipes.engine.interruption import Interruption
number = int(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)
with Interruption() as interruption:
    os.kill(os.getpid(), number)
    assert interruption.wanted == number
    print("still here", flush=True)
    os.kill(os.getpid(), number)
    time.sleep(9)
print("too far")
"""
    for number, code in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)):
        done = subprocess.run(
            [sys.executable, "-c", program, str(int(number))], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode) == ("still here\n", code), done.stderr


def test_broken_checkpoints_are_skipped_aloud(
    copy: Path, text_file: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, before = (copy / "checkpoints" / f"step-{step:08}" for step in (STEPS, STEPS - 1))
    flipped = bytearray((newest / "weights.safetensors").read_bytes())
    flipped[-100] ^= 4
    (newest / "weights.safetensors").write_bytes(flipped)
    (before / "optimizer.safetensors").write_bytes((before / "optimizer.safetensors").read_bytes()[:-1])
    go_on(text_file, copy)
    told = capsys.readouterr().err
    warnings = [line for line in told.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 2, told
    assert "weights.safetensors" in warnings[0]
    assert "optimizer.safetensors" in warnings[1]
    assert f"going on from step {STEPS - 4}" in told
    assert outcome(copy) == outcome(uninterrupted)


def content(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def refuse(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert zoo_command(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: ")]
    assert len(lines) == 1
    return lines[0]


def test_without_an_intact_checkpoint_nothing_is_trained(
    copy: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copy / "checkpoints").rglob("weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = content(copy)
    assert "--restart" in refuse(capsys, command(text_file, copy))
    assert content(copy) == before


def test_another_model_does_not_fit_even_by_force(
    copy: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:08}")
    before = content(copy)
    options = command(text_file, copy)
    options[options.index("--max-length") + 1] = "16"
    assert "--max-length is 16, and the run in" in refuse(capsys, options)
    assert "backbone.position_embedding" in refuse(capsys, [*options, "--force"])
    assert content(copy) == before


def test_other_text_is_refused(copy: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved, other = tmp_path / "moved.txt", tmp_path / "other.txt"
    moved.write_text(text_file.read_text())
    other.write_text(text_file.read_text().replace("Éclair", "Eclair"))
    assert zoo_command(command(moved, copy)) == 0
    assert "the data is not what" in refuse(capsys, command(other, copy, "--force"))


def test_a_finished_run_tells_the_same_and_trains_nothing(
    copy: Path, text_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.engine.loop.train", lambda *_: pytest.fail("it trains"))
    before = content(copy)
    assert zoo_command(command(text_file, copy, "--json")) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["validation_loss"])
    told = json.loads(captured.out)
    assert (told["best_step"], told["validation_loss"]) == (best["step"], best["validation_loss"])
    assert (told["seconds"], told["tokens_per_second"]) == (rows[-1]["seconds"], rows[-1]["tokens_per_second"])
    assert {"run", "validation_bits_per_byte", "unigram_entropy"} <= told.keys()
    assert "finished" in captured.err
    assert content(copy) == before


def test_a_run_stopped_before_its_summary_gets_that_and_trains_nothing(
    copy: Path,
    text_file: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TrainingBatches, "batch", lambda *_: pytest.fail("it trains"))
    before = content(copy / "checkpoints")
    (copy / "summary.md").unlink()
    go_on(text_file, copy)
    assert f"going on from step {STEPS}" in capsys.readouterr().err
    assert content(copy / "checkpoints") == before
    assert outcome(copy) == outcome(uninterrupted)


@pytest.mark.full  # two trainings
def test_the_weights_do_not_hang_on_when_is_evaluated(copy: Path, text_file: Path, uninterrupted: Path) -> None:
    for step in (STEPS, STEPS - 1):
        shutil.rmtree(copy / "checkpoints" / f"step-{step:08}")
    arguments = command(text_file, copy, "--keep-last", "1")
    arguments[arguments.index("--evaluate-every") + 1] = "13"
    assert zoo_command(arguments) == 0
    found, wanted = outcome(copy), outcome(uninterrupted)
    assert found["weights"] == wanted["weights"]
    assert found["optimizer"] == wanted["optimizer"]
    assert [row["step"] for row in found["metrics"]] == [10, 20, 30, 39, 40]
    assert len(list((copy / "checkpoints").iterdir())) <= 2

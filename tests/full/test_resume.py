"""Twenty kills: a run that is ended again and again, wherever it is, ends as one that was let be, bit by bit."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from recipes.command import run as zoo_command
from tests.recipes.conftest import WORDS
from tests.recipes.resuming import arrays, command, kill, newest_step, outcome, start, wait_until

pytestmark = pytest.mark.full

STEPS, KILLS = 200, 20

# The process ends itself where something has just been put on disk, in a save or between its parts.
KILL_AT_A_FLUSH = """
import os, signal
flush, left = os.fsync, [{count}]
def die(descriptor):
    flush(descriptor)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
"""


def test_twenty_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    draw = random.Random(0)
    text = tmp_path / "text.txt"
    text.write_text("".join(" ".join(draw.choices(WORDS, k=6)) + ".\n" for _ in range(1600)), encoding="utf-8")
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert zoo_command(command(text, whole, steps=STEPS, save_every=1)) == 0

    reached = []
    for number in range(KILLS):
        begun = newest_step(out)
        in_a_save = number % 2 == 0
        process = start(
            command(text, out, steps=STEPS, save_every=1),
            KILL_AT_A_FLUSH.format(count=draw.randint(1, 80)) if in_a_save else "",
        )
        if in_a_save:
            _, told = process.communicate()
            code = process.returncode
        else:
            steps = draw.randint(0, 7)
            wait_until(process, lambda: newest_step(out) >= begun + steps)  # noqa: B023 - it is over in this round
            time.sleep(draw.random() * 0.2)
            code, told = kill(process)
        assert code == -signal.SIGKILL, told
        reached.append(newest_step(out))

    print("killed with these steps saved:", *reached)
    assert reached == sorted(reached)  # what was saved is never lost
    assert reached[-1] > STEPS / 4
    assert zoo_command(command(text, out, steps=STEPS, save_every=1)) == 0
    assert outcome(out, STEPS) == outcome(whole, STEPS)


def test_one_worker_of_two_is_killed_and_the_job_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two once, with dropout and shuffling: weights as the training contract says of two workers that were
    never killed."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    draw = random.Random(1)
    text = tmp_path / "text.txt"
    text.write_text("".join(" ".join(draw.choices(WORDS, k=6)) + ".\n" for _ in range(1600)), encoding="utf-8")

    def launch(out: Path) -> list[str]:
        return ["launch", "--workers", "2", "--", *command(text, out, steps=STEPS, save_every=5)]

    whole, out = tmp_path / "whole", tmp_path / "run"
    assert zoo_command(launch(whole)) == 0
    for killed in range(2):
        begun = newest_step(out)
        job = start(launch(out))
        assert wait_until(job, lambda: newest_step(out) >= begun + 20)  # noqa: B023 - it is over in this round
        workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(workers[killed]), signal.SIGKILL)
        _, told = job.communicate(timeout=120)
        assert job.returncode == 128 + signal.SIGKILL, told
        assert f"worker {killed} was ended by SIGKILL" in told
        print(told)
        assert STEPS > newest_step(out) > begun
    assert zoo_command(launch(out)) == 0
    one, other = (arrays(run / "checkpoints" / f"step-{STEPS:08}" / "weights.safetensors") for run in (whole, out))
    for name, value in one.items():
        expected, found = (np.frombuffer(each, "float32") for each in (value, other[name]))
        if name.endswith("qkv.bias"):
            third = len(expected) // 3  # the keys' part, which has no true gradient
            expected, found = (np.delete(each, np.s_[third : 2 * third]) for each in (expected, found))
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected), name


def test_kills_with_everything_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters, an average of the weights, a loss scale, micro-batches and recomputation, each with a state of its own
    to bring back."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    draw = random.Random(2)
    text = tmp_path / "text.txt"
    text.write_text("".join(" ".join(draw.choices(WORDS, k=6)) + ".\n" for _ in range(1600)), encoding="utf-8")
    base, whole, out = tmp_path / "base", tmp_path / "whole", tmp_path / "run"
    assert zoo_command(command(text, base)) == 0

    def tune(run: Path) -> list[str]:
        options = (
            f"--from {base} --adapt lora --lora-rank 2 --lora-dropout 0.1 --ema 0.9 --precision float16 --accumulate 2 "
            "--recompute --batch-size 8 --learning-rate 1e-2 --warmup-steps 5 --dropout 0.1 --steps 60 "
            "--evaluate-every 15 --save-every 2 --sample-tokens 4 --no-xla"
        )
        return ["train", "gpt-pretrain", "--data", str(text), "--out", str(run), *options.split()]

    assert zoo_command(tune(whole)) == 0
    for _ in range(4):
        begun = newest_step(out)
        process = start(tune(out))
        wait_until(process, lambda: newest_step(out) >= begun + 6)  # noqa: B023 - it is over in this round
        time.sleep(draw.random() * 0.1)
        code, told = kill(process)
        assert code == -signal.SIGKILL, told
        assert newest_step(out) > begun
    assert zoo_command(tune(out)) == 0
    assert outcome(out, 60) == outcome(whole, 60)
    assert {path.name for path in (out / "adapters").iterdir()} == {"adapter.json", "adapter.safetensors"}

"""Twenty kills: a run that is ended again and again, wherever it is, ends as one that was let be, bit by bit."""

import random
import signal
import time
from pathlib import Path

import pytest

from recipes.command import run as zoo_command
from tests.recipes.conftest import WORDS
from tests.recipes.resuming import command, kill, newest_step, outcome, start, wait_until

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

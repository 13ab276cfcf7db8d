"""A short run with everything on that is random, and ways to end it early."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

ROOT = Path(__file__).parents[2]
STEPS = 40


def command(data: Path, out: Path, *options: str, steps: int = STEPS, save_every: int = 3) -> list[str]:
    """The arguments of `zoo`."""
    fixed = (
        "--preset gpt-nano --tokenizer char --max-length 32 --batch-size 8 --learning-rate 1e-2 --warmup-steps 5 "
        f"--dropout 0.1 --steps {steps} --evaluate-every {steps // 4} --save-every {save_every} --sample-tokens 4 "
        "--no-xla"
    )
    return ["train", "gpt-pretrain", "--data", str(data), "--out", str(out), *fixed.split(), *options]


def start(arguments: list[str], before: str = "") -> subprocess.Popen[str]:
    """Run `zoo` in a process of its own, after some lines of Python."""
    program = f"import sys\nfrom recipes.command import main\n{before}\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> bool:
    """Whether it was, before the process ended."""
    deadline = time.monotonic() + 600  # for what hangs: a busy machine may take minutes
    while time.monotonic() < deadline and process.poll() is None:
        if reached():
            return True
        time.sleep(0.001)
    return False


def kill(process: subprocess.Popen[str]) -> tuple[int, str]:
    """End it as a power cut would, if it still runs; its exit code and what it told."""
    process.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    return process.returncode, told


def newest_step(run: Path) -> int:
    names = [path.name for path in (run / "checkpoints").glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def outcome(run: Path, steps: int = STEPS) -> dict[str, Any]:
    """All that a run ends with, but for the times and the speeds."""

    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name.rpartition("_")[2] not in ("seconds", "second")}

    last = run / "checkpoints" / f"step-{steps:08}"
    state = json.loads((last / "state.json").read_text())
    state |= {"seconds": None, "rows": [timeless(row) for row in state["rows"]], "best": timeless(state["best"])}
    varying = re.compile(r"\| (seconds|[a-z]+ a second|peak memory .*|ms for .*|out) \|")
    summary, samples = (run / "summary.md").read_text().splitlines(), run / "samples.txt"
    return {
        "weights": arrays(last / "weights.safetensors"),
        "optimizer": arrays(last / "optimizer.safetensors"),
        "state": state,
        "metrics": [timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "samples": samples.read_text() if samples.exists() else "",
        "summary": [line for line in summary if not varying.match(line)],
        "model": arrays(run / "model" / "model.safetensors"),
        "hidden": sorted(path.name for path in run.rglob(".*")),
    }


def arrays(path: Path) -> dict[str, bytes]:
    found: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    return {name: array.tobytes() for name, array in found.items()}

"""A run on one device, and the same on two replicas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.recipes.resuming import ROOT

PROGRAM = """
import sys
import tensorflow as tf
from recipes.command import run

devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
for strategy in ("one", "mirrored"):
    assert run([*sys.argv[2:], "--out", f"{sys.argv[1]}/{strategy}", "--strategy", strategy]) == 0
"""


def assert_two_replicas_equal_one(
    arguments: list[str], folder: Path, *figures: str, without_gradient: tuple[str, ...] = ()
) -> None:
    """Two logical devices end with the weights of one, and measured the same on the way.

    Args:
        arguments: of `zoo`, but for --out and --strategy; without dropout.
        folder: where the runs go.
        figures: in the row of an evaluation, beside both losses.
        without_gradient: weights on which the loss does not hang: Adam makes full steps of their rounding.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "on 2 CPUs" in done.stderr
    one, two = (
        [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "mirrored")
    )
    for name in ("loss", "validation_loss", *figures):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-5)
    ours, theirs = (zoo.load(folder / name).named_weights() for name in ("one", "mirrored"))
    assert set(without_gradient) <= ours.keys()
    for name, weight in ours.items():
        if name in without_gradient:
            continue
        a, b = weight.numpy(), theirs[name].numpy()
        if name.endswith("qkv.bias"):  # the key's third has no true gradient: Adam makes full steps of its rounding
            a, b = (np.delete(each, np.s_[len(each) // 3 : 2 * len(each) // 3]) for each in (a, b))
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a) + 1e-7, name

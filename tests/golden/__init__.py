"""The golden checkpoints, which the scripts in this directory make from the reference implementations, read back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

MODELS = Path(__file__).with_name("models")
NAMES = sorted(path.name for path in MODELS.iterdir())

Arrays = dict[str, np.ndarray]


def calls_of(name: str) -> dict[str, Arrays]:
    """The calls of a checkpoint, and what belongs to each: inputs, labels and outputs; see `make_models.py`."""
    calls: dict[str, Arrays] = {}
    for key, value in safetensors.numpy.load_file(MODELS / name / "expected.safetensors").items():
        call, _, what = key.partition(".")
        calls.setdefault(call, {})[what] = value
    return calls


def copy_checkpoint(
    name: str,
    directory: Path,
    tensors: Callable[[Arrays], Any] | None = None,
    record: Callable[[dict[str, Any]], Any] | None = None,
) -> Path:
    """A copy to change: `tensors` and `record` change its tensors and its `config.json` in place."""
    shutil.copytree(MODELS / name, directory, ignore=shutil.ignore_patterns("expected.safetensors"))
    if tensors:
        path = directory / "model.safetensors"
        changed = safetensors.numpy.load_file(path)
        tensors(changed)
        safetensors.numpy.save_file(changed, path, metadata={"format": "pt"})
    if record:
        path = directory / "config.json"
        content = json.loads(path.read_text())
        record(content)
        path.write_text(json.dumps(content))
    return directory

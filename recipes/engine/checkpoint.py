"""Checkpoints of a run: one directory a step, whole or not there, and believed only where every hash is right.

`checkpoints/step-00000250/` holds

- `weights.safetensors`: the model's weights by name;
- `optimizer.safetensors`: every other array that the next update hangs on (see `recipes.engine.snapshot`);
- `state.json`: the rest (see `recipes.engine.state`);
- `manifest.json`: the format, the step, and the size and SHA-256 of each of the others.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy
import numpy as np
import safetensors

from recipes.engine.state import RunState
from zoo.errors import UserError
from zoo.files import whole_directory
from zoo.tensors import write_tensors

logger = logging.getLogger("zoo")

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE, MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
LARGEST_MANIFEST = 2**16  # bytes
LARGEST_STATE = 2**28  # bytes; a hundred thousand evaluations with a sample each have a tenth of it
NAME = re.compile(r"step-(\d{8,})")
DTYPES = {
    **{f"F{width}": f"float{width}" for width in (16, 32, 64)},
    **{f"I{width}": f"int{width}" for width in (8, 16, 32, 64)},
    **{f"U{width}": f"uint{width}" for width in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
}

Arrays = Mapping[str, np.ndarray]
Kinds = dict[str, tuple[tuple[int, ...], str]]
"""The shape and the dtype of arrays by name."""


class BrokenCheckpointError(Exception):
    """A checkpoint cannot be used; the message says which file and why."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is to hold, in memory that nothing else writes to."""

    state: RunState
    weights: Arrays
    others: Arrays


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, every byte of which is what was written."""

    directory: Path
    state: RunState

    def require(self, file: str, wanted: Kinds) -> None:
        """Raise BrokenCheckpointError unless `file` holds arrays of these names, shapes and dtypes, and no others."""
        found = self.kinds(file)
        for name in sorted(found.keys() ^ wanted.keys()):
            raise BrokenCheckpointError(f"{file}: {name} is {'missing' if name in wanted else 'unexpected'}")
        for name, kind in wanted.items():
            if found[name] != kind:
                raise BrokenCheckpointError(f"{file}: {name} is {found[name]} and must be {kind}")

    def read(self, file: str) -> Iterator[tuple[str, np.ndarray]]:
        """Every array of `file` with its name, one after the other."""
        for name in self.kinds(file):
            # An open file is mapped into memory, and what was read stays there: so it is opened for each.
            with safetensors.safe_open(self.directory / file, framework="numpy") as opened:
                yield name, opened.get_tensor(name)

    def kinds(self, file: str) -> Kinds:
        """What `file` holds."""
        try:
            with safetensors.safe_open(self.directory / file, framework="numpy") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
                return {name: (tuple(each.get_shape()), DTYPES[each.get_dtype()]) for name, each in slices.items()}
        except (safetensors.SafetensorError, OSError, KeyError) as error:
            raise BrokenCheckpointError(f"{file}: {error}") from None


class Store:
    """The checkpoints of one run.

    Args:
        directory: where they are; made when the first is saved.
        keep_last: how many of the newest are kept, besides the best that was evaluated.

    Attributes:
        writes: of several workers one alone writes; `save` does nothing for the others.
    """

    def __init__(self, directory: Path, keep_last: int) -> None:
        self.directory, self.keep_last, self.writes = directory, keep_last, True
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._verified = functools.cache(self._verify)
        self._told: set[int] = set()

    def steps(self) -> list[int]:
        """The steps at which there is a checkpoint, intact or not, newest first."""
        if not self.directory.is_dir():
            return []
        names = {path.name for path in self.directory.iterdir()}
        steps = {int(match[1]) for name in names if (match := NAME.fullmatch(name))}
        return sorted((step for step in steps if self.path(step).name in names), reverse=True)

    def newest(self, use: Callable[[Checkpoint], Any] = lambda checkpoint: None) -> Checkpoint | None:
        """The newest intact checkpoint; None where there is none at all. One that is not is skipped with a warning.

        Args:
            use: is given it, and raises BrokenCheckpointError where it does not fit after all.

        Raises:
            UserError: there are some, and none can be used.
        """
        reason = ""
        for step in self.steps():
            checkpoint = self._verified(step)
            try:
                if isinstance(checkpoint, BrokenCheckpointError):
                    raise checkpoint
                use(checkpoint)
                return checkpoint
            except BrokenCheckpointError as error:
                reason = reason or f"{self.path(step).name}/{error}"
                if step not in self._told:
                    logger.warning("%s cannot be used (%s): going back to the one before", self.path(step), error)
                self._told.add(step)
        if reason:
            raise UserError(
                f"{self.directory} has no checkpoint that can be used (the newest: {reason}): "
                "put one back from a copy, or begin anew with --restart"
            )
        return None

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint of this step, where there is one that is intact."""
        checkpoint = self._verified(step) if step in self.steps() else None
        return None if isinstance(checkpoint, BrokenCheckpointError) else checkpoint

    def path(self, step: int) -> Path:
        return self.directory / f"step-{step:08}"

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write a checkpoint, in a thread of its own; the one before is waited for.

        Raises:
            OSError: that one could not be written.
        """
        self.wait()
        if self.writes:
            self._verified.cache_clear()
            # A daemon, so that whoever stops the program at once need not wait: what is half written is not named.
            self._writing = threading.Thread(target=self._write, args=(snapshot,), daemon=True)
            self._writing.start()

    def wait(self) -> None:
        """Wait until what `save` began is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, snapshot: Snapshot) -> None:
        try:
            step = snapshot.state.step
            with whole_directory(self.path(step), force=True) as partial:
                write_tensors(snapshot.weights, partial / WEIGHTS, framework="tf")
                write_tensors(snapshot.others, partial / OPTIMIZER, framework="tf")
                (partial / STATE).write_text(snapshot.state.to_json(), encoding="utf-8")
                files = {name: _fingerprint(partial / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
                (partial / MANIFEST).write_bytes(_manifest(step, files))
            self._thin_out(snapshot.state)
        except BaseException as failure:  # it is the main thread that is to hear of it
            self._failure = failure

    def _thin_out(self, state: RunState) -> None:
        """Keep the last ones, the best, and the one with the lowest validation loss, where the best is told by another
        figure or was not saved. Those of later steps are from before a fall back: they were broken."""
        steps = [step for step in self.steps() if step <= state.step]
        evaluated = {row["step"]: row["validation_loss"] for row in state.rows if row["step"] in steps}
        kept = {*steps[: self.keep_last], *sorted(evaluated, key=lambda step: (evaluated[step], step))[:1]}
        kept |= {state.best["step"]} if state.best else set()
        for step in set(self.steps()) - kept:
            # Under a hidden name first: a kill in between leaves no broken checkpoint.
            path = self.path(step)
            hidden = path.with_name(f".{path.name}.replaced-{os.getpid()}")
            path.rename(hidden)
            shutil.rmtree(hidden)

    def _verify(self, step: int) -> Checkpoint | BrokenCheckpointError:
        directory = self.path(step)
        try:
            files = _read_manifest(directory / MANIFEST, step)
            for name, wanted in files.items():
                if not (directory / name).is_file():
                    raise BrokenCheckpointError(f"{name} is missing")
                found = (directory / name).stat().st_size
                if found != wanted["bytes"]:
                    raise BrokenCheckpointError(f"{name} has {found:,} bytes, and {MANIFEST} says {wanted['bytes']:,}")
                if _fingerprint(directory / name) != wanted:
                    raise BrokenCheckpointError(f"{name} has not the SHA-256 that {MANIFEST} says")
            if files[STATE]["bytes"] > LARGEST_STATE:
                raise BrokenCheckpointError(f"{STATE} is too large")
            try:
                state = RunState.from_json((directory / STATE).read_text(encoding="utf-8"))
            except ValueError as error:
                raise BrokenCheckpointError(f"{STATE}: {error}") from None
            if state.step != step:
                raise BrokenCheckpointError(f"{STATE} is of step {state.step}")
            return Checkpoint(directory, state)
        except BrokenCheckpointError as error:
            return error
        except OSError as error:
            return BrokenCheckpointError(f"{Path(error.filename or directory).name}: {error.strerror}")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _manifest(step: int, files: dict[str, dict[str, Any]]) -> bytes:
    return (json.dumps({"format": FORMAT, "step": step, "files": files}, indent=2) + "\n").encode()


def _read_manifest(path: Path, step: int) -> dict[str, dict[str, Any]]:
    """The size and hash by name of each file that belongs to the checkpoint of `step`."""
    with path.open("rb") as file:
        content = file.read(LARGEST_MANIFEST)
    try:
        manifest = json.loads(content.decode())
        files = {
            name: {"bytes": int(manifest["files"][name]["bytes"]), "sha256": str(manifest["files"][name]["sha256"])}
            for name in (WEIGHTS, OPTIMIZER, STATE)
        }
        if manifest["format"] != FORMAT:
            raise BrokenCheckpointError(
                f"{MANIFEST}: format {manifest['format']!r:.80} is not {FORMAT}, the one that this version reads"
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenCheckpointError(f"{MANIFEST} is damaged: {type(error).__name__}: {error!s:.80}") from None
    # Nobody hashes the manifest itself: it has to be, byte for byte, what is written for these files and this step.
    if content != _manifest(step, files):
        raise BrokenCheckpointError(f"{MANIFEST} is not what was written")
    return files

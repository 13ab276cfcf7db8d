"""Files and directories that appear whole or not at all: written beside their name, flushed, then renamed. And JSON,
read as what it is: somebody else's."""

import contextlib
import ctypes
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zoo.errors import UserError

LARGEST_JSON = 16 * 2**20  # bytes; a configuration with a thousand classes has a tenth of one
REMAINS = re.compile(r"\.(?P<name>.+)\.(?:partial|replaced)-(?P<process>\d+)")  # what a killed process leaves behind


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; it takes the place of `path` only if the block ends without an exception."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_directory(path: Path, force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Yield a fresh directory to fill; it becomes `path` only if the block ends without an exception.

    Args:
        path: the final name. Its parents are made.
        force: replace what stands there now. Without it a non-empty `path` is a UserError, raised at once.
        marker: a file that tells what may be replaced: without it in `path`, force is refused.

    Raises:
        UserError: `path` is taken.
    """
    path = Path(path).resolve()  # "." has no name to write beside, and a link is to stay one
    require_free(path, force, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for each in (*partial.rglob("*"), partial):
            flush_to_disk(each)
        require_free(path, force, marker)  # somebody else may have taken the name meanwhile
        if not path.exists():
            partial.rename(path)
        elif not _exchange(partial, path):  # what was there is now `partial`
            _replace(partial, path)
        flush_to_disk(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths swap their names at once, as Linux can on most file systems; whether it did. There is no moment at
    which a process that is killed would leave neither name."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # another system, or an old C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(exchange)) == 0


def _replace(partial: Path, path: Path) -> None:
    """The same by two renames: a process that is killed between them leaves what was there under a hidden name."""
    replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    try:
        path.rename(replaced)
        partial.rename(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def remove_remains(directory: Path, name: str | None = None) -> None:
    """Remove from `directory` what `whole_file` and `whole_directory` left there in processes that were killed.

    Args:
        directory: where; what lies deeper is left alone.
        name: only what was to become this; None for all. A process that still runs on this machine keeps its own.
    """
    for path in directory.iterdir():
        match = REMAINS.fullmatch(path.name)
        if match and name in (None, match["name"]) and not _is_another_that_runs(int(match["process"])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_another_that_runs(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)  # asks only
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def require_free(path: Path, force: bool = False, marker: str | None = None) -> None:
    """Raise UserError unless `path` can be written: it does not exist, is an empty directory, or `force` is given and
    the file `marker`, if one is named, shows that it is something of the kind that is to take its place."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a directory is to be written there: choose another name")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise UserError(f"{path} is not empty: choose another name, or --force to replace it")
    if path.is_dir() and any(path.iterdir()) and marker is not None and not (path / marker).is_file():
        raise UserError(f"{path} is not empty and has no {marker}, so --force does not replace it: choose another name")


def require_outside(out: Path, inputs: Iterable[Path | None]) -> None:
    """Raise UserError where replacing the directory `out` would take one of the `inputs` away."""
    whole = Path(out).resolve()
    for path in inputs:
        if path is not None and Path(path).resolve().is_relative_to(whole):
            raise UserError(f"{path} is to be read, and lies in {out}, which is to be written: choose another name")


def flush_to_disk(path: Path) -> None:
    """Ask the operating system to put a file on disk, so that a rename never outruns its content; or a directory, so
    that the names in it are kept."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """The content of a JSON file of at most `largest` bytes.

    Raises:
        UserError: it cannot be read, or is too large, or is no JSON.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > largest:
        raise UserError(f"{path}: more than {largest:,} bytes is too large for a configuration")
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, to a directory that is being made whole."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

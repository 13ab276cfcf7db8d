"""Work that is done once and kept: directories in the user's cache, safe with several processes at once."""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from zoo.errors import UserError
from zoo.files import whole_directory

logger = logging.getLogger("zoo")

Content = TypeVar("Content")


def default_cache_root() -> Path:
    """`$ZOO_CACHE`, or else `~/.cache/tf-model-zoo`."""
    return Path(os.environ.get("ZOO_CACHE") or "~/.cache/tf-model-zoo").expanduser()


def read_or_build(
    directory: Path, read: Callable[[Path], Content | None], build: Callable[[Path], None], grows: bool = False
) -> Content:
    """What `read` makes of `directory`; where that is None, `build` fills it first.

    What is there while `build` runs is there still, and it may take from it; that it is replaced is told, unless the
    content `grows`, so that to be replaced is nothing out of the ordinary.

    Processes that want the same directory wait for the one that builds it (all workers of one machine start at once).

    Raises:
        UserError: the cache cannot be written; what was begun is gone then.
    """
    content = read(directory)
    if content is not None:
        return content
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = directory.with_name(f"{directory.name}.lock").open("wb")
    except OSError as error:
        raise _cannot_be_written(directory, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, by whatever end this process meets
        content = read(directory)
        if content is None:
            if directory.exists() and not grows:
                logger.warning("%s is not whole, or of files that were changed: it is made again", directory)
            for left_behind in directory.parent.glob(f".{directory.name}.*"):  # by a process that was killed
                shutil.rmtree(left_behind, ignore_errors=True)
            try:
                with whole_directory(directory, force=True) as partial:
                    build(partial)
            except OSError as error:  # reading is the business of `build`, which says so itself
                raise _cannot_be_written(directory, error) from None
            content = read(directory)
        if content is None:
            raise RuntimeError(f"{directory} was written, and cannot be read back")
        return content


def _cannot_be_written(directory: Path, error: OSError) -> UserError:
    return UserError(
        f"the cache {directory.parent} cannot be written ({error.strerror or error}): make room there, or set ZOO_CACHE"
    )

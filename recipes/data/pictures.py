"""Images of a table, which names their files or holds them: each decoded once to see that it can be, and then listed.

Every image is decoded again when it is used: thousands of them do not fit into memory.
"""

import contextlib
import hashlib
import os
import re
import stat
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.data.examples import CHARACTERS_AT_ONCE, Example, Examples, build_examples, in_chunks
from recipes.data.formats import LABELLED_IMAGE, RECORDS
from recipes.data.inspection import FoundFile
from recipes.data.lines import Row
from recipes.data.problems import Problems, printable
from recipes.data.tables import Table
from zoo.errors import UserError

NO_IMAGE = "no image"
_AT_ONCE = 64  # files that are decoded one after another by one core
_STAMP = struct.Struct("<qq")  # size in bytes, time of modification in nanoseconds


class Pictures(Examples):
    """Images that were found to be whole, in the order of their table.

    Their columns are `file`, the absolute path, or `content`, the encoded bytes, the other one being empty; `height`
    and `width` in pixels; `digest` of the pixels; and what the caller added.
    """

    def read(self, place: int) -> np.ndarray:
        """Decode one: uint8 (height, width, 3).

        Raises:
            UserError: its file vanished, or was changed since it was listed.
        """
        from zoo.image.decode import read_image

        content = self.content("content", place)
        if content:
            return read_image(content)
        file = self._file(place)
        with file.being_read():
            return read_image(file.path)

    def name(self, place: int) -> str:
        """What one is called in a message or report: its path, or where it stands in the table."""
        return printable(os.fsdecode(self.content("name", place) or self.content("file", place)))

    def key(self, place: int) -> bytes:
        """A hash of one's pixels: the same for images that a model cannot tell from each other."""
        return self.content("digest", place)

    def _file(self, place: int) -> FoundFile:
        path = Path(os.fsdecode(self.content("file", place)))
        return FoundFile(path, *_STAMP.unpack(self.content("stamp", place)))


def locate(value: Any, folder: Path | None) -> Path | bytes | str:
    """Where the image is that a row names or holds.

    Args:
        value: of the row: a path; the bytes of a file; or a dict of `bytes` and, where there are none, `path`, as
            Hugging Face's `datasets` write it. Anything else is no image.
        folder: which paths start from, unless they are absolute; None where paths cannot be meant.

    Returns:
        The path of a regular file, or the bytes of one, of which neither need be an image; or, as a `str`, why there is
        none, in few words that have nothing of the value in them.
    """
    place = _point_to(value, folder)
    if not isinstance(place, Path):
        return place
    found = _find(place)
    return found if isinstance(found, str) else place


def build_pictures(
    table: Table,
    column: str,
    request: dict[str, Any],
    encode: Callable[[Row], Example | str] = lambda row: {},
    facts: Callable[[], dict[str, Any]] = dict,
    cache_root: Path | None = None,
) -> Pictures:
    """The images of a table, or what was made of them before, if neither the table nor an image was changed since.

    All are decoded, on all cores. Those that cannot be are counted, named and left out, unless they are too many. What
    is in the memory at a time are, for each core, a few megabytes of encoded images and one that is decoded.

    Args:
        table: the rows. Paths in it start from its folder; records have no paths.
        column: of the images; see `locate` for what it can hold.
        request: all else that the columns of `encode` hang on; JSON's values.
        encode: further columns for the row of an image that is whole, the same in each; or, as a `str`, why the row
            cannot be used. It is called for one row after another, in their order.
        facts, cache_root: as for `build_examples`.

    Raises:
        UserError: too many rows cannot be used, or none is left; or the cache cannot be written.
    """
    folder = (table.path if table.path.is_dir() else table.path.parent).absolute()
    unused: list[tuple[str, list[int] | None]] = []  # files that were left out, and whether they have changed since

    def make(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        in_folder = table.format is LABELLED_IMAGE
        examined = _examine_all(rows, problems, column, None if table.format is RECORDS else folder)
        with contextlib.closing(examined):
            for row, where, image in examined:
                columns = image.fault or encode(row)
                if isinstance(columns, dict):
                    yield image.columns | columns
                    continue
                problems.add(printable(where if in_folder or not image.file else f"{where} ({image.file})"), columns)
                if image.file:
                    unused.append((image.file, _state(Path(image.file))))

    def is_current(examples: Examples) -> bool:
        return table.format is LABELLED_IMAGE or not _has_changed(examples)  # its files are the table's

    examples = build_examples(
        table,
        {"kind": "pictures", "folder": str(folder), "column": column, **request},
        make,
        lambda: {**facts(), "unused_files": unused},
        cache_root,
        is_current,
    )
    return Pictures(examples.directory)


class _Image(NamedTuple):
    """What was found out about an image: its columns, or else why it cannot be used; and its file, if it has one."""

    columns: Example
    fault: str = ""
    file: str = ""


def _examine_all(
    rows: Iterator[Row], problems: Problems, column: str, folder: Path | None
) -> Generator[tuple[Row, str, _Image]]:
    """Each row, where it stands and its image, in their order; a few chunks ahead of it are being decoded."""
    cores = os.cpu_count() or 1
    placed = ((row, problems.where) for row in rows)
    with ThreadPoolExecutor(cores) as pool:  # threads, since Pillow decodes without the interpreter's lock
        waiting: deque[Future[list[tuple[Row, str, _Image]]]] = deque()
        for some in in_chunks(placed, partial(_weigh, column)):
            waiting.append(pool.submit(_examine_some, some, column, folder))
            if len(waiting) > 2 * cores:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _weigh(column: str, placed: tuple[Row, str]) -> int:
    place = _point_to(placed[0].get(column), None)
    return len(place) if isinstance(place, bytes) else CHARACTERS_AT_ONCE // _AT_ONCE


def _examine_some(some: list[tuple[Row, str]], column: str, folder: Path | None) -> list[tuple[Row, str, _Image]]:
    return [(row, where, _examine(row.get(column), where, folder)) for row, where in some]


def _examine(value: Any, where: str, folder: Path | None) -> _Image:
    from zoo.image.decode import read_image

    place = _point_to(value, folder)
    if isinstance(place, str):
        return _Image({}, place)
    file, stamp, name = "", b"", where
    if isinstance(place, Path):
        file, name = str(place), ""
        found = _find(place)
        if isinstance(found, str):
            return _Image({}, found, file)
        stamp = _STAMP.pack(found.size, found.modified)
    elif isinstance(value, dict) and isinstance(value.get("path"), str):
        name = f"{where} ({value['path']:.200})"
    try:
        pixels = read_image(place)
    except UserError as error:
        return _Image({}, _shorten(str(error), file or "the image"), file)
    digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.data)
    columns = {
        "file": os.fsencode(file),
        "stamp": stamp,
        "content": b"" if file else place,
        "name": os.fsencode(name),
        "height": [pixels.shape[0]],
        "width": [pixels.shape[1]],
        "digest": digest.digest(),
    }
    return _Image(columns, file=file)


def _point_to(value: Any, folder: Path | None) -> Path | bytes | str:
    """As `locate`, whether or not there is such a file."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value or NO_IMAGE
    if not isinstance(value, str) or not value.strip() or "\0" in value or folder is None:
        return NO_IMAGE
    if re.match(r"\w+://", value):
        return "an address, not a file"
    return folder / value


def _find(path: Path) -> FoundFile | str:
    """A file, or why there is none, in few words."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except (OSError, ValueError):  # a name that is too long, or no text
        return "a file that cannot be read"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def _shorten(message: str, name: str) -> str:
    """What `read_image` says, without what differs from image to image, so that those alike can be counted."""
    fault = re.sub(r"^([\d,]+( x [\d,]+| bytes) )?is ", "", message.removeprefix(f"{name}: "))
    return re.split(r": | \(", fault)[0]


def _state(path: Path) -> list[int] | None:
    found = _find(path)
    return None if isinstance(found, str) else [found.size, found.modified]


def _has_changed(examples: Examples) -> bool:
    """Whether any file is not as it was, or one that was left out might be whole by now."""
    for place in range(len(examples)):
        stamp = examples.content("stamp", place)
        path = Path(os.fsdecode(examples.content("file", place)))
        if stamp and _state(path) != list(_STAMP.unpack(stamp)):
            return True
    return any(_state(Path(path)) != state for path, state in examples.facts["unused_files"])

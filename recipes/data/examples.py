"""Encoded examples of a labelled data set: rows of different lengths in flat files, made once and kept in the cache."""

import array
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from recipes.data.cache import default_cache_root, read_or_build
from recipes.data.inspection import resolve_files
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table
from zoo.errors import UserError

logger = logging.getLogger("zoo")

FORMAT = 2  # to be raised when the same rows would be written differently
PROGRESS_SECONDS = 5.0
ROWS_AT_ONCE = 1000  # that are encoded together, on all cores; or as many as have so many characters
CHARACTERS_AT_ONCE = 2**20

Example = dict[str, Any]
Item = TypeVar("Item")


class Examples:
    """Rows of a few columns, each a list of whole numbers, a text or bytes, in `directory`; read from disk as they are
    used.

    Attributes:
        columns: their names.
        facts: what was recorded of them all, such as names of labels.
        left_out: which rows of the table are not among them, in words; empty where all are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        meta = json.loads((directory / "examples.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError("of another format")
        self.count: int = meta["count"]
        self.facts: dict[str, Any] = meta["facts"]
        self.left_out: str = meta["left_out"]
        self.columns: dict[str, str] = meta["columns"]
        self._ends, self._values = {}, {}
        for name, dtype in self.columns.items():
            self._ends[name] = _open(directory / f"{name}.ends", "int64", self.count + 1)
            self._values[name] = _open(directory / f"{name}.bin", dtype, int(self._ends[name][-1]))

    def __len__(self) -> int:
        return self.count

    def lengths(self, name: str) -> np.ndarray:
        """How many numbers each row has in a column: (rows,) int64."""
        return np.diff(self._ends[name])

    def row(self, name: str, place: int) -> np.ndarray:
        """The numbers of one row in a column."""
        begin, end = self._ends[name][place : place + 2]
        return np.asarray(self._values[name][begin:end])

    def text(self, name: str, place: int) -> str:
        """The text of one row in a column of texts."""
        return self.content(name, place).decode()

    def content(self, name: str, place: int) -> bytes:
        """The bytes of one row in a column of bytes, or of texts."""
        return self.row(name, place).tobytes()

    def flat(self, name: str) -> np.ndarray:
        """A column of one number a row: (rows,) int32."""
        if int(self._ends[name][-1]) != self.count:
            raise ValueError(f"{name} has not one number a row")
        return np.asarray(self._values[name])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every number, in hexadecimal."""
        content = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for name in sorted(self.columns):
            content.update(self._ends[name].tobytes())
            content.update(self._values[name].data)
        return content.hexdigest()


def in_chunks(items: Iterator[Item], characters: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items one after another, as lists of as many as are to be encoded at once."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += characters(item)
        if len(chunk) >= ROWS_AT_ONCE or size >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def build_examples(
    table: Table,
    request: dict[str, Any],
    encode: Callable[[Iterator[Row], Problems], Iterator[Example]],
    facts: Callable[[], dict[str, Any]] = dict,
    cache_root: Path | None = None,
    is_current: Callable[[Examples], bool] = lambda examples: True,
) -> Examples:
    """What `encode` makes of the rows of a table, or was made of them before.

    A file counts as unchanged if its path, size and time of modification are.

    Args:
        table: the rows.
        request: all else that the examples hang on; JSON's values.
        encode: makes examples of rows, the same columns in each; a `str` becomes a column of texts, `bytes` one of
            bytes. Rows that cannot be used go to the problems.
        facts: called when all are made: what to record beside them.
        cache_root: where the cache is.
        is_current: whether what was made before still holds, as far as it hangs on more than the table and `request`.

    Raises:
        UserError: too many rows cannot be used, or none is left; or the cache cannot be written.
    """
    paths = resolve_files(table.files)
    files = [(str(path), each.size, each.modified) for path, each in zip(paths, table.files, strict=True)]
    key = hashlib.sha256(json.dumps([FORMAT, request, files], sort_keys=True).encode()).hexdigest()[:32]
    is_new = False

    def read(directory: Path) -> Examples | None:
        try:
            examples = Examples(directory)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return examples if is_new or is_current(examples) else None

    def build(directory: Path) -> None:
        nonlocal is_new
        is_new = True
        problems = Problems()
        count, columns = _write(directory, encode(table.rows(problems), problems))
        problems.require_few()
        if not count:
            raise UserError(f"{table.path} has no row that can be used")
        left_out = problems.describe() if problems.unusable else ""
        meta = {"format": FORMAT, "count": count, "columns": columns, "facts": facts(), "left_out": left_out}
        (directory / "examples.json").write_text(json.dumps(meta), encoding="ascii")  # names of files may be no UTF-8

    examples = read_or_build((cache_root or default_cache_root()) / f"examples-{key}", read, build)
    if examples.left_out:
        logger.warning("left out: %s", examples.left_out)
    return examples


def _write(directory: Path, examples: Iterator[Example]) -> tuple[int, dict[str, str]]:
    """Write the columns; how many rows they have, and their types by name."""
    columns: dict[str, str] = {}
    files: dict[str, Any] = {}
    ends: dict[str, array.array] = {}
    count, told = 0, time.monotonic()
    try:
        for example in examples:
            if not columns:
                columns = {
                    name: "uint8" if isinstance(value, str | bytes) else "int32" for name, value in example.items()
                }
                files = {name: (directory / f"{name}.bin").open("wb") for name in columns}
                ends = {name: array.array("q", [0]) for name in columns}
            for name, dtype in columns.items():
                value = example[name]
                content = value.encode() if isinstance(value, str) else value
                numbers = content if isinstance(content, bytes) else np.asarray(content, dtype).tobytes()
                files[name].write(numbers)
                ends[name].append(ends[name][-1] + len(numbers) // np.dtype(dtype).itemsize)
            count += 1
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                logger.info("reading: %d rows", count)
    finally:
        for file in files.values():
            file.close()
    for name, places in ends.items():
        (directory / f"{name}.ends").write_bytes(places.tobytes())
    return count, columns


def _open(path: Path, dtype: str, count: int) -> np.ndarray:
    if path.stat().st_size != count * np.dtype(dtype).itemsize:
        raise ValueError(f"{path} is not whole")
    return np.memmap(path, dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)

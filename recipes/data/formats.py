"""Formats of labelled data, each a stream of rows from one file. A row that is corrupt is counted and passed over."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from recipes.data.problems import INVALID_UTF8, Problems
from zoo.errors import UserError

Row = dict[str, Any]

LARGEST_LINE = 16 * 2**20  # characters, and as many in a row of several lines
LARGEST_DOCUMENT = 256 * 2**20  # bytes of JSON that is held whole; as Python's objects it takes several times as much
_PIECE = 2**20  # characters read at once of a line
_BATCH = 256  # rows of Parquet at once
_TOO_LONG = "more than 16 MB"


class Line(NamedTuple):
    """A line with its end; `fault` is why it cannot be used, or empty."""

    number: int
    text: str
    fault: str


def read_lines(path: Path, problems: Problems) -> Iterator[Line]:
    """The lines of a file. A byte order mark is dropped, and a line that is too long comes without its text."""
    # Surrogates stand for bytes that are not UTF-8, so that the other lines are read all the same.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number in count(1):
            text = _read_line(file)
            if text == "":
                return
            if text is None:
                yield Line(number, "", _TOO_LONG)
                continue
            fault = find_fault(text)
            problems.is_utf8 |= not fault and not text.isascii()
            yield Line(number, text, fault)


def _read_line(file: TextIO) -> str | None:
    """The next line, nothing at the end of the file, None for one that is too long: what is read of it is let go."""
    pieces: list[str] = []
    size = 0
    while piece := file.readline(_PIECE):
        size += len(piece)
        pieces.append(piece)
        if size > LARGEST_LINE:
            pieces.clear()
        if piece.endswith(("\n", "\r")):
            break
    return "".join(pieces) if size <= LARGEST_LINE else None


def find_fault(text: str) -> str:
    """Why a text cannot be used, or nothing."""
    if "\0" in text:
        return "NUL bytes"
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # the first kind stands for a byte, the other was written as an escape
        return INVALID_UTF8 if "\udc80" <= text[error.start] <= "\udcff" else "half of a surrogate pair"
    return ""


class _Records:
    """Lines for a `csv.reader`, which takes as many as a record has: one that does not end is broken off."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines, self.last = lines, 0
        self.begin()

    def begin(self) -> None:
        """Let the next line be the first of a record."""
        self.first, self.size, self.fault = self.last + 1, 0, ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.last = line.number
        self.size += len(line.text)
        if self.size > LARGEST_LINE:
            self.fault = _TOO_LONG
            raise csv.Error(_TOO_LONG)
        self.fault = self.fault or line.fault
        return line.text


def _read_records(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[_Records, list[str]]]:
    """Fields, and where they stand and what is wrong with them; empty lines are passed over."""
    # The limit is the whole process's: only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_LINE))
    records = _Records(lines)
    reader = csv.reader(records, delimiter=delimiter, strict=True)
    while True:
        records.begin()
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            records.fault = records.fault or f"quotes that do not match ({error})"
        if fields or records.fault:
            yield records, fields


def read_delimited(path: Path, problems: Problems, delimiter: str) -> Iterator[Row]:
    """Rows of CSV with a header; fields are strings.

    Raises:
        UserError: the header cannot be read, or names a column twice.
    """
    records = _read_records(read_lines(path, problems), delimiter)
    header: list[str] = []
    for record, fields in records:
        if not header:
            header = fields
            _require_header(path, fields, record.fault)
            continue
        fault = record.fault
        if not fault and len(fields) != len(header):
            fault = f"{len(fields)} fields instead of {len(header)}"
        # A quote that does not match may have taken in rows that were good: they are lost with it.
        rows = 1 if fields else record.last - record.first + 1
        problems.see(path, record.first, rows)
        if fault:
            problems.add(problems.where, fault, rows)
        else:
            yield dict(zip(header, fields, strict=True))


def _require_header(path: Path, names: list[str], fault: str) -> None:
    if fault:
        raise UserError(f"{path}: its header cannot be read: {fault}")
    require_distinct(path, names)


def require_distinct(path: Path, names: list[str]) -> None:
    """Raise UserError if two columns have the same name."""
    (name, times), *_ = Counter(names).most_common(1)
    if times > 1:
        raise UserError(f"{path}: {times} columns are called {name!r:.80}: rename them")


def read_json_lines(path: Path, problems: Problems) -> Iterator[Row]:
    """Rows of JSON Lines: an object a line, empty lines passed over."""
    for line in read_lines(path, problems):
        if line.text.isspace():
            continue
        problems.see(path, line.number)
        try:
            row = line.fault or _to_row(json.loads(line.text), may_be_broken="\\u" in line.text)
        except (ValueError, RecursionError):
            row = "invalid JSON"
        if isinstance(row, str):
            problems.add(problems.where, row)
        else:
            yield row

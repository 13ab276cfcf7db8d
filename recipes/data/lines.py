"""Formats of labelled data that are made of lines, read as streams: CSV, JSON Lines and CoNLL.

A row that is corrupt is counted and passed over, and what is not UTF-8 costs only the row that it is in.
"""

import csv
import io
import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from recipes.data.problems import INVALID_UTF8, Problems
from zoo.errors import UserError

Row = dict[str, Any]

LARGEST_LINE = 16 * 2**20  # characters; of a row in several lines too
TOO_LONG = "more than 16 MB"
MOST_LINES = 256  # that a quoted field of a .tsv may have
_PIECE = 2**20  # characters of a line that are read at once
_BLANKS = " \t\r\n"
# In CoNLL. A word that is "#" has a tab or one blank behind it, and no tab further on in the latter case.
_ABOUT = re.compile(r"-DOCSTART-|# .*\t|# (id|sent_id|text|newdoc|newpar)( |$)")


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
                yield Line(number, "", TOO_LONG)
                continue
            fault = find_fault(text)
            problems.is_utf8 |= not fault and not text.isascii()
            yield Line(number, text, fault)


def _read_line(file: TextIO) -> str | None:
    """The next line, empty at the end of the file, None for one that is too long: what is read of it is let go."""
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
    except UnicodeEncodeError as error:  # the one kind stands for a byte, the other was written as an escape
        return INVALID_UTF8 if "\udc80" <= text[error.start] <= "\udcff" else "half of a surrogate pair"
    return ""


def read_delimited(
    path: Path, problems: Problems, first: int = 0, last: int | None = None, *, delimiter: str
) -> Iterator[Row]:
    """Rows of CSV below a header, every field a string; empty lines are passed over, and columns without a name.

    Where tabs delimit fields, most who write such files quote nothing, and quotes are the text's own: a line with the
    right number of fields is a row, whatever a quote in it would say.

    Args:
        path: the file.
        problems: what is corrupt is counted there.
        first, last: only rows from `first` up to `last`, numbered from 0, corrupt ones too; None is the end.
        delimiter: between fields.

    Raises:
        UserError: the header cannot be read, or names a column twice.
    """
    records = _read_records(read_lines(path, problems), delimiter)
    header: list[str] = []
    for record, header in islice(records, 1):
        if record.fault:
            raise UserError(f"{path}: its header cannot be read: {record.fault}")
        require_distinct(path, [name for name in header if name])
    for record, fields in islice(records, first, last):
        fault = record.fault
        if not fault and len(fields) != len(header):
            fault = f"{len(fields)} fields instead of {len(header)}"
        # A quote that does not match may have taken in good rows: they are lost with it.
        rows = 1 if fields else record.last - record.first + 1
        problems.see(path, record.first, rows)
        if fault:
            problems.add(problems.where, fault, rows)
        else:
            yield {name: field for name, field in zip(header, fields, strict=True) if name}


def count_delimited(path: Path, delimiter: str) -> int:
    """The rows of CSV, corrupt ones too."""
    return max(0, sum(1 for _ in _read_records(read_lines(path, Problems()), delimiter)) - 1)


def require_distinct(path: Path, names: Sequence[str]) -> None:
    """Raise UserError if two columns have the same name."""
    for name, times in Counter(names).most_common(1):
        if times > 1:
            raise UserError(f"{path}: {times} columns are called {name!r:.80}: rename them")


class _Records:
    """Lines for a `csv.reader`, which takes as many as a record has; one that does not end is broken off."""

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
        self.fault = self.fault or line.fault
        if self.size > LARGEST_LINE:
            raise csv.Error(f"{TOO_LONG} in a row")
        return line.text


def _read_records(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[_Records, list[str]]]:
    """Where each record stands and what is wrong with it, and its fields: none of one that does not parse."""
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_LINE))  # the whole process's, so it is only raised
    if delimiter == "\t":
        yield from _read_tabbed(lines)
        return
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


def _read_tabbed(lines: Iterator[Line]) -> Iterator[tuple[_Records, list[str]]]:
    """As `_read_records`. Where a quote opens in one line and closes in a later one, and each of these lines has the
    right number of fields by itself, they are rows, and the quotes the text's own."""
    ahead: deque[Line] = deque()  # read already, to be read again
    source = iter(lambda: ahead.popleft() if ahead else next(lines, None), None)
    columns = 0
    for line in source:
        taken, fields = _take_tabbed(line, source)
        if fields is None or len(taken) > 1:
            apart = [each.text.rstrip("\r\n").split("\t") for each in taken]
            if columns > 1 and all(len(each) == columns for each in apart):
                ahead.extendleft(reversed(taken[1:]))
                taken, fields = [line], apart[0]
        record = _Records(iter(()))
        record.first, record.last = line.number, taken[-1].number
        record.fault = next((each.fault for each in taken if each.fault), "")
        if fields is None:
            record.fault = record.fault or "quotes that do not match"
        columns = columns or len(fields or [])
        if fields or record.fault:
            yield record, fields or []


def _take_tabbed(first: Line, lines: Iterator[Line]) -> tuple[list[Line], list[str] | None]:
    """A line and those that follow, up to that in which its open quote closes, or as many as may be where none does;
    and the fields of all of them together, None where quotes do not match."""
    taken, text = [first], first.text
    fields, is_open = _parse_tabbed(text)
    while is_open and not taken[-1].fault and len(taken) < MOST_LINES and len(text) < _PIECE:
        line = next(lines, None)
        if line is None:
            break
        taken.append(line)
        text += line.text
        if '"' in line.text:  # no other line closes it
            fields, is_open = _parse_tabbed(text)
    return taken, fields


def _parse_tabbed(text: str) -> tuple[list[str] | None, bool]:
    """The fields of a record, None where its quotes do not match; and whether another line may close one."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True), []), False
    except csv.Error as error:
        return None, "unexpected end" in str(error)


def read_json_lines(path: Path, problems: Problems, first: int = 0, last: int | None = None) -> Iterator[Row]:
    """Rows of JSON Lines, an object a line, from `first` up to `last` as for `read_delimited`; empty lines are passed
    over."""
    for line in islice(_filled_lines(path, problems), first, last):
        problems.see(path, line.number)
        row: Row | str
        try:
            row = line.fault or to_row(json.loads(line.text), may_be_broken(line.text))
        except (ValueError, RecursionError):
            row = "invalid JSON"
        if isinstance(row, str):
            problems.add(problems.where, row)
        else:
            yield row


def count_json_lines(path: Path) -> int:
    """The rows of JSON Lines, corrupt ones too."""
    return sum(1 for _ in _filled_lines(path, Problems()))


def _filled_lines(path: Path, problems: Problems) -> Iterator[Line]:
    return (line for line in read_lines(path, problems) if not line.text.isspace())


def may_be_broken(json_text: str) -> bool:
    """Whether strings of a text in JSON can be no text: they hold a byte that is not UTF-8, or half of a pair."""
    return bool(re.search(r"[\udc80-\udcff]|\\u[dD][89a-fA-F]", json_text))


def to_row(value: Any, check: bool) -> Row | str:
    """A row without what is null in it, or why a value of JSON is none; `check` that its strings are text."""
    if not isinstance(value, dict):
        return "not an object"
    try:
        fault = find_fault(json.dumps(value, ensure_ascii=False)) if check else ""
    except RecursionError:
        fault = "nested too deeply"
    return fault or {key: each for key, each in value.items() if each is not None}


def read_conll(path: Path, problems: Problems) -> Iterator[Row]:
    """Rows of `tokens` and `tags`, a sentence each: the first and the last column of its lines."""
    columns = 0  # of the first line with a tag; where a line has fewer, its last is not the tag
    for is_gap, lines in groupby(read_lines(path, problems), _is_gap):
        if is_gap:
            continue
        tokens: list[str] = []
        tags: list[str] = []
        place = size = 0
        fault = ""
        for line in lines:
            if fault:
                continue  # the rest of a sentence that is lost
            size += len(line.text)
            fields = _split(line.text)
            columns = columns or len(fields) * (len(fields) > 1)
            fault = line.fault or (TOO_LONG if size > LARGEST_LINE else _find_missing(fields, columns))
            place = line.number if fault or not tokens else place
            tokens.append(fields[0])
            tags.append(fields[-1])
        problems.see(path, place)
        if fault:
            problems.add(problems.where, fault)
        else:
            yield {"tokens": tokens, "tags": tags}


def _is_gap(line: Line) -> bool:
    """Whether a line is between sentences: empty, or about the document or the sentence that follows."""
    return not line.fault and (not line.text.strip(_BLANKS) or bool(_ABOUT.match(line.text)))


def _split(text: str) -> list[str]:
    text = text.strip(_BLANKS)  # not all white space: other kinds of it occur in words
    return re.split(r"\t+" if "\t" in text else " +", text)


def _find_missing(fields: list[str], columns: int) -> str:
    if len(fields) == 1:
        return "a line without a tag"
    return "" if len(fields) == columns else f"{len(fields)} columns instead of {columns}"

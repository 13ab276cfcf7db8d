"""Every format of labelled data by its name, and those that are not made of lines: JSON, Parquet, text by label."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recipes.data.folders import read_labelled_image
from recipes.data.lines import (
    LARGEST_LINE,
    TOO_LONG,
    Row,
    count_delimited,
    count_json_lines,
    find_fault,
    may_be_broken,
    read_conll,
    read_delimited,
    read_json_lines,
    require_distinct,
    to_row,
)
from recipes.data.problems import Problems
from recipes.data.records import is_record_file, read_records
from zoo.errors import UserError

LARGEST_DOCUMENT = 256 * 2**20  # bytes of JSON, which is held whole: as Python's objects several times as much
FIRST_ROWS = 100  # show the columns of what has no header
_BATCH = 256  # rows of Parquet that are held at once


def _declare_nothing(path: Path) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Format:
    """How files of a kind are read.

    Attributes:
        read: yields the rows of a file; one that is corrupt it adds to the problems instead.
        declare: the columns that a file names apart from its rows, if it does.
        is_text: a file can be judged by its start: whether it is text, and in UTF-8.
        names_columns: every row of a file has the same columns, which stand in it once.
        count: the rows of a file, corrupt ones too, sooner than by reading them; for a format that is read as a stream,
            whose `read` then takes the numbers of the first row, from 0, and of the one after the last.
        first_rows: how many of a file show its columns.
    """

    read: Callable[..., Iterator[Row]]
    declare: Callable[[Path], tuple[str, ...]] = _declare_nothing
    is_text: bool = True
    names_columns: bool = False
    count: Callable[[Path], int] | None = None
    first_rows: int = FIRST_ROWS


def read_json(path: Path, problems: Problems) -> Iterator[Row]:
    """Rows of a JSON document, numbered from 1: a list of objects, or the questions of SQuAD's layout.

    A question has `id`, `question`, `context` and `answers`, a list of `text` and `start`, empty if it is impossible.

    Raises:
        UserError: it is too large to be held whole, is no JSON, or has another layout.
    """
    document, check = _load_document(path, problems)
    rows: Iterator[Row | str]
    if isinstance(document, list):
        rows = (to_row(value, check) for value in document)
    elif isinstance(document, dict) and isinstance(document.get("data"), list):
        rows = _answered_questions(document["data"], check)
    else:
        raise UserError(f"{path}: neither a list of objects nor SQuAD's layout, articles in a list under 'data'")
    for number, row in enumerate(rows, 1):
        problems.see(path, number)
        if isinstance(row, str):
            problems.add(problems.where, row)
        else:
            yield row


def _load_document(path: Path, problems: Problems) -> tuple[Any, bool]:
    """The document, and whether some of its strings may be no text."""
    with path.open("rb") as file:
        content = file.read(LARGEST_DOCUMENT + 1)
    if len(content) > LARGEST_DOCUMENT:
        limit = f"{LARGEST_DOCUMENT // 2**20:,} MB"
        raise UserError(f"{path}: JSON of more than {limit} is not read whole: write it as .jsonl, an object a line")
    text = content.decode("utf-8-sig", "surrogateescape")
    problems.is_utf8 |= bool(re.search("[^\0-\x7f\udc80-\udcff]", text))  # a surrogate stands for an invalid byte
    try:
        return json.loads(text), may_be_broken(text)
    except (ValueError, RecursionError) as error:
        hint = ": if it is an object a line, call it .jsonl" if str(error).startswith("Extra data") else ""
        raise UserError(f"{path}: not valid JSON: {error}{hint}") from None


def _answered_questions(articles: list[Any], check: bool) -> Iterator[Row | str]:
    for article in articles:
        for paragraph in _list_in(article, "paragraphs"):
            for question in _list_in(paragraph, "qas"):
                row = _answered_question(paragraph, question)
                yield row if isinstance(row, str) else to_row(row, check)


def _list_in(parent: Any, key: str) -> list[Any]:
    values = parent.get(key) if isinstance(parent, dict) else None
    return values if isinstance(values, list) else [None]  # nothing that is a row: it is counted as one


def _answered_question(paragraph: Any, question: Any) -> Row | str:
    """A question with its context and answers, or what is wrong with it."""
    if not isinstance(paragraph, dict) or not isinstance(question, dict):
        return "not in SQuAD's layout"
    row = {"id": question.get("id"), "question": question.get("question"), "context": paragraph.get("context")}
    answers = [] if question.get("is_impossible") else question.get("answers")
    try:
        if answers is not None:
            row["answers"] = [{"text": each["text"], "start": each["answer_start"]} for each in answers]
    except (TypeError, KeyError):
        return "an answer without text or answer_start"
    return row


def read_parquet(path: Path, problems: Problems, first: int = 0, last: int | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1, with what is null left out of them; from `first` up to `last`, these
    numbered from 0. Classes that the file names, as Hugging Face's `datasets` write them, are given by name.

    Raises:
        UserError: it is no Parquet file, or damaged, or pyarrow is not installed.
    """
    with _open_parquet(path) as file:
        number, names = first, _class_names(file)
        for batch in _batches(path, file, first, last):
            for row in _to_rows(batch):
                number += 1
                problems.see(path, number)
                if isinstance(row, str):
                    problems.add(problems.where, row)
                else:
                    named = {name: _name(value, names.get(name)) for name, value in row.items()}
                    yield {name: value for name, value in named.items() if value is not None}


def _class_names(file: Any) -> dict[str, list[str]]:
    """By column, where its numbers, or those in its lists, stand for classes."""
    try:
        features = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        found = {column: (kind.get("feature") or kind).get("names") for column, kind in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {
        column: names
        for column, names in found.items()
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
    }


def _name(value: Any, names: list[str] | None) -> Any:
    """A number, or those in a list, by their names; -1 is of no class."""
    if names is None:
        return value
    if isinstance(value, list):
        return [_name(each, names) for each in value]
    if type(value) is not int or value >= len(names):
        return value
    return None if value < 0 else names[value]


def count_parquet(path: Path) -> int:
    """The rows of a Parquet file; raises what `read_parquet` raises."""
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


def declare_parquet(path: Path) -> tuple[str, ...]:
    """The columns of a Parquet file; raises UserError where two have the same name, and what `read_parquet` raises."""
    with _open_parquet(path) as file:
        names = tuple(file.schema_arrow.names)
    require_distinct(path, names)
    return names


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: Parquet is read by pyarrow, which is not installed: pip install pyarrow") from None
    try:
        # Read as it is used, rather than all columns of a row group beforehand.
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _batches(path: Path, file: Any, first: int, last: int | None) -> Iterator[Any]:
    import pyarrow

    at = 0
    try:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if at + rows <= first or (last is not None and at >= last):
                at += rows  # and none of it is read
                continue
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                begin = max(first - at, 0)
                end = batch.num_rows if last is None else last - at
                at += batch.num_rows
                if begin < end:
                    yield batch.slice(begin, end - begin)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a whole Parquet file: {str(error).splitlines()[0]}")


def _to_rows(batch: Any) -> Iterator[Row | str]:
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # strings are not checked before, and Python has not every time
        if batch.num_rows == 1:
            yield "a string that is not UTF-8" if isinstance(error, UnicodeError) else "a value that Python has not"
        else:
            for place in range(batch.num_rows):
                yield from _to_rows(batch.slice(place, 1))
    else:
        yield from rows


def read_labelled_text(path: Path, problems: Problems) -> Iterator[Row]:
    """One row, of `text`, what the file holds, and `label`, the name of its folder."""
    problems.see(path)
    with path.open("rb") as file:
        content = file.read(LARGEST_LINE + 1)
    text, label = content.decode("utf-8-sig", "surrogateescape"), path.parent.name
    fault = find_fault(text + label) if len(content) <= LARGEST_LINE else TOO_LONG
    problems.is_utf8 |= not fault and not text.isascii()
    if fault:
        problems.add(problems.where, fault)
    else:
        yield {"text": text, "label": label}


def _delimited(delimiter: str) -> Format:
    return Format(
        partial(read_delimited, delimiter=delimiter),
        names_columns=True,
        count=partial(count_delimited, delimiter=delimiter),
    )


_CONLL = Format(read_conll)
_JSON_LINES = Format(read_json_lines, count=count_json_lines)
# Of a thousand shards, with a picture in every row, each is looked into.
RECORDS = Format(read_records, is_text=False, first_rows=10)
FORMATS = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": Format(read_json),
    ".parquet": Format(read_parquet, declare_parquet, is_text=False, names_columns=True, count=count_parquet),
    ".conll": _CONLL,
    ".bio": _CONLL,
    ".iob": _CONLL,
    ".iob2": _CONLL,
    ".tfrecord": RECORDS,
    ".tfrecords": RECORDS,
}
STREAMED = tuple(suffix for suffix, each in FORMATS.items() if each.count)
LABELLED_TEXT = Format(read_labelled_text)
LABELLED_IMAGE = Format(read_labelled_image)


def find_format(path: Path, in_folder: bool = False) -> Format | None:
    """The format of a table by its name, if it is one; some names say so only beside others of their folder."""
    return FORMATS.get(path.suffix.lower()) or (RECORDS if is_record_file(path, in_folder) else None)

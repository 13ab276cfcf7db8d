"""The user's labelled data as rows: one reader for files of every format and for folders of them, and its columns."""

import logging
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recipes.data.folders import find_images, find_labelled, list_folder
from recipes.data.formats import FORMATS, LABELLED_IMAGE, LABELLED_TEXT, Format, find_format
from recipes.data.inspection import FoundFile, find_file, find_text_file
from recipes.data.lines import Row
from recipes.data.problems import Problems
from zoo.config import nearest
from zoo.errors import UserError

logger = logging.getLogger("zoo")

_CHECK_EVERY = 1000  # rows, that the file is still the one that was opened
_SHARD = re.compile(r"(.+)-\d+-of-\d+(\.\w+)?$")


@dataclass(frozen=True)
class Table:
    """Labelled data that was found and looked into, and is read as often as it is asked for.

    Attributes:
        path: what was opened: a file or a folder.
        files: what is read, in this order.
        columns: the names in a row. A row may lack one, unless it is of a format with a header.
        format: of all files.
    """

    path: Path
    files: tuple[FoundFile, ...]
    columns: tuple[str, ...]
    format: Format

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Yield one row after the other; what is corrupt is counted in `problems` and passed over.

        Raises:
            UserError: a file changed, vanished or cannot be read, or more than half of the rows are corrupt.
        """
        for file in self.files:
            try:
                for number, row in enumerate(_read(file.path, self.format, problems)):
                    if number % _CHECK_EVERY == 0:
                        file.require_unchanged()
                    yield row
            except UserError:
                file.require_unchanged()  # or else this is why
                raise
            file.require_unchanged()


def open_table(path: Path) -> Table:
    """Look into labelled data, by the suffix of its file.

    .csv and .tsv have a header. .jsonl and .ndjson hold an object a line. .json is a list of objects, or SQuAD's layout
    with the columns `id`, `question`, `context` and `answers` (of `text` and `start`). .parquet needs pyarrow. .conll,
    .bio, .iob and .iob2 give a row of `tokens` and `tags` for each sentence. .tfrecord and .tfrecords hold examples of
    features; they are also called x.tfrecord-00000-of-00010 or, in a folder, x-00000-of-00010.

    A folder holds files of one of these, all with the same columns, which are read in the order of their names; or else
    texts as `label/name.txt`, which give the columns `text` and `label`; or images as `label/name.jpg`, or with another
    of `IMAGE_SUFFIXES`, which give `image`, the path, and `label`. What is hidden in it is passed over.

    Raises:
        UserError: `path` is missing, unreadable, empty, of no format or of several, of several splits, or without
            usable rows.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return _open_folder(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a file ({', '.join(FORMATS)}) or a folder of them") from None
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if find_format(path) is None:
        raise UserError(f"{path} is no table, by its suffix: expected {', '.join(FORMATS)}, or a folder")
    return _open_files(path, [path])


def open_images(path: Path) -> Table:
    """Look into images without labels: a folder that holds them at any depth, or whatever else `open_table` takes.

    Raises:
        UserError: as from `open_table`, or the folder holds neither tables nor images.
    """
    path = Path(path)
    try:
        entries = list_folder(path) if path.is_dir() else None
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if entries is None or any(find_format(Path(each.path), in_folder=True) and not each.is_dir() for each in entries):
        return open_table(path)
    return Table(path, tuple(map(find_file, find_images(path))), ("image", "label"), LABELLED_IMAGE)


def _open_folder(folder: Path) -> Table:
    entries = [(Path(each.path), each) for each in list_folder(folder)]
    tables = [path for path, entry in entries if find_format(path, in_folder=True) and not entry.is_dir()]
    if tables:
        _require_one_split(folder, tables)
        return _open_files(folder, tables)
    kind, paths = find_labelled(folder)
    if not paths:
        raise UserError(
            f"{folder} holds no table: expected files ({', '.join(FORMATS)}), texts as label/name.txt or images as "
            "label/name.jpg"
        )
    files = tuple(map(find_file, paths))
    if kind == "images":
        return Table(folder, files, ("image", "label"), LABELLED_IMAGE)
    return Table(folder, files, ("text", "label"), LABELLED_TEXT)


def _require_one_split(folder: Path, paths: Sequence[Path]) -> None:
    """Raise UserError where shards of several data sets lie together, which are seldom meant to be read as one."""
    names = sorted({match[1] for path in paths if (match := _SHARD.match(path.name))})
    if len(names) > 1:
        raise UserError(
            f"{folder} holds shards of {names[0]!r:.80} and of {names[1]!r:.80}: give each a folder of its own"
        )


def _open_files(path: Path, paths: Sequence[Path]) -> Table:
    first, *others = paths
    file_format = find_format(first, in_folder=True)
    assert file_format is not None  # it was asked for before
    for other in others:
        if find_format(other, in_folder=True) is not file_format:
            raise UserError(
                f"{first} and {other} are of different formats: give one of them, or a folder of one format"
            )
    files = tuple(map(find_file, paths))
    columns = dict.fromkeys(_find_columns(first, file_format))
    for other in others:
        more = _find_columns(other, file_format)
        if file_format.names_columns and set(columns) != set(more):
            differing = sorted(set(columns).symmetric_difference(more))
            raise UserError(f"{first} and {other} have not the same columns: only one has {_name(differing)}")
        columns.update(dict.fromkeys(more))  # elsewhere what is null or left out in one row may stand in another
    return Table(path, files, tuple(columns), file_format)


def _find_columns(path: Path, file_format: Format) -> tuple[str, ...]:
    """The columns that a file declares or its first good rows have; a UserError says why it has none."""
    if file_format.is_text:
        find_text_file(path)  # refuses what is empty, binary or in another encoding
    problems = Problems()
    columns = dict.fromkeys(file_format.declare(path))
    for row in islice(_read(path, file_format, problems), file_format.first_rows):
        columns.update(dict.fromkeys(row))
    if not problems.seen:
        raise UserError(f"{path} holds no rows")
    if not columns:
        problems.require_few()
        raise UserError(f"{path} has no columns: its rows are empty")
    if len(columns) == 1 and file_format.is_text and file_format.names_columns:
        for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
            if delimiter in next(iter(columns)):
                raise UserError(
                    f"{path} has {name} between its columns: save it as .csv with commas, or .tsv with tabs"
                )
    return tuple(columns)


def _read(path: Path, file_format: Format, problems: Problems) -> Iterator[Row]:
    try:
        yield from file_format.read(path, problems)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def choose_column(
    table: Table, role: str, wanted: str | None, candidates: Sequence[str], taken: Sequence[str] = ()
) -> str:
    """The column of `table` for a role such as "text", which the option `--text-column` names.

    Args:
        table: whose columns there are.
        role: what the column is for.
        wanted: what the user asked for, if anything.
        candidates: usual names for it, likeliest first, in any case of letters.
        taken: columns that other roles have.

    Returns:
        `wanted`; or else the first candidate that is there; or else the only column that is not taken, where others
        are, or it is the text that is looked for.

    Raises:
        UserError: `wanted` is not there, or none can be told to be it.
    """
    if wanted is not None:
        if wanted in table.columns:
            return wanted
        hint = nearest(wanted, table.columns)
        suggestion = hint if "did you mean" in hint else ""  # otherwise it would name them all once more
        raise UserError(
            f"--{role}-column is {wanted!r:.80}, and {table.path} has the columns {_name(table.columns)}{suggestion}"
        )
    if table.format is LABELLED_IMAGE and role not in table.columns:
        raise UserError(f"{table.path} holds images, and no {role}")  # nor is the path of an image one
    free = [column for column in table.columns if column not in taken]
    known = {column.strip().casefold(): column for column in reversed(free)}
    found = next((known[name.casefold()] for name in candidates if name.casefold() in known), None)
    if found is None and len(free) == 1 and (taken or role == "text"):
        found = free[0]
    if found is None and len(table.columns) == 1:
        raise UserError(f"{table.path} has no column for the {role}: its only one is {_name(table.columns)}")
    if found is None:
        raise UserError(
            f"{table.path} does not show which column is the {role}: "
            f"give --{role}-column, one of {_name(free or table.columns)}"
        )
    logger.info("%s column: %r (columns: %s)", role, found, _name(table.columns))
    return found


def _name(columns: Sequence[str]) -> str:
    """Columns in a message: a table can have thousands, and their names can be anything."""
    named = ", ".join(f"{column!r:.80}" for column in columns[:20])
    return f"{named} and {len(columns) - 20:,} more" if len(columns) > 20 else named

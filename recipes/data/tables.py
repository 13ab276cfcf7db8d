"""The user's labelled data as rows: one reader for files of every format and for folders of them, and its columns."""

import logging
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recipes.data.formats import FORMATS, LABELLED_TEXT, Format
from recipes.data.inspection import FoundFile, find_file, find_text_file
from recipes.data.lines import Row
from recipes.data.problems import Problems
from zoo.config import nearest
from zoo.errors import UserError

logger = logging.getLogger("zoo")

FIRST_ROWS = 100  # show the columns of what has no header
_CHECK_EVERY = 1000  # rows, that the file is still the one that was opened


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
    .bio, .iob and .iob2 give a row of `tokens` and `tags` for each sentence. A folder holds files of one of these, all
    with the same columns, which are read in the order of their names; or else texts as `label/name.txt`, which give
    the columns `text` and `label`. What is hidden in it is passed over.

    Raises:
        UserError: `path` is missing, unreadable, empty, of no format or of several, or without usable rows.
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
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path} is no table, by its suffix: expected {', '.join(FORMATS)}, or a folder")
    return _open_files(path, [path])


def _open_folder(folder: Path) -> Table:
    entries = _list(folder)
    tables = [path for path in entries if path.suffix.lower() in FORMATS and not path.is_dir()]
    if tables:
        return _open_files(folder, tables)
    labelled = [path for label in entries if label.is_dir() for path in _list(label)]
    texts = [path for path in labelled if path.suffix.lower() == ".txt" and not path.is_dir()]
    for path in labelled:
        if path.is_dir() and any(path.glob("*.txt")):
            raise UserError(f"{path} holds texts too deep for label/name.txt: give the folder that holds the labels")
    if not texts:
        raise UserError(f"{folder} holds no table: expected files ({', '.join(FORMATS)}) or texts as label/name.txt")
    return Table(folder, tuple(map(find_file, texts)), ("text", "label"), LABELLED_TEXT)


def _list(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _open_files(path: Path, paths: Sequence[Path]) -> Table:
    first, *others = paths
    file_format = FORMATS[first.suffix.lower()]
    for other in others:
        if FORMATS[other.suffix.lower()] is not file_format:
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
    for row in islice(_read(path, file_format, problems), FIRST_ROWS):
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

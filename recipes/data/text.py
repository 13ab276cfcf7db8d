"""Text as a corpus: files and tables found, checked, and split into training and validation."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recipes.data.documents import Document, Reading, TableDocument, TextDocument
from recipes.data.formats import FORMATS, STREAMED
from recipes.data.inspection import find_text_file
from recipes.data.labelled import TEXT_COLUMNS
from recipes.data.tables import choose_column, open_table
from zoo.errors import UserError

logger = logging.getLogger("zoo")

SUFFIXES = (".txt", ".md", ".text", ".rst")
PLAN = "plan.json"  # is in a folder of prepared shards, and tells it from one of texts


@dataclass(frozen=True)
class Corpus:
    """What to train on, and what to validate on: no byte is in both."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]


def open_corpus(
    paths: Path | Sequence[Path],
    validation_path: Path | None = None,
    validation_fraction: float = 0.1,
    text_column: str | None = None,
) -> Corpus:
    """Find the text in `paths`, files and folders, and hold some of it out.

    Text is what .txt, .md, .text and .rst files hold, and each row of .jsonl, .ndjson, .csv, .tsv and .parquet files.

    Held out is what `validation_path` holds if that is given. Else it is the last `validation_fraction` of the bytes
    of a single text file, or of the rows of a single table, or of several files as many whole ones, taken in an order
    that only depends on their names, as fit into that fraction, and one at least. The files of a folder are read in
    the order of their names.

    Args:
        paths: what to train on.
        validation_path: what to validate on.
        validation_fraction: of the text, where that is not given.
        text_column: of the tables; None is guessed.

    Raises:
        UserError: a path is missing or holds no text; the text is binary or in another encoding than UTF-8; a table
            does not show where its text is; the fraction is not between 0 and 1; something would be both trained and
            validated on.
    """
    documents = find_documents(paths, text_column)
    held_out = [] if validation_path is None else find_documents(validation_path, text_column)
    if text_column is not None and not any(isinstance(each, TableDocument) for each in (*documents, *held_out)):
        raise UserError(f"--text-column is {text_column!r:.80}, and there is no table in the data: leave it out")
    if validation_path is not None:
        shared = {document.path for document in documents} & {document.path for document in held_out}
        if shared:
            raise UserError(f"{min(shared)} is in both the training and the validation data: keep them apart")
        return Corpus(tuple(documents), tuple(held_out))
    if not 0 < validation_fraction < 1:
        raise UserError(f"the validation fraction is {validation_fraction}: it must lie between 0 and 1")
    if len(documents) == 1:
        train, validation = documents[0].split(validation_fraction)
        return Corpus((train,), (validation,))
    return _split_by_document(documents, validation_fraction)


def _split_by_document(documents: Sequence[Document], fraction: float) -> Corpus:
    wanted = fraction * sum(document.bytes for document in documents)
    shuffled = sorted(documents, key=lambda document: hashlib.sha256(os.fsencode(document.name)).digest())
    held_out: set[Document] = set()
    held_bytes = 0
    for document in shuffled:
        if held_bytes + document.bytes <= wanted:
            held_out.add(document)
            held_bytes += document.bytes
    held_out = held_out or {min(shuffled, key=lambda document: document.bytes)}
    train = tuple(document for document in documents if document not in held_out)
    return Corpus(train, tuple(document for document in documents if document in held_out))


def find_documents(paths: Path | Sequence[Path], text_column: str | None = None) -> list[Document]:
    """The text files and tables that `paths` are or hold: in the order of the paths, those of a folder by name.

    Args:
        paths: files and folders.
        text_column: of the tables; None is guessed.

    Raises:
        UserError: a path is none of this, and why.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    if not paths:
        raise UserError("no data is given: name a text file, a table, or a folder of them")
    finder = _Finder(text_column)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: give a text file or a folder of text files")
        if is_prepared(path):
            raise UserError(f"{path} was prepared for training already: it is read by itself, by the pretraining alone")
        # Names tell what is held out: that of a single path stays the same wherever it lies.
        prefix = f"{path.resolve().name}/" if len(paths) > 1 else ""
        if path.is_dir():
            finder.add_folder(path, prefix)
        else:
            finder.add(path, path.name)
    finder.warn()
    return finder.documents


class _Finder:
    """Finds documents one after another, each once: else a text could be in both splits.

    Attributes:
        documents: those that were found.
        problems: why others are left out.
    """

    def __init__(self, text_column: str | None) -> None:
        self.text_column = text_column
        self.documents: list[Document] = []
        self.problems: list[str] = []
        self._seen: dict[Path, Path] = {}
        self._chosen: dict[tuple[str, ...], str] = {}

    def add_folder(self, folder: Path, prefix: str) -> None:
        """Add what is usable in a folder, with `prefix` before its names; a UserError if nothing is."""
        found, left_out = len(self.documents), len(self.problems)
        for file, name in sorted(_walk(folder), key=lambda item: item[1]):
            try:
                self.add(file, prefix + name)
            except UserError as error:
                self.problems.append(str(error))
        if len(self.documents) == found:
            problems = self.problems[left_out:]
            if problems:
                raise UserError(f"{folder} holds no usable text in {len(problems)} files: {problems[0]}")
            raise UserError(f"{folder} holds no text files: expected {', '.join((*SUFFIXES, *STREAMED))}")

    def add(self, path: Path, name: str) -> None:
        """Add a file, unless it was added before; a UserError if it is not usable."""
        document = self._open(path, name)
        if document.path in self._seen:
            self.problems.append(f"{path} is the same file as {self._seen[document.path]}, which is read already")
        else:
            self._seen[document.path] = path
            self.documents.append(document)

    def warn(self) -> None:
        """Say what is left out."""
        for problem in self.problems[:3]:
            logger.warning("left out: %s", problem)
        if len(self.problems) > 3:
            logger.warning("left out: %d more files like these", len(self.problems) - 3)

    def _open(self, path: Path, name: str) -> Document:
        suffix = path.suffix.lower()
        if suffix in FORMATS and suffix not in STREAMED:
            raise UserError(f"{path} is no text to be read on, by its suffix: write it as .jsonl, an object a line")
        if suffix not in STREAMED:
            file = find_text_file(path)
            return TextDocument(file, name, 0, file.size)
        table = open_table(path)
        if table.columns not in self._chosen:  # of many tables that are alike, it is said once which it is
            self._chosen[table.columns] = choose_column(table, "text", self.text_column, TEXT_COLUMNS)
        (file,) = table.files
        return TableDocument(replace(file, path=path.resolve()), name, table.format, self._chosen[table.columns])


def is_prepared(path: Path) -> bool:
    """Whether it is what `zoo prepare` writes."""
    return (path / PLAN).is_file()


def first_text(path: Path, text_column: str | None = None, characters: int = 20_000) -> str:
    """The beginning of the text in `path`, a file or a folder; raises what `find_documents` does."""
    text = ""
    for document in find_documents(Path(path), text_column):
        for chunk in document.chunks(Reading(), "\n"):
            text += chunk
            if len(text) >= characters:
                return text[:characters]
    return text


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not is_prepared(Path(directory) / name)]
        for name in files:
            file = Path(directory) / name
            if file.suffix.lower() in (*SUFFIXES, *FORMATS) and not name.startswith("."):
                yield file, file.relative_to(folder).as_posix()

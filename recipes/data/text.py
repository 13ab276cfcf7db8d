"""Text files as a corpus: found, checked, split into training and validation, and read as a stream."""

import codecs
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo.errors import UserError

logger = logging.getLogger("zoo")

SUFFIXES = (".txt", ".md", ".text", ".rst")
CHUNK_BYTES = 2**20
PROBE_BYTES = 2**16
MOST_INVALID = 0.3  # of the characters: western text in a one-byte encoding stays below, bytes at random do not


@dataclass
class Reading:
    """What was met while reading: the bytes so far, and by file how many invalid UTF-8 sequences were replaced."""

    bytes: int = 0
    replaced: Counter[Path] = field(default_factory=Counter)

    def warn(self) -> None:
        """Say in one line what was replaced, if anything was."""
        if self.replaced:
            files = ", ".join(f"{path} ({count})" for path, count in self.replaced.most_common(3))
            more = f" and {len(self.replaced) - 3} more files" if len(self.replaced) > 3 else ""
            logger.warning("%d invalid UTF-8 sequences replaced by U+FFFD: %s%s", self.replaced.total(), files, more)


@dataclass(frozen=True)
class Document:
    """The bytes `start` to `end` of a text file, usually all. `name` is its path below the folder, with `/`."""

    path: Path
    name: str
    size: int
    modified: int  # nanoseconds
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def is_whole(self) -> bool:
        return self.bytes == self.size

    def chunks(self, reading: Reading) -> Iterator[str]:
        """Read a megabyte at a time. A byte order mark is dropped, invalid UTF-8 becomes U+FFFD and is counted."""
        with self.path.open("rb") as file:
            if self.start or file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                file.seek(self.start)
            rest = b""
            while block := file.read(min(CHUNK_BYTES, self.end - file.tell())):
                content = rest + block
                text, consumed = codecs.utf_8_decode(content, "replace", file.tell() == self.end)
                # Every U+FFFD that does not stand in the file stands for something invalid.
                invalid = text.count("\ufffd") - content[:consumed].count("\ufffd".encode())
                if invalid:
                    reading.replaced[self.path] += invalid
                reading.bytes += len(block)
                rest = content[consumed:]
                yield text


@dataclass(frozen=True)
class Corpus:
    """What to train on, and what to validate on: no byte is in both."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]


def open_corpus(path: Path, validation_path: Path | None = None, validation_fraction: float = 0.1) -> Corpus:
    """Find the text in `path`, a file or a folder of .txt, .md, .text and .rst files, and hold some of it out.

    Held out is what `validation_path` holds if that is given. Else it is the last `validation_fraction` of the bytes
    of a single document, or of several documents as many whole ones, taken in an order that only depends on their
    names, as fit into that fraction, and one at least. Documents are read in the order of their names.

    Raises:
        UserError: a path is missing or holds no text; the text is binary or in another encoding than UTF-8; the
            fraction is not between 0 and 1; something would be both trained and validated on.
    """
    documents = find_documents(Path(path))
    if validation_path is not None:
        held_out = find_documents(Path(validation_path))
        shared = {document.path for document in documents} & {document.path for document in held_out}
        if shared:
            raise UserError(f"{min(shared)} is in both the training and the validation data: keep them apart")
        return Corpus(tuple(documents), tuple(held_out))
    if not 0 < validation_fraction < 1:
        raise UserError(f"the validation fraction is {validation_fraction}: it must lie between 0 and 1")
    if len(documents) == 1:
        return _split_by_position(documents[0], validation_fraction)
    return _split_by_document(documents, validation_fraction)


def _split_by_position(document: Document, fraction: float) -> Corpus:
    cut = int(document.size * (1 - fraction))
    with document.path.open("rb") as file:
        file.seek(cut)
        while (byte := file.read(1)) and 0x80 <= byte[0] < 0xC0:  # in the middle of a character
            cut += 1
    return Corpus((replace(document, end=cut),), (replace(document, start=cut),))


def _split_by_document(documents: Sequence[Document], fraction: float) -> Corpus:
    wanted = fraction * sum(document.bytes for document in documents)
    shuffled = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
    held_out: set[Document] = set()
    held_bytes = 0
    for document in shuffled:
        if held_bytes + document.bytes <= wanted:
            held_out.add(document)
            held_bytes += document.bytes
    held_out = held_out or {min(shuffled, key=lambda document: document.bytes)}
    train = tuple(document for document in documents if document not in held_out)
    return Corpus(train, tuple(document for document in documents if document in held_out))


def find_documents(path: Path) -> list[Document]:
    """The text files that `path` is or holds, by name; a UserError says why there are none."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give a text file or a folder of text files")
    if not path.is_dir():
        document, problem = _probe(path, path.name)
        if document is None:
            raise UserError(f"{path} {problem}")
        return [document]

    documents, problems = [], []
    seen: dict[Path, str] = {}
    for file, name in sorted(_walk(path), key=lambda item: item[1]):
        document, problem = _probe(file, name)
        if document is None:
            problems.append(f"{file} {problem}")
        elif document.path in seen:  # else a text could be in both splits
            problems.append(f"{file} is a link to {seen[document.path]}, which is read already")
        else:
            seen[document.path] = name
            documents.append(document)
    if not documents and problems:
        raise UserError(f"{path} holds no usable text in {len(problems)} files: {problems[0]}")
    if not documents:
        raise UserError(f"{path} holds no text files: expected {', '.join(SUFFIXES)}")
    for problem in problems[:3]:
        logger.warning("left out: %s", problem)
    if len(problems) > 3:
        logger.warning("left out: %d more files like these", len(problems) - 3)
    return documents


def first_text(path: Path, characters: int = 20_000) -> str:
    """The beginning of the text in `path`, a file or a folder; raises what `find_documents` does."""
    text = ""
    for document in find_documents(Path(path)):
        for chunk in document.chunks(Reading()):
            text += chunk
            if len(text) >= characters:
                return text[:characters]
    return text


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(directory) / name
            if file.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield file, file.relative_to(folder).as_posix()


def _probe(path: Path, name: str) -> tuple[Document | None, str]:
    """The document, or None and what is wrong with it, judged by its first 64 KB."""
    if not path.is_file():
        return None, "is not a regular file"
    try:
        with path.open("rb") as file:
            head = file.read(PROBE_BYTES)
            status = os.fstat(file.fileno())
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    problem = _problem(head, head_is_all=status.st_size <= len(head))
    document = Document(path.resolve(), name, status.st_size, status.st_mtime_ns, 0, status.st_size)
    return (None, problem) if problem else (document, "")


def _problem(head: bytes, head_is_all: bool) -> str:
    if not head:
        return "is empty"
    even, odd = (head[start::2].count(0) / len(head) for start in (0, 1))
    one_sided = min(even, odd) == 0 and max(even, odd) > 0.15  # as western text is in UTF-16
    if one_sided or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "is UTF-16 text: convert it to UTF-8 first, for instance with `iconv -f UTF-16 -t UTF-8`"
    if even or odd:
        return "is binary, not text (it contains NUL bytes)"
    text, _ = codecs.utf_8_decode(head, "replace", head_is_all)
    invalid = text.count("\ufffd") - head.count("\ufffd".encode())
    if invalid > MOST_INVALID * len(text):
        return f"is binary or not in UTF-8 ({invalid / len(text):.0%} of its start is invalid): convert it to UTF-8"
    if head_is_all and not text.lstrip("\ufeff").strip():
        return "holds no text, only white space"
    return ""

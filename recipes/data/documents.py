"""Documents to be read as a stream: a text file, or the rows of a table, or a part of either."""

import codecs
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from recipes.data.formats import Format
from recipes.data.inspection import FoundFile
from recipes.data.problems import Problems
from zoo.text import find_safe_cut

logger = logging.getLogger("zoo")

CHUNK_BYTES = 2**20


@dataclass
class Reading:
    """What was met while reading.

    Attributes:
        bytes: of the texts so far, in UTF-8 or as they stand in a text file.
        done: bytes of the files so far, to tell how far it is; of those of tables about as many.
        replaced: by file how many invalid UTF-8 sequences were replaced.
        problems: rows of tables that cannot be used.
    """

    bytes: int = 0
    done: int = 0
    replaced: Counter[Path] = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)

    def warn(self) -> None:
        """Say in one line what was replaced, if anything was, and in another which rows were left out."""
        if self.replaced:
            files = ", ".join(f"{path} ({count})" for path, count in self.replaced.most_common(3))
            more = f" and {len(self.replaced) - 3} more files" if len(self.replaced) > 3 else ""
            logger.warning("%d invalid UTF-8 sequences replaced by U+FFFD: %s%s", self.replaced.total(), files, more)
        self.problems.warn()


@dataclass(frozen=True)
class Document(ABC):
    """A file, or a part of one. `name` is its path below the folder that was given, with `/`."""

    file: FoundFile
    name: str

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Of the file that this is of it; of a table about as many."""

    @property
    @abstractmethod
    def part(self) -> dict[str, Any]:
        """Which part of the file it is, and all else that its text hangs on: JSON's values."""

    @abstractmethod
    def chunks(self, reading: Reading, separator: str = "") -> Iterator[str]:
        """Read a stretch at a time, with `separator` behind each text that ends."""

    @abstractmethod
    def split(self, fraction: float) -> tuple[Self, Self]:
        """All but the last `fraction` of it, and that, to be held out."""

    @abstractmethod
    def cut(self, places: Sequence[int]) -> list[Self]:
        """Parts that have its very ids, one after another: cut near these numbers of bytes from its start, rising."""


@dataclass(frozen=True)
class TextDocument(Document):
    """The bytes `start` to `end` of a text file; `closed` if the document ends there."""

    start: int
    end: int
    closed: bool = True

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def part(self) -> dict[str, Any]:
        return {"bytes": [self.start, self.end], "closed": self.closed}

    def chunks(self, reading: Reading, separator: str = "") -> Iterator[str]:
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
                reading.done += len(block)
                rest = content[consumed:]
                yield text
        if self.closed and separator:
            yield separator

    def split(self, fraction: float) -> tuple[Self, Self]:
        cut = self.start + int(self.bytes * (1 - fraction))
        with self.file.being_read(), self.path.open("rb") as file:
            file.seek(cut)
            while (byte := file.read(1)) and 0x80 <= byte[0] < 0xC0:  # in the middle of a character
                cut += 1
        return replace(self, end=cut, closed=False), replace(self, start=cut, closed=False)

    def cut(self, places: Sequence[int]) -> list[Self]:
        edges = [self.start]
        for place in places:
            edges.append(self._find_cut(max(self.start + place, edges[-1])))
        parts = [replace(self, start=start, end=end, closed=False) for start, end in pairwise(edges)]
        return [*parts, replace(self, start=edges[-1])]

    def _find_cut(self, place: int) -> int:
        """The first byte from `place` on at which the text may be cut, or its end."""
        with self.file.being_read(), self.path.open("rb") as file:
            file.seek(place)
            while block := file.read(min(CHUNK_BYTES, self.end - file.tell())):
                # The rest of a character is none, and must not be taken for what stands before a space.
                text = block.lstrip(bytes(range(0x80, 0xC0))).decode(errors="surrogateescape")
                found = find_safe_cut(text)
                if found is not None:
                    return file.tell() - len(text[found:].encode(errors="surrogateescape"))
        return self.end


@dataclass(frozen=True)
class TableDocument(Document):
    """Rows of a table, each a text of its own.

    Attributes:
        format: one that is read as a stream.
        column: that of the text.
        first, last: numbers of the first row and of the one after the last, from 0, corrupt ones counted.
        total: rows of the whole table.

    `last` and `total` are None until the rows are counted.
    """

    format: Format
    column: str
    first: int = 0
    last: int | None = None
    total: int | None = None

    @property
    def bytes(self) -> int:
        if self.last is None or self.total is None:
            return self.file.size
        return self.file.size * (self.last - self.first) // max(self.total, 1)

    @property
    def part(self) -> dict[str, Any]:
        return {"rows": [self.first, self.last], "column": self.column}

    def chunks(self, reading: Reading, separator: str = "") -> Iterator[str]:
        """Read a row at a time; one without text is counted as a problem and passed over."""
        left = self.bytes  # which of them a row takes is not known
        for row in self.format.read(self.path, reading.problems, self.first, self.last):
            text = row.get(self.column)
            if not isinstance(text, str) or not text.strip():
                reading.problems.add(reading.problems.where, f"no {self.column}")
                continue
            size = len(text.encode())
            reading.bytes += size
            reading.done += min(size, left)
            left -= min(size, left)
            yield text
            if separator:
                yield separator
        reading.done += left

    def split(self, fraction: float) -> tuple[Self, Self]:
        first, last, total = self._count()
        cut = first + int((last - first) * (1 - fraction))
        return replace(self, last=cut, total=total), replace(self, first=cut, last=last, total=total)

    def cut(self, places: Sequence[int]) -> list[Self]:
        first, last, total = self._count()
        inner = [first + place * (last - first) // max(self.bytes, 1) for place in places]
        edges = [first, *inner, last]
        return [replace(self, first=start, last=end, total=total) for start, end in pairwise(edges)]

    def _count(self) -> tuple[int, int, int]:
        """The first row, the one after the last, and how many the whole table has."""
        if self.total is not None and self.last is not None:
            return self.first, self.last, self.total
        assert self.format.count is not None
        with self.file.being_read():
            total = self.format.count(self.path)
        return self.first, total, total


def read_documents(documents: Iterable[Document], reading: Reading, separator: str) -> Iterator[str]:
    """The text of documents one after another, with `separator` behind each that ends.

    Raises:
        UserError: a file changed or vanished since it was found, or cannot be read; too many rows are corrupt.
    """
    for document in documents:
        with document.file.being_read():
            yield from document.chunks(reading, separator)

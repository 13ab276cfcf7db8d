"""Files before they are read, and after: whether one is text, and whether it is still the one that was found."""

import codecs
import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UserError

PROBE_BYTES = 2**16
MOST_INVALID = 0.3  # of the characters: western text in a one-byte encoding stays below, bytes at random do not


@dataclass(frozen=True)
class FoundFile:
    """A file as it was when it was found: `size` in bytes, `modified` in nanoseconds."""

    path: Path
    size: int
    modified: int

    def require_unchanged(self) -> None:
        """Raise UserError if it is not as it was."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.path} was there and is not any more ({error.strerror}): start again") from None
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            raise UserError(f"{self.path} was changed since it was opened: start again when it is complete")

    @contextlib.contextmanager
    def being_read(self) -> Iterator[None]:
        """A block that reads it; a UserError if it cannot be read there, or was changed or removed until its end."""
        try:
            yield
        except (OSError, UserError) as error:
            self.require_unchanged()  # or else this is why
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from None
        self.require_unchanged()


def find_file(path: Path) -> FoundFile:
    """The file `path`, whatever it holds; a UserError says why it is none that can be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file")
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def resolve_files(files: Iterable[FoundFile]) -> list[Path]:
    """Their paths, absolute and with all links followed; folders that many of them share are followed once."""
    folders: dict[Path, Path] = {}
    paths = []
    for file in files:
        parent = file.path.parent
        if parent not in folders:
            folders[parent] = parent.resolve()
        paths.append(file.path.resolve() if file.path.is_symlink() else folders[parent] / file.path.name)
    return paths


def find_text_file(path: Path) -> FoundFile:
    """The text file `path`, which links are followed to; a UserError says why it is none, judged by its first 64 KB."""
    find_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(PROBE_BYTES)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    fault = _find_fault(head, head_is_all=status.st_size <= len(head))
    if fault:
        raise UserError(f"{path} {fault}")
    return FoundFile(path.resolve(), status.st_size, status.st_mtime_ns)


def _find_fault(head: bytes, head_is_all: bool) -> str:
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

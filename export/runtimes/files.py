"""Files that are looked into without reading all of them: most of what they hold is weights."""

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_mapped(path: Path, access: int = mmap.ACCESS_READ) -> Iterator[mmap.mmap]:
    """The bytes of a file, which come into memory where they are touched. Under ACCESS_COPY they can be changed, and
    the file is not."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=access) as content:
        yield content


def message_fields(content: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a protobuf message that have a length, as numbers have not: of each its number in the schema, and
    where its content begins and ends.

    Args:
        content: holds the message.
        start, end: where.

    Raises:
        ValueError: it is none.
    """
    while start < end:
        key, start = _read_number(content, start)
        number, kind = key >> 3, key & 7
        if kind == 2:
            length, start = _read_number(content, start)
            yield number, start, start + length
            start += length
        elif kind == 0:
            _, start = _read_number(content, start)
        elif kind in (1, 5):  # eight bytes, or four
            start += 8 if kind == 1 else 4
        else:
            raise ValueError(f"no protobuf message: a field of kind {kind}")


def _read_number(content: mmap.mmap | bytes, place: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first, while the eighth says that there are more; and where it ends."""
    number = shift = 0
    while True:
        byte = content[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place

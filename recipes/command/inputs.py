"""What verbs are asked about: words on the command line, files, or standard input; and lists in files."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from recipes.data import folders
from recipes.data.inspection import find_text_file
from recipes.data.problems import printable
from zoo.errors import UserError
from zoo.text.tokenizer import without_surrogates


def read_texts(inputs: Sequence[str], file: Path | None) -> Iterator[str]:
    """The texts: each word of the command line, - for the lines of standard input, and the lines of a file.

    Raises:
        UserError: there is none at all, or the file cannot be read.
    """
    _require_some(inputs, file)
    return map(without_surrogates, _read(inputs, file, lambda line: line.decode("utf-8", "replace")))


def _require_some(inputs: Sequence[str], file: Path | None) -> None:
    if not inputs and file is None:
        raise UserError("nothing to read: give a text, --file with one on each line, or - for standard input")


def _read(inputs: Sequence[str], file: Path | None, decode: Callable[[bytes], str]) -> Iterator[str]:
    for text in inputs:
        yield from _lines(sys.stdin.buffer, decode) if text == "-" else [text]
    if file is not None:
        try:
            with file.open("rb") as lines:
                yield from _lines(lines, decode)
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def find_images(inputs: Sequence[str], file: Path | None) -> Iterator[Path]:
    """The image files: each path, those in a folder as `folders.find_images` has them, in order; - for paths on the
    lines of standard input.

    Raises:
        UserError: there is none at all, or a path is not there.
    """
    _require_some(inputs, file)
    for name in _read(inputs, file, os.fsdecode):  # whose bytes need not be UTF-8
        # Not by `Path`, which raises where a name is too long.
        if os.path.isdir(name):  # noqa: PTH112
            yield from folders.find_images(Path(name))
        elif os.path.isfile(name):  # noqa: PTH113
            yield Path(name)
        else:
            raise UserError(f"{printable(name):.200}: there is no such file")


def read_listed(path: Path) -> tuple[str, ...]:
    """The lines of a text file, each of which is one thing, without white space around it.

    Raises:
        UserError: it cannot be read, or is no text; one of its lines is empty, or there twice.
    """
    find_text_file(path)
    lines = path.read_bytes().decode("utf-8-sig", "replace").rstrip().split("\n")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry:
            raise UserError(f"{path}:{number} is empty: leave no line between others")
        if entry in seen:
            raise UserError(f"{path}:{number} is {entry!r:.80} once more, as line {seen[entry]} is")
        seen[entry] = number
    return tuple(seen)


def in_batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last of what is left.

    Raises:
        UserError: `size` is below 1.
    """
    if size < 1:
        raise UserError(f"--batch-size is {size}, and must be at least 1")
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(file: Iterable[bytes], decode: Callable[[bytes], str]) -> Iterator[str]:
    for line in file:
        yield decode(line).rstrip("\r\n")

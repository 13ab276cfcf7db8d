"""Reading tokenizer files that nobody vouches for: bounded in size, and of the types that they should be."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.errors import UserError

MAX_FILE_BYTES = 64 * 2**20  # the largest published tokenizer.json is half of this


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file.

    Raises:
        UserError: it cannot be read, is too large for a tokenizer's, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise UserError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MB: not a tokenizer file")
            content = file.read(size)  # which takes as much memory at once as it is told to read
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: not a tokenizer file") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. A mistake in it is a UserError."""
    with blamed_on(path):
        return json.loads(read_text(path))


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turn a ValueError of the block, which works on what `path` holds, into a UserError that names the file."""
    try:
        yield
    except RecursionError:
        raise UserError(f"{path} is not a tokenizer: it is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one too
        raise UserError(f"{path} cannot be used as a tokenizer: {error}") from None


def expect(value: Any, kind: type, name: str) -> Any:
    """`value`, if it is of type `kind`; else a ValueError that calls it `name`. A bool is no int here."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} should be of type {kind.__name__} and is {type(value).__name__}")
    return value


def checked_vocabulary(content: Any) -> dict[str, int]:
    """A mapping of tokens to ids, each of the right type and proper text; else a ValueError."""
    vocabulary = expect(content, dict, "the vocabulary")
    for token, number in vocabulary.items():
        expect(number, int, f"the id of token {token!r}")
        if not token.isascii() and any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError(f"the token {token!r} holds a lone surrogate, which is not text")
    return vocabulary


def checked_merges(pairs: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of tokens, or as older files have them, strings with a space between the two; else a ValueError."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in expect(pairs, list, "the merges")]
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(token, str) for token in pair)):
            raise ValueError(f"the merge {pair!r} is not a pair of tokens")
    return tuple((left, right) for left, right in pairs)

"""Token ids in flat files: written as a stream, and read as one sequence in however many files they lie."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.data.documents import Document, Reading, read_documents
from zoo.text import Tokenizer, encode_stream

logger = logging.getLogger("zoo")

PROGRESS_SECONDS = 5.0
STRETCH = 2**24  # tokens that are looked at together where all of them are


class Progress:
    """Tells now and then how far it is, and how long it will take.

    Args:
        total: bytes of the files that are to be read.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = self.told = time.monotonic()

    def tell(self, done: int) -> None:
        """`done` of them are read."""
        now = time.monotonic()
        if now - self.told > PROGRESS_SECONDS:
            self.told = now
            left = (now - self.began) / max(1, done) * max(0, self.total - done)
            logger.info("tokenizing: %.0f of %.0f MB, %.0f s left", done / 1e6, self.total / 1e6, left)


@dataclass(frozen=True)
class TokenCounts:
    """What a flat file holds.

    Attributes:
        tokens: how many.
        bytes: of the texts that they stand for.
        replaced: invalid UTF-8 sequences in these.
        rows: of tables, those that cannot be used too.
        unusable: how many of these there were.
        by_id: how often each id occurs: (vocabulary,) int64.
    """

    tokens: int
    bytes: int
    replaced: int
    rows: int
    unusable: int
    by_id: np.ndarray


def token_dtype(vocabulary_size: int) -> np.dtype:
    """As narrow as the vocabulary allows, little-endian."""
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<u4")


def write_tokens(
    path: Path, documents: Iterable[Document], tokenizer: Tokenizer, reading: Reading, progress: Progress
) -> TokenCounts:
    """Encode documents as a stream into a flat file, each with the tokenizer's separator behind it.

    Args:
        path: the file.
        documents: what to read.
        tokenizer: encodes them, on all cores.
        reading: what was met before, which is added to.
        progress: is told of `reading.done`.

    Raises:
        UserError: a document changed, vanished, or cannot be read.
        OSError: the file cannot be written.
    """
    dtype = token_dtype(tokenizer.vocabulary_size)
    by_id = np.zeros(tokenizer.vocabulary_size, np.int64)
    bytes_before, replaced_before = reading.bytes, reading.replaced.total()
    rows_before, unusable_before = reading.problems.seen, reading.problems.unusable
    with path.open("wb") as file:
        for ids in encode_stream(tokenizer, read_documents(documents, reading, tokenizer.separator)):
            file.write(ids.astype(dtype).data)
            by_id += np.bincount(ids, minlength=len(by_id))
            progress.tell(reading.done)
    return TokenCounts(
        int(by_id.sum()),
        reading.bytes - bytes_before,
        reading.replaced.total() - replaced_before,
        reading.problems.seen - rows_before,
        reading.problems.unusable - unusable_before,
        by_id,
    )


class JoinedTokens:
    """Arrays one after another as one sequence: a slice is a view of the array that it lies in, and only one that lies
    in several is copied.

    Args:
        parts: (tokens,) integers, all of one dtype.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts, self.dtype = parts, parts[0].dtype
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, place: int | slice) -> np.ndarray:
        """An id, or those of a slice without a step."""
        if not isinstance(place, slice):
            return self[place : place + 1][0]
        start, stop, _ = place.indices(len(self))
        number = int(np.searchsorted(self._ends, start, "right"))
        pieces: list[np.ndarray] = []
        while start < stop:
            end = int(self._ends[number])
            begin = end - len(self.parts[number])
            pieces.append(self.parts[number][start - begin : min(stop, end) - begin])
            start, number = end, number + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.dtype), *pieces])


class JoinedWindows:
    """All windows of joined tokens one after another from `phase` on, each with the token that follows."""

    def __init__(self, tokens: JoinedTokens, length: int, phase: int) -> None:
        self.tokens, self.length, self.phase = tokens, length, phase

    def __len__(self) -> int:
        return (len(self.tokens) - 1 - self.phase) // self.length

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        """Those at these places: (places, length + 1)."""
        starts = self.phase + (np.arange(len(self))[places] if isinstance(places, slice) else places) * self.length
        return np.stack([self.tokens[int(start) : int(start) + self.length + 1] for start in starts])


Tokens = np.ndarray | JoinedTokens


def map_tokens(files: Sequence[tuple[Path, int]], dtype: np.dtype) -> Tokens:
    """The ids in flat files, each with the number that it holds, as one sequence that is read from disk as it is used:
    (tokens,) of `dtype`."""
    # Nothing cannot be mapped.
    mapped = [np.asarray(np.memmap(path, dtype, "r", shape=(count,))) for path, count in files if count]
    if len(mapped) > 1:
        return JoinedTokens(mapped)
    return mapped[0] if mapped else np.empty(0, dtype)


def stretches(tokens: Tokens) -> Iterator[np.ndarray]:
    """All of them, some millions at a time."""
    for start in range(0, len(tokens), STRETCH):
        yield tokens[start : start + STRETCH]


def find_token(tokens: Tokens, number: int) -> np.ndarray:
    """The places at which an id stands: (places,) int64."""
    found = [np.flatnonzero(each == number) + place * STRETCH for place, each in enumerate(stretches(tokens))]
    return np.concatenate([np.empty(0, np.int64), *found])

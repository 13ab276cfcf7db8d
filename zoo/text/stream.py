"""Encoding texts of any length in bounded memory, with the ids that encoding them whole would give."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from zoo.text.specification import END_OF_TEXT
from zoo.text.tokenizer import Tokenizer

PIECE_CHARACTERS = 2**15
LONGEST_PIECE = 2**18
BATCH_CHARACTERS = 2**19  # while a batch is encoded, the library holds about 100 bytes for each of its tokens

# GPT-2's pre-tokenizer is a regular expression that is matched again and again from left to right. Only its
# alternatives for white space look ahead, so between a character that is no white space and one that is, a match
# always ends, and whatever follows cannot change what came before. (After a newline this does not hold: of "a\n\nb"
# the newlines are one token if the text stops there, and two if it goes on.) Neither can a special token lie across.
# The other kinds need less: for "wordpiece" and "clip" any white space ends a word, and stands for nothing itself; no
# normalization joins a space or a newline to what stands beside it.
_SAFE_CUT = re.compile(r"(?<=\S)[ \n]")


def find_safe_cut(text: str) -> int | None:
    """The first place in a text of any kind before which the ids are the same whatever follows, and behind which they
    are the same whatever came before; None where there is no such place."""
    found = _SAFE_CUT.search(text)
    return found.start() if found else None


def cut_pieces(
    chunks: Iterable[str], characters: int = PIECE_CHARACTERS, longest: int = LONGEST_PIECE
) -> Iterator[str]:
    """Regroup the chunks of one text into pieces whose ids, one after another, are the ids of the whole text.

    A piece has `characters` or somewhat more. Where a stretch without a safe place to cut is longer than `longest`, it
    is cut all the same: the ids next to that cut may differ from the whole text's. Those of "bpe" and "char" still
    decode to it.
    """
    buffer = ""
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start > characters:
            found = _SAFE_CUT.search(buffer, start + characters, start + longest)
            if found:
                end = found.start()
            elif len(buffer) - start >= longest + len(END_OF_TEXT):
                end = start + longest
                special = buffer.rfind(END_OF_TEXT, start + 1, end + len(END_OF_TEXT) - 1)
                if special >= 0 and special + len(END_OF_TEXT) > end:
                    end = special
            else:
                break
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    if buffer:
        yield buffer


def encode_stream(tokenizer: Tokenizer, chunks: Iterable[str]) -> Iterator[np.ndarray]:
    """The ids of one text that comes in chunks, as arrays of int64, on all cores."""
    batch: list[str] = []
    waiting = 0
    for piece in cut_pieces(chunks):
        batch.append(piece)
        waiting += len(piece)
        if waiting >= BATCH_CHARACTERS:
            yield _joined(tokenizer, batch)
            batch, waiting = [], 0
    if batch:
        yield _joined(tokenizer, batch)


def _joined(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(tokenizer.encode_batch(texts)), np.int64)

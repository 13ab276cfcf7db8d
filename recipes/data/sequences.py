"""What BERT is pretrained on, made of packed text: full sequences, or pairs of segments, half of them successors."""

import dataclasses
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from recipes.data.batches import ArraySpec
from recipes.data.grouping import Source, pad
from recipes.data.masking import Masking
from recipes.data.tokens import Tokens, find_token
from zoo.errors import UserError
from zoo.text import Tokenizer

SHORTER = 0.1  # of the pairs, to which a random length is given: downstream texts are seldom full (Devlin et al. 2019)


class Sequences(Protocol):
    """Sequences of token ids, special ones included; others in each epoch, and always as many.

    Attributes:
        length: the most tokens of one.
    """

    length: int

    def lengths(self, epoch: int) -> np.ndarray:
        """Tokens of each: (sequences,)."""

    def take(self, epoch: int, row: int) -> tuple[np.ndarray, int, int]:
        """Ids of one; where its second segment begins; and whether that is not the first one's successor (1) or is
        (0)."""


class FullSequences:
    """`[CLS] text [SEP]`, all of `max_length`: the stream of documents, with `[SEP]` between them, cut into windows,
    from another first token on in each epoch (Liu et al. 2019, section 4.2, "full-sentences").

    Args:
        tokens: (tokens,) ids of whole documents, each with `[SEP]` behind it.
        tokenizer: that made them.
        max_length: of a sequence.
        seed: of the first token; None begins with the text.
        most: take no more than this many sequences, evenly over the text.

    Raises:
        UserError: the text is shorter than one sequence, or this than three tokens.
    """

    def __init__(
        self, tokens: Tokens, tokenizer: Tokenizer, max_length: int, seed: int | None, most: int | None = None
    ) -> None:
        self.tokens, self.length, self.room, self.seed = tokens, max_length, max_length - 2, seed
        self.cls, self.sep = tokenizer.special_ids["cls"], tokenizer.special_ids["sep"]
        if self.room < 1:
            raise UserError(f"--max-length is {max_length}, and must be at least 3: two tokens are special")
        self.available = (len(tokens) - (0 if seed is None else self.room - 1)) // self.room
        self.count = min(self.available, most or self.available)
        if self.count < 1:
            raise UserError(
                f"the text has {len(tokens)} tokens, and one sequence needs {2 * self.room}: give more text, or a "
                "smaller --max-length"
            )

    def lengths(self, epoch: int) -> np.ndarray:
        return np.full(self.count, self.room + 2)

    def take(self, epoch: int, row: int) -> tuple[np.ndarray, int, int]:
        first = 0 if self.seed is None else int(np.random.default_rng([self.seed, epoch]).integers(self.room))
        begin = first + row * self.available // self.count * self.room
        window = self.tokens[begin : begin + self.room]
        return np.concatenate([[self.cls], window, [self.sep]]).astype(np.int32), self.room + 2, 0


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Spans of the packed text: where both segments of each pair begin and how long they are, (pairs,) int64; `other`
    is 1 where the second comes from another document."""

    first: np.ndarray
    first_length: np.ndarray
    second: np.ndarray
    second_length: np.ndarray
    other: np.ndarray


class SegmentPairs:
    """`[CLS] a [SEP] b [SEP]`: in half of the pairs b follows a in its document, in the others it is from another one
    (Devlin et al. 2019, section 3.1, "Next Sentence Prediction", where a "sentence" is any stretch of text).

    Documents are walked through from end to end, in stretches of `max_length`, one in ten shorter; where b is from
    elsewhere, the walk goes on behind a. Neither segment begins within a word.

    Args:
        tokens: (tokens,) ids of whole documents, each with `[SEP]` behind it.
        tokenizer: that made them.
        max_length: of a pair.
        seed: of everything that is random.
        most: take no more than this many pairs, at random.

    Raises:
        UserError: there are fewer than two documents of two tokens, or there is no room for a pair.
    """

    def __init__(
        self, tokens: Tokens, tokenizer: Tokenizer, max_length: int, seed: int, most: int | None = None
    ) -> None:
        self.tokens, self.length, self.room, self.seed = tokens, max_length, max_length - 3, seed
        self.cls, self.sep = tokenizer.special_ids["cls"], tokenizer.special_ids["sep"]
        self.continues = tokenizer.continues_word
        if self.room < 2:
            raise UserError(f"--max-length is {max_length}, and must be at least 5 for pairs of segments")
        ends = find_token(tokens, self.sep)
        begins = np.concatenate([[0], ends[:-1] + 1])
        long_enough = ends - begins >= 2
        self.documents = np.stack([begins[long_enough], ends[long_enough]], axis=1)
        if len(self.documents) < 2:
            raise UserError(
                f"the text has {len(self.documents)} documents of two tokens or more, and the successor of a segment "
                "is told from those of other documents: give more files, hold out more of them with "
                "--validation-fraction or --validation-data, or give --no-nsp"
            )
        self._pairs = lru_cache(maxsize=2)(self._draw)
        found = len(self._walk(0)[0])
        self.count = min(found, most or found)

    def lengths(self, epoch: int) -> np.ndarray:
        pairs = self._pairs(epoch)
        return pairs.first_length + pairs.second_length + 3

    def take(self, epoch: int, row: int) -> tuple[np.ndarray, int, int]:
        pairs = self._pairs(epoch)
        a = self.tokens[pairs.first[row] : pairs.first[row] + pairs.first_length[row]]
        b = self.tokens[pairs.second[row] : pairs.second[row] + pairs.second_length[row]]
        ids = np.concatenate([[self.cls], a, [self.sep], b, [self.sep]]).astype(np.int32)
        return ids, len(a) + 2, int(pairs.other[row])

    def _draw(self, epoch: int) -> _Pairs:
        """As many pairs in every epoch: what is too much is left out, what is missing comes twice."""
        columns, draw = self._walk(epoch), np.random.default_rng([self.seed, epoch, 1])
        found = len(columns[0])
        rows = draw.permutation(found)[: self.count]
        if found < self.count:
            rows = np.concatenate([rows, draw.choice(found, self.count - found)])
        return _Pairs(*(column[rows] for column in columns))

    def _walk(self, epoch: int) -> list[np.ndarray]:
        draw = np.random.default_rng([self.seed, epoch])
        pairs: list[tuple[int, int, int, int, int]] = []
        for begin, end in self.documents:
            at = int(begin)
            # The first stretch is of any length, so that the others are cut at other places in each epoch.
            shorter = True
            while end - at >= 2:
                shape, split, successor, place = draw.random(4)
                target = 2 + int(shape / SHORTER * (self.room - 1)) if shape < SHORTER else self.room
                if shorter:
                    target, shorter = 2 + int(shape * (self.room - 1)), False
                target = min(target, int(end) - at)
                length = self._to_word(at + 1 + int(split * (target - 1)), at + target) - at
                if length == target:  # no word begins there
                    at += target
                    continue
                if successor < 0.5:
                    pairs.append((at, length, at + length, target - length, 0))
                    at += target
                else:
                    b, b_end = self._elsewhere(int(begin), place, draw)
                    pairs.append((at, length, b, min(self.room - length, target - length, b_end - b), 1))
                    at += length
        if not pairs:
            raise UserError("the text has no document with two words: give longer ones, or --no-nsp")
        return [np.array(column, np.int64) for column in zip(*pairs, strict=True)]

    def _elsewhere(self, begin: int, place: float, draw: np.random.Generator) -> tuple[int, int]:
        """Where a segment of any other document begins, and where the document ends."""
        number = int(draw.integers(len(self.documents) - 1))
        own = int(np.searchsorted(self.documents[:, 0], begin))
        first, end = map(int, self.documents[number + (number >= own)])
        at = self._to_word(first + int(place * (end - first)), end)
        return (at, end) if at < end else (first, end)

    def _to_word(self, at: int, end: int) -> int:
        """The first place from `at` on where a word begins, or `end`."""
        while at < end and self.continues[self.tokens[at]]:
            at += 1
        return at


class MaskedSequences(Source):
    """Sequences with masked tokens, as batches `(inputs, labels, weights)` for the tasks "masked_lm" and "pretrain".

    Args:
        sequences: what to mask.
        masking: how.
        pad_id: of padding.
        pairs: the model tells successors.
    """

    def __init__(self, sequences: FullSequences | SegmentPairs, masking: Masking, pad_id: int, pairs: bool) -> None:
        self.sequences, self.masking, self.pad_id, self.pairs = sequences, masking, pad_id, pairs
        self.length = sequences.length
        tokens, masked, row = ArraySpec((None, None)), ArraySpec((None, None)), ArraySpec((None,))
        weight = ArraySpec((None, None), "float32")
        inputs = {"token_ids": tokens, "padding_mask": tokens, "segment_ids": tokens, "masked_positions": masked}
        self.element: Any = (
            inputs,
            {"logits": masked} | ({"next_sentence": row} if pairs else {}),
            {"logits": weight} | ({"next_sentence": ArraySpec((None,), "float32")} if pairs else {}),
        )

    def lengths(self, epoch: int) -> np.ndarray:
        return self.sequences.lengths(epoch)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        taken = [self.sequences.take(epoch, int(row)) for row in rows]
        token_ids = pad([ids for ids, _, _ in taken], width, self.pad_id)
        places = np.arange(width)
        ends = np.array([[min(len(ids), width)] for ids, _, _ in taken])
        seconds = np.array([[second] for _, second, _ in taken])
        padding_mask = (places < ends).astype(np.int32)
        segment_ids = ((places >= seconds) & (places < ends)).astype(np.int32)
        masked = self.masking.mask(token_ids, padding_mask, draw)
        inputs = {
            "token_ids": masked.token_ids,
            "padding_mask": padding_mask,
            "segment_ids": segment_ids,
            "masked_positions": masked.positions,
        }
        labels, weights = {"logits": masked.labels}, {"logits": masked.weights}
        if self.pairs:
            labels["next_sentence"] = np.array([other for _, _, other in taken], np.int32)
            weights["next_sentence"] = np.ones(len(rows), np.float32)
        return inputs, labels, weights

"""Masked tokens, for BERT to predict (Devlin et al. 2019, section 3.1, "Masked LM")."""

import dataclasses

import numpy as np

from zoo.errors import UserError
from zoo.text import Tokenizer

MASK_RATE = 0.15  # the part of the tokens to predict
MASKED, RANDOM = 0.8, 0.1  # of the tokens to predict; the rest stays what it is


@dataclasses.dataclass(frozen=True)
class Masked:
    """A batch with tokens to predict.

    Attributes:
        token_ids: (rows, tokens) int32, what the model sees.
        positions: (rows, masked) int32, the places to predict; a row with fewer repeats its first.
        labels: (rows, masked) int32, what stood there.
        weights: (rows, masked) float32, 1 for a place and 0 for a repetition.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


class Masking:
    """Chooses tokens, and replaces 80 % of them by the mask, 10 % by random ones, and 10 % by themselves.

    Args:
        tokenizer: a "wordpiece" one with a mask token.
        rate: the part of the tokens to predict.
        whole_words: choose all pieces of a word, or none. A word that would make too many is left out.

    Raises:
        UserError: the tokenizer has no mask token, or the rate makes no sense.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float = 0.15, whole_words: bool = False) -> None:
        if "mask" not in tokenizer.special_ids:
            raise UserError(f"a {tokenizer.kind} tokenizer has no mask token: give a wordpiece one")
        if not 0 < rate < 1:
            raise UserError(f"the masking rate is {rate}, and must be between 0 and 1")
        self.rate, self.whole_words = rate, whole_words
        self.mask_id = tokenizer.special_ids["mask"]
        special = {tokenizer.specification.vocabulary[token] for token in tokenizer.specification.special_tokens}
        vocabulary = tokenizer.specification.vocabulary
        self.is_special = np.zeros(tokenizer.vocabulary_size, bool)
        self.is_special[list(special)] = True
        self.ordinary = np.array(sorted(set(vocabulary.values()) - special), np.int32)
        self.continues = tokenizer.continues_word

    def count(self, width: int) -> int:
        """How many places a row of so many tokens has room for."""
        return max(1, int(np.ceil(self.rate * width)))

    def mask(self, token_ids: np.ndarray, padding_mask: np.ndarray, draw: np.random.Generator) -> Masked:
        """Mask a batch.

        Args:
            token_ids: (rows, tokens) int32. Special tokens are never chosen.
            padding_mask: the same, 1 for real tokens.
            draw: what is random is drawn from it.
        """
        most = self.count(token_ids.shape[1])
        open_ = (padding_mask > 0) & ~self.is_special[token_ids]
        wanted = np.clip(np.round(self.rate * open_.sum(axis=1)).astype(int), 1, most)
        words = np.cumsum(~self.continues[token_ids], axis=1) - 1 if self.whole_words else _own_places(token_ids)
        scores = np.take_along_axis(draw.random(token_ids.shape), np.maximum(words, 0), axis=1)
        order = np.argsort(np.where(open_, scores, 2.0), axis=1, kind="stable")
        chosen = self._count_whole(np.take_along_axis(words, order, axis=1), wanted)
        chosen = np.where(open_.any(axis=1), chosen, 0)

        is_chosen = np.arange(most) < chosen[:, None]
        positions = np.where(is_chosen, order[:, :most], order[:, :1])
        labels = np.take_along_axis(token_ids, positions, axis=1)
        kind = draw.random(positions.shape)
        random = self.ordinary[draw.integers(len(self.ordinary), size=positions.shape)]
        shown = np.where(kind < MASKED, self.mask_id, np.where(kind < MASKED + RANDOM, random, labels))
        masked = token_ids.copy()
        rows, places = np.nonzero(is_chosen)
        masked[rows, positions[rows, places]] = shown[rows, places]
        return Masked(masked, positions.astype(np.int32), labels.astype(np.int32), is_chosen.astype(np.float32))

    @staticmethod
    def _count_whole(words: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """How many of the first `wanted` tokens to take, so that the last word is not cut. Where a single word would
        be, it is: (rows,).

        Args:
            words: (rows, tokens), by rank the word that a token belongs to.
            wanted: (rows,).
        """
        width, rows = words.shape[1], np.arange(len(words))
        last = words[rows, wanted - 1]
        is_cut = (wanted < width) & (words[rows, np.minimum(wanted, width - 1)] == last)
        begins = (words == last[:, None]).argmax(axis=1)
        return np.where(is_cut & (begins > 0), begins, wanted)


def _own_places(token_ids: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)

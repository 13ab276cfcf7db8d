"""Training vocabularies from text: byte-level BPE as in GPT-2, and characters."""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

import tokenizers
from tokenizers import pre_tokenizers, trainers
from tokenizers.models import BPE

from zoo.errors import UserError
from zoo.text.specification import BYTE_ALPHABET, BYTE_TOKENS, END_OF_TEXT, Specification
from zoo.text.tokenizer import Tokenizer, without_surrogates

logger = logging.getLogger("zoo")

SMALLEST_BPE_VOCABULARY = len(BYTE_ALPHABET) + 1  # every byte, and <|endoftext|>
# Each merge costs time in proportion to the length of the words it occurs in, so that one endless word (a genome in
# one line) would take hours. Ordinary words are far below this.
_LONG_WORD = re.compile(r"\S{256}")


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train a byte-level BPE: GPT-2's pre-tokenizer, all 256 bytes first, then the merges, `<|endoftext|>` last.

    The texts are read once, one by one. The same texts give the same tokenizer. A text too short or too uniform for
    `vocabulary_size` gives a smaller vocabulary, with a warning.

    Raises:
        UserError: `vocabulary_size` is below 257.
    """
    if vocabulary_size < SMALLEST_BPE_VOCABULARY:
        raise UserError(
            f"a byte-level BPE vocabulary of {vocabulary_size} is too small: it needs {SMALLEST_BPE_VOCABULARY} or more"
        )
    rust = tokenizers.Tokenizer(BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,
        min_frequency=2,
        initial_alphabet=list(BYTE_ALPHABET),
        show_progress=False,
    )
    rust.train_from_iterator((part for text in _plain(texts) for part in _short_words(text)), trainer)
    vocabulary = rust.get_vocab()
    merges = tuple((left, right) for left, right in json.loads(rust.to_str())["model"]["merges"])
    vocabulary[END_OF_TEXT] = len(vocabulary)
    if len(vocabulary) < vocabulary_size:
        logger.warning("the text has enough repetition for %d tokens, not %d", len(vocabulary), vocabulary_size)
    return Tokenizer(Specification("bpe", vocabulary, merges))


def train_characters(texts: Iterable[str]) -> Tokenizer:
    """Every character of the texts becomes a token; any other one is written as its UTF-8 bytes, a token each.

    Ids: 256 bytes, then the characters by code point, `<|endoftext|>` last.
    """
    characters: set[str] = set()
    for text in _plain(texts):
        characters.update(text)
    tokens = (*BYTE_TOKENS, *sorted(characters), END_OF_TEXT)
    return Tokenizer(Specification("char", {token: number for number, token in enumerate(tokens)}))


def _plain(texts: Iterable[str]) -> Iterator[str]:
    """The texts without `<|endoftext|>`, which is a token already, and without what is no character."""
    for text in texts:
        yield from without_surrogates(text).split(END_OF_TEXT)


def _short_words(text: str) -> Iterator[str]:
    cuts = [found.end() for found in _LONG_WORD.finditer(text)]
    for start, end in pairwise([0, *cuts, len(text)]):
        yield text[start:end]

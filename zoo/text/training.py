"""Training vocabularies from text: byte-level BPE as in GPT-2 and in CLIP, WordPiece as in BERT, and characters."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import tokenizers
from tokenizers import pre_tokenizers, trainers
from tokenizers.models import BPE, WordPiece

from zoo.errors import UserError
from zoo.text.pipeline import bert_normalizer, split_clip_words
from zoo.text.specification import (
    BYTE_ALPHABET,
    BYTE_TOKENS,
    END_OF_TEXT,
    ROLES,
    START_OF_TEXT,
    Normalization,
    Specification,
)
from zoo.text.tokenizer import Tokenizer, without_surrogates
from zoo.text.tokenizer_json import MAX_WORD_CHARACTERS

logger = logging.getLogger("zoo")

SMALLEST_BPE_VOCABULARY = len(BYTE_ALPHABET) + 1  # every byte, and <|endoftext|>
SMALLEST_CLIP_VOCABULARY = 2 * len(BYTE_ALPHABET) + 2  # within a word and at its end; <|startoftext|>, <|endoftext|>
SMALLEST_WORDPIECE_VOCABULARY = 128  # half of it for characters: the small letters in both forms, and little more
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
    vocabulary, merges = _train_merges(rust, trainer, texts, (END_OF_TEXT,), vocabulary_size)
    return Tokenizer(Specification("bpe", vocabulary, merges))


def train_clip(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train a BPE as CLIP has it (Radford et al. 2021, section 2.4): of lower-cased words, whose last byte is marked.

    Ids: all 256 bytes, all of them as the last of a word, the merges, `<|startoftext|>`, `<|endoftext|>`. The texts are
    read once, one by one. The same texts give the same tokenizer. A text too short or too uniform for `vocabulary_size`
    gives a smaller vocabulary, with a warning.

    Raises:
        UserError: `vocabulary_size` is below 514.
    """
    if vocabulary_size < SMALLEST_CLIP_VOCABULARY:
        raise UserError(
            f"a CLIP vocabulary of {vocabulary_size} is too small: it needs {SMALLEST_CLIP_VOCABULARY} or more"
        )
    special = (START_OF_TEXT, END_OF_TEXT)
    rust = tokenizers.Tokenizer(BPE(end_of_word_suffix="</w>"))
    split_clip_words(rust)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(special),
        min_frequency=2,
        end_of_word_suffix="</w>",
        show_progress=False,
        # As for WordPiece: those that end a word would be numbered in the order of a hash map.
        special_tokens=[*BYTE_ALPHABET, *(f"{byte}</w>" for byte in BYTE_ALPHABET)],
    )
    vocabulary, merges = _train_merges(rust, trainer, texts, special, vocabulary_size)
    return Tokenizer(Specification("clip", vocabulary, merges, special))


def _train_merges(
    rust: tokenizers.Tokenizer,
    trainer: trainers.BpeTrainer,
    texts: Iterable[str],
    special_tokens: tuple[str, ...],
    vocabulary_size: int,
) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """The vocabulary of a BPE, with special tokens last, and its merges."""
    parts = (part for text in _plain(texts, special_tokens) for part in _short_words(text))
    rust.train_from_iterator(parts, trainer)
    vocabulary = rust.get_vocab()
    merges = tuple((left, right) for left, right in json.loads(rust.to_str())["model"]["merges"])
    for token in special_tokens:
        vocabulary[token] = len(vocabulary)
    if len(vocabulary) < vocabulary_size:
        logger.warning("the text has enough repetition for %d tokens, not %d", len(vocabulary), vocabulary_size)
    return vocabulary, merges


def train_wordpiece(texts: Iterable[str], vocabulary_size: int, lowercase: bool = True) -> Tokenizer:
    """Train a WordPiece vocabulary as BERT has it: `[PAD] [UNK] [CLS] [SEP] [MASK]`, characters, then longer pieces.

    The characters are the most frequent ones, for which up to half of the vocabulary is used. Those that are ever part
    of a longer word are there twice, the second time as `##x`, for within a word. Longer pieces are found as BPE finds
    them, since the way of BERT's own vocabulary was never published.

    The texts are read once, one by one; their distinct words are held in memory. The same texts give the same
    tokenizer. A text too short for `vocabulary_size` gives a smaller vocabulary, with a warning.

    Args:
        texts: what to learn from.
        vocabulary_size: the number of tokens, those above included.
        lowercase: the tokenizer lower-cases every text and strips its accents.

    Raises:
        UserError: `vocabulary_size` is below 128.
    """
    if vocabulary_size < SMALLEST_WORDPIECE_VOCABULARY:
        raise UserError(
            f"a WordPiece vocabulary of {vocabulary_size} is too small: "
            f"it needs {SMALLEST_WORDPIECE_VOCABULARY} or more"
        )
    special = tuple(ROLES["wordpiece"].values())
    normalization = Normalization(lowercase=lowercase, strip_accents=lowercase)
    words = _count_words(_plain(texts, special), normalization)
    characters = _character_tokens(words, vocabulary_size // 2)
    # A word with another character is unknown as a whole, whatever else is learned from it.
    known = Counter({word: count for word, count in words.items() if _spelled(word) <= characters.keys()})
    rust = tokenizers.Tokenizer(WordPiece(unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        show_progress=False,
        # Left to itself the trainer numbers `##x` in the order of a hash map, by which it also settles which of two
        # equally frequent pairs is merged: five trainings gave five vocabularies.
        special_tokens=[*special, *characters],
    )
    rust.train_from_iterator(known.elements(), trainer)
    vocabulary = rust.get_vocab()
    if len(vocabulary) < vocabulary_size:
        logger.warning("the text has enough repetition for %d tokens, not %d", len(vocabulary), vocabulary_size)
    return Tokenizer(Specification("wordpiece", vocabulary, special_tokens=special, normalization=normalization))


def _count_words(texts: Iterable[str], normalization: Normalization) -> Counter[str]:
    """How often each word that a WordPiece tokenizer splits texts into occurs."""
    normalizer, splitter = bert_normalizer(normalization), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    return Counter({word: count for word, count in words.items() if len(word) <= MAX_WORD_CHARACTERS})


def _character_tokens(words: Mapping[str, int], limit: int) -> dict[str, None]:
    """The tokens of single characters, at most `limit`, in order: first those that begin a word, then the others."""
    counts: Counter[str] = Counter()
    within: set[str] = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        if len(word) > 1:
            within.update(word)
    chosen: list[str] = []
    used = 0
    for character, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        used += 1 + (character in within)
        if used > limit:
            break
        chosen.append(character)
    chosen.sort()
    return dict.fromkeys([*chosen, *(f"##{character}" for character in chosen if character in within)])


def _spelled(word: str) -> set[str]:
    """The tokens of single characters that a word consists of."""
    return {word[:1], *(f"##{character}" for character in word[1:])}


def train_characters(texts: Iterable[str]) -> Tokenizer:
    """Every character of the texts becomes a token; any other one is written as its UTF-8 bytes, a token each.

    Ids: 256 bytes, then the characters by code point, `<|endoftext|>` last.
    """
    characters: set[str] = set()
    for text in _plain(texts):
        characters.update(text)
    tokens = (*BYTE_TOKENS, *sorted(characters), END_OF_TEXT)
    return Tokenizer(Specification("char", {token: number for number, token in enumerate(tokens)}))


def _plain(texts: Iterable[str], special_tokens: tuple[str, ...] = (END_OF_TEXT,)) -> Iterator[str]:
    """The texts without special tokens, which are in the vocabulary already, and without what is no character."""
    special = re.compile("|".join(map(re.escape, special_tokens)))
    for text in texts:
        yield from special.split(without_surrogates(text))


def _short_words(text: str) -> Iterator[str]:
    cuts = [found.end() for found in _LONG_WORD.finditer(text)]
    for start, end in pairwise([0, *cuts, len(text)]):
        yield text[start:end]

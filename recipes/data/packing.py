"""A corpus as token ids in two flat files, made once and kept in the cache."""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recipes.data.cache import default_cache_root, read_or_build
from recipes.data.text import Corpus, Document, Reading
from zoo.errors import UserError
from zoo.text import Tokenizer, cut_pieces, encode_stream, train_bpe, train_characters, train_wordpiece
from zoo.text.specification import ROLES

logger = logging.getLogger("zoo")

FORMAT = 1  # to be raised when the same text would be packed differently
VOCABULARY_TEXT_BYTES = 2**26  # more text than this changes a BPE vocabulary little, and takes long
PROGRESS_SECONDS = 5.0

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class TokenizerTraining:
    """A tokenizer to be trained on the training text. `vocabulary_size` is not for "char"."""

    kind: Literal["bpe", "char", "wordpiece"]
    vocabulary_size: int = 8192


@dataclass(frozen=True)
class SplitCounts:
    """How much text a split is: `bytes` as they stand in the files, `tokens` with the end-of-text ones."""

    tokens: int
    bytes: int


@dataclass(frozen=True)
class PackedText:
    """Packed text in `directory`.

    Attributes:
        tokenizer: the one that made the ids; its files lie in `directory` too.
        train, validation: how much text there is.
        unigram_entropy: of the distribution of single tokens over both splits, in nats a token: the loss of the best
            model that ignores all context.
        replaced: how many invalid UTF-8 sequences became U+FFFD.
    """

    directory: Path
    tokenizer: Tokenizer
    train: SplitCounts
    validation: SplitCounts
    unigram_entropy: float
    replaced: int

    def tokens(self, split: Split) -> np.ndarray:
        """All ids of a split in the order of the text, read from disk as they are used: (tokens,) uint16 or uint32."""
        counts: SplitCounts = getattr(self, split)
        dtype = _dtype(self.tokenizer.vocabulary_size)
        if counts.tokens == 0:
            return np.empty(0, dtype)
        return np.asarray(np.memmap(self.directory / f"{split}.bin", dtype, mode="r", shape=(counts.tokens,)))

    @property
    def facts(self) -> dict[str, Any]:
        """What a run records of its text; `data` is a fingerprint of every id, and of what each stands for."""
        content = hashlib.sha256(self.tokenizer.fingerprint.encode())
        for split in SPLITS:
            tokens = self.tokens(split)
            content.update(f" {split} {len(tokens)} ".encode())
            content.update(tokens.data)
        return {
            "train_tokens": self.train.tokens,
            "validation_tokens": self.validation.tokens,
            "vocabulary_size": self.tokenizer.vocabulary_size,
            "unigram_entropy": self.unigram_entropy,
            "replaced_characters": self.replaced,
            "data": content.hexdigest(),
        }


def pack(corpus: Corpus, tokenizer: TokenizerTraining | Tokenizer, cache_root: Path | None = None) -> PackedText:
    """Encode `corpus` into `cache_root/KEY/`, or find it there: KEY stands for the files, the split and the tokenizer.

    A file counts as unchanged if its path, size and time of modification are. A tokenizer that is to be trained sees
    the training text only. Each whole document is followed by the tokenizer's separator, `<|endoftext|>` or `[SEP]`;
    the two parts of a document that was split by position are not.

    Raises:
        UserError: the vocabulary size is too small, or the cache cannot be written.
    """
    key = _key(corpus, tokenizer)
    directory = (cache_root or default_cache_root()) / key
    return read_or_build(directory, _read, lambda partial: _build(partial, corpus, tokenizer))


def _key(corpus: Corpus, tokenizer: TokenizerTraining | Tokenizer) -> str:
    request = tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else asdict(tokenizer)
    splits = [
        [(str(part.path), part.size, part.modified, part.start, part.end) for part in documents]
        for documents in (corpus.train, corpus.validation)
    ]
    return hashlib.sha256(json.dumps([FORMAT, request, splits]).encode()).hexdigest()[:32]


def _dtype(vocabulary_size: int) -> np.dtype:
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<u4")


def _read(directory: Path) -> PackedText | None:
    """What was packed there, or None if it is not there or not whole."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.load(directory)
        train, validation = SplitCounts(**meta["train"]), SplitCounts(**meta["validation"])
        item_bytes = _dtype(tokenizer.vocabulary_size).itemsize
        for split, counts in (("train", train), ("validation", validation)):
            if (directory / f"{split}.bin").stat().st_size != counts.tokens * item_bytes:
                return None
        if meta["format"] != FORMAT or meta["vocabulary_size"] != tokenizer.vocabulary_size:
            return None
        return PackedText(directory, tokenizer, train, validation, meta["unigram_entropy"], meta["replaced"])
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def _build(directory: Path, corpus: Corpus, request: TokenizerTraining | Tokenizer) -> None:
    tokenizer = request if isinstance(request, Tokenizer) else _train(corpus.train, request)
    tokenizer.save(directory)
    splits = {"train": corpus.train, "validation": corpus.validation}
    total = _bytes(corpus.train) + _bytes(corpus.validation)
    reading, reported = Reading(), time.monotonic()
    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    meta: dict[str, Any] = {"format": FORMAT, "vocabulary_size": tokenizer.vocabulary_size}
    for split, documents in splits.items():
        tokens = 0
        with (directory / f"{split}.bin").open("wb") as file:
            for ids in encode_stream(tokenizer, _text(documents, reading, tokenizer.separator)):
                ids.astype(_dtype(tokenizer.vocabulary_size)).tofile(file)
                counts += np.bincount(ids, minlength=len(counts))
                tokens += len(ids)
                if time.monotonic() - reported > PROGRESS_SECONDS:
                    reported = time.monotonic()
                    logger.info("tokenizing: %.0f of %.0f MB", reading.bytes / 1e6, total / 1e6)
        meta[split] = asdict(SplitCounts(tokens, _bytes(documents)))
    reading.warn()
    meta |= {"unigram_entropy": _entropy(counts), "replaced": reading.replaced.total()}
    (directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _train(documents: Sequence[Document], request: TokenizerTraining) -> Tokenizer:
    separator = ROLES[request.kind].get("end") or ROLES[request.kind]["sep"]
    pieces = cut_pieces(_text(documents, Reading(), separator))
    if request.kind != "char":
        # Of a large corpus every n-th piece, so that all of its parts have their say.
        every = max(1, _bytes(documents) // VOCABULARY_TEXT_BYTES)
        logger.info("training a vocabulary on %.1f MB of text", _bytes(documents) / every / 1e6)
        pieces = islice(pieces, 0, None, every)
    return train_tokenizer(pieces, request)


def train_tokenizer(texts: Iterable[str], request: TokenizerTraining) -> Tokenizer:
    """The tokenizer that is asked for, of these texts."""
    if request.kind == "char":
        return train_characters(texts)
    return (train_bpe if request.kind == "bpe" else train_wordpiece)(texts, request.vocabulary_size)


def _text(documents: Sequence[Document], reading: Reading, separator: str) -> Iterator[str]:
    """The documents one after another, each whole one with `separator` behind it."""
    for document in documents:
        yield from document.chunks(reading)
        if document.is_whole:
            yield separator


def _bytes(documents: Sequence[Document]) -> int:
    return sum(document.bytes for document in documents)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())

"""A corpus as token ids in two flat files, made once and kept in the cache."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recipes.data.cache import default_cache_root, read_or_build
from recipes.data.documents import Document, Reading, read_documents
from recipes.data.text import Corpus
from recipes.data.tokens import Progress, Tokens, map_tokens, stretches, token_dtype, write_tokens
from zoo.errors import UserError
from zoo.text import Tokenizer, cut_pieces, train_bpe, train_characters, train_clip, train_wordpiece
from zoo.text.specification import ROLES

logger = logging.getLogger("zoo")

FORMAT = 2  # to be raised when the same text would be packed differently
VOCABULARY_TEXT_BYTES = 2**26  # more text than this changes a BPE vocabulary little, and takes long

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class TokenizerTraining:
    """A tokenizer to be trained on the training text. `vocabulary_size` is not for "char"."""

    kind: Literal["bpe", "char", "wordpiece", "clip"]
    vocabulary_size: int = 8192


@dataclass(frozen=True)
class SplitCounts:
    """How much text a split is: `bytes` of the texts, those of a text file as they stand there, and `tokens` with the
    end-of-text ones."""

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
        files: of each split the flat files that hold it, one after another, and how many ids each has.
    """

    directory: Path
    tokenizer: Tokenizer
    train: SplitCounts
    validation: SplitCounts
    unigram_entropy: float
    replaced: int
    files: Mapping[Split, Sequence[tuple[str, int]]]

    def tokens(self, split: Split) -> Tokens:
        """All ids of a split in the order of the text, read from disk as they are used: (tokens,) uint16 or uint32."""
        files = [(self.directory / name, count) for name, count in self.files[split]]
        return map_tokens(files, token_dtype(self.tokenizer.vocabulary_size))

    @property
    def facts(self) -> dict[str, Any]:
        """What a run records of its text; `data` is a fingerprint of every id, and of what each stands for, in however
        many files they lie."""
        content = hashlib.sha256(self.tokenizer.fingerprint.encode())
        for split in SPLITS:
            tokens = self.tokens(split)
            content.update(f" {split} {len(tokens)} ".encode())
            for stretch in stretches(tokens):
                content.update(stretch.data)
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
    the training text only. Each whole text file and each row of a table is followed by the tokenizer's separator,
    `<|endoftext|>` or `[SEP]`; the two parts of a file that was split by position are not.

    Raises:
        UserError: the vocabulary size is too small; a file changed or vanished meanwhile, or too many rows of a table
            cannot be used; or the cache cannot be written.
    """
    key = _key(corpus, tokenizer)
    directory = (cache_root or default_cache_root()) / key
    return read_or_build(directory, _read, lambda partial: _build(partial, corpus, tokenizer))


def _key(corpus: Corpus, tokenizer: TokenizerTraining | Tokenizer) -> str:
    request = tokenizer.fingerprint if isinstance(tokenizer, Tokenizer) else asdict(tokenizer)
    splits = [
        [(str(each.path), each.file.size, each.file.modified, each.part) for each in documents]
        for documents in (corpus.train, corpus.validation)
    ]
    return hashlib.sha256(json.dumps([FORMAT, request, splits]).encode()).hexdigest()[:32]


def _read(directory: Path) -> PackedText | None:
    """What was packed there, or None if it is not there or not whole."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.load(directory)
        train, validation = SplitCounts(**meta["train"]), SplitCounts(**meta["validation"])
        files: dict[Split, list[tuple[str, int]]] = {
            "train": [("train.bin", train.tokens)],
            "validation": [("validation.bin", validation.tokens)],
        }
        item_bytes = token_dtype(tokenizer.vocabulary_size).itemsize
        if any((directory / name).stat().st_size != count * item_bytes for ((name, count),) in files.values()):
            return None
        if meta["format"] != FORMAT or meta["vocabulary_size"] != tokenizer.vocabulary_size:
            return None
        return PackedText(directory, tokenizer, train, validation, meta["unigram_entropy"], meta["replaced"], files)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def _build(directory: Path, corpus: Corpus, request: TokenizerTraining | Tokenizer) -> None:
    tokenizer = request if isinstance(request, Tokenizer) else train_on(corpus.train, request)
    tokenizer.save(directory)
    reading, progress = Reading(), Progress(count_bytes(corpus.train) + count_bytes(corpus.validation))
    by_id = np.zeros(tokenizer.vocabulary_size, np.int64)
    meta: dict[str, Any] = {"format": FORMAT, "vocabulary_size": tokenizer.vocabulary_size}
    for split, documents in (("train", corpus.train), ("validation", corpus.validation)):
        counts = write_tokens(directory / f"{split}.bin", documents, tokenizer, reading, progress)
        by_id += counts.by_id
        meta[split] = asdict(SplitCounts(counts.tokens, counts.bytes))
    reading.problems.require_few()
    reading.warn()
    meta |= {"unigram_entropy": entropy(by_id), "replaced": reading.replaced.total()}
    (directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def train_on(documents: Sequence[Document], request: TokenizerTraining) -> Tokenizer:
    """The tokenizer that is asked for, of these documents or, if they are large, of a part of each."""
    separator = ROLES[request.kind].get("end") or ROLES[request.kind]["sep"]
    pieces = cut_pieces(read_documents(documents, Reading(), separator))
    if request.kind != "char":
        # Of a large corpus every n-th piece, so that all of its parts have their say.
        every = max(1, count_bytes(documents) // VOCABULARY_TEXT_BYTES)
        logger.info("training a vocabulary on %.1f MB of text", count_bytes(documents) / every / 1e6)
        pieces = islice(pieces, 0, None, every)
    return train_tokenizer(pieces, request)


def train_tokenizer(texts: Iterable[str], request: TokenizerTraining) -> Tokenizer:
    """The tokenizer that is asked for, of these texts."""
    if request.kind == "char":
        return train_characters(texts)
    train = {"bpe": train_bpe, "wordpiece": train_wordpiece, "clip": train_clip}[request.kind]
    return train(texts, request.vocabulary_size)


def count_bytes(documents: Iterable[Document]) -> int:
    """Of their files; of tables about as many."""
    return sum(document.bytes for document in documents)


def entropy(counts: np.ndarray) -> float:
    """Of single tokens that occur so often, in nats a token."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())

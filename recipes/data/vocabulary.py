"""A tokenizer trained on the texts of a table, made once and kept in the cache."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from recipes.data.cache import default_cache_root, read_or_build
from recipes.data.packing import VOCABULARY_TEXT_BYTES, TokenizerTraining, train_tokenizer
from recipes.data.problems import Problems
from recipes.data.tables import Table
from zoo.errors import UserError
from zoo.text import Tokenizer

logger = logging.getLogger("zoo")


def tokenizer_for(
    request: TokenizerTraining | Tokenizer,
    table: Table,
    columns: tuple[str, ...],
    read: Callable[[Table, Problems], Iterator[str]] | None = None,
) -> Tokenizer:
    """The tokenizer that is asked for, or one trained on a table.

    Args:
        request: which.
        table: what to train on.
        columns: those that hold text.
        read: the texts in the table; those of the columns where None.
    """
    if isinstance(request, Tokenizer):
        return request
    files = [(str(each.path), each.size, each.modified) for each in table.files]
    key = hashlib.sha256(json.dumps(["tokenizer", asdict(request), columns, files]).encode()).hexdigest()[:32]

    def load(directory: Path) -> Tokenizer | None:
        try:
            return Tokenizer.load(directory)
        except UserError:
            return None

    def build(directory: Path) -> None:
        problems = Problems()  # they are told when the rows are encoded
        texts = read(table, problems) if read else _texts(table, columns, problems)
        size = sum(each.size for each in table.files)
        every = max(1, size // VOCABULARY_TEXT_BYTES)  # of a large table every n-th text
        logger.info("training a vocabulary on %.1f MB of %s", size / every / 1e6, table.path)
        train_tokenizer(islice(texts, 0, None, every), request).save(directory)

    return read_or_build(default_cache_root() / f"tokenizer-{key}", load, build)


def _texts(table: Table, columns: tuple[str, ...], problems: Problems) -> Iterator[str]:
    for row in table.rows(problems):
        yield from (text for name in columns if isinstance(text := row.get(name), str))

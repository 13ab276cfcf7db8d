"""Texts that belong together, two by two: read from a table, encoded, shared out, and made into batches."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from recipes.data.batches import ArraySpec
from recipes.data.examples import Example, Examples, build_examples, in_chunks
from recipes.data.grouping import Source
from recipes.data.held_out import hold_out, number_alike
from recipes.data.labelled import TEXT_COLUMNS
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table, choose_column
from zoo.errors import UserError
from zoo.text import Tokenizer
from zoo.text.inputs import Encoded, find_template, make_inputs

logger = logging.getLogger("zoo")

NAMES = (
    ("text1", "text2"),
    ("anchor", "positive"),
    ("question", "answer"),
    ("question1", "question2"),
    ("sentence1", "sentence2"),
    ("query", "passage"),
    ("query", "document"),
    ("title", "body"),
)
JUDGEMENTS = ("label", "score", "is_duplicate", "similarity", "similarity_score", "gold_label", "relatedness_score")
SIDES = ("", "pair_")  # before the names of the inputs of either text


@dataclasses.dataclass(frozen=True)
class PairColumns:
    """Which columns hold what; where neither is given, both are guessed."""

    text_column: str | None = None
    """Column of the text; given alone, each text is paired with itself, under another dropout."""
    pair_column: str | None = None
    """Column of the text that belongs to it."""


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Rows of `examples`, which hold the columns `first` and `text`, and where there are pairs `second` and
    `pair_text`.

    Attributes:
        examples: all that was read.
        rows: which of them these are.
    """

    examples: Examples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def are_paired(self) -> bool:
        """Whether each text has another one that belongs to it."""
        return "second" in self.examples.columns

    def select(self, places: np.ndarray) -> "TextPairs":
        """Some of them."""
        return dataclasses.replace(self, rows=self.rows[places])

    def texts(self, place: int) -> tuple[str, str]:
        """A text and the one that belongs to it, as they were read; twice the same where there is no other."""
        row = int(self.rows[place])
        text = self.examples.text("text", row)
        return text, self.examples.text("pair_text", row) if self.are_paired else text

    def ids(self, place: int, thinned: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text and of the one that belongs to it. Where there is no other it is the same again, or, if
        `thinned`, every other token of it."""
        row = int(self.rows[place])
        first = self.examples.row("first", row)
        if self.are_paired:
            return first, self.examples.row("second", row)
        return first, first[::2] if thinned else first


def find_columns(table: Table, columns: PairColumns) -> tuple[str, str | None]:
    """Text and second text; None for the latter where a text has none.

    Raises:
        UserError: a column is not there, or none can be told to be the text.
    """
    if columns.pair_column is not None:
        pair = choose_column(table, "pair", columns.pair_column, ())
        return choose_column(table, "text", columns.text_column, [first for first, _ in NAMES], [pair]), pair
    if columns.text_column is None:
        known = {name.casefold(): name for name in reversed(table.columns)}
        for first, second in NAMES:
            if first in known and second in known:
                _require_positive(table, known)
                others = [f"{name!r:.80}" for name in table.columns if name not in (known[first], known[second])]
                not_read = f"; not read: {', '.join(others[:20])}" if others else ""
                logger.info("pairs of %r and %r%s", known[first], known[second], not_read)
                return known[first], known[second]
    return choose_column(table, "text", columns.text_column, TEXT_COLUMNS), None


def _require_positive(table: Table, known: dict[str, str]) -> None:
    judged = next((known[name] for name in JUDGEMENTS if name in known), None)
    if judged is not None:
        raise UserError(
            f"{table.path} has pairs that do not belong together, by its column {judged!r:.80}, and all are taken to: "
            "keep those that do, or say that it is so with --text-column and --pair-column"
        )


def read_pairs(table: Table, columns: tuple[str, str | None], tokenizer: Tokenizer) -> TextPairs:
    """Read and encode a table.

    Args:
        table: the rows.
        columns: of the text and of its pair; see `find_columns`.
        tokenizer: encodes the texts.

    Raises:
        UserError: the table cannot be used.
    """
    names = [name for name in columns if name is not None]

    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        for some in in_chunks(_good_rows(rows, problems, names), lambda texts: sum(map(len, texts))):
            ids = [tokenizer.encode_batch(texts) for texts in zip(*some, strict=True)]
            for place, texts in enumerate(some):
                example: Example = {"first": ids[0][place], "text": texts[0]}
                yield example | ({"second": ids[1][place], "pair_text": texts[1]} if len(names) > 1 else {})

    request = {"kind": "pairs", "columns": columns, "tokenizer": tokenizer.fingerprint}
    examples = build_examples(table, request, encode)
    return TextPairs(examples, np.arange(len(examples)))


def _good_rows(rows: Iterator[Row], problems: Problems, names: list[str]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        texts = {name: text for name in names if isinstance(text := row.get(name), str) and text.strip()}
        if len(texts) == len(names):
            yield tuple(texts.values())
        else:
            problems.add(problems.where, f"no {next(name for name in names if name not in texts)}")


def split(data: TextPairs, fraction: float, seed: int) -> tuple[TextPairs, TextPairs]:
    """Share rows out to training and validation, at random; a pair that stands in the table twice, either way round, is
    in one of them."""
    numbers = _number(data.ids(place) for place in range(len(data)))
    _, groups = np.unique(np.sort(numbers, axis=1), axis=0, return_inverse=True)
    held_out = hold_out(groups, fraction, seed)
    known = np.isin(numbers[held_out], numbers[~held_out]).any(axis=1).sum()
    if known:
        logger.warning(
            "%s of %s held-out pairs have a text that is in a pair of the training too: they are found more easily",
            f"{known:,}",
            f"{held_out.sum():,}",
        )
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))


def tell(train_data: TextPairs, held_out: TextPairs, source: "PairSource") -> None:
    """Say what there is to train on, before it begins."""
    what = "pairs of texts" if train_data.are_paired else "texts, each paired with itself under another dropout"
    logger.info("training: %s %s", f"{len(train_data):,}", what)
    what = "pairs of texts" if held_out.are_paired else "texts, each paired with every other token of it"
    logger.info("held out: %s %s", f"{len(held_out):,}", what)
    tokens = source.tokens()
    cut = int((tokens > source.length).sum())
    logger.info(
        "%d tokens in the longer text of a pair at the median, %d at most%s",
        int(np.median(tokens)),
        int(tokens.max()),
        f"; {cut:,} are longer than {source.length} and cut" if cut else "",
    )


class PairSource(Source):
    """Pairs of texts as batches `(inputs, labels)` for `zoo.objectives.PairContrast`: the inputs of the first text
    under their own names, those of the second with `pair_` before them; and `texts`, which numbers the texts. Both are
    padded to the same width.

    Args:
        data: what to draw from.
        tokenizer: that encoded it.
        length: of the longest input; the rest of longer ones is not read.
        thinned: a text that has no pair is paired with every other token of it, and not with itself.

    Attributes:
        numbers: by row, which texts the model reads: (rows, 2) int32, the same number for the same text.
    """

    def __init__(self, data: TextPairs, tokenizer: Tokenizer, length: int, thinned: bool = False) -> None:
        self.data, self.length, self.thinned = data, length, thinned
        self.template, self.pad_id = find_template(tokenizer.specification), tokenizer.special_ids["pad"]
        room = length - self.template.count(False)
        pairs = (data.ids(place, thinned) for place in range(len(data)))
        self.numbers = _number((first[:room], second[:room]) for first, second in pairs)
        names = ("token_ids", "padding_mask", *(("segment_ids",) if tokenizer.kind == "wordpiece" else ()))
        self.element: Any = (
            {f"{side}{name}": ArraySpec((None, None)) for side in SIDES for name in names},
            {"texts": ArraySpec((None, 2))},
        )

    def tokens(self) -> np.ndarray:
        """How many tokens the longer text of each row has, special ones included, before it is cut: (rows,)."""
        examples = self.data.examples
        tokens = examples.lengths("first")
        longer = np.maximum(tokens, examples.lengths("second")) if self.data.are_paired else tokens
        return longer[self.data.rows] + self.template.count(False)

    def lengths(self, epoch: int) -> np.ndarray:
        return np.minimum(self.tokens(), self.length)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        pairs = [self.data.ids(int(row), self.thinned) for row in rows]
        inputs: dict[str, np.ndarray] = {}
        for side, texts in zip(SIDES, zip(*pairs, strict=True), strict=True):
            encoded = [Encoded(ids.tolist()) for ids in texts]
            made = make_inputs(encoded, None, self.template, self.pad_id, width, "longest_first", "max_length")
            inputs |= {f"{side}{name}": value for name, value in made.items()}
        return {name: inputs[name] for name in self.element[0]}, {"texts": self.numbers[rows]}


def _number(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """A number for each text of each pair, the same for the same ids: (pairs, 2) int32."""
    return number_alike(ids.tobytes() for pair in pairs for ids in pair).reshape(-1, 2)

"""Texts with a label: read from a table, encoded, shared out between training and validation, and made into batches."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from recipes.data.batches import ArraySpec
from recipes.data.classes import LABEL_COLUMNS, Classified, name_classes
from recipes.data.examples import Example, Examples, build_examples, in_chunks
from recipes.data.grouping import Source
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table, choose_column
from zoo.text import Tokenizer
from zoo.text.inputs import Encoded, find_template, make_inputs

logger = logging.getLogger("zoo")

TEXT_COLUMNS = ("text", "sentence", "utterance", "content", "review", "comment", "question", "document", "body")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what; None is guessed, but for `pair`."""

    text_column: str | None = None
    """Column of the text; guessed where its name is plain."""
    pair_column: str | None = None
    """Column of a second text that is read together with the first."""
    label_column: str | None = None
    """Column of the label; guessed where its name is plain."""


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Classified):
    """Texts, or pairs of them, each with its class: the examples hold the columns `first`, `second` where there are
    pairs, `label` and `text`."""

    examples: Examples

    def text(self, place: int) -> str:
        """A text, as it was read; the two of a pair on lines of their own."""
        return self.examples.text("text", int(self.rows[place]))

    def key(self, place: int) -> bytes:
        """The ids of a text, and of its pair."""
        row, columns = int(self.rows[place]), ("first", "second")
        return b"|".join(self.examples.row(each, row).tobytes() for each in columns if each in self.examples.columns)


def read_labelled(
    table: Table, columns: tuple[str, str | None, str], tokenizer: Tokenizer, labels: Sequence[str] = ()
) -> LabelledTexts:
    """Read and encode a table.

    Args:
        table: the rows.
        columns: of the text, of its pair, and of the label; see `find_columns`.
        tokenizer: encodes the texts.
        labels: the classes that there may be, in order; where there are none, those of the table by name.

    Raises:
        UserError: the table cannot be used, or it has a label that is not among `labels`.
    """
    names: dict[str, int] = {}

    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        good = _good_rows(rows, problems, *columns)
        for some in in_chunks(good, lambda row: len(row[0]) + len(row[1])):
            firsts = tokenizer.encode_batch(first for first, _, _ in some)
            seconds = tokenizer.encode_batch(second for _, second, _ in some) if columns[1] else None
            for place, (first, second, name) in enumerate(some):
                example: Example = {"first": firsts[place], "label": [names.setdefault(name, len(names))]}
                example |= {"second": seconds[place]} if seconds else {}
                yield example | {"text": f"{first}\n{second}" if seconds else first}

    request = {"kind": "labelled", "columns": columns, "tokenizer": tokenizer.fingerprint}
    examples = build_examples(table, request, encode, lambda: {"labels": list(names)})
    order, targets = name_classes(examples.facts["labels"], examples.flat("label"), labels, table.path)
    return LabelledTexts(examples, np.arange(len(examples)), order, targets)


def find_columns(table: Table, columns: Columns) -> tuple[str, str | None, str]:
    """Text, second text and label."""
    wanted = [each for each in (columns.text_column, columns.pair_column, columns.label_column) if each]
    label = choose_column(table, "label", columns.label_column, LABEL_COLUMNS, wanted)
    pair = columns.pair_column and choose_column(table, "pair", columns.pair_column, ())
    text = choose_column(table, "text", columns.text_column, TEXT_COLUMNS, [label, *([pair] if pair else [])])
    return text, pair, label


def _good_rows(
    rows: Iterator[Row], problems: Problems, text: str, pair: str | None, label: str
) -> Iterator[tuple[str, str, str]]:
    columns = [column for column in (text, pair) if column]
    for row in rows:
        texts = [row.get(column) for column in columns]
        empty = [
            each for each, value in zip(columns, texts, strict=True) if not isinstance(value, str) or not value.strip()
        ]
        name = row.get(label)
        if name is None or isinstance(name, list | dict) or not str(name).strip():
            problems.add(problems.where, f"no {label}")
        elif empty:
            problems.add(problems.where, f"no {empty[0]}")
        elif str(name).splitlines() != [str(name)]:
            problems.add(problems.where, f"{label} of several lines")
        else:
            yield str(texts[0]), str(texts[1]) if pair else "", str(name)


def tell(train_data: LabelledTexts, held_out: LabelledTexts, source: "TextSource") -> None:
    """Say what there is to train on, before it begins."""
    logger.info("%s", train_data.describe("training"))
    logger.info("%s", held_out.describe("held out"))
    tokens = source.tokens()
    cut = int((tokens > source.length).sum())
    logger.info(
        "%d tokens a text at the median, %d at most%s",
        int(np.median(tokens)),
        int(tokens.max()),
        f"; {cut:,} are longer than {source.length} and cut" if cut else "",
    )


class TextSource(Source):
    """Texts with their classes as batches `(inputs, labels, weights)` for the task "classify".

    Args:
        data: what to draw from.
        tokenizer: that encoded it.
        length: of the longest input; the rest of longer ones is not read.
        class_weights: (classes,) what a row of each class weighs.
    """

    def __init__(
        self, data: LabelledTexts, tokenizer: Tokenizer, length: int, class_weights: np.ndarray | None = None
    ) -> None:
        self.data, self.length = data, length
        self.template, self.pad_id = find_template(tokenizer.specification), tokenizer.special_ids["pad"]
        self.segments, self.pairs = tokenizer.kind == "wordpiece", "second" in data.examples.columns
        self.weights = np.ones(len(data.labels), np.float32) if class_weights is None else class_weights
        names = ("token_ids", "padding_mask", *(("segment_ids",) if self.segments else ()))
        self.element: Any = (
            {name: ArraySpec((None, None)) for name in names},
            {"logits": ArraySpec((None,))},
            {"logits": ArraySpec((None,), "float32")},
        )

    def tokens(self) -> np.ndarray:
        """How many tokens each row has, special ones included, before it is cut: (rows,)."""
        tokens = self.data.examples.lengths("first") + (self.data.examples.lengths("second") if self.pairs else 0)
        return tokens[self.data.rows] + self.template.count(self.pairs)

    def lengths(self, epoch: int) -> np.ndarray:
        return np.minimum(self.tokens(), self.length)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        places, targets = self.data.rows[rows], self.data.targets[rows]
        inputs = make_inputs(
            [Encoded(self.data.examples.row("first", place).tolist()) for place in places],
            [Encoded(self.data.examples.row("second", place).tolist()) for place in places] if self.pairs else None,
            self.template,
            self.pad_id,
            width,
            "longest_first",
            "max_length",
        )
        return {name: inputs[name] for name in self.element[0]}, {"logits": targets}, {"logits": self.weights[targets]}

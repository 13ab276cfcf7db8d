"""Prompts with what is to be said to them: read from a table, encoded, shared out, and made into batches.

The three parts of a row are encoded apart: the prompt, a separator, and the completion. The prompt's ids are then those
that `zoo generate` makes of it, whatever follows, and not those of a token across the seam (the "\\n" and "cat" of
"say cat\\ncat" might else be one token). The separator is learnt with the completion: to a prompt alone, the model says
it first.
"""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recipes.data.batches import ArraySpec
from recipes.data.examples import Example, Examples, build_examples, in_chunks
from recipes.data.formats import FORMATS
from recipes.data.grouping import Source, pad
from recipes.data.held_out import hold_out, number_alike
from recipes.data.labelled import TEXT_COLUMNS
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table, choose_column, open_table
from recipes.data.text import is_prepared
from zoo.errors import UserError
from zoo.text import Tokenizer

logger = logging.getLogger("zoo")

NAMES = (
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
    ("input", "output"),
    ("source", "target"),
)
PROMPTS, COMPLETIONS = zip(*NAMES, strict=True)
WITH_INPUT = ("instruction", "input", "output")  # where an instruction may have something to be carried out on
SEPARATOR = "\n"  # where none is said

Found = tuple[str, str, str | None]  # columns


@dataclasses.dataclass(frozen=True)
class CompletionColumns:
    """Which columns hold what; guessed where their names are plain."""

    prompt_column: str | None = None
    """Column of the prompt."""
    completion_column: str | None = None
    """Column of what is to be said to it."""
    input_column: str | None = None
    """Column of what a prompt is about, on lines after it; a row may have none. Guessed beside an instruction."""


@dataclasses.dataclass(frozen=True)
class Completions:
    """Rows of `examples`, which hold the ids in `prompt` and `completion`, and the texts in `prompt_text` and
    `completion_text`.

    Attributes:
        examples: all that was read.
        rows: which of them these are.
    """

    examples: Examples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: np.ndarray) -> "Completions":
        """Some of them."""
        return dataclasses.replace(self, rows=self.rows[places])

    def texts(self, place: int) -> tuple[str, str]:
        """A prompt and its completion, as they were read."""
        row = int(self.rows[place])
        return self.examples.text("prompt_text", row), self.examples.text("completion_text", row)

    def ids(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a prompt, and of its completion without the end of the text."""
        row = int(self.rows[place])
        return self.examples.row("prompt", row), self.examples.row("completion", row)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens each prompt has, and each completion with the end of the text: each (rows,)."""
        lengths = self.examples.lengths
        return lengths("prompt")[self.rows], lengths("completion")[self.rows] + 1


def is_text(path: Path, columns: CompletionColumns, text_column: str | None = None) -> bool:
    """Whether data is text to be read on, as gpt-pretrain has it, and no table of prompts and completions: by the
    columns that are asked for; or else by those that there are.

    Raises:
        UserError: it is not there, or a table that cannot be read.
    """
    if text_column is not None or columns != CompletionColumns():
        return text_column is not None
    if path.is_dir():
        tables = [each for each in path.glob("*") if each.suffix.lower() in FORMATS and not each.name.startswith(".")]
        if is_prepared(path) or not tables:
            return True
    elif path.exists() and path.suffix.lower() not in FORMATS:
        return True
    try:
        table = open_table(path)
    except UserError:
        if path.is_dir():  # text may lie there in files of several kinds
            return True
        raise
    if table.format.count is None or _known_columns(table) is not None:
        return False
    texts = set(TEXT_COLUMNS) - set(PROMPTS)
    return len(table.columns) == 1 or any(name.casefold() in texts for name in table.columns)


def find_columns(table: Table, columns: CompletionColumns) -> Found:
    """Prompt, completion, and what a prompt is about; None for the last where there is no such column.

    Raises:
        UserError: a column is not there, or none can be told to be one of them.
    """
    found = _known_columns(table) if columns == CompletionColumns() else None
    prompt, completion, more = found = found or _choose_columns(table, columns)
    others = [f"{name!r:.80}" for name in table.columns if name not in found]
    logger.info(
        "prompts from %r%s, completions from %r%s",
        prompt,
        "" if more is None else f" and {more!r}",
        completion,
        f"; not read: {', '.join(others[:20])}" if others else "",
    )
    return found


def _choose_columns(table: Table, columns: CompletionColumns) -> Found:
    more = columns.input_column and choose_column(table, "input", columns.input_column, ())
    completions = [name for name in table.columns if name.casefold() in COMPLETIONS]
    taken = [columns.completion_column] if columns.completion_column else completions
    inputs = [more] if more else []
    prompt = choose_column(table, "prompt", columns.prompt_column, PROMPTS, [*taken, *inputs])
    completion = choose_column(table, "completion", columns.completion_column, COMPLETIONS, [prompt, *inputs])
    return prompt, completion, more


def _known_columns(table: Table) -> Found | None:
    known = {name.casefold(): name for name in reversed(table.columns)}
    if set(WITH_INPUT) <= known.keys():
        prompt, more, completion = (known[name] for name in WITH_INPUT)
        return prompt, completion, more
    pairs = ((known[first], known[second], None) for first, second in NAMES if {first, second} <= known.keys())
    return next(pairs, None)


def read_completions(table: Table, columns: Found, tokenizer: Tokenizer) -> Completions:
    """Read and encode a table.

    Args:
        table: the rows.
        columns: of the prompt, of the completion, and of what a prompt is about; see `find_columns`.
        tokenizer: encodes the texts.

    Raises:
        UserError: the table cannot be used.
    """

    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        good = _good_rows(rows, problems, columns, tokenizer.separator)
        for some in in_chunks(good, lambda texts: sum(map(len, texts))):
            prompts, completions = (tokenizer.encode_batch(texts) for texts in zip(*some, strict=True))
            for place, (prompt, completion) in enumerate(some):
                ids = {"prompt": prompts[place], "completion": completions[place]}
                yield {**ids, "prompt_text": prompt, "completion_text": completion}

    request = {"kind": "completions", "columns": columns, "tokenizer": tokenizer.fingerprint}
    examples = build_examples(table, request, encode)
    return Completions(examples, np.arange(len(examples)))


def _good_rows(rows: Iterator[Row], problems: Problems, columns: Found, end: str) -> Iterator[tuple[str, str]]:
    for row in rows:
        found = [None if name is None else row.get(name) for name in columns]
        texts = ["" if value is None or isinstance(value, list | dict) else str(value) for value in found]
        prompt, completion, more = texts
        completion = completion.removesuffix(end)  # some write it out; it is put there in any case
        empty = [name for name, text in zip(columns[:2], (prompt, completion), strict=True) if not text.strip()]
        if empty:
            problems.add(problems.where, f"no {empty[0]}")
        else:
            yield f"{prompt}\n{more}" if more.strip() else prompt, completion


def split(data: Completions, fraction: float, seed: int) -> tuple[Completions, Completions]:
    """Share rows out to training and validation, at random; all with the same prompt are in one of them."""
    prompts = (data.ids(place)[0].tobytes() for place in range(len(data)))
    held_out = hold_out(number_alike(prompts), fraction, seed)
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))


def tell(train_data: Completions, held_out: Completions, source: "CompletionSource") -> None:
    """Say what there is to train on, before it begins."""
    logger.info("training: %s prompts with their completions", f"{len(train_data):,}")
    logger.info("held out: %s prompts with their completions", f"{len(held_out):,}")
    prompts, completions = train_data.counts()
    cut = {
        "prompts are cut from the left": int((source.prompts < prompts).sum()),
        "completions at their ends": int((source.completions < completions).sum()),
    }
    told = " and ".join(f"{count:,} {what}" for what, count in cut.items() if count)
    logger.info(
        "%d tokens a prompt and %d a completion at the median, %d both at most%s",
        int(np.median(prompts)),
        int(np.median(completions)),
        int((prompts + len(source.separator) + completions).max()),
        f"; {told}, to fit in {source.length}" if told else "",
    )


class CompletionSource(Source):
    """Prompts with their completions as batches `(inputs, labels, weights)` for `zoo.gpt.loss.NextTokenLoss`: the loss
    is of the separator, the completion and the end of the text, and of no token of the prompt, which is given: that of
    p(completion | prompt), as of a label in Radford et al. 2018, section 3.2.

    Where a row is too long, its prompt is cut from the left, so that the completion stays. A completion that is too
    long by itself is cut at its end, after which no end of the text stands, and leaves half of the room to the prompt.

    Args:
        data: what to draw from.
        tokenizer: that encoded it.
        length: the most tokens that are read of a row; its last token is never read.
        separator: text between a prompt and its completion.

    Attributes:
        separator, separator_text: its ids, and the text itself.
        prompts, completions: how many tokens of each are kept, ends of texts included: each (rows,).

    Raises:
        UserError: the separator ends a text, or leaves no room.
    """

    def __init__(self, data: Completions, tokenizer: Tokenizer, length: int, separator: str) -> None:
        self.data, self.length, self.end = data, length, tokenizer.end_of_text
        self.separator_text, self.separator = separator, np.array(tokenizer.encode(separator), np.int32)
        if self.end in self.separator:
            raise UserError(f"--separator holds {tokenizer.separator}, at which completions end: leave that out")
        room = length + 1 - len(self.separator)
        if room < 2:
            raise UserError(
                f"--separator has {len(self.separator)} tokens, and a row {length}: give a shorter one, or a longer row"
            )
        prompts, completions = data.counts()
        for_prompts = np.where(completions < room, room - completions, room // 2)
        self.prompts = np.minimum(prompts, for_prompts)
        self.completions = np.minimum(completions, room - self.prompts)
        spec = ArraySpec((None, None))
        self.element: Any = ({"token_ids": spec}, {"sequence": spec}, {"sequence": ArraySpec((None, None), "float32")})

    def lengths(self, epoch: int) -> np.ndarray:
        return self.prompts + len(self.separator) + self.completions - 1

    def row(self, place: int) -> np.ndarray:
        """The ids of a row: those that are read, and the last."""
        prompt, completion = self.data.ids(place)
        ended = np.append(completion, np.int32(self.end))
        kept = prompt[len(prompt) - self.prompts[place] :], self.separator, ended[: self.completions[place]]
        return np.concatenate(kept)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        ids = [self.row(int(row)) for row in rows]
        first = self.prompts[rows, None] - 1  # at the last token of the prompt, what follows is first predicted
        places = np.arange(width)
        weights = (places >= first) & (places < self.lengths(epoch)[rows, None])
        # No mask: what a row is filled up with stands behind all of it, where no token looks, and weighs nothing.
        return (
            {"token_ids": pad([each[:-1] for each in ids], width)},
            {"sequence": pad([each[1:] for each in ids], width)},
            {"sequence": weights.astype(np.float32)},
        )

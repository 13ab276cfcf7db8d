"""Sentences whose words have labels, such as those of named entities: encoded, shared out, and made into batches.

A word that the tokenizer splits further, as it does at punctuation, counts as several to the model: "U.N.", labelled
`B-ORG`, is read as `U . N .`, and learnt as B-ORG I-ORG I-ORG I-ORG. The model sees no white space, and so it can tell
the same words in a text that nobody has split. Of the pieces of each of them the first is labelled, the rest weighs
nothing (Devlin et al. 2019, section 5.3).
"""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.data.batches import ArraySpec
from recipes.data.examples import Example, Examples, build_examples, in_chunks
from recipes.data.grouping import Source
from recipes.data.held_out import hold_out, number_alike, require_known
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.sentences import Layout, Sentence, read_sentences
from recipes.data.tables import Table
from zoo.errors import UserError
from zoo.text import Tokenizer
from zoo.text.entities import OUTSIDE, PREFIXES, Entity, find_words, join_labels, label_words, split_label
from zoo.text.inputs import Encoded, find_template, make_inputs

logger = logging.getLogger("zoo")

MOST_NAMED = 10  # types, in a line
_MISTAKEN = re.compile(r"[BIESLU][-_].*|.*[-_][BIESLU]", re.IGNORECASE)  # for one with a prefix


@dataclasses.dataclass(frozen=True)
class TaggedTexts:
    """Rows of `examples`, which hold the columns `text`, `words` (the first character of each and one past its last),
    `labels` (of words, in IOB2), `pieces` (ids), and of each part of a word that the tokenizer splits off `firsts`, its
    first piece, and `numbers`, the word that it is of.

    Attributes:
        examples: all that was read.
        rows: which of them these are.
        types: what is told apart, such as "LOC" and "PER".
        order: of the labels of `examples` the places in `labels`, (found labels,) int32.
    """

    examples: Examples
    rows: np.ndarray
    types: tuple[str, ...]
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of words, in IOB2."""
        return (OUTSIDE, *(f"{prefix}-{name}" for name in self.types for prefix in "BI"))

    def text(self, place: int) -> str:
        """A sentence."""
        return self.examples.text("text", int(self.rows[place]))

    def row(self, name: str, place: int) -> np.ndarray:
        """The numbers of a sentence in one of the columns."""
        return self.examples.row(name, int(self.rows[place]))

    def words(self, place: int) -> np.ndarray:
        """The first character of each word and one past its last: (words, 2)."""
        return self.row("words", place).reshape(-1, 2)

    def targets(self, place: int) -> np.ndarray:
        """The label of each word, by its place in `labels`: (words,) int32."""
        return self.order[self.row("labels", place)]

    def entities(self, place: int) -> list[Entity]:
        """What is right."""
        labels = self.labels
        return join_labels([labels[number] for number in self.targets(place)], self.words(place))

    def read_labels(self, place: int, of_pieces: Sequence[str]) -> list[Entity]:
        """What a model says of a sentence: a word is what its first piece is, and "O" where it has none.

        Args:
            place: of the sentence.
            of_pieces: the labels of the pieces that the model has read, the first ones.
        """
        words = self.words(place)
        labels = [OUTSIDE] * len(words)
        firsts, numbers = self.row("firsts", place), self.row("numbers", place)
        for first, number in zip(firsts[::-1], numbers[::-1], strict=True):  # the first part of a word comes last
            labels[number] = of_pieces[first] if first < len(of_pieces) else OUTSIDE
        return join_labels(labels, words)

    def describe(self, name: str) -> str:
        """How many sentences there are with which entities, in a line."""
        begins = np.zeros(len(self.labels), np.int64)
        for place in range(len(self)):
            begins += np.bincount(self.targets(place), minlength=len(begins))
        counts = Counter({label: int(begins[1 + 2 * number]) for number, label in enumerate(self.types)})
        named = ", ".join(f"{count:,} {label}" for label, count in counts.most_common(MOST_NAMED))
        more = f" and {len(counts) - MOST_NAMED} other types" if len(counts) > MOST_NAMED else ""
        return f"{name}: {len(self):,} sentences, {counts.total():,} entities: {named}{more}"


def read_texts(table: Table, layout: Layout, problems: Problems) -> Iterator[str]:
    """The texts alone, to train a tokenizer on."""
    return (sentence.text for sentence in read_sentences(table.rows(problems), problems, layout))


def read_tagged(table: Table, layout: Layout, tokenizer: Tokenizer, types: Sequence[str] = ()) -> TaggedTexts:
    """Read and encode a table.

    The text of a list of words has spaces between them. The words of a text with entities are those that the tokenizer
    splits it into; an entity that begins or ends within one is widened to the whole of it.

    Args:
        table: the rows.
        layout: see `find_layout`.
        tokenizer: a "wordpiece" one.
        types: what may be told apart, in order; where there are none, what the table has, by name.

    Raises:
        UserError: the table cannot be used, or it has a type that is not among `types`, or none at all.
    """
    names: dict[str, int] = {}
    tags: dict[str, None] = {}
    widened = 0

    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        nonlocal widened
        for some in in_chunks(read_sentences(rows, problems, layout), lambda sentence: len(sentence.text)):
            encoded = tokenizer.encode_with_spans(sentence.text for sentence in some)
            for sentence, pieces in zip(some, encoded, strict=True):
                try:
                    example, labels, wider = _encode(sentence, pieces, tokenizer)
                except ValueError as error:
                    problems.add(sentence.where, str(error))
                    continue
                tags.update(dict.fromkeys(sentence.tags))
                widened += wider
                yield example | {"labels": [names.setdefault(label, len(names)) for label in labels]}

    def facts() -> dict[str, Any]:
        return {"labels": list(names), "tags": list(tags), "widened": widened}

    request = {"kind": "tagged", "layout": layout, "tokenizer": tokenizer.fingerprint}
    examples = build_examples(table, request, encode, facts)
    if examples.facts["widened"]:
        logger.warning("%s entities end within a word, and are widened to it", f"{examples.facts['widened']:,}")
    _require_scheme(examples.facts["tags"], table.path)
    found: list[str] = examples.facts["labels"]
    here = sorted({split_label(label)[1] for label in found if label != OUTSIDE})
    if not here:
        raise UserError(f"{table.path} has no label but {OUTSIDE}: there is nothing to learn, or to find")
    order = tuple(types) or tuple(here)
    require_known(here, order, table.path)
    data = TaggedTexts(examples, np.arange(len(examples)), order, np.empty(0, np.int32))
    # Where every word has a label, and none a prefix, as parts of speech have it, two neighbours of a kind stay two.
    alone = layout.in_words and OUTSIDE not in found and not any(split_label(tag)[0] for tag in examples.facts["tags"])
    place_of = {label: place for place, label in enumerate(data.labels)}
    places = [place_of[f"B-{label[2:]}" if alone else label] for label in found]
    return dataclasses.replace(data, order=np.array(places, np.int32))


def split(data: TaggedTexts, fraction: float, seed: int) -> tuple[TaggedTexts, TaggedTexts]:
    """Share sentences out to training and validation, at random; one that stands in the table twice is in one."""
    held_out = hold_out(number_alike(data.row("pieces", place).tobytes() for place in range(len(data))), fraction, seed)
    return dataclasses.replace(data, rows=data.rows[~held_out]), dataclasses.replace(data, rows=data.rows[held_out])


def tell(train_data: TaggedTexts, held_out: TaggedTexts, source: "TagSource") -> None:
    """Say what there is to train on, before it begins."""
    logger.info("%s", train_data.describe("training"))
    logger.info("%s", held_out.describe("held out"))
    for name, data in (("training", train_data), ("held-out", held_out)):
        if cut := int((source.tokens(data) > source.length).sum()):
            logger.warning(
                "%s of the %s sentences are longer than %d tokens and cut: the words beyond count as %s",
                f"{cut:,}",
                name,
                source.length,
                OUTSIDE,
            )


def _encode(sentence: Sentence, pieces: Encoded, tokenizer: Tokenizer) -> tuple[Example, list[str], int]:
    """An example but for its labels; these; and how many entities were widened.

    Raises:
        ValueError: it cannot be labelled word by word.
    """
    ids, spans = np.asarray(pieces.ids, np.int32), np.asarray(pieces.spans, np.int64).reshape(-1, 2)
    firsts, parts = find_words(spans, tokenizer.continues_word[ids])
    words, numbers, widened = parts, np.arange(len(parts)), 0
    if sentence.words is None:
        labels = label_words(sentence.entities, words)
        widened = sum(
            wide.start < entity.start or wide.end > entity.end
            for wide, entity in zip(join_labels(labels, words), sorted(sentence.entities), strict=True)
        )
    else:
        words = np.array(sentence.words)
        numbers = np.searchsorted(words[:, 0], parts[:, 0], side="right") - 1
        labels = label_words(join_labels(sentence.tags, words), words)
    example = {"text": sentence.text, "words": words.ravel(), "pieces": ids, "firsts": firsts, "numbers": numbers}
    return example, labels, widened


def _require_scheme(tags: Collection[str], path: Path) -> None:
    """Raise UserError where tags are of no scheme that is known, or of two."""
    plain = [tag for tag in tags if tag != OUTSIDE and not split_label(tag)[0]]
    others = [tag for tag in tags if split_label(tag)[0]]
    wanted = f"write each as B-NAME or I-NAME, or {OUTSIDE}"
    if plain and others:
        both = f"with a prefix, as {others[0]!r:.80}, and without, as {plain[0]!r:.80}"
        raise UserError(f"{path} has tags {both}: {wanted}")
    if plain and set(plain) <= PREFIXES:
        raise UserError(f"{path} has tags that name nothing, as {plain[0]!r}: {wanted}")
    if plain and all(_MISTAKEN.fullmatch(tag) for tag in plain):
        raise UserError(f"{path} has tags of a scheme that is not known, as {plain[0]!r:.80}: {wanted}")


class TagSource(Source):
    """Sentences as batches `(inputs, labels, weights)` for the task "tag".

    Args:
        data: what to draw from.
        tokenizer: that encoded it.
        length: of the longest input; the rest of longer ones is not read.
    """

    def __init__(self, data: TaggedTexts, tokenizer: Tokenizer, length: int) -> None:
        self.data, self.length = data, length
        self.template, self.pad_id = find_template(tokenizer.specification), tokenizer.special_ids["pad"]
        # What follows in a word: I- of whatever it is.
        numbers = np.arange(len(data.labels))
        self.following = numbers + numbers % 2
        names = ("token_ids", "padding_mask", "segment_ids")
        self.element: Any = (
            {name: ArraySpec((None, None)) for name in names},
            {"logits": ArraySpec((None, None))},
            {"logits": ArraySpec((None, None), "float32")},
        )

    def tokens(self, data: TaggedTexts) -> np.ndarray:
        """How many tokens each sentence has, special ones included, before it is cut: (sentences,)."""
        return data.examples.lengths("pieces")[data.rows] + self.template.count(False)

    def lengths(self, epoch: int) -> np.ndarray:
        return np.minimum(self.tokens(self.data), self.length)

    def of_pieces(self, values: np.ndarray) -> np.ndarray:
        """Of values for the tokens of an input those for the pieces of the text, and for padding."""
        return values[len(self.template.before) : self.length - len(self.template.after)]

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        pieces = [Encoded(self.data.row("pieces", int(row)).tolist()) for row in rows]
        inputs = make_inputs(pieces, None, self.template, self.pad_id, width, "longest_first", "max_length")
        targets = np.zeros((len(rows), width), np.int32)
        weights = np.zeros((len(rows), width), np.float32)
        room, before = width - self.template.count(False), len(self.template.before)
        for row, place in enumerate(rows):
            firsts, numbers = self.data.row("firsts", int(place)), self.data.row("numbers", int(place))
            labels = self.data.targets(int(place))[numbers]
            labels[1:] = np.where(np.diff(numbers) == 0, self.following[labels[1:]], labels[1:])
            kept = firsts < room
            targets[row, firsts[kept] + before] = labels[kept]
            weights[row, firsts[kept] + before] = 1.0
        return {name: inputs[name] for name in self.element[0]}, {"logits": targets}, {"logits": weights}

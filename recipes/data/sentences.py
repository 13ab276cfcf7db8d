"""Sentences whose words have labels, as they stand in a table: lists of words and of their tags, or texts and lists of
their entities."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table, choose_column
from zoo.text.entities import Entity

TOKENS_COLUMNS = ("tokens", "words")
TAGS_COLUMNS = ("tags", "ner_tags", "labels", "ner")
TEXT_COLUMNS = ("text", "sentence", "content", "document")
ENTITIES_COLUMNS = ("entities", "spans", "label", "labels")


@dataclasses.dataclass(frozen=True)
class TagColumns:
    """Which columns hold what: lists of words and of their tags, or texts and lists of their entities."""

    tokens_column: str | None = None
    """Column of lists of words; guessed where its name is plain."""
    tags_column: str | None = None
    """Column of lists of tags, one a word; guessed where its name is plain."""
    text_column: str | None = None
    """Column of texts, for a table with entities; guessed where its name is plain."""
    entities_column: str | None = None
    """Column of lists of entities, each with start, end (characters) and label, or a list of the three; guessed where
    its name is plain."""


class Layout(NamedTuple):
    """The columns in use: of words and their tags, or of a text and its entities."""

    in_words: bool
    text: str
    labels: str


class Sentence(NamedTuple):
    """A row: a text with either its words (the first character of each, and one past its last) and a tag for each, or
    its entities. `where` is its place, for `Problems.add`."""

    where: str
    text: str
    words: list[tuple[int, int]] | None
    tags: list[str]
    entities: list[Entity]


def find_layout(table: Table, columns: TagColumns) -> Layout:
    """Words and tags, or text and entities: what is asked for, or what there is."""
    names = {name.casefold() for name in table.columns}
    in_words = bool(columns.tokens_column or columns.tags_column)
    if not in_words and not (columns.text_column or columns.entities_column):
        in_words = not names.isdisjoint(TOKENS_COLUMNS) or names.isdisjoint(ENTITIES_COLUMNS)
    if in_words:
        taken = [columns.tokens_column] if columns.tokens_column else []
        tags = choose_column(table, "tags", columns.tags_column, TAGS_COLUMNS, taken)
        return Layout(True, choose_column(table, "tokens", columns.tokens_column, TOKENS_COLUMNS, [tags]), tags)
    taken = [columns.text_column] if columns.text_column else []
    entities = choose_column(table, "entities", columns.entities_column, ENTITIES_COLUMNS, taken)
    return Layout(False, choose_column(table, "text", columns.text_column, TEXT_COLUMNS, [entities]), entities)


def read_sentences(rows: Iterator[Row], problems: Problems, layout: Layout) -> Iterator[Sentence]:
    """The sentences of a table; rows that are none go to the problems."""
    read = _read_words if layout.in_words else _read_entities
    for row in rows:
        sentence = read(problems.where, row.get(layout.text), row.get(layout.labels))
        if isinstance(sentence, str):
            problems.add(problems.where, sentence)
        else:
            yield sentence


def _read_words(where: str, words: Any, tags: Any) -> Sentence | str:
    """The sentence, or what is wrong with it."""
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        return "no list of words"
    if isinstance(tags, list) and tags and all(type(tag) is int for tag in tags):
        return "tags that are numbers: write their names"
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.strip() for tag in tags):
        return "no list of tags by name"
    if len(words) != len(tags):
        return "not as many tags as words"
    if any(tag.splitlines() != [tag] for tag in tags):
        return "a tag of several lines"
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spans = [(int(end) - len(word), int(end)) for end, word in zip(ends, words, strict=True)]
    return Sentence(where, " ".join(words), spans, tags, [])


def _read_entities(where: str, text: Any, entities: Any) -> Sentence | str:
    """The sentence, or what is wrong with it."""
    if not isinstance(text, str) or not text.strip():
        return "no text"
    if not isinstance(entities, list):
        return "no list of entities"
    found = []
    for each in entities:
        entity = _read_entity(each, text)
        if isinstance(entity, str):
            return entity
        found.append(entity)
    return Sentence(where, text, None, [], found)


def _read_entity(value: Any, text: str) -> Entity | str:
    if isinstance(value, list) and len(value) == 3:
        value = dict(zip(("start", "end", "label"), value, strict=True))
    if not isinstance(value, dict):
        return "an entity that is neither an object nor [start, end, label]"
    start, end, label = (value.get(name) for name in ("start", "end", "label"))
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label.strip():
        return "an entity without start, end and label"
    if not 0 <= start < end <= len(text):
        return "an entity that is not in its text"
    return Entity(start, end, label) if label.splitlines() == [label] else "a label of several lines"

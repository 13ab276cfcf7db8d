"""Entities of a text: from labels of its words to parts of it and back, and from pieces of words to words.

Labels are those of the CoNLL-2003 shared task (Tjong Kim Sang and De Meulder 2003, section 2) and their kin: `B-`
begins an entity, `I-` goes on with it, and `O` is outside of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTSIDE = "O"
BEGINNINGS = frozenset("BSUW")  # an entity begins, whatever stands before it; S, U and W are the whole of one
ENDS = frozenset("ESLUW")  # it is over after this word
PREFIXES = BEGINNINGS | ENDS | frozenset("IM")

Spans = Sequence[tuple[int, int]] | np.ndarray


@dataclass(frozen=True, order=True)
class Entity:
    """A part of a text that is something.

    Attributes:
        start, end: its first character and one past its last.
        label: what it is, such as "PER".
    """

    start: int
    end: int
    label: str


def split_label(label: str) -> tuple[str, str]:
    """The prefix of a label of a word, and what it is the label of: "B" and "PER" of "B-PER". Many have no prefix."""
    return (label[0], label[2:]) if label[:1] in PREFIXES and label[1:2] == "-" and label[2:] else ("", label)


def join_labels(labels: Sequence[str], spans: Spans) -> list[Entity]:
    """The entities that words make by their labels.

    They are read as the shared task's `conlleval` does: `I-` begins an entity where none of its kind is open. So IOB1,
    IOB2 and what a model got out of order are all read, and BIOES, BILOU and BMEWO as well. Words side by side that
    have the same label, without a prefix, are one entity.

    Args:
        labels: of the words of a text, in its order.
        spans: the first character of each word and one past its last, (words, 2).
    """
    entities: list[Entity] = []
    is_open = False
    for label, (start, end) in zip(labels, spans, strict=True):
        prefix, name = split_label(label)
        if label == OUTSIDE:
            is_open = False
            continue
        if is_open and name == entities[-1].label and prefix not in BEGINNINGS:
            entities[-1] = Entity(entities[-1].start, int(end), name)
        else:
            entities.append(Entity(int(start), int(end), name))
        is_open = prefix not in ENDS
    return entities


def label_words(entities: Sequence[Entity], spans: Spans) -> list[str]:
    """Labels of the words of a text, in IOB2: the words that share a character with an entity are labelled by it.

    Args:
        entities: in any order.
        spans: as for `join_labels`.

    Raises:
        ValueError: an entity shares no character with a word, or a word with two entities.
    """
    starts, ends = np.asarray(spans, np.int64).reshape(-1, 2).T
    labels = [OUTSIDE] * len(starts)
    for entity in entities:
        inside = range(np.searchsorted(ends, entity.start, "right"), np.searchsorted(starts, entity.end, "left"))
        if not inside:
            raise ValueError("an entity without a word")
        if any(labels[word] != OUTSIDE for word in inside):
            raise ValueError("entities that share a word")
        for word in inside:
            labels[word] = f"{'B' if word == inside.start else 'I'}-{entity.label}"
    return labels


def find_words(offsets: np.ndarray, continues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the pieces of a text together to words.

    Args:
        offsets: of each piece the first character and one past the last, (pieces, 2).
        continues: whether it goes on with the word of the piece before, (pieces,) bool; see `Tokenizer.continues_word`.

    Returns:
        The first piece of each word, (words,), and the first character of each word and one past its last, (words, 2).
    """
    firsts = np.flatnonzero(~continues)
    lasts = np.append(firsts[1:], len(offsets))[: len(firsts)] - 1
    return firsts, np.stack([offsets[firsts, 0], offsets[lasts, 1]], axis=1)

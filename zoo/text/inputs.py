"""What a model reads, made from encoded texts: special tokens around them, truncated, and padded to one array."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from zoo.errors import UserError
from zoo.text.specification import Specification

Truncation = Literal["longest_first", "only_first", "only_second", "none"]
Padding = Literal["longest", "max_length"]

Ids = Sequence[int]
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Template:
    """The ids of the special tokens before a text, between two texts, and at the end."""

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def count(self, pair: bool) -> int:
        """How many special tokens there are."""
        return len(self.before) + len(self.between) * pair + len(self.after)


@dataclass(frozen=True)
class Encoded:
    """The ids of one text, and where asked for, the first and one past the last character of each."""

    ids: Ids
    spans: Spans | None = None


def find_template(specification: Specification) -> Template:
    """Where each kind puts special tokens: BERT's `[CLS] a [SEP] b [SEP]`, and as transformers does, CLIP's
    `<|startoftext|> a <|endoftext|> <|endoftext|> b <|endoftext|>`."""
    ids = {role: (specification.vocabulary[token],) for role, token in specification.role_tokens.items()}
    if specification.kind == "wordpiece":
        return Template(ids["cls"], ids["sep"], ids["sep"])
    if specification.kind == "clip":
        return Template(ids["start"], ids["end"] * 2, ids["end"])
    return Template()


def truncate(first: int, second: int | None, room: int, truncation: Truncation) -> tuple[int, int]:
    """How many tokens to keep of a text, and of its pair, which have `first` and `second` of them, to fit in `room`.

    "longest_first" takes them from the longer of the two, and then from both alike.

    Raises:
        ValueError: they do not fit by shortening what may be shortened, and leaving a token of it.
    """
    rest = second or 0
    excess = first + rest - room
    if excess <= 0:
        return first, rest
    if truncation == "longest_first":
        if second is None:
            return room, 0
        short = min(first, rest, room // 2)
        return (short, room - short) if first <= rest else (room - short, short)
    shortened = {"only_first": first, "only_second": rest}.get(truncation, 0)
    if shortened <= excess:
        raise ValueError(f"{first + rest} tokens, and there is room for {room}")
    return (first - excess, rest) if truncation == "only_first" else (first, rest - excess)


def make_inputs(
    firsts: Sequence[Encoded],
    seconds: Sequence[Encoded] | None,
    template: Template,
    pad_id: int,
    max_length: int,
    truncation: Truncation,
    padding: Padding,
) -> dict[str, np.ndarray]:
    """Everything that `Tokenizer.prepare` may return; the offsets are zeros for texts without spans.

    Raises:
        UserError: a text cannot be made to fit, or a setting makes no sense.
    """
    check_request(max_length, truncation, padding, template.count(seconds is not None), seconds is not None)
    room = max_length - template.count(seconds is not None)
    kept = []
    for row, first in enumerate(firsts):
        second = None if seconds is None else len(seconds[row].ids)
        try:
            kept.append(truncate(len(first.ids), second, room, truncation))
        except ValueError as error:
            raise UserError(
                f"text {row} has {error} besides special tokens: raise max_length, or choose another truncation than "
                f"{truncation!r}"
            ) from None
    used = [sum(counts) + max_length - room for counts in kept]
    shape = (len(kept), max_length if padding == "max_length" else max(used, default=0))
    token_ids = np.full(shape, pad_id, np.int32)
    padding_mask, segment_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    offsets, sequence_ids = np.zeros((*shape, 2), np.int32), np.full(shape, -1, np.int32)
    for row, counts in enumerate(kept):
        texts = [firsts[row]] if seconds is None else [firsts[row], seconds[row]]
        padding_mask[row, : used[row]] = 1
        ids = list(template.before)
        for number, (text, count) in enumerate(zip(texts, counts, strict=False)):
            ids += template.between if number else ()
            place = slice(len(ids), len(ids) + count)
            ids += text.ids[:count]
            sequence_ids[row, place] = number
            if text.spans is not None and count:
                offsets[row, place] = text.spans[:count]
            segment_ids[row, place.start : used[row]] = number
        token_ids[row, : used[row]] = [*ids, *template.after]
    return {
        "token_ids": token_ids,
        "padding_mask": padding_mask,
        "segment_ids": segment_ids,
        "offsets": offsets,
        "sequence_ids": sequence_ids,
    }


def check_request(max_length: int, truncation: str, padding: str, special: int, pairs: bool) -> None:
    """Raise UserError for settings with which no text could be made to fit."""
    for name, value, known in (("truncation", truncation, Truncation), ("padding", padding, Padding)):
        if value not in get_args(known):
            raise UserError(f"{name} is {value!r}, and must be one of {', '.join(get_args(known))}")
    if max_length < max(special, 1):
        raise UserError(f"max_length is {max_length}, and the special tokens alone are {special}: raise it")
    if truncation == "only_second" and not pairs:
        raise UserError("truncation is 'only_second', and there are no pairs: choose 'longest_first' or 'only_first'")

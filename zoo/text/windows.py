"""Contexts of any length for questions: cut into windows that overlap, and the answers found in them put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.errors import UserError
from zoo.text.inputs import Encoded, Padding, Template, make_inputs

LONGEST_ANSWER = 30  # tokens

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Span:
    """An answer as a part of its context; from 0 to 0 where there is none.

    Attributes:
        start, end: its first character and one past its last.
        score: the probability of its first token times that of its last, among the tokens of all windows.
    """

    start: int
    end: int
    score: float


def make_windows(
    questions: Sequence[Encoded],
    contexts: Sequence[Encoded],
    template: Template,
    pad_id: int,
    max_length: int,
    stride: int,
    max_question: int,
    padding: Padding,
) -> dict[str, np.ndarray]:
    """Everything that `make_inputs` gives, and `pair`; see `Tokenizer.prepare_windows`.

    Raises:
        UserError: a setting leaves no room for a context, or makes no sense.
    """
    room = max_length - template.count(pair=True)
    if room < 1:
        raise UserError(
            f"max_length is {max_length}, and a window has {max_length - room + 1} tokens or more: raise it"
        )
    for name, value in (("stride", stride), ("max_question", max_question)):
        if value < 1:
            raise UserError(f"{name} is {value}, and must be 1 or more")
    firsts, seconds, pair = [], [], []
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        parts = _cut(question, context, room, stride, max_question)
        firsts += [first for first, _ in parts]
        seconds += [second for _, second in parts]
        pair += [number] * len(parts)
    inputs = make_inputs(firsts, seconds, template, pad_id, max_length, "none", padding)
    return {**inputs, "pair": np.array(pair, np.int32)}


def _cut(
    question: Encoded, context: Encoded, room: int, stride: int, max_question: int
) -> list[tuple[Encoded, Encoded]]:
    # A question gives way to a context that needs the room, and to no other: a pair that fits stays whole.
    question = _part(question, 0, max(min(max_question, room // 2), room - len(context.ids)))
    room -= len(question.ids)
    step = max(1, min(stride, room // 2))
    starts = range(0, max(0, len(context.ids) - room) + step, step)
    return [(question, _part(context, start, room)) for start in starts]


def _part(text: Encoded, start: int, count: int) -> Encoded:
    place = slice(start, start + count)
    return Encoded(text.ids[place], None if text.spans is None else text.spans[place])


def best_spans(
    inputs: Arrays,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    longest: int = LONGEST_ANSWER,
    null: bool = False,
) -> list[Span]:
    """The likeliest answer of each pair: the highest sum of two logits in any window (Devlin et al. 2019, section 4.2).

    Args:
        inputs: `offsets`, `sequence_ids` and `pair`, as `Tokenizer.prepare_windows` makes them.
        start_logits, end_logits: what the model says of these rows, (rows, tokens).
        longest: the most tokens of an answer.
        null: a question may have no answer, for which stands the first token of each window (section 4.3). Of several
            windows the one that says so least counts, and wins where it is above the best answer.

    Returns:
        For each pair in `inputs`, in order of their numbers. A context without tokens has no answer.
    """
    starts, ends = np.asarray(start_logits, np.float64), np.asarray(end_logits, np.float64)
    inside = inputs["sequence_ids"] == 1
    spans = []
    for pair in np.unique(inputs["pair"]):
        rows = inputs["pair"] == pair
        spans.append(_best_span(inputs["offsets"][rows], inside[rows], starts[rows], ends[rows], longest, null))
    return spans


def _best_span(
    offsets: np.ndarray, inside: np.ndarray, starts: np.ndarray, ends: np.ndarray, longest: int, null: bool
) -> Span:
    """Of the windows of one pair; `inside` says which tokens are the context's."""
    if not inside.any():
        return Span(0, 0, 0.0)
    logits = np.stack([starts[inside], ends[inside]])
    first_tokens = np.stack([starts[:, 0], ends[:, 0]])
    starts, ends = np.where(inside, starts, -np.inf), np.where(inside, ends, -np.inf)
    best, start, end = -np.inf, 0, 0
    count = inside.shape[1]
    for further in range(min(longest, count)):
        sums = starts[:, : count - further] + ends[:, further:]
        row, first = np.unravel_index(np.argmax(sums), sums.shape)
        if sums[row, first] > best:
            best = sums[row, first]
            start, end = int(offsets[row, first, 0]), int(offsets[row, first + further, 1])
    if null:
        least = first_tokens[:, np.argmin(first_tokens.sum(axis=0))]
        logits = np.append(logits, least[:, None], axis=1)
        if least.sum() > best:
            best, start, end = least.sum(), 0, 0
    return Span(start, end, float(np.exp(best - np.logaddexp.reduce(logits, axis=1).sum())))


def locate(answer_start: int, answer_end: int, offsets: np.ndarray, sequence_ids: np.ndarray) -> tuple[int, int] | None:
    """The tokens of a window that an answer stands on: what a model is to learn.

    Args:
        answer_start, answer_end: the answer's first character in its context and one past its last. No token stands for
            white space: an answer is to be given without any around it.
        offsets, sequence_ids: (tokens, 2) and (tokens,), one row of what `Tokenizer.prepare_windows` makes.

    Returns:
        The first and the last token that share a character with the answer; None where it is not wholly in the window.
    """
    places = np.flatnonzero(sequence_ids == 1)
    if not len(places) or answer_start < offsets[places[0], 0] or answer_end > offsets[places[-1], 1]:
        return None
    starts, ends = offsets[places].T
    found = places[np.minimum(ends, answer_end) > np.maximum(starts, answer_start)]
    return (int(found[0]), int(found[-1])) if len(found) else None

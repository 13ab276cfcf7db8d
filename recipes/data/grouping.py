"""Batches of examples of like length, each a pure function of its step."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from recipes.data.batches import ArraySpec
from zoo.errors import UserError


class Source(Protocol):
    """Examples that batches are made of. Their number is the same in each epoch; they may be others each time.

    Attributes:
        element: of what `collate` makes, for a batch of None rows and None tokens; see `Batches`.
        length: the most tokens that the model reads.
    """

    element: Any
    length: int

    def lengths(self, epoch: int) -> np.ndarray:
        """Tokens of each example, special ones included: (examples,)."""

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        """The batch of the examples `rows`, (batch,) int64, padded to `width` tokens; `draw` hangs on the step."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The examples of each batch of an epoch, and how many tokens wide it is."""

    rows: list[np.ndarray]
    widths: list[int]


class GroupedBatches:
    """Batches of examples of like length, each padded to one of a few widths: padding is most of what a batch of random
    sentences holds, and each width is a shape that is compiled.

    An epoch of training takes each example once, in random groups and in random order, and fills the last batch up with
    some of them; without a seed, for an evaluation, each comes once, the shortest first, and the last batch may be
    smaller.

    Args:
        source: the examples.
        batch_size: examples in a batch.
        seed: of order and of what `collate` draws; None for an evaluation.
        most_widths: at most this many different widths.
    """

    def __init__(self, source: Source, batch_size: int, seed: int | None, most_widths: int = 4) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        lengths = source.lengths(0)
        if len(lengths) == 0:
            raise UserError(f"there is no example to {'evaluate' if seed is None else 'train'} on")
        self.widths = choose_widths(lengths, most_widths, source.length)
        self.batches_per_epoch = -(-len(lengths) // batch_size)
        self.num_batches = self.batches_per_epoch if seed is None else None
        self._plan = lru_cache(maxsize=2)(self._make_plan)
        # Where all batches are as wide, XLA and a strategy can know it.
        sample = self.batch(0) if len(self.widths) == 1 else None
        self.element = _with_sizes(source.element, sample, None if seed is None else batch_size)

    def rows(self, step: int) -> np.ndarray:
        """The places of the examples in batch `step`."""
        epoch, place = divmod(step, self.batches_per_epoch)
        return self._plan(epoch).rows[place]

    def batch(self, step: int) -> Any:
        """Batch `step`, from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        plan = self._plan(epoch)
        draw = np.random.default_rng([self.seed or 0, step])
        return self.source.collate(epoch, plan.rows[place], plan.widths[place], draw)

    def _make_plan(self, epoch: int) -> Plan:
        draw = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        # Of another epoch than the first, one may be longer than any that the widths were chosen for.
        lengths = np.minimum(self.source.lengths(epoch), self.widths[-1])
        groups = np.searchsorted(self.widths, lengths)
        rows: list[np.ndarray] = []
        widths: list[int] = []
        waiting = np.empty(0, np.int64)
        for group, width in enumerate(self.widths):
            here = np.flatnonzero(groups == group)
            here = here[np.argsort(lengths[here], kind="stable")] if draw is None else draw.permutation(here)
            waiting = np.concatenate([waiting, here])
            full = len(waiting) // self.batch_size * self.batch_size
            rows += list(waiting[:full].reshape(-1, self.batch_size))
            widths += [int(width)] * (full // self.batch_size)
            waiting = waiting[full:]  # what fills no batch goes with the next longer ones
        if len(waiting):
            if draw is not None:
                missing = self.batch_size - len(waiting)
                waiting = np.concatenate([waiting, draw.choice(len(lengths), missing)])
            rows.append(waiting)
            widths.append(int(self.widths[groups[waiting].max()]))
        order = np.arange(len(rows)) if draw is None else draw.permutation(len(rows))
        return Plan([rows[i] for i in order], [widths[i] for i in order])


def _with_sizes(element: Any, sample: Any, rows: int | None) -> Any:
    """The element with the sizes of `sample`, or without them where that is None, and with so many rows."""
    if isinstance(element, ArraySpec):
        return ArraySpec((rows, *(element.shape if sample is None else sample.shape)[1:]), element.dtype)
    if isinstance(element, dict):
        return {name: _with_sizes(each, sample and sample[name], rows) for name, each in element.items()}
    return tuple(_with_sizes(each, sample and sample[place], rows) for place, each in enumerate(element))


def choose_widths(lengths: np.ndarray, count: int, longest: int, multiple: int = 8) -> np.ndarray:
    """The at most `count` widths, multiples of `multiple` or `longest` where that is none, to which examples of these
    lengths are padded with the fewest tokens: (widths,) int64, rising. By dynamic programming over the lengths that
    occur."""
    rounded = np.minimum(-(-np.asarray(lengths) // multiple) * multiple, longest)
    rounded, counts = np.unique(rounded, return_counts=True)
    total = np.concatenate([[0], np.cumsum(counts)])
    # cost[k] for the first k lengths; the widest of a group is what all of it costs.
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *((np.inf, ()) for _ in rounded)]
    for _ in range(count):
        nexts = [best[0]]
        for end in range(1, len(rounded) + 1):
            costs = [best[start][0] + (total[end] - total[start]) * rounded[end - 1] for start in range(end)]
            start = int(np.argmin(costs))
            candidate = (float(costs[start]), (*best[start][1], int(rounded[end - 1])))
            nexts.append(min(candidate, best[end], key=lambda each: each[0]))
        if nexts[-1][0] >= best[-1][0]:
            break
        best = nexts
    return np.array(best[-1][1], np.int64)


def pad(values: Sequence[np.ndarray], width: int, fill: int = 0) -> np.ndarray:
    """Rows of different lengths as one array (rows, width) int32, cut or filled up at their ends."""
    padded = np.full((len(values), width), fill, np.int32)
    for row, value in enumerate(values):
        padded[row, : len(value)] = value[:width]
    return padded

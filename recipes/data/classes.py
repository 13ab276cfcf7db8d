"""Examples that each belong to one class, of texts or of images alike: shared out, thinned, weighed, and told of."""

import abc
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from recipes.data.held_out import hold_out_of_each, number_alike, require_known, tell_copies
from zoo.errors import UserError

logger = logging.getLogger("zoo")

LABEL_COLUMNS = ("label", "category", "class", "intent", "target", "sentiment", "topic", "tag")
IMBALANCE = 10.0  # the largest class over the smallest, from where on it is told
SHOWN = 20  # classes that are named, with their sizes, before a training


@dataclasses.dataclass(frozen=True)
class Classified(abc.ABC):
    """Rows of what was read, each with its class.

    Attributes:
        examples: all that was read.
        rows: which of them these are: (rows,) int64.
        labels: the names of the classes, in order; `targets` are places in it.
        targets: the class of each row: (rows,) int32.
    """

    examples: Any
    rows: np.ndarray
    labels: tuple[str, ...]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: np.ndarray) -> Self:
        """Some of them."""
        return dataclasses.replace(self, rows=self.rows[places], targets=self.targets[places])

    @abc.abstractmethod
    def text(self, place: int) -> str:
        """What an example is called in a report."""

    @abc.abstractmethod
    def key(self, place: int) -> bytes:
        """The same for examples that a model cannot tell from each other."""

    def describe(self, name: str) -> str:
        """How many rows of which classes there are, in a line."""
        counts = np.bincount(self.targets, minlength=len(self.labels))
        order = np.argsort(-counts, kind="stable")
        shown = [*order[:SHOWN], *order[SHOWN:][-1:]]
        named = [f"{self.labels[number]} {counts[number]:,}" for number in shown]
        if len(order) > len(shown):
            named.insert(SHOWN, f"{len(order) - len(shown):,} more")
        return f"{name}: {len(self):,} rows of {len(self.labels):,} classes: {', '.join(named)}"


Rows = TypeVar("Rows", bound=Classified)


def name_classes(
    found: Sequence[str], numbers: np.ndarray, labels: Sequence[str], path: Path
) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes in order, and the place of each row's among them, (rows,) int32.

    Args:
        found: the names in the data, in the order of `numbers`.
        numbers: (rows,) the place of each row's class in `found`.
        labels: the classes that there may be, in order; where there are none, those of the data by name.
        path: of the data, for the message.

    Raises:
        UserError: the data has a class that is not among `labels`.
    """
    order = tuple(labels) or tuple(sorted(found))
    require_known(found, order, path)
    place_of = {name: place for place, name in enumerate(order)}
    return order, np.array([place_of[name] for name in found], np.int32)[numbers]


def split(data: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Share rows out to training and validation, each class by itself, as near to `fraction` held out as can be; rows
    of a class that are alike are in one of them."""
    held_out = hold_out_of_each(data.targets, number_alike(map(data.key, range(len(data)))), fraction, seed)
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))


def few(data: Rows, examples_per_class: int, seed: int) -> Rows:
    """At most so many rows of each class, at random."""
    draw = np.random.default_rng(seed)
    chosen = [
        draw.permutation(np.flatnonzero(data.targets == target))[:examples_per_class]
        for target in range(len(data.labels))
    ]
    return data.select(np.sort(np.concatenate(chosen)))


def balance(data: Classified) -> np.ndarray:
    """What a row of each class is to weigh, so that all classes weigh alike: (classes,) float32."""
    counts = np.maximum(np.bincount(data.targets, minlength=len(data.labels)), 1)
    return (counts.mean() / counts).astype(np.float32)


def tell_held_out(train_data: Classified, held_out: Classified) -> None:
    """Warn of classes that nothing is held out of, and of rows that are in both shares."""
    names = [held_out.labels[number] for number in np.setdiff1d(train_data.targets, held_out.targets)]
    if names:
        logger.warning("%d classes have no held-out row, such as %s: how they do is not measured", len(names), names[0])
    tell_copies(train_data, held_out)


def require_classes(data: Classified, path: Path) -> None:
    """Raise UserError unless there are two classes at least; say where they are very unlike in size."""
    counts = np.bincount(data.targets, minlength=len(data.labels))
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise UserError(
            f"{path} has one class only, {data.labels[int(present[0])]!r:.80}: a classifier needs two to tell apart"
        )
    if counts[present].max() > IMBALANCE * counts[present].min():
        most, fewest = int(counts.argmax()), int(present[counts[present].argmin()])
        logger.warning(
            "classes are unlike in size: %s has %d rows, %s has %d; --balance weighs them alike",
            data.labels[most],
            counts[most],
            data.labels[fewest],
            counts[fewest],
        )

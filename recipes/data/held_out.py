"""Rows that a model is judged by: which of a table they are, and that nothing in them was left out of its training."""

import hashlib
import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from recipes.data.inspection import resolve_files
from recipes.data.tables import Table
from zoo.errors import UserError

logger = logging.getLogger("zoo")


def hold_out(groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose rows to hold out, at random: whole groups, as many as have no more than `fraction` of the rows between
    them, and one at least.

    Args:
        groups: the group of each row, (rows,) integers. Rows that tell each other's answers are of one group.
        fraction: of the rows.
        seed: of the choice.

    Returns:
        Which rows are held out: (rows,) bool.

    Raises:
        UserError: nothing would be left to train on.
    """
    numbers, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(numbers) == 1 and len(groups) > 1:
        raise UserError(
            f"all {len(groups):,} rows belong together, by what is the same in them, and cannot be shared out: "
            "give --validation-data"
        )
    held_out = _fill(sizes, np.random.default_rng(seed).permutation(len(numbers)), fraction * len(groups))
    if len(sizes) and not held_out.any():
        held_out[np.argmin(sizes)] = True
    return _checked(held_out[members], fraction)


def _fill(sizes: np.ndarray, order: np.ndarray, room: float) -> np.ndarray:
    """Which groups are taken, in an order, as long as there is room for them: (groups,) bool."""
    taken, used = np.zeros(len(sizes), bool), 0
    for place in order:
        if used + sizes[place] <= room:
            taken[place] = True
            used += sizes[place]
    return taken


def hold_out_of_each(classes: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose rows to hold out, at random: of each class by itself, as near to `fraction` of them as can be but not all,
    and whole groups of it.

    Args:
        classes: the class of each row, (rows,) integers from 0.
        groups: of each row, as for `hold_out`.
        fraction, seed: as for `hold_out`.

    Returns:
        Which rows are held out: (rows,) bool.

    Raises:
        UserError: nothing would be held out, or nothing left to train on.
    """
    draw, held_out = np.random.default_rng(seed), np.zeros(len(classes), bool)
    for each in range(int(classes.max(initial=-1)) + 1):
        places = np.flatnonzero(classes == each)
        _, members, sizes = np.unique(groups[places], return_inverse=True, return_counts=True)
        room = min(round(fraction * len(places)), len(places) - 1)  # of no class is all held out
        chosen = _fill(sizes, draw.permutation(len(sizes)), room)
        held_out[places[chosen[members]]] = True
    return _checked(held_out, fraction)


class Keyed(Protocol):
    """Rows that have a key each, the same for those that a model cannot tell from each other."""

    def __len__(self) -> int: ...

    def key(self, place: int) -> bytes:
        """Of a row."""


def tell_copies(train_data: Keyed, held_out: Keyed) -> None:
    """Warn of held-out rows that a model cannot tell from one to train on."""
    known = {_digest(train_data.key(place)) for place in range(len(train_data))}
    copies = [_digest(held_out.key(place)) in known for place in range(len(held_out))]
    if any(copies):
        logger.warning("%d of %d held-out rows are also in the training data", sum(copies), len(copies))


def _digest(key: bytes) -> bytes:
    """Of what may be long, and would not all fit into memory."""
    return hashlib.blake2b(key, digest_size=16).digest()


def number_alike(keys: Iterable[bytes]) -> np.ndarray:
    """A number for each key, the same for equal ones, by their first places: (keys,) int32."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(_digest(key), len(numbers)) for key in keys], np.int32)


def _checked(held_out: np.ndarray, fraction: float) -> np.ndarray:
    if not held_out.any() or held_out.all():
        raise UserError(
            f"{len(held_out)} rows cannot be shared out with {fraction:.0%} held out: give more, or another "
            "--validation-fraction, or --validation-data"
        )
    return held_out


def require_apart(table: Table, held_out: Table) -> None:
    """Raise UserError where a file is in both."""
    shared = set(resolve_files(table.files)) & set(resolve_files(held_out.files))
    if shared:
        raise UserError(f"{min(shared)} is in both the training and the validation data: keep them apart")


def require_known(labels: Collection[str], known: Collection[str], path: Path) -> None:
    """Raise UserError where the data in `path` has labels that the model was not trained to give."""
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise UserError(
            f"{path} has {len(unknown)} labels unseen in training, such as {unknown[0]!r:.80}: "
            "train on data with all of them, or leave these rows out"
        )

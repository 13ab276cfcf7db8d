"""Batches of like length: every example of an epoch, the cheapest widths, and each batch a function of its step."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.batches import ArraySpec
from recipes.data.grouping import GroupedBatches, Source, choose_widths, pad
from zoo.errors import UserError

LONGEST = 50  # no multiple of 8


class Numbered(Source):
    """Examples that are nothing but their number, with lengths that are others in each epoch if so wanted."""

    def __init__(self, lengths: list[int], changing: bool = False) -> None:
        self.known, self.changing, self.length = np.array(lengths, np.int64), changing, LONGEST
        self.element: Any = ({"rows": ArraySpec((None,)), "tokens": ArraySpec((None, None))}, {"drawn": ArraySpec(())})

    def lengths(self, epoch: int) -> np.ndarray:
        return np.roll(self.known, epoch) if self.changing else self.known

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        tokens = np.zeros((len(rows), width), np.int32)
        return {"rows": rows.astype(np.int32), "tokens": tokens}, {"drawn": np.int32(draw.integers(2**31))}


lengths = st.lists(st.integers(1, LONGEST), min_size=1, max_size=60)
sizes = {"batch_size": st.integers(1, 9), "most_widths": st.integers(1, 5)}


def rows_and_width(batch: Any) -> tuple[list[int], int]:
    return batch[0]["rows"].tolist(), batch[0]["tokens"].shape[1]


@settings(deadline=None, database=None)
@given(lengths, st.fixed_dictionaries(sizes), st.integers(0, 3), st.booleans())
def test_an_epoch_has_every_example_once_and_what_fills_it_up(
    known: list[int], sizes: dict[str, int], epoch: int, changing: bool
) -> None:
    batches = GroupedBatches(Numbered(known, changing), seed=3, **sizes)
    assert batches.num_batches is None
    count = batches.batches_per_epoch
    assert count == -(-len(known) // sizes["batch_size"])
    seen: list[int] = []
    here = batches.source.lengths(epoch)
    for step in range(epoch * count, (epoch + 1) * count):
        rows, width = rows_and_width(batches.batch(step))
        assert rows == batches.rows(step).tolist()
        assert len(rows) == sizes["batch_size"]
        assert width in batches.widths and width <= LONGEST
        if not changing:
            assert width >= here[rows].max()
        seen += rows
    assert set(seen) == set(range(len(known)))
    fill = count * sizes["batch_size"] - len(known)
    assert len(seen) == len(known) + fill and 0 <= fill < sizes["batch_size"]


@settings(deadline=None, database=None)
@given(lengths, st.fixed_dictionaries(sizes))
def test_an_evaluation_covers_each_example_once(known: list[int], sizes: dict[str, int]) -> None:
    batches = GroupedBatches(Numbered(known), seed=None, **sizes)
    assert batches.num_batches == batches.batches_per_epoch
    seen, widths = [], []
    for step in range(batches.num_batches):
        rows, width = rows_and_width(batches.batch(step))
        assert rows == batches.rows(step).tolist()
        assert width >= max(known[row] for row in rows)
        seen += rows
        widths.append(width)
    assert sorted(seen) == list(range(len(known)))
    assert widths == sorted(widths)


@settings(deadline=None, database=None)
@given(lengths, st.fixed_dictionaries(sizes), st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_a_batch_is_a_function_of_its_step(known: list[int], sizes: dict[str, int], steps: list[int]) -> None:
    """Whatever was asked before, and by whichever process."""
    asked = GroupedBatches(Numbered(known, True), seed=5, **sizes)
    for step in steps:
        other = GroupedBatches(Numbered(known, True), seed=5, **sizes).batch(step)
        for (name, ours), theirs in zip(asked.batch(step)[0].items(), other[0].values(), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert asked.batch(step)[1] == other[1]


def test_epochs_and_seeds_differ() -> None:
    known = list(range(1, 41))
    batches = GroupedBatches(Numbered(known), 4, 0)
    epochs = [[batches.rows(step).tolist() for step in range(10 * epoch, 10 * epoch + 10)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    companions = [{frozenset(rows) for rows in epoch} for epoch in epochs]
    assert companions[0] != companions[1]
    assert [GroupedBatches(Numbered(known), 4, 1).rows(step).tolist() for step in range(10)] != epochs[0]
    widths = [batches.batch(step)[0]["tokens"].shape[1] for step in range(10)]
    assert widths != sorted(widths)  # long and short ones come in random order
    assert len({int(batches.batch(step)[1]["drawn"]) for step in range(20)}) == 20


# --- widths


def cost(known: list[int], widths: tuple[int, ...]) -> float:
    """Tokens of all examples, each padded to the smallest width that holds it."""
    fitting = [[width for width in widths if width >= length] for length in known]
    return sum(min(each) if each else float("inf") for each in fitting)


@settings(deadline=None, database=None)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=30), st.integers(1, 4))
def test_the_widths_are_the_cheapest(known: list[int], count: int) -> None:
    found = choose_widths(np.array(known), count, LONGEST)
    assert found.tolist() == sorted(set(found.tolist())) and 1 <= len(found) <= count
    allowed = [*range(8, LONGEST, 8), LONGEST]
    assert set(found.tolist()) <= set(allowed)
    best = min(cost(known, widths) for some in range(1, count + 1) for widths in itertools.combinations(allowed, some))
    assert cost(known, tuple(found.tolist())) == best


def test_no_batch_is_wider_than_the_model_reads() -> None:
    """A model of 50 positions fails on the 56 that are the next multiple of 8."""
    batches = GroupedBatches(Numbered([LONGEST] * 4), 2, 0)
    assert batches.widths.tolist() == [LONGEST]
    assert batches.batch(0)[0]["tokens"].shape == (2, LONGEST)


def test_sizes_that_are_known_are_stated() -> None:
    one_width = GroupedBatches(Numbered([7, 8]), 2, 0)
    assert one_width.element[0] == {"rows": ArraySpec((2,)), "tokens": ArraySpec((2, 8))}
    several = GroupedBatches(Numbered([7, 30]), 2, 0)
    assert several.element[0]["tokens"] == ArraySpec((2, None))
    evaluation = GroupedBatches(Numbered([7, 30, 8]), 2, None)
    assert evaluation.element[0]["tokens"] == ArraySpec((None, None))


def test_nothing_makes_no_batch() -> None:
    for seed, what in ((0, "train"), (None, "evaluate")):
        with pytest.raises(UserError, match=f"no example to {what} on"):
            GroupedBatches(Numbered([]), 2, seed)


def test_rows_are_padded_and_cut() -> None:
    rows = [np.array([1, 2, 3]), np.array([], int), np.array([4])]
    assert pad(rows, 2, 9).tolist() == [[1, 2], [9, 9], [4, 9]]
    assert pad(rows, 3).dtype == np.int32

"""Batches: every token once an epoch, each batch from its step alone, and the labels are the next tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.batches import TrainingBatches, ValidationBatches, WindowBatch, windows
from zoo.errors import UserError

SIZES = {"count": st.integers(2, 200), "length": st.integers(1, 20), "batch_size": st.integers(1, 9)}
quick = settings(max_examples=150, deadline=None, database=None)


def ascending(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)


def pair(batch: tuple[dict, dict]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels, and nothing else."""
    inputs, labels = batch
    (ids,), (targets,) = inputs.values(), labels.values()
    assert (*inputs, *labels) == ("token_ids", "logits")
    return ids, targets


def test_windows_follow_one_another() -> None:
    assert windows(ascending(10), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(ascending(10), 3, phase=2).tolist() == [[2, 3, 4, 5], [5, 6, 7, 8]]
    assert windows(ascending(10), 3).base is not None  # a view


@quick
@given(**SIZES, step=st.integers(0, 500), seed=st.integers(0, 3))
def test_labels_are_the_next_tokens(count: int, length: int, batch_size: int, step: int, seed: int) -> None:
    if count <= length:
        return
    ids, labels = pair(TrainingBatches(ascending(count), length, batch_size, seed).batch(step))
    for array in (ids, labels):
        assert (array.shape, array.dtype) == ((batch_size, length), np.int32)
    assert np.array_equal(labels, ids + 1)
    assert np.array_equal(ids, ids[:, :1] + np.arange(length))
    assert labels.max() < count


@quick
@given(**SIZES, seed=st.integers(0, 3))
def test_an_epoch_has_every_token_once(count: int, length: int, batch_size: int, seed: int) -> None:
    if count <= length:
        return
    batches = TrainingBatches(ascending(count), length, batch_size, seed)
    per_epoch = batches.windows_per_epoch
    rows = np.concatenate([pair(batches.batch(step))[0] for step in range(3 * per_epoch // batch_size + 1)])
    for epoch in range(3):
        seen = np.sort(rows[epoch * per_epoch : (epoch + 1) * per_epoch], axis=None)
        assert np.array_equal(seen, np.arange(seen[0], seen[0] + per_epoch * length))
        assert seen[0] < length
        assert seen[-1] >= count - 1 - 2 * length


def test_epochs_differ_in_order_and_phase_and_seeds_too() -> None:
    batches = TrainingBatches(ascending(1009), 8, 125, seed=0)
    assert batches.windows_per_epoch == 125
    starts = [pair(batches.batch(epoch))[0][:, 0] for epoch in range(40)]
    assert len({tuple(start) for start in starts}) == 40
    assert {int(start[0]) % 8 for start in starts} == set(range(8))
    assert not np.array_equal(
        TrainingBatches(ascending(1009), 8, 125, seed=1).batch(0)[0]["token_ids"][:, 0], starts[0]
    )
    assert all(not np.array_equal(start, np.sort(start)) for start in starts)


def test_a_batch_depends_on_its_step_alone() -> None:
    """So that a run that starts again at any step goes on exactly."""
    arguments = ascending(1000), 7, 6, 3
    running = TrainingBatches(*arguments)
    stream = [running.batch(step) for step in range(100)]
    for step in (99, 57, 0, 58, 23):
        for got, wanted in zip(pair(TrainingBatches(*arguments).batch(step)), pair(stream[step]), strict=True):
            assert np.array_equal(got, wanted)


def test_a_late_step_costs_no_more_than_an_early_one() -> None:
    ids, _ = pair(TrainingBatches(ascending(50_000), 64, 32, 0).batch(10**12))
    assert ids.shape == (32, 64)


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_too_few_tokens_are_refused(kind: str) -> None:
    def make(count: int) -> object:
        tokens = ascending(count)
        return TrainingBatches(tokens, 64, 2, 0) if kind == "training" else ValidationBatches(tokens, 64, 2)

    for count in (0, 1, 64):
        with pytest.raises(
            UserError, match=f"the {kind} text has {count} tokens, and one sequence needs 65: give more"
        ):
            make(count)
    make(65)


@quick
@given(**SIZES, most=st.none() | st.integers(1, 30))
def test_validation_takes_windows_evenly_in_full_batches(
    count: int, length: int, batch_size: int, most: int | None
) -> None:
    if count <= length:
        return
    batches = ValidationBatches(ascending(count), length, batch_size, most)
    rows = [pair(batches.batch(step)) for step in range(batches.num_batches)]
    assert {array.shape for both in rows for array in both} == {(batches.batch_size, length)}
    assert all(np.array_equal(labels, ids + 1) for ids, labels in rows)
    places = np.concatenate([ids[:, 0] for ids, _ in rows])
    available = (count - 1) // length
    wanted = min(available, most or available)
    assert np.array_equal(places % length, np.zeros(len(places)))
    assert places[0] == 0
    gaps = np.diff([*(places // length), available])  # the last one up to the end
    assert len(places) <= wanted < len(places) + batch_size
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_validation_takes_all_windows_where_they_fit() -> None:
    batches = ValidationBatches(ascending(41), 5, 4)
    assert (batches.num_batches, batches.batch_size) == (2, 4)
    assert np.concatenate([pair(batches.batch(step))[0] for step in range(2)]).ravel().tolist() == list(range(40))
    few = ValidationBatches(ascending(16), 5, 4)
    assert (few.num_batches, few.batch_size) == (1, 3)


@quick
@given(st.lists(st.integers(0, 3), min_size=13, max_size=60), st.integers(1, 12), st.integers(0, 3))
def test_a_separator_is_the_first_token_of_the_document_behind_it(ids: list[int], length: int, step: int) -> None:
    """By hand: a token's document is told by how many separators, 0 here, are at or before it in the window."""
    tokens, form = np.array(ids, np.uint16), WindowBatch("sequence", separator=0)
    for batches in (TrainingBatches(tokens, length, 2, 0, form), ValidationBatches(tokens, length, 2, form=form)):
        step = step if batches.num_batches is None else 0
        inputs, labels = batches.batch(step)
        plain = type(batches)(tokens, length, 2, *([0] if batches.num_batches is None else [])).batch(step)
        assert (list(inputs), list(labels)) == (["token_ids", "document_ids"], ["sequence"])
        assert np.array_equal(inputs["token_ids"], plain[0]["token_ids"])
        assert np.array_equal(labels["sequence"], plain[1]["logits"])
        for row, documents in zip(inputs["token_ids"], inputs["document_ids"], strict=True):
            assert documents.tolist() == [row[: place + 1].tolist().count(0) for place in range(length)]
        for stated, made in zip(batches.element, (inputs, labels), strict=True):
            assert {name: (spec.shape, spec.dtype) for name, spec in stated.items()} == {
                name: (array.shape, array.dtype.name) for name, array in made.items()
            }

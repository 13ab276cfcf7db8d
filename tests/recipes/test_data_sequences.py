"""What BERT is pretrained on: full sequences hold the whole text, and half of the pairs are successors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.grouping import GroupedBatches
from recipes.data.masking import Masking
from recipes.data.sequences import FullSequences, MaskedSequences, SegmentPairs
from tests.recipes.test_data_masking import CLS, SEP, TOKENIZER
from zoo.errors import UserError

quick = settings(max_examples=60, deadline=None)


def documents(seed: int, count: int, longest: int) -> np.ndarray:
    """Documents of random words, each with [SEP] behind it, some of them too short to be of use."""
    draw = np.random.default_rng(seed)
    parts = [[*draw.integers(5, 17, draw.integers(0, longest + 1)), SEP] for _ in range(count)]
    return np.array([number for part in parts for number in part], "uint16")


@quick
@given(length=st.integers(4, 30), tokens=st.integers(1, 400), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_full_sequences_are_the_text_one_after_another(length: int, tokens: int, seed: int, epoch: int) -> None:
    text = (np.arange(tokens) % 12 + 5).astype("uint16")
    room = length - 2
    if tokens < 2 * room - 1:
        with pytest.raises(UserError, match="give more text"):
            FullSequences(text, TOKENIZER, length, seed)
        return
    sequences = FullSequences(text, TOKENIZER, length, seed)
    taken = [sequences.take(epoch, row) for row in range(sequences.count)]
    assert {len(ids) for ids, _, _ in taken} == set(sequences.lengths(epoch).tolist()) == {length}
    assert all(ids[0] == CLS and ids[-1] == SEP for ids, _, _ in taken)
    joined = np.concatenate([ids[1:-1] for ids, _, _ in taken])
    firsts = [first for first in range(room) if np.array_equal(joined, text[first : first + len(joined)])]
    assert firsts
    assert len(joined) > tokens - 2 * room


def test_full_sequences_begin_elsewhere_in_each_epoch() -> None:
    sequences = FullSequences((np.arange(1000) % 12 + 5).astype("uint16"), TOKENIZER, 16, 0)
    assert len({sequences.take(epoch, 0)[0].tobytes() for epoch in range(30)}) > 5
    still = FullSequences((np.arange(1000) % 12 + 5).astype("uint16"), TOKENIZER, 16, None)
    assert len({still.take(epoch, 0)[0].tobytes() for epoch in range(30)}) == 1


def test_a_part_of_the_sequences_is_taken_evenly_over_the_text() -> None:
    text = np.arange(1000).astype("uint16")
    whole = FullSequences(text, TOKENIZER, 12, None)
    part = FullSequences(text, TOKENIZER, 12, None, most=30)
    assert (whole.count, part.count) == (100, 30)
    firsts = [int(part.take(0, row)[0][1]) for row in range(30)]
    assert firsts == [row * 100 // 30 * 10 for row in range(30)]
    with pytest.raises(UserError, match="--max-length is 2, and must be at least 3"):
        FullSequences(text, TOKENIZER, 2, None)


def spans(text: np.ndarray) -> list[np.ndarray]:
    return np.split(text, np.flatnonzero(text == SEP) + 1)[:-1]


@quick
@given(seed=st.integers(0, 1000), count=st.integers(2, 12), longest=st.integers(2, 60), length=st.integers(5, 40))
def test_pairs_are_of_one_document_or_of_two_as_they_say(seed: int, count: int, longest: int, length: int) -> None:
    # Every token is another one, so that it tells where it stands: ids beyond the vocabulary would have no spelling.
    text = documents(seed, count, longest)
    if sum(len(part) > 2 for part in spans(text)) < 2:
        with pytest.raises(UserError, match="documents of two tokens or more"):
            SegmentPairs(text, TOKENIZER, length, seed)
        return
    try:
        pairs = SegmentPairs(text, TOKENIZER, length, seed)
    except UserError as error:
        assert "with two words" in str(error)
        return
    bounds = np.flatnonzero(text == SEP)
    continues = [token >= 13 and token < 17 for token in range(18)]
    for epoch in (0, 1):
        drawn = pairs._pairs(epoch)
        lengths = pairs.lengths(epoch)
        assert len(lengths) == pairs.count and lengths.max() <= length
        for row in range(pairs.count):
            a, n, b, m, other = (int(column[row]) for column in vars(drawn).values())
            ids, second, label = pairs.take(epoch, row)
            assert n >= 1 and m >= 1 and label == other
            assert ids.tolist() == [CLS, *text[a : a + n], SEP, *text[b : b + m], SEP]
            assert second == n + 2 and len(ids) == lengths[row]
            homes = [int(np.searchsorted(bounds, place)) for place in (a, a + n - 1, b, b + m - 1)]
            assert homes[0] == homes[1] and homes[2] == homes[3]
            if other:
                assert homes[0] != homes[2]
            else:
                assert b == a + n
                assert not continues[text[b]]  # no segment begins within a word


def test_half_of_the_pairs_are_successors_and_one_in_ten_is_shorter() -> None:
    draw = np.random.default_rng(0)
    text = np.concatenate([np.append(draw.integers(5, 13, 3000), SEP) for _ in range(20)]).astype("uint16")
    pairs = SegmentPairs(text, TOKENIZER, 43, 0)
    other = np.array([pairs.take(0, row)[2] for row in range(pairs.count)])
    assert abs(other.mean() - 0.5) < 4 * 0.5 / len(other) ** 0.5
    full = pairs.lengths(0) == 43
    assert 0.85 < full[other == 0].mean() < 0.95
    # The walk passes every token of a document but the last few, as first segments or as their successors.
    drawn = pairs._pairs(0)
    seen = np.zeros(len(text), bool)
    for a, n, m, is_other in zip(drawn.first, drawn.first_length, drawn.second_length, drawn.other, strict=True):
        seen[a : a + n + (0 if is_other else m)] = True
    assert seen.mean() > 0.95
    assert not np.array_equal(pairs.take(1, 0)[0], pairs.take(0, 0)[0])


def test_batches_of_pairs_are_padded_and_say_what_is_what() -> None:
    text = documents(3, 40, 50)
    source = MaskedSequences(SegmentPairs(text, TOKENIZER, 32, 0), Masking(TOKENIZER), 0, pairs=True)
    batches = GroupedBatches(source, 4, 0)
    for step in range(30):
        inputs, labels, weights = batches.batch(step)
        epoch, place = divmod(step, batches.batches_per_epoch)
        rows = batches._plan(epoch).rows[place]
        for row, number in enumerate(rows):
            ids, second, other = source.sequences.take(epoch, int(number))
            real = inputs["padding_mask"][row]
            assert real.sum() == len(ids) and real[: len(ids)].all()
            assert inputs["segment_ids"][row].tolist() == [0] * second + [1] * (len(ids) - second) + [0] * (
                len(real) - len(ids)
            )
            assert labels["next_sentence"][row] == other
            back = inputs["token_ids"][row].copy()
            chosen = weights["logits"][row] > 0
            back[inputs["masked_positions"][row][chosen]] = labels["logits"][row][chosen]
            assert back[: len(ids)].tolist() == ids.tolist() and not back[len(ids) :].any()
    again = GroupedBatches(source, 4, 0).batch(17)
    assert all(np.array_equal(again[0][name], value) for name, value in batches.batch(17)[0].items())

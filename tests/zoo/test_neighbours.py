"""Fresh heads that look at neighbours: where they look, and that nothing else is touched."""

import numpy as np
import pytest

import zoo
from zoo.layers.neighbours import look_at_neighbours

SIZES = {"vocabulary_size": 300, "width": 64, "depth": 3, "num_heads": 4, "max_length": 48}


def make(family: str, **changes: int):
    return zoo.create(f"{family}-nano", task="backbone", dropout=0.0, attention_dropout=0.0, **SIZES | changes)


def looked_at(model, ids: np.ndarray) -> np.ndarray:
    """Where each head looks, relative to each token, most of the time: (blocks, heads)."""
    attention = model({"token_ids": ids}, return_weights=True)["attention"]
    offsets = np.stack([np.asarray(weights[0]).argmax(axis=-1) for weights in attention]) - np.arange(ids.shape[1])
    return np.array([[np.bincount(head + 100).argmax() - 100 for head in block] for block in offsets])


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 300, (1, 48)).astype("int32")


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", [[-1, 1, -2, 2], [-3, 3, -4, 4]]), ("gpt", [[-1, -2, -3, -4], [-5, -6, -7, -8]])],
)
def test_each_head_looks_at_one_neighbour(family: str, expected: list[list[int]], ids: np.ndarray) -> None:
    model = make(family)
    before = looked_at(model, ids)
    look_at_neighbours(model.position_embedding, model.transformer, 2)
    found = looked_at(model, ids)
    assert found[:2].tolist() == expected
    assert not np.array_equal(before[:2], expected)  # heads drawn at random do not


def test_the_nearest_gets_most_of_the_attention_whatever_the_tokens(ids: np.ndarray) -> None:
    model = make("bert")
    look_at_neighbours(model.position_embedding, model.transformer, 1)
    for other in (ids, ids[:, ::-1], np.zeros_like(ids)):
        weights = np.asarray(model({"token_ids": other}, return_weights=True)["attention"][0][0])
        for head, offset in enumerate((-1, 1, -2, 2)):
            rows = np.arange(max(0, -offset), 48 - max(0, offset))
            assert weights[head, rows, rows + offset].mean() > 10 / 48


def test_positions_are_of_the_size_that_was_asked_for() -> None:
    model = make("bert")
    look_at_neighbours(model.position_embedding, model.transformer, 1)
    positions = np.asarray(model.position_embedding.table)
    tokens = np.asarray(model.token_embedding.table)
    share = positions.var() / (positions.var() + tokens.var())
    assert share == pytest.approx(0.7, abs=0.03)
    assert np.linalg.matrix_rank(positions) == min(positions.shape)  # every position has a code of its own


def test_nothing_else_changes() -> None:
    model = make("gpt")
    before = {name: weight.numpy().copy() for name, weight in model.named_weights().items()}
    look_at_neighbours(model.position_embedding, model.transformer, 2)
    after = {name: weight.numpy() for name, weight in model.named_weights().items()}
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert changed == {
        "backbone.position_embedding.table",
        "backbone.transformer.block_0.attention.qkv.kernel",
        "backbone.transformer.block_1.attention.qkv.kernel",
    }
    for name in changed - {"backbone.position_embedding.table"}:  # the values are as they were drawn
        assert np.array_equal(before[name][:, 128:], after[name][:, 128:])


def test_an_odd_width_has_a_row_that_stays_empty(ids: np.ndarray) -> None:
    model = make("gpt", width=27, num_heads=3)
    look_at_neighbours(model.position_embedding, model.transformer, 1)
    assert np.isfinite(np.asarray(model({"token_ids": ids})["sequence"])).all()
    assert not np.asarray(model.position_embedding.table)[:, 26].any()

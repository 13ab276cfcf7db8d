"""`zoo.objectives.PairContrast`: the loss against a loop from the paper, and what is no negative."""

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.objectives import PairContrast

SMALL = {"vocabulary_size": 40, "max_length": 9, "width": 12, "depth": 1, "num_heads": 2}
TEMPERATURE = 0.2


@pytest.fixture(scope="module", params=["bert", "gpt"])
def embedder(request: pytest.FixtureRequest, enliven: Any) -> Any:
    return enliven(zoo.create(f"{request.param}-nano", task="embed", **SMALL, dropout=0.2, attention_dropout=0.2))


def draw(pairs: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs whose two sides have different widths."""
    rng = np.random.default_rng(seed)
    sides = {}
    for side, width in (("", 5), ("pair_", 8)):
        lengths = rng.integers(2, width + 1, (pairs, 1))
        sides[f"{side}token_ids"] = rng.integers(1, 40, (pairs, width)).astype("int32")
        sides[f"{side}padding_mask"] = (np.arange(width) < lengths).astype("int32")
    return sides


def cosines_of(embedder: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Of all firsts with all seconds, each embedded by itself."""

    def embed(side: str, row: int) -> np.ndarray:
        given = {name: inputs[f"{side}{name}"][row : row + 1] for name in ("token_ids", "padding_mask")}
        vector = embedder(given)["embedding"].numpy()[0].astype("float64")
        return vector / np.linalg.norm(vector)

    firsts, seconds = (np.stack([embed(side, row) for row in range(6)]) for side in ("", "pair_"))
    return firsts @ seconds.T


def by_hand(cosines: np.ndarray, first_texts: list[int], second_texts: list[int]) -> float:
    """Gao et al. 2021, equation 1, in both directions, a pair at a time, without what is no negative."""
    total = 0.0
    for i in range(len(cosines)):
        for texts, others, row in (
            (first_texts, second_texts, cosines[i]),
            (second_texts, first_texts, cosines[:, i]),
        ):
            weights = []
            for j in range(len(cosines)):
                same_pair = texts[j] == texts[i] or others[j] == others[i]
                if j == i or not (same_pair or others[j] == texts[i]):
                    weights.append(math.exp(row[j] / TEMPERATURE))
            total -= math.log(math.exp(row[i] / TEMPERATURE) / sum(weights)) / 2
    return total / len(cosines)


@pytest.mark.parametrize(
    ("first_texts", "second_texts"),
    [
        (None, None),
        ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]),  # all are different: labels change nothing
        ([0, 1, 2, 3, 4, 5], [6, 7, 6, 9, 10, 6]),  # three have the same second
        ([0, 1, 0, 3, 4, 5], [6, 7, 8, 9, 10, 11]),  # two have the same first
        ([0, 1, 2, 3, 4, 5], [6, 0, 8, 9, 10, 3]),  # a text is another one's second
        ([0, 1, 0, 3, 4, 5], [0, 1, 0, 3, 4, 5]),  # each is paired with itself
    ],
)
def test_the_loss_follows_the_paper(embedder: Any, first_texts: Any, second_texts: Any) -> None:
    inputs = draw()
    objective = PairContrast(embedder, TEMPERATURE)
    objective.compile("sgd", jit_compile=False)
    labels = None if first_texts is None else {"texts": np.stack([first_texts, second_texts], axis=1).astype("int32")}
    found = objective.evaluate(inputs, labels, batch_size=6, verbose=0)
    different = list(range(6)), list(range(6, 12))
    expected = by_hand(cosines_of(embedder, inputs), *(different if labels is None else (first_texts, second_texts)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_cases_above_are_different_ones(embedder: Any) -> None:
    cosines = cosines_of(embedder, draw())
    sides = [
        ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]),
        ([0, 1, 2, 3, 4, 5], [6, 7, 6, 9, 10, 6]),
        ([0, 1, 0, 3, 4, 5], [6, 7, 8, 9, 10, 11]),
        ([0, 1, 2, 3, 4, 5], [6, 0, 8, 9, 10, 3]),
    ]
    losses = sorted(by_hand(cosines, *each) for each in sides)
    assert np.diff(losses).min() > 1e-4  # far more than the tolerance


def test_a_text_paired_with_itself_drops_out_differently(embedder: Any) -> None:
    given = {name: value for name, value in draw().items() if not name.startswith("pair_")}
    objective = PairContrast(embedder)
    both = {**given, **{f"pair_{name}": value for name, value in given.items()}}
    outputs = objective(both, training=True)
    assert np.abs(outputs["embedding"] - outputs["pair_embedding"]).max() > 1e-2
    outputs = objective(both, training=False)
    np.testing.assert_array_equal(outputs["embedding"], outputs["pair_embedding"])
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1.0, rtol=1e-5)


def test_fit_trains_the_model_inside() -> None:
    embedder = zoo.create("bert-nano", task="embed", **SMALL, dropout=0.0, attention_dropout=0.0)
    objective = PairContrast(embedder)
    assert objective.named_weights() == embedder.named_weights()
    objective.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    before = {name: weight.numpy() for name, weight in embedder.named_weights().items()}
    losses = objective.fit(draw(), batch_size=6, epochs=30, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, weight in embedder.named_weights().items() if (weight.numpy() != before[name]).any()}
    assert set(before) - changed == {"backbone.pooler.kernel", "backbone.pooler.bias"}


def test_what_is_set_on_the_objective_reaches_the_model() -> None:
    embedder = zoo.create("gpt-nano", task="embed", **SMALL)
    objective = PairContrast(embedder)
    objective.recompute = True
    assert embedder.recompute and objective.recompute
    zoo.lora.add_lora(objective, rank=2)
    assert embedder.lora.rank == objective.lora.rank == 2
    assert objective.lora.trained == ()
    trained = {name for name, weight in objective.named_weights().items() if weight.trainable}
    assert trained and all(".lora." in name for name in trained)
    with pytest.raises(ValueError, match=r"temperature is 0\.0, and must be above 0"):
        PairContrast(embedder, 0.0)


def test_gradients_reach_both_sides(embedder: Any) -> None:
    inputs = draw()
    objective = PairContrast(embedder, TEMPERATURE)
    outputs = objective(inputs)
    vectors = [tf.Variable(outputs[name]) for name in objective.output_names]
    with tf.GradientTape() as tape:
        loss = objective.compute_loss(y_pred=dict(zip(objective.output_names, vectors, strict=True)))
    for gradient in tape.gradient(loss, vectors):
        assert np.abs(gradient).max() > 1e-4

"""`zoo.explanation`: attention rollout and integrated gradients, against loops, closed forms and a plain sum."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import explanation
from zoo.errors import UserError
from zoo.explanation import attention_rollout, embed_tokens, integrated_gradients, neutral_baselines
from zoo.image import Preprocessing
from zoo.text import Tokenizer, train_wordpiece

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
rng = np.random.default_rng(0)


def attention(batch: int, heads: int, tokens: int, causal: bool = False) -> np.ndarray:
    scores = rng.normal(size=(batch, heads, tokens, tokens)) * 2
    if causal:
        scores = np.where(np.tril(np.ones((tokens, tokens))), scores, -1e9)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype("float32")


# --- rollout


def rollout_by_loops(weights: list[np.ndarray]) -> list[list[float]]:
    """One example's rollout, one number at a time: the share of token j that reaches token i, through every token k of
    the block below."""
    tokens = weights[0].shape[-1]
    below = [[float(i == j) for j in range(tokens)] for i in range(tokens)]
    for block in weights:
        heads = len(block)
        above = []
        for i in range(tokens):
            share = [0.5 * sum(float(block[h][i][k]) for h in range(heads)) / heads for k in range(tokens)]
            share[i] += 0.5
            above.append([sum(share[k] * below[k][j] for k in range(tokens)) for j in range(tokens)])
        below = above
    return below


def test_rollout_is_the_product_of_the_blocks() -> None:
    weights = [attention(2, 3, 5) for _ in range(3)]
    rollout = attention_rollout(weights)
    assert rollout.shape == (2, 5, 5)
    for example in range(2):
        np.testing.assert_allclose(rollout[example], rollout_by_loops([block[example] for block in weights]), atol=1e-6)
    np.testing.assert_allclose(rollout.sum(axis=-1), 1.0, atol=1e-12)


def test_causal_rollout_takes_nothing_from_later_tokens() -> None:
    rollout = attention_rollout([attention(1, 2, 6, causal=True) for _ in range(4)])[0]
    assert not np.triu(rollout, 1).any()
    assert (np.tril(rollout) > 0).sum() == 21
    np.testing.assert_allclose(rollout.sum(axis=-1), 1.0, atol=1e-12)


def test_rollout_of_a_padded_row_is_that_of_the_row_alone() -> None:
    weights = [attention(1, 2, 4) for _ in range(2)]
    padded = []
    for block in weights:
        wider = attention(1, 2, 6)
        wider[:, :, :4] = 0
        wider[:, :, :4, :4] = block
        padded.append(wider)
    rollout = attention_rollout(padded, np.array([[1, 1, 1, 1, 0, 0]]))[0]
    np.testing.assert_allclose(rollout[:4, :4], attention_rollout(weights)[0], atol=1e-6)
    assert not rollout[:, 4:][:4].any()
    # Even where the model was not told of the padding, nothing comes from it.
    untold = attention_rollout([attention(1, 2, 6)] * 2, np.array([[1, 1, 1, 1, 0, 0]]))[0]
    assert not untold[:4, 4:].any()
    np.testing.assert_allclose(untold.sum(axis=-1), 1.0, atol=1e-12)


def test_rollout_needs_weights() -> None:
    with pytest.raises(ValueError, match="return_weights"):
        attention_rollout(())


# --- integrated gradients of functions that can be integrated by hand


def test_a_linear_model_is_explained_by_its_weights() -> None:
    weights, value, baseline = (rng.normal(size=(1, 3, 4)).astype("float32") for _ in range(3))
    found = integrated_gradients(
        lambda inputs: tf.reduce_sum(inputs["x"] * weights, axis=(1, 2)), {"x": value}, {"x": baseline}
    )
    np.testing.assert_allclose(found.attributions["x"], weights * (value - baseline), atol=1e-6)
    assert found.evaluations == explanation.POINTS
    assert found.complete
    assert found.total == pytest.approx(found.difference, abs=1e-5)


def test_a_cubic_is_explained_exactly_and_what_is_held_is_passed_on() -> None:
    value, factor = rng.normal(size=(1, 5)).astype("float32"), np.full((1, 1), 2.0, "float32")
    found = integrated_gradients(
        lambda inputs: tf.reduce_sum(inputs["x"] ** 3 * inputs["factor"], axis=1),
        {"x": value, "factor": factor},
        {"x": np.zeros_like(value)},
    )
    assert list(found.attributions) == ["x"]
    np.testing.assert_allclose(found.attributions["x"], 2 * value**3, rtol=1e-5, atol=1e-6)


def step(inputs: dict[str, Any]) -> Any:
    """Rises from 0 to 1 within a thousandth of the way, at 0.3 of it: what no fixed number of steps is made for."""
    x = inputs["x"]
    return tf.sigmoid(8000.0 * (0.75 * x[:, 0] + 0.25 * x[:, 1] - 0.3))


def test_steps_are_taken_where_they_are_needed() -> None:
    inputs, baselines = {"x": np.ones((1, 2), "float32")}, {"x": np.zeros((1, 2), "float32")}
    found = integrated_gradients(step, inputs, baselines)
    np.testing.assert_allclose(found.attributions["x"], [[0.75, 0.25]], atol=0.01)
    assert found.complete
    assert found.gap is not None and found.gap <= 0.01
    assert 9 < found.evaluations < 400


def test_too_few_steps_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    inputs, baselines = {"x": np.ones((1, 2), "float32")}, {"x": np.zeros((1, 2), "float32")}
    found = integrated_gradients(step, inputs, baselines, max_evaluations=30)
    assert not found.complete
    assert found.gap is not None and found.gap > 0.5
    assert found.evaluations <= 30
    assert "27 evaluations are too few" in caplog.text


def test_a_rule_that_is_wrong_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, classifier: Any
) -> None:
    """One step from the beginning of each piece, in place of the quadrature."""
    score, inputs, baselines = classifier
    assert integrated_gradients(score, inputs, baselines).complete
    assert not caplog.records
    places = np.linspace(0, 1, explanation.POINTS)
    monkeypatch.setattr(explanation, "_quadrature", lambda points: (places, np.outer(places, np.eye(points)[0])))
    found = integrated_gradients(score, inputs, baselines, max_evaluations=100)
    assert not found.complete
    assert "too few" in caplog.text


def test_the_quadrature_integrates_polynomials() -> None:
    places, weights = explanation._quadrature(9)
    assert places[0] == 0
    assert places[-1] == 1
    for degree in range(9):
        np.testing.assert_allclose(weights @ places**degree, places ** (degree + 1) / (degree + 1), atol=1e-12)
    assert weights[-1] @ places**15 == pytest.approx(1 / 16, abs=1e-12)  # more than the nine points alone give


def test_nothing_to_explain_and_what_cancels() -> None:
    same = {"x": np.ones((1, 2), "float32")}
    found = integrated_gradients(step, same, same)
    assert not found.attributions["x"].any()
    assert found.complete
    assert found.gap is None

    def cancel(inputs: dict[str, Any]) -> Any:
        return tf.exp(inputs["x"][:, 0]) - tf.exp(inputs["x"][:, 1])

    found = integrated_gradients(cancel, same, {"x": np.zeros((1, 2), "float32")})
    np.testing.assert_allclose(found.attributions["x"], [[np.e - 1, 1 - np.e]], rtol=1e-5)
    assert found.complete


def test_what_cancels_is_held_to_its_own_size() -> None:
    """One rises where the other falls, each within a fraction of the way: no sum is within a hundredth of nothing."""

    def cancel(inputs: dict[str, Any]) -> Any:
        return tf.sigmoid(2000 * (inputs["x"][:, 0] - 0.3)) - tf.sigmoid(2000 * (inputs["x"][:, 1] - 0.6))

    found = integrated_gradients(cancel, {"x": np.ones((1, 2))}, {"x": np.zeros((1, 2))})
    assert found.complete
    np.testing.assert_allclose(found.attributions["x"], [[1, -1]], atol=1e-3)


def test_many_small_numbers_that_cancel_are_no_excuse() -> None:
    """What pixels contribute is much more than what they add up to, and it is that which must be right."""
    signs = np.tile(np.array([1.0, -1.0], "float32"), 5000)
    signs[0] = 3.0

    def bend(inputs: dict[str, Any]) -> Any:
        x = tf.reduce_mean(inputs["x"], axis=1)
        return tf.reduce_sum(inputs["x"] * signs, axis=1) * tf.sigmoid(200.0 * (x - 0.61))

    found = integrated_gradients(bend, {"x": np.ones((1, 10_000))}, {"x": np.zeros((1, 10_000))})
    assert found.difference == pytest.approx(2.0, abs=1e-3)
    assert np.abs(found.attributions["x"]).sum() > 1000
    assert found.complete
    assert found.gap is not None and found.gap <= 0.01


def test_a_flat_score_is_taken_as_one() -> None:
    """Its contributions cancel all along the line, up to rounding."""
    weights = rng.normal(size=(1, 1000)).astype("float32")
    both = np.concatenate([weights, -weights], axis=1)
    found = integrated_gradients(
        lambda inputs: 20.0 + tf.reduce_sum(inputs["x"] * both, axis=1),
        {"x": np.ones((1, 2000))},
        {"x": np.zeros((1, 2000))},
    )
    assert found.complete
    assert found.evaluations == explanation.POINTS
    np.testing.assert_allclose(found.attributions["x"], both, atol=1e-5)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        integrated_gradients(
            lambda inputs: tf.math.log(inputs["x"][:, 0]), {"x": np.ones((1, 1))}, {"x": np.zeros((1, 1))}
        )


# --- models


def text_inputs(model: Any, tokens: int = 9) -> dict[str, np.ndarray]:
    ids = rng.integers(5, model.config.vocabulary_size - 1, (1, tokens)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


def make_model(enliven: Any, name: str) -> tuple[Any, dict[str, np.ndarray], Any]:
    """A lively model, an input, and a score of it."""
    if name == "bert":
        model = enliven(zoo.create("bert-nano", task="classify", num_classes=3))
        return model, text_inputs(model), lambda inputs: model(inputs)["logits"][:, 1]
    if name == "gpt":
        model = enliven(zoo.create("gpt-nano"))
        return model, text_inputs(model), lambda inputs: model(inputs)["logits"][:, -1, 7]
    if name == "vit":
        model = enliven(zoo.create("vit-nano", image_size=16, patch_size=4))
        return model, {"images": rng.normal(size=(1, 16, 16, 3))}, lambda inputs: model(inputs)["logits"][:, 1]
    model = enliven(zoo.create("clip-nano", vision={"image_size": 16, "patch_size": 4}))
    inputs = text_inputs(model)
    inputs["token_ids"][0, -1] = model.config.end_token
    inputs["images"] = rng.normal(size=(1, 16, 16, 3))
    return model, inputs, lambda inputs: tf.linalg.diag_part(model(inputs)["logits_per_image"])


@pytest.fixture(scope="module")
def classifier(enliven: Any) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A score, its inputs and their baselines."""
    model, inputs, score = make_model(enliven, "bert")
    inputs = embed_tokens(model, inputs)
    return score, inputs, neutral_baselines(model, inputs)


def plain_sum(score: Any, inputs: dict[str, Any], baselines: dict[str, Any], steps: int = 64) -> dict[str, np.ndarray]:
    """Equation 3 of Sundararajan et al., with the middle of each of many equal steps."""
    middles = (np.arange(steps) + 0.5) / steps
    at = {name: np.repeat(value, steps, axis=0) for name, value in inputs.items()}
    for name, baseline in baselines.items():
        rows = [baseline[0] + k * (inputs[name][0] - baseline[0]) for k in middles]
        at[name] = tf.Variable(np.stack(rows).astype("float32"))
    moved = {name: at[name] for name in baselines}
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(score(at))
    gradients = tape.gradient(total, moved)
    return {name: (inputs[name] - baselines[name]) * gradients[name].numpy().mean(axis=0) for name in moved}


@pytest.mark.parametrize("family", ["bert", "gpt", "vit", "clip"])
def test_attributions_of_every_family_add_up(enliven: Any, family: str) -> None:
    model, inputs, score = make_model(enliven, family)
    if family != "vit":
        inputs = embed_tokens(model, inputs)
    baselines = neutral_baselines(model, inputs)
    found = integrated_gradients(score, inputs, baselines)
    assert found.complete
    assert abs(found.total - found.difference) <= 0.01 * abs(found.difference)

    still = {**inputs, **baselines}
    assert found.output == pytest.approx(float(score(inputs)[0]), abs=1e-5)
    assert found.baseline_output == pytest.approx(float(score(still)[0]), abs=1e-5)
    assert set(found.attributions) == {"bert": {"token_vectors"}, "gpt": {"token_vectors"}, "vit": {"images"}}.get(
        family, {"token_vectors", "images"}
    )
    for name, expected in plain_sum(score, inputs, baselines).items():
        np.testing.assert_allclose(found.attributions[name], expected, atol=2e-3 * np.abs(expected).max())


def test_fewer_points_at_a_time_give_the_same(classifier: Any) -> None:
    score, inputs, baselines = classifier
    sizes: list[int] = []

    def counted(values: dict[str, Any]) -> Any:
        sizes.append(len(values["token_ids"]))
        return score(values)

    found = integrated_gradients(counted, inputs, baselines, batch_size=4)
    assert sizes[:3] == [4, 4, 1]
    expected = integrated_gradients(score, inputs, baselines).attributions["token_vectors"]
    np.testing.assert_allclose(found.attributions["token_vectors"], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["bert", "gpt", "clip"])
def test_vectors_stand_for_tokens(enliven: Any, family: str) -> None:
    model, inputs, score = make_model(enliven, family)
    embedded = embed_tokens(model, inputs)
    assert embedded["token_vectors"].shape[:2] == inputs["token_ids"].shape
    np.testing.assert_allclose(score(embedded), score(inputs), atol=1e-6)
    other = {**embedded, "token_vectors": embedded["token_vectors"][:, ::-1]}
    assert np.abs(score(other) - score(inputs)) > 1e-3


def test_a_baseline_leaves_special_tokens_and_blackens_images() -> None:
    model = zoo.create("bert-nano")
    model.tokenizer = train_wordpiece(["one two three"], 128)
    inputs = model.tokenizer.prepare(["one ☃ [MASK] two"], max_length=20)
    inputs = embed_tokens(model, inputs)
    baseline = neutral_baselines(model, inputs)["token_vectors"]
    special = [model.tokenizer.special_ids[role] for role in ("cls", "mask", "sep")]
    unknown = model.tokenizer.special_ids["unk"]
    assert unknown in inputs["token_ids"]
    for i, number in enumerate(inputs["token_ids"][0]):
        expected = inputs["token_vectors"][0, i] if number in special else 0.0
        np.testing.assert_array_equal(baseline[0, i], expected)

    model = zoo.create("clip-nano", end_token=None)
    model.preprocessing = Preprocessing.for_clip(32)
    model.tokenizer = Tokenizer.load(GOLDEN / "clip")
    black = (0.0 - np.array(model.preprocessing.mean)) / np.array(model.preprocessing.std)
    baseline = neutral_baselines(model, {"images": np.ones((1, 32, 32, 3), "float32")})["images"]
    np.testing.assert_allclose(baseline, np.broadcast_to(black, (1, 32, 32, 3)), atol=1e-6)

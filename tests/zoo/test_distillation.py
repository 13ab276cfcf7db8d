"""`zoo.objectives.Distillation`: losses against NumPy from the papers' formulas, and a teacher that leaves no trace."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.objectives import Distillation, HiddenDistance, SoftTargets, begin_as_teacher

SMALL = {"vocabulary_size": 31, "max_length": 9, "num_heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
ROWS, TOKENS, MASKED = 5, 7, 3
TASKS = [("bert", "classify"), ("bert", "masked_lm"), ("gpt", "classify"), ("gpt", "generate"), ("vit", "classify")]


@pytest.fixture(scope="module")
def make(enliven: Callable[..., Any]) -> Callable[..., Any]:
    """`make(family, task, depth, width, seed)` gives a lively model."""

    def make(family: str, task: str, depth: int = 2, width: int = 12, seed: int = 0) -> Any:
        sizes = {**({} if family == "vit" else SMALL), "depth": depth, "width": width, "num_classes": 4}
        return enliven(zoo.create(f"{family}-nano", task=task, **sizes), seed=seed)

    return make


def draw(family: str, task: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """A batch for a task: padded, and with weights that differ, but for plain windows of text."""
    rng = np.random.default_rng(3)
    if family == "vit":
        images = rng.normal(size=(ROWS, 32, 32, 3)).astype("float32")
        weights = rng.uniform(0.5, 2.0, ROWS).astype("float32")
        return {"images": images}, {"logits": rng.integers(0, 4, ROWS).astype("int32")}, {"logits": weights}
    inputs = {"token_ids": rng.integers(1, 31, (ROWS, TOKENS)).astype("int32")}
    if task == "generate":
        return inputs, {"logits": rng.integers(0, 31, (ROWS, TOKENS)).astype("int32")}, None
    lengths = rng.integers(2, TOKENS + 1, (ROWS, 1))
    inputs["padding_mask"] = (np.arange(TOKENS) < lengths).astype("int32")
    if family == "bert":
        inputs["segment_ids"] = np.zeros((ROWS, TOKENS), "int32")
    if task == "classify":
        weights = rng.uniform(0.5, 2.0, ROWS).astype("float32")
        return inputs, {"logits": rng.integers(0, 4, ROWS).astype("int32")}, {"logits": weights}
    inputs["masked_positions"] = rng.integers(0, 2, (ROWS, MASKED)).astype("int32")
    weights = rng.integers(0, 2, (ROWS, MASKED)).astype("float32")
    return inputs, {"logits": rng.integers(0, 31, (ROWS, MASKED)).astype("int32")}, {"logits": weights}


def shares(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(logits / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def soft_targets(teacher: np.ndarray, student: np.ndarray, temperature: float) -> np.ndarray:
    """Hinton et al. 2015, section 2, a place at a time."""
    losses = np.empty(teacher.shape[:-1])
    for place in np.ndindex(*losses.shape):
        p, q = shares(teacher[place], temperature), shares(student[place], temperature)
        losses[place] = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return losses


def hidden_distances(teacher: np.ndarray, student: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sanh et al. 2019, section 2, an example at a time."""
    losses = []
    for theirs, ours, real in zip(teacher, student, mask, strict=True):
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b, r in zip(theirs, ours, real, strict=True) if r
        ]
        losses.append(1 - np.mean(cosines))
    return np.array(losses)


# --- losses


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_targets_follow_the_paper(temperature: float) -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 4, 3, 6)) * 3
    loss = SoftTargets(temperature, reduction=None)
    found = loss(teacher.astype("float32"), student.astype("float32"))
    np.testing.assert_allclose(found, soft_targets(teacher, student, temperature), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss(student, student), np.zeros((4, 3)), atol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.temperature == temperature


def test_the_gradient_is_as_large_at_any_temperature() -> None:
    """Hinton et al. 2015, section 2.1: at a high one it is that of half the squared difference, over the classes."""
    rng = np.random.default_rng(1)
    teacher, student = (tf.constant(each - each.mean()) for each in rng.normal(size=(2, 8)))
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = SoftTargets(1000.0, reduction=None, dtype="float64")(teacher[None], student[None])
    np.testing.assert_allclose(tape.gradient(loss, student), (student - teacher) / 8, rtol=0.02, atol=1e-4)


def test_large_logits_stay_finite() -> None:
    logits = np.array([[0.0, 300.0], [-300.0, 0.0]], "float32")
    assert np.isfinite(SoftTargets(1.0, reduction=None)(logits, logits[::-1])).all()


def test_hidden_distance_follows_the_paper() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 3, 5, 4))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    found = HiddenDistance(reduction=None)((teacher, mask), student)
    np.testing.assert_allclose(found, hidden_distances(teacher, student, mask), rtol=1e-5)
    np.testing.assert_allclose(HiddenDistance(reduction=None)((teacher, mask), 3 * teacher), np.zeros(3), atol=1e-6)


@pytest.mark.parametrize(("family", "task"), TASKS)
@pytest.mark.parametrize("teacher_width", [12, 16])
def test_the_objective_is_their_weighted_sum(make: Any, family: str, task: str, teacher_width: int) -> None:
    student, teacher = make(family, task), make(family, task, 3, teacher_width, seed=1)
    inputs, labels, weights = draw(family, task)
    temperature, alpha, beta = 3.0, 0.6, 0.5
    objective = Distillation(student, teacher, temperature, alpha, beta)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    objective.compile("sgd", {"logits": loss}, jit_compile=False)
    found = objective.evaluate(inputs, labels, sample_weight=weights, batch_size=ROWS, verbose=0)

    ours, theirs = (
        {name: value.numpy().astype("float64") for name, value in model(inputs).items()} for model in (student, teacher)
    )
    weight = np.ones_like(labels["logits"], float) if weights is None else weights["logits"].astype("float64")
    right = np.take_along_axis(shares(ours["logits"], 1.0), labels["logits"][..., None], -1)[..., 0]
    soft = soft_targets(theirs["logits"], ours["logits"], temperature)
    vectors = ours["sequence"]
    if teacher_width != 12:
        vectors = vectors @ objective.named_weights()["hidden_map.kernel"].numpy().astype("float64")
    mask = inputs.get("padding_mask", np.ones(vectors.shape[:2]))
    expected = (weight * ((1 - alpha) * -np.log(right) + alpha * soft)).sum() / weight.sum()
    expected += beta * hidden_distances(theirs["sequence"], vectors, mask).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_replicas_with_unlike_parts_make_one_mean(make: Any, two_replicas: Any) -> None:
    """Of five padded rows one replica has three."""
    inputs, labels, weights = draw("bert", "masked_lm")
    found = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            student, teacher = make("bert", "masked_lm"), make("bert", "masked_lm", 3, 16, seed=1)
            objective = Distillation(student, teacher, beta=2.0)
            objective.hidden_map.kernel.assign(np.linspace(-1, 1, 12 * 16).reshape(12, 16))
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
            objective.compile("sgd", {"logits": loss}, jit_compile=False)
        found.append(objective.evaluate(inputs, labels, sample_weight=weights, batch_size=ROWS, verbose=0))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


# --- the teacher


@pytest.mark.parametrize("teacher_width", [12, pytest.param(16, marks=pytest.mark.full)])
def test_the_teacher_neither_learns_nor_is_saved(make: Any, tmp_path: Path, teacher_width: int) -> None:
    student, teacher = make("bert", "classify"), make("bert", "classify", 3, teacher_width, seed=1)
    objective = Distillation(student, teacher, beta=0.5)
    own = [] if teacher_width == 12 else ["hidden_map.kernel"]
    assert list(objective.named_weights()) == [*student.named_weights(), *own]
    assert {id(weight) for weight in objective.weights} == {id(each) for each in objective.named_weights().values()}
    theirs = {id(each) for each in teacher.variables}
    assert not theirs & {id(each) for each in objective.variables}
    assert not theirs & {id(each) for each in objective.trainable_variables}

    inputs, labels, weights = draw("bert", "classify")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    objective.compile(keras.optimizers.Adam(0.01), {"logits": loss}, jit_compile=False)
    before = teacher.get_weights()
    losses = objective.fit(inputs, labels, sample_weight=weights, batch_size=ROWS, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    for weight, value in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)

    zoo.save(student, tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert again.config == student.config
    np.testing.assert_allclose(again(inputs)["logits"], student(inputs)["logits"], rtol=1e-6)
    assert set(again(inputs)) == {"logits"}


def test_the_teacher_drops_nothing_while_the_student_does(make: Any) -> None:
    student = zoo.create("gpt-nano", task="generate", **{**SMALL, "dropout": 0.5}, depth=1, width=12)
    teacher = zoo.create("gpt-nano", task="generate", **{**SMALL, "dropout": 0.5}, depth=1, width=12)
    objective = Distillation(student, teacher)
    inputs, _, _ = draw("gpt", "generate")
    one, other = objective(inputs, training=True), objective(inputs, training=True)
    assert np.abs(one["logits"] - other["logits"]).max() > 1e-3
    np.testing.assert_array_equal(one["teacher_logits"], other["teacher_logits"])
    np.testing.assert_array_equal(one["teacher_logits"], teacher(inputs)["logits"])


def test_without_beta_there_is_no_hidden_distance(make: Any) -> None:
    student, teacher = make("gpt", "generate"), make("gpt", "generate", 3, 16, seed=1)
    objective = Distillation(student, teacher, beta=0.0)
    assert objective.named_weights() == student.named_weights()
    assert set(objective(draw("gpt", "generate")[0])) == {"logits", "teacher_logits"}


# --- how a student begins


@pytest.mark.parametrize(
    ("depth", "teacher_depth", "blocks"),
    [(2, 4, [0, 2]), (3, 6, [0, 2, 4]), (1, 4, [0]), (3, 4, [0, 1, 2]), (2, 5, [0, 2]), (4, 4, [0, 1, 2, 3])],
)
def test_a_student_begins_with_evenly_spaced_blocks(make: Any, depth: int, teacher_depth: int, blocks: list) -> None:
    student, teacher = make("bert", "masked_lm", depth), make("bert", "masked_lm", teacher_depth, seed=1)
    begin_as_teacher(student, teacher)
    theirs = {name: weight.numpy() for name, weight in teacher.named_weights().items()}
    for name, weight in student.named_weights().items():
        for place, block in enumerate(blocks):
            if f".block_{place}." in name:
                name = name.replace(f".block_{place}.", f".block_{block}.")
                break
        np.testing.assert_array_equal(weight.numpy(), theirs[name], err_msg=name)

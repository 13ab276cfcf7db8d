"""The updates of AdamW, LAMB and Muon, against their papers' algorithms in NumPy and float64."""

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.optimizers.weights import MATRICES, SHAPES, gradients, make_weights, start
from zoo.optimizers import LAMB, AdamW, Muon
from zoo.optimizers.muon import orthogonalise

RATE, DECAY, BETA_1, BETA_2, EPSILON, EMA, STEPS = 0.03, 0.2, 0.8, 0.95, 1e-3, 0.7, 4
FACTORS = {
    "backbone.token_embedding.table": 0.25,
    "backbone.transformer.block_0.attention.qkv.kernel": 0.5,
    "backbone.transformer.block_0.feed_forward.down.kernel": 0.5,
    "backbone.transformer.block_0.attention_norm.gamma": 0.5,
}
ADAM = {"beta_1": BETA_1, "beta_2": BETA_2, "epsilon": EPSILON}
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adamw": lambda **given: AdamW(RATE, DECAY, **ADAM, **given),
    "lamb": lambda **given: LAMB(RATE, DECAY, **ADAM, **given),
    "muon": lambda **given: Muon(RATE, DECAY, momentum=0.9, **ADAM, **given),
}
State = dict[str, np.ndarray]


def moments(gradient: np.ndarray, state: State, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Adam's two moments without their bias to zero (Kingma and Ba 2015, algorithm 1)."""
    state["m"] = BETA_1 * state.get("m", 0) + (1 - BETA_1) * gradient
    state["v"] = BETA_2 * state.get("v", 0) + (1 - BETA_2) * gradient**2
    return state["m"] / (1 - BETA_1**t), state["v"] / (1 - BETA_2**t)


def adamw(weight: np.ndarray, gradient: np.ndarray, state: State, t: int, rate: float, decay: float, _: str) -> Any:
    """Loshchilov and Hutter 2019, algorithm 2, with "epsilon hat" (Kingma and Ba 2015, the end of section 2)."""
    m, v = moments(gradient, state, t)
    return weight - rate * (m / (np.sqrt(v) + EPSILON / np.sqrt(1 - BETA_2**t)) + decay * weight)


def lamb(weight: np.ndarray, gradient: np.ndarray, state: State, t: int, rate: float, decay: float, name: str) -> Any:
    """You et al. 2020, algorithm 2, for each matrix of the fused kernel; what does not decay is not scaled."""
    m, v = moments(gradient, state, t)
    r = m / (np.sqrt(v) + EPSILON)
    if name not in MATRICES:
        return weight - rate * r
    count = 3 if "qkv" in name else 1
    parts = zip(np.split(weight, count, axis=-1), np.split(r, count, axis=-1), strict=True)
    new = [w - rate * np.linalg.norm(w) / np.linalg.norm(r + decay * w) * (r + decay * w) for w, r in parts]
    return np.concatenate(new, axis=-1)


def muon(weight: np.ndarray, gradient: np.ndarray, state: State, t: int, rate: float, decay: float, name: str) -> Any:
    """Jordan et al. 2024, with the scale of Liu et al. 2025, equation 4; AdamW outside of the blocks."""
    if ".block_" not in name or not name.endswith("kernel"):
        return adamw(weight, gradient, state, t, rate, decay, name)
    state["b"] = 0.9 * state.get("b", 0) + gradient
    count = 3 if "qkv" in name else 1
    new = []
    for w, x in zip(np.split(weight, count, -1), np.split(gradient + 0.9 * state["b"], count, -1), strict=True):
        x = x / np.linalg.norm(x)
        for _ in range(5):
            # Of the singular values alone, which is what the iteration in the paper comes to.
            u, s, v = np.linalg.svd(x, full_matrices=False)
            x = u @ np.diag(3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5) @ v
        new.append(w - rate * (0.2 * np.sqrt(max(w.shape)) * x + decay * w))
    return np.concatenate(new, axis=-1)


REFERENCES: dict[str, Callable[..., Any]] = {"adamw": adamw, "lamb": lamb, "muon": muon}


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=2e-6, atol=2e-6, err_msg=name)


def train(make: Callable[..., Any], jit: bool = False, **given: Any) -> tuple[dict[str, np.ndarray], Any]:
    weights, optimizer = make_weights(start()), make(**given)
    optimizer.build(weights)

    def step(found: list[Any]) -> None:
        optimizer.apply(found, weights)

    compiled = tf.function(step, jit_compile=True) if jit else step
    for found in gradients(STEPS):
        compiled([tf.constant(value, "float32") for value in found.values()])
    return {name: weight.numpy() for name, weight in zip(SHAPES, weights, strict=True)}, optimizer


@pytest.mark.parametrize(
    ("name", "jit"), [("adamw", False), ("lamb", False), ("muon", False), ("lamb", True), ("muon", True)]
)
def test_the_update_is_the_papers(name: str, jit: bool) -> None:
    expected, averages, states = start(), {}, {weight: {} for weight in SHAPES}
    for t, found in enumerate(gradients(STEPS), start=1):
        for weight in SHAPES:
            expected[weight] = REFERENCES[name](
                expected[weight],
                found[weight],
                states[weight],
                t,
                RATE * FACTORS.get(weight, 1.0),
                DECAY if weight in MATRICES else 0.0,
                weight,
            )
            average = averages.get(weight, expected[weight])
            averages[weight] = EMA * average + (1 - EMA) * expected[weight]
    trained, optimizer = train(OPTIMIZERS[name], jit, factors=FACTORS, use_ema=True, ema_momentum=EMA)
    assert_close(trained, expected)
    found = optimizer._model_variables_moving_average
    assert_close({name: each.numpy() for name, each in zip(SHAPES, found, strict=True)}, averages)


def test_adamw_is_that_of_keras() -> None:
    def stock() -> Any:
        optimizer = keras.optimizers.AdamW(RATE, DECAY, **ADAM, global_clipnorm=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "class_token"])
        return optimizer

    assert_close(train(OPTIMIZERS["adamw"], global_clipnorm=0.5)[0], train(stock)[0])


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 8, 8)])
def test_orthogonalised_matrices_are_nearly_orthogonal(shape: tuple[int, ...]) -> None:
    matrices = np.random.default_rng(2).normal(size=shape)
    u, s, v = np.linalg.svd(matrices, full_matrices=False)
    result = orthogonalise(tf.constant(matrices, "float32")).numpy()
    inner = np.swapaxes(u, -1, -2) @ result @ np.swapaxes(v, -1, -2)
    values = np.diagonal(inner, axis1=-2, axis2=-1)
    np.testing.assert_allclose(inner, values[..., None] * np.eye(s.shape[-1]), atol=1e-4)  # the same directions
    large = values[s > 0.05 * np.linalg.norm(s, axis=-1, keepdims=True)]
    assert large.min() > 0.65 and large.max() < 1.25


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slices_of_a_lookup_are_added_up(name: str) -> None:
    """A row that is looked up twice has one gradient, not two to be squared apart."""
    rows = np.random.default_rng(3).normal(size=(3, 4)).astype("float32")
    dense = np.zeros((7, 4), "float32")
    np.add.at(dense, [2, 5, 2], rows)
    results = []
    for gradient in (tf.IndexedSlices(tf.constant(rows), tf.constant([2, 5, 2]), (7, 4)), tf.constant(dense)):
        (table,) = make_weights({"token_embedding.table": np.ones((7, 4))})
        optimizer = OPTIMIZERS[name]()
        for _ in range(2):
            optimizer.apply([gradient], [table])
        results.append(table.numpy())
    np.testing.assert_array_equal(*results)


def test_a_weight_of_zeros_is_not_scaled_by_lamb() -> None:
    weights = make_weights({"classifier.kernel": np.zeros((2, 2)), "token_embedding.table": np.ones((2, 2))})
    optimizer = LAMB(0.1, weight_decay=0.0)
    optimizer.apply([tf.ones((2, 2)), tf.zeros((2, 2))], weights)
    np.testing.assert_allclose(weights[0].numpy(), -0.1, rtol=1e-5)  # as Adam
    np.testing.assert_array_equal(weights[1].numpy(), 1.0)  # an update of zeros


def test_a_weight_can_be_kept_from_decaying() -> None:
    weights = make_weights({"a.kernel": np.ones((2, 2)), "b.kernel": np.ones((2, 2))})
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[weights[0]])
    optimizer.apply([tf.zeros((2, 2))] * 2, weights)
    np.testing.assert_allclose([weight.numpy()[0, 0] for weight in weights], [1.0, 0.95])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_comes_back_from_its_config(name: str) -> None:
    given = {"factors": FACTORS, "global_clipnorm": 0.5, "use_ema": True, "ema_momentum": EMA}
    expected, optimizer = train(OPTIMIZERS[name], **given)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    again, copy = train(lambda: keras.optimizers.deserialize(config))
    assert type(copy) is type(optimizer) and copy.get_config() == optimizer.get_config()
    for weight, value in expected.items():
        np.testing.assert_array_equal(again[weight], value)


def test_muon_keeps_no_second_moment_of_a_hidden_matrix() -> None:
    optimizer = OPTIMIZERS["muon"]()
    optimizer.build(make_weights(start()))
    velocities = [each.path for each in optimizer.variables if each.path.endswith("velocity")]
    assert len(velocities) == len(SHAPES) - 3
    assert not any("block_0" in path and "kernel" in path for path in velocities)


def test_fit_of_any_keras_model() -> None:
    """Muon with a pattern of the user's own learns what least squares finds."""
    x = np.random.default_rng(4).normal(size=(64, 3)).astype("float32")
    y = x @ np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]], "float32") + 1.0
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(2, name="only")])
    model.compile(Muon(0.2, weight_decay=0.0, hidden=("*only.kernel",)), loss="mse", jit_compile=False)
    losses = model.fit(x, y, batch_size=16, epochs=25, verbose=0).history["loss"]
    assert len(model.optimizer.variables) == 2 + 1 + 2  # the kernel has a momentum alone
    assert losses[-1] < 0.02 * losses[0]

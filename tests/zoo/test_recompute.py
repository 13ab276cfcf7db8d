"""`model.recompute`: the same gradients, dropout and all, from far less memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.layers import TransformerStack

SMALL = {"vocabulary_size": 31, "max_length": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 24}
DROPOUT = {"dropout": 0.2, "attention_dropout": 0.2}
IDS = np.random.default_rng(0).integers(0, 31, (4, 7)).astype("int32")
INPUTS = {"token_ids": IDS, "padding_mask": (np.arange(7) < [[7], [5], [3], [6]]).astype("int32")}
PULL = np.random.default_rng(1).normal(size=(4, 7, 16)).astype("float32")

Gradients = dict[str, np.ndarray]
ONE_DEVICE = tf.distribute.get_strategy


def make(preset: str, strategy: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        return zoo.create(preset, task="backbone", **{**SMALL, **DROPOUT}, **options)


def gradients(model: Any, strategy: Any, wrap: Callable[[Any], Any] = tf.function) -> tuple[Gradients, list[Any]]:
    """Of each weight on each replica, (replicas, ...); and the states of dropout's seeds after, begun anew."""
    weights = {id(weight) for weight in model.weights}
    seeds = [each for each in model.variables if id(each) not in weights]
    for i, seed in enumerate(seeds):
        seed.assign([100 + i, 0])

    def step() -> Any:
        with tf.GradientTape() as tape:
            outputs = model({name: tf.constant(value) for name, value in INPUTS.items()}, training=True)
            loss = tf.reduce_sum(tf.cast(outputs["sequence"], "float32") * PULL)
        found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
        return [None if each is None else tf.convert_to_tensor(each) for each in found]

    found = wrap(lambda: strategy.run(step))()
    named = {
        weight.path: np.stack([np.asarray(each, "float32") for each in strategy.experimental_local_results(gradient)])
        for weight, gradient in zip(model.trainable_weights, found, strict=True)
        if gradient is not None
    }
    return named, [seed.numpy().tolist() for seed in seeds]


def assert_same_gradients(actual: Gradients, expected: Gradients, tolerance: float = 1e-6) -> None:
    assert actual.keys() == expected.keys()
    largest = max(np.linalg.norm(value) for value in expected.values())
    for path, wanted in expected.items():
        # A key's bias has no true gradient: it is measured against what others have.
        scale = max(np.linalg.norm(wanted), 1e-2 * largest)
        assert np.linalg.norm(actual[path] - wanted) <= tolerance * scale, path


WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda step: step,
    "graph": tf.function,
    "xla": lambda step: tf.function(step, jit_compile=True),
    "loop": lambda step: tf.function(lambda: in_a_loop(step)),
}


def in_a_loop(step: Callable[[], Any]) -> Any:
    """The gradients of the second of two turns, less those of the first."""
    zeros = [tf.zeros_like(each) for each in step() if each is not None]
    _, total = tf.while_loop(
        lambda i, _: i < 2,
        lambda i, total: (
            i + 1,
            [
                tf.cast(2 * i - 1, so_far.dtype) * each + so_far
                for each, so_far in zip([each for each in step() if each is not None], total, strict=True)
            ],
        ),
        (0, zeros),
    )
    return total


@pytest.mark.parametrize(
    ("preset", "way"), [("gpt-nano", "eager"), ("bert-nano", "graph"), ("gpt-nano", "xla"), ("gpt-nano", "loop")]
)
def test_the_gradients_are_the_same(preset: str, way: str) -> None:
    model = make(preset, ONE_DEVICE())
    assert not model.recompute
    expected, states = gradients(model, ONE_DEVICE(), WAYS[way])
    model.recompute = True
    assert model.recompute
    actual, states_after = gradients(model, ONE_DEVICE(), WAYS[way])
    assert len(expected) > 10 and max(np.abs(value).max() for value in expected.values()) > 0.1
    assert_same_gradients(actual, expected)
    assert states_after == states and max(draws for _, draws in states) > 0


def test_the_gradients_are_the_same_on_each_replica(two_replicas) -> None:
    model = make("gpt-nano", two_replicas)
    expected, states = gradients(model, two_replicas)
    model.recompute = True
    actual, states_after = gradients(model, two_replicas)
    assert_same_gradients(actual, expected)
    assert states_after == states
    # The replicas have the same inputs, and masks of their own.
    kernels = [value for path, value in expected.items() if path.endswith("kernel")]
    assert len(kernels) == 4 and all(np.abs(value[0] - value[1]).max() > 0 for value in kernels)


def test_the_gradients_are_the_same_in_mixed_precision() -> None:
    model = make("gpt-nano", ONE_DEVICE(), dtype="mixed_bfloat16")
    expected, _ = gradients(model, ONE_DEVICE())
    model.recompute = True
    # The order of two sums of bfloat16 may differ.
    assert_same_gradients(gradients(model, ONE_DEVICE())[0], expected, tolerance=2e-2)


def test_frozen_weights_need_no_gradient() -> None:
    model = make("bert-nano", ONE_DEVICE())
    for weight in model.weights:
        weight.trainable = weight.path.endswith("gamma")
    expected, _ = gradients(model, ONE_DEVICE())
    model.recompute = True
    actual, _ = gradients(model, ONE_DEVICE())
    assert len(actual) == 3 and all(path.endswith("gamma") for path in actual)
    assert_same_gradients(actual, expected)


def test_the_gradient_reaches_input_and_context() -> None:
    """Of a stack with cross attention, whose mask hides part of the context."""
    stack = TransformerStack(2, width=8, num_heads=2, mlp_width=12, cross_attention=True, name="stack")
    rng = np.random.default_rng(2)
    x, context = (tf.constant(rng.normal(size=(2, tokens, 8)), tf.float32) for tokens in (5, 4))
    mask = tf.constant([[1, 1, 1, 0], [1, 0, 1, 1]])
    found = []
    for stack.recompute in (False, True):
        with tf.GradientTape() as tape:
            tape.watch([x, context])
            loss = tf.reduce_sum(stack(x, context=context, context_mask=mask, training=True) ** 3)
        found.append([each.numpy() for each in tape.gradient(loss, [x, context])])
    for actual, expected in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert not found[1][1][0, 3].any() and found[1][1][0, 2].all()


def test_it_is_for_training_alone() -> None:
    """Outputs, attention weights and a cache are what they were."""
    model = make("gpt-nano", ONE_DEVICE())
    inputs = {name: tf.constant(value) for name, value in INPUTS.items()}
    cache = model.empty_cache(4, 8)
    cached = {"token_ids": inputs["token_ids"], "padding_mask": tf.ones((4, 8), tf.int32)}

    def run() -> list[Any]:
        plain, weighed = model(inputs), model(inputs, return_weights=True)
        held = model(cached, cache=cache, cache_index=0)
        return tf.nest.flatten([plain, weighed, held])

    before = run()
    model.recompute = True
    for ours, theirs in zip(run(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(model(inputs, return_weights=True, training=True)["attention"]) == 1


def test_setting_it_between_two_fits_has_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.layers import transformer

    model = make("gpt-nano", ONE_DEVICE())
    model.compile(keras.optimizers.SGD(0.1), {"sequence": "mse"}, jit_compile=False)
    calls = []
    original = transformer.call_recomputed
    monkeypatch.setattr(transformer, "call_recomputed", lambda *a, **k: calls.append(1) or original(*a, **k))
    for value, traced in ((False, 0), (True, 1)):
        model.recompute = value
        model.fit(INPUTS, {"sequence": PULL}, batch_size=4, verbose=0)
        assert len(calls) == traced


def test_xla_computes_a_block_twice() -> None:
    """Were the two runs merged into one again, it would show in what the compiler leaves."""
    model = make("gpt-nano", ONE_DEVICE())
    model.recompute = True

    @tf.function(jit_compile=True)
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(INPUTS, training=True)["sequence"] * PULL)
        return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    text = step.experimental_get_compiler_ir()(stage="optimized_hlo")
    # The block's activation and its softmax.
    assert [text.count(f" {name}(") for name in ("tanh", "exponential")] == [2, 2]


DEEP = """
import numpy as np, tensorflow as tf, zoo
model = zoo.create("gpt-nano", task="backbone", vocabulary_size=8, max_length=256, width=16, depth=6, num_heads=4,
                   dropout=0.1, attention_dropout=0.1)
x = {"token_ids": np.zeros((8, 256), "int32"), "padding_mask": np.ones((8, 256), "int32")}

@tf.function
def step():
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model({k: tf.constant(v) for k, v in x.items()}, training=True)["sequence"] ** 2)
    return [tf.reduce_sum(tf.convert_to_tensor(each)) for each in tape.gradient(loss, model.trainable_weights)]

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) // 1024

model(x)
before = peak()
model.recompute = True
step()
between = peak()
model.recompute = False
step = tf.function(step.python_function)
step()
print(between - before, peak() - before)
"""


@pytest.mark.full  # measures memory, in processes of its own
def test_memory_does_not_grow_with_depth() -> None:
    """The peak of a fresh process, in MiB above what it took to begin: six blocks with recomputation, then without.
    One block keeps over 40 MiB for its gradient, most of them attention's."""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", DEEP], cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    with_it, without = map(int, result.stdout.split())
    assert with_it < 0.65 * without, result.stdout

"""Fixtures for all tests. A test that needs no TensorFlow imports none: nothing here does until it is asked to.

A test module that runs TensorFlow imports it (or Keras, or a module that does) at its top, and makes no tensor or
layer before its tests run: the devices below can be set up only before the first operation.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# Read when TensorFlow is imported: quiet, and on the CPU, where float32 is float32.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def _make_two_devices() -> None:
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session", autouse=True)
def _devices() -> None:
    """Two logical CPU devices, which can be had only before TensorFlow computes anything in this process."""
    if "tensorflow" in sys.modules:
        _make_two_devices()


@pytest.fixture(scope="session")
def two_replicas() -> Any:
    """A MirroredStrategy on two logical CPU devices. One for all tests: the collective operations of a second one
    would be matched with those of the first, and fail where their shapes differ."""
    _make_two_devices()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def enliven() -> Callable[..., Any]:
    """`enliven(model, seed=0)` gives every weight a value of ordinary size, biases and norms included, and returns the
    model: fresh weights are so small that many mistakes would not show in the outputs. Positions and attention weigh
    more than the tokens themselves, which a language model with tied weights would else repeat for ever."""

    def enliven(model: Any, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            value = rng.normal(size=weight.shape)
            if weight.path.endswith("kernel"):
                value *= np.prod(weight.shape[:-1]) ** -0.5
            elif weight.path.endswith("gamma"):
                value = 1.0 + 0.2 * value
            elif not weight.path.endswith("table"):
                value *= 0.3
            if weight.path.endswith(("position_embedding/table", "attention/output/kernel")):
                value *= 4.0
            weight.assign(value.astype("float32"))
        return model

    return enliven


@pytest.fixture(scope="session")
def language_model(enliven: Callable[..., Any]) -> Any:
    """A tiny GPT with a context of 320 tokens and lively weights, for tests that do not change it."""
    import zoo

    return enliven(zoo.create("gpt-nano", vocabulary_size=97, max_length=320, width=32, depth=2, num_heads=4), seed=2)


@pytest.fixture(scope="session", autouse=True)
def _short_latency():
    """Whoever verifies a bundle in a test is not after how fast its files are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.verify.LATENCY_SECONDS", 0.01)
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Ctrl-C does something, also in a suite that a shell has begun in the background, where it ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

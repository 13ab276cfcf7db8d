"""Needs TensorFlow: the dataset hands on the batches, from any step, and shares them out to replicas."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from recipes.data.batches import ArraySpec, TrainingBatches, ValidationBatches
from recipes.data.dataset import make_dataset

TOKENS = np.arange(1000, dtype=np.uint16)


def test_training_goes_on_from_any_step() -> None:
    batches = TrainingBatches(TOKENS, 8, 6, 0)
    for first in (0, 37):
        for step, (inputs, targets) in enumerate(islice(make_dataset(batches, first), 5), first):
            ids, labels = batches.batch(step)
            assert np.array_equal(inputs["token_ids"], ids["token_ids"])
            assert np.array_equal(targets["logits"], labels["logits"])


def test_validation_ends_and_starts_again() -> None:
    batches = ValidationBatches(TOKENS, 8, 6)
    dataset = make_dataset(batches)
    assert int(dataset.cardinality()) == batches.num_batches == 20
    for _ in range(2):
        seen = [inputs["token_ids"].numpy() for inputs, _ in dataset]
        assert np.array_equal(seen, [batches.batch(step)[0]["token_ids"] for step in range(20)])


def test_shapes_are_fixed() -> None:
    """XLA compiles once, and a strategy knows what to divide."""
    batches = TrainingBatches(TOKENS, 8, 6, 0)
    for dataset in (make_dataset(batches), make_dataset(ValidationBatches(TOKENS, 8, 6))):
        inputs, targets = dataset.element_spec
        for spec in (inputs["token_ids"], targets["logits"]):
            assert (spec.shape.as_list(), spec.dtype.name) == ([6, 8], "int32")


def test_two_replicas_get_the_two_halves_of_every_batch() -> None:
    """In a process of its own, since the number of devices cannot change once TensorFlow runs."""
    program = """
import gc
import numpy as np, tensorflow as tf
from recipes.data.batches import TrainingBatches
from recipes.data.dataset import make_dataset
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
batches = TrainingBatches(np.arange(1000, dtype=np.uint16), 8, 6, 0)
stream = iter(strategy.experimental_distribute_dataset(make_dataset(batches, 5)))
for step in range(5, 9):
    for got, wanted in zip(tf.nest.flatten(next(stream)), tf.nest.flatten(batches.batch(step)), strict=True):
        first, second = (part.numpy() for part in strategy.experimental_local_results(got))
        assert np.array_equal(first, wanted[:3]) and np.array_equal(second, wanted[3:]), step
del stream  # while Python still runs: threads that fetch ahead for it when it ends can wait for each other for ever
gc.collect()
print("halves")
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "halves\n", done.stderr[-2000:]


def aligned(values: int) -> np.ndarray:
    """Zeros at a place in memory that TensorFlow takes over without a copy."""
    memory = np.zeros(4 * values + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * values].view(np.float32)


class Sharing:
    """Batches of one array that is there twice, and that stays with who made it."""

    num_batches = 3

    def __init__(self) -> None:
        self.element = {"first": ArraySpec((None,), "float32"), "second": ArraySpec((None,), "float32")}
        self.kept = aligned(16)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return {"first": self.kept, "second": self.kept}


def test_no_two_tensors_share_memory() -> None:
    """TensorFlow writes results into what it takes for its own: losses of two outputs, into weights of both."""
    batches = Sharing()
    for batch in make_dataset(batches):
        first, second = (np.asarray(memoryview(batch[name])) for name in ("first", "second"))  # without a copy
        assert not np.shares_memory(first, second)
        assert not np.shares_memory(first, batches.kept) and not np.shares_memory(second, batches.kept)

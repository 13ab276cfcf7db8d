"""Needs TensorFlow: batches as a `tf.data.Dataset`, for `model.fit` on one device or several."""

from typing import Any

import numpy as np
import tensorflow as tf

from recipes.data.batches import ArraySpec, Batches
from zoo.errors import UserError

# What a batch could not be made for. TensorFlow tells of an error in another way, and not which it was.
_failures: list[UserError] = []


def raise_failure() -> None:
    """Raise the UserError for which a data set of `make_dataset` ended, if one did since this was asked."""
    if _failures:
        first = _failures[0]
        _failures.clear()
        raise first from None


def make_dataset(batches: Batches, first_step: int = 0) -> tf.data.Dataset:
    """The batches from `first_step` on, as they are: a distribution strategy takes each as a global one, and gives each
    replica its part of it.

    Every array is copied: TensorFlow may take NumPy's memory for its own, and write results into it. An array that a
    batch has twice, or that its source keeps, would change under whoever else reads it.

    A UserError, such as of an image that vanished, ends the data set with an error of TensorFlow's; `raise_failure` has
    the first one."""
    specs: list[ArraySpec] = tf.nest.flatten(batches.element)
    count = batches.num_batches

    def make(step: np.ndarray) -> list[np.ndarray]:
        try:
            return [np.array(array) for array in tf.nest.flatten(batches.batch(int(step)))]
        except UserError as error:
            _failures.append(error)
            raise

    def load(step: tf.Tensor) -> Any:
        arrays = tf.numpy_function(
            make,
            [step],
            [tf.as_dtype(spec.dtype) for spec in specs],
            stateful=False,
        )
        shaped = [tf.ensure_shape(array, spec.shape) for array, spec in zip(arrays, specs, strict=True)]
        return tf.nest.pack_sequence_as(batches.element, shaped)

    options = tf.data.Options()
    # Each worker takes its share of every global batch. OFF would give all of them the same one.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    steps = tf.data.Dataset.range(first_step, tf.int64.max if count is None else count)
    return steps.map(load).prefetch(4).with_options(options)

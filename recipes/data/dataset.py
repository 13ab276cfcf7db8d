"""Needs TensorFlow: batches of packed text as a `tf.data.Dataset`, for `model.fit` on one device or several."""

import tensorflow as tf

from recipes.data.batches import TrainingBatches, ValidationBatches


def training_dataset(batches: TrainingBatches, first_step: int = 0) -> tf.data.Dataset:
    """The endless stream from `first_step` on; see `_dataset` for its elements."""
    return _dataset(batches, tf.data.Dataset.range(first_step, tf.int64.max))


def validation_dataset(batches: ValidationBatches) -> tf.data.Dataset:
    """All validation batches, once; see `_dataset` for their elements."""
    return _dataset(batches, tf.data.Dataset.range(batches.num_batches))


def _dataset(batches: TrainingBatches | ValidationBatches, steps: tf.data.Dataset) -> tf.data.Dataset:
    """Elements are `({"token_ids": ids}, {"logits": next ids})`, both (batch_size, length) int32.

    A distribution strategy takes `batch_size` as the global batch, and gives each replica its part of it.
    """
    shape = (batches.batch_size, batches.length)

    def load(step: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        ids, labels = tf.numpy_function(batches.batch, [step], (tf.int32, tf.int32), stateful=False)
        return {"token_ids": tf.ensure_shape(ids, shape)}, {"logits": tf.ensure_shape(labels, shape)}

    options = tf.data.Options()
    # Each worker takes its share of every global batch. OFF would give all of them the same one.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return steps.map(load).prefetch(4).with_options(options)

"""Losses of the global batch (TensorFlow only): a sum over all replicas and micro-batches, divided once.

Keras takes the mean over each replica's part and then the mean of those, which is another number where the parts have
different sizes, or different sums of weights.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from keras.src.losses.losses import LossFunctionWrapper  # what Keras makes of a function; it exports it nowhere

from zoo.training.replicas import sum_over_replicas


@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """What the losses of one step are divided by. It is known before the forward pass, so that no replica needs to wait
    for another inside it.

    Attributes:
        rows: examples in the global batch, a float32 scalar.
        weights: the sum of the sample weights over the global batch, in the structure of the sample weights.
        micro_batches: into how many the step splits the part of a replica.
    """

    rows: Any
    weights: Any
    micro_batches: int

    @classmethod
    def of(cls, x: Any, sample_weight: Any, micro_batches: int) -> "GlobalBatch":
        """From what this replica has of the batch; every replica must call it."""
        rows = tf.cast(tf.shape(next(each for each in tf.nest.flatten(x) if each is not None))[0], tf.float32)
        given = () if sample_weight is None else sample_weight
        weights = tf.nest.map_structure(lambda each: tf.reduce_sum(tf.cast(each, tf.float32)), given)
        rows, weights = sum_over_replicas((rows, weights))
        return cls(rows, weights, micro_batches)

    def weight_of(self, path: tuple) -> Any:
        """The sum of the weights of the loss that stands at `path` among the losses."""
        weights = self.weights
        for key in path if tf.nest.is_nested(weights) else ():
            weights = weights[key]
        return weights


_batch: contextvars.ContextVar[GlobalBatch | None] = contextvars.ContextVar("global_batch", default=None)


@contextlib.contextmanager
def of_global_batch(batch: GlobalBatch) -> Iterator[None]:
    """Within, a `GlobalLoss` belongs to this batch."""
    token = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(token)


@keras.saving.register_keras_serializable("zoo")
class GlobalLoss(keras.losses.Loss):
    """A loss, as one replica contributes to it: summed over replicas, and averaged over micro-batches, its values are
    the loss of the global batch by the reduction that the loss has.

    Outside of a training or test step it is the loss itself.

    Args:
        loss: any Keras loss. Its reduction "sum_over_batch_size" divides by the number of values in the global batch,
            "mean_with_sample_weight" by the sum of its weights, "sum" by nothing.
        path: the keys that lead to it among the model's losses.

    Raises:
        ValueError: the loss has no reduction.
        NotImplementedError: on a call, where a mask meets micro-batches.
    """

    def __init__(self, loss: Any, path: tuple = (), name: str | None = None) -> None:
        if loss.reduction in (None, "none"):
            raise ValueError(f"the loss {loss.name} has reduction {loss.reduction!r}: a step minimises one number")
        super().__init__(name=name or loss.name, reduction=loss.reduction)
        self.loss, self.path = loss, tuple(path)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        batch = _batch.get()
        if batch is None:
            return self.loss(y_true, y_pred, sample_weight)
        values, mask = self._values(y_true, y_pred, sample_weight)
        if mask is not None:
            return self._masked_share(values, mask, sample_weight, batch)
        rows = tf.cast(tf.shape(tf.nest.flatten(y_pred)[0])[0], values.dtype)
        return self._share(values, rows, sample_weight is not None, batch) * batch.micro_batches

    def _values(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any]:
        """The weighted values, and the mask that has been applied to them, from the output or from the loss itself (as
        that of `ignore_class`); None without one."""
        masks = [getattr(output, "_keras_mask", None) for output in tf.nest.flatten(y_pred)]

        def call(y_true: Any, y_pred: Any) -> Any:
            values = self.loss.call(y_true, y_pred)
            masks.append(getattr(values, "_keras_mask", None))
            return values

        each = object.__new__(type(self.loss))  # Keras's own `copy` saves and loads, which not every loss bears
        each.__dict__.update(self.loss.__dict__, reduction=None, call=call)
        values = each(y_true, y_pred, sample_weight)
        present = [tf.cast(mask, values.dtype) for mask in masks if mask is not None]
        return values, functools.reduce(tf.multiply, present) if present else None

    def _masked_share(self, values: Any, mask: Any, sample_weight: Any, batch: GlobalBatch) -> Any:
        """The sum over what is not masked out, divided by how much that is: the replicas find out together."""
        if self.reduction == "sum":
            return ops.sum(values) * batch.micro_batches
        if batch.micro_batches > 1:
            raise NotImplementedError(
                f"the loss {self.name} has a mask, or an ignore_class, whose sum over micro-batches is not known "
                "beforehand: give it as sample_weight, with reduction='mean_with_sample_weight'"
            )
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            mask = mask * tf.cast(sample_weight, mask.dtype)
        return tf.math.divide_no_nan(ops.sum(values), sum_over_replicas(tf.reduce_sum(mask)))

    def _share(self, values: Any, rows: Any, weighted: bool, batch: GlobalBatch) -> Any:
        """What `rows` examples with these values add to the loss of the batch."""
        if values.shape.rank == 0:  # a loss that makes one number by itself is taken for a mean over its rows
            return values * tf.cast(rows / tf.cast(batch.rows, values.dtype), values.dtype)
        total = ops.sum(values)
        if self.reduction == "sum":
            return total
        if self.reduction == "mean_with_sample_weight" and weighted:
            return tf.math.divide_no_nan(total, tf.cast(batch.weight_of(self.path), total.dtype))
        # All examples have as many values as these.
        return tf.math.divide_no_nan(
            total * rows, tf.cast(tf.size(values), total.dtype) * tf.cast(batch.rows, total.dtype)
        )

    def get_config(self) -> dict[str, Any]:
        return {"loss": keras.saving.serialize_keras_object(self.loss), "path": list(self.path), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GlobalLoss":
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def globalize(losses: Any, path: tuple = ()) -> Any:
    """The losses that are given to `compile`, each as a `GlobalLoss`.

    Raises:
        ValueError: one has no reduction, or is "crossentropy", which Keras resolves by looking at the data.
    """
    if losses is None or isinstance(losses, GlobalLoss):
        return losses
    if isinstance(losses, dict) and "class_name" not in losses:
        return {key: globalize(loss, (*path, key)) for key, loss in losses.items()}
    if isinstance(losses, list | tuple):
        return [globalize(loss, (*path, place)) for place, loss in enumerate(losses)]
    if isinstance(losses, str) and losses.lower() in ("crossentropy", "ce"):
        raise ValueError(f"the loss {losses!r} may mean three: name it, as in 'sparse_categorical_crossentropy'")
    loss = keras.losses.get(losses)
    if not isinstance(loss, keras.losses.Loss):
        loss = LossFunctionWrapper(loss, name=losses if isinstance(losses, str) else loss.__name__)
    return GlobalLoss(loss, path)

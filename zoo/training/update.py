"""From the gradients of the replicas to one update: reduce, check, clip, apply (TensorFlow only)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from zoo.training.replicas import count_replicas, sum_over_replicas

FIRST_LOSS_SCALE = 2.0**15
HIGHEST_LOSS_SCALE = 2.0**24
UPDATES_TO_DOUBLE = 2000  # as Micikevicius et al. 2018, section 3.2, and every implementation since


class StepState:
    """What a model's step remembers beside weights and optimizer; a checkpoint keeps `variables`.

    Args:
        scales_loss: there is a loss scale, as float16 needs one.
    """

    def __init__(self, scales_loss: bool) -> None:
        self.variables: dict[str, keras.Variable] = {
            "skipped": _counter("skipped"),
            "skipped_in_a_row": _counter("skipped_in_a_row"),
        }
        self.scales_loss = scales_loss
        if scales_loss:
            self.variables["good_updates"] = _counter("good_updates")
            self.variables["loss_scale"] = keras.Variable(
                FIRST_LOSS_SCALE,
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                name="loss_scale",
            )

    @property
    def skipped(self) -> int:
        """Updates that were left out, their gradient not being finite."""
        return int(self.variables["skipped"].numpy())

    @property
    def skipped_in_a_row(self) -> int:
        """The same, since the last update that was not."""
        return int(self.variables["skipped_in_a_row"].numpy())

    @property
    def loss_scale(self) -> Any:
        """What the loss is multiplied by before gradients are taken, a float32 scalar; 1 without a loss scale."""
        return tf.convert_to_tensor(self.variables["loss_scale"]) if self.scales_loss else 1.0

    def note(self, finite: Any) -> None:
        """Count an update, applied where the bool `finite` is true, and left out where not."""
        done, skipped = tf.cast(finite, tf.int64), tf.cast(tf.logical_not(finite), tf.int64)
        in_a_row = self.variables["skipped_in_a_row"]
        self.variables["skipped"].assign_add(skipped)
        in_a_row.assign((tf.convert_to_tensor(in_a_row) + skipped) * skipped)
        if self.scales_loss:
            good, scale = self.variables["good_updates"], self.variables["loss_scale"]
            count = (tf.convert_to_tensor(good) + done) * done
            doubled = tf.minimum(tf.convert_to_tensor(scale) * 2.0, HIGHEST_LOSS_SCALE)
            kept = tf.where(count == UPDATES_TO_DOUBLE, doubled, tf.convert_to_tensor(scale))
            scale.assign(tf.where(finite, kept, tf.maximum(tf.convert_to_tensor(scale) / 2.0, 1.0)))
            good.assign(count % UPDATES_TO_DOUBLE)


def _counter(name: str) -> keras.Variable:
    return keras.Variable(0, dtype="int64", trainable=False, aggregation="only_first_replica", name=name)


def apply_gradients(optimizer: Any, gradients: list[Any], weights: list[Any], state: StepState) -> None:
    """Update the weights with what the replicas found, all alike, or not at all.

    The gradients are summed over the replicas, and divided by the loss scale. Where one is not finite, nothing changes
    but the counters. Then they are clipped, by the limits of the optimizer, which applies what is left.

    Args:
        optimizer: any Keras optimizer.
        gradients: of the scaled loss, on this replica, dense; None for a weight that has none.
        weights: as many.
        state: of the step.

    Raises:
        ValueError: there is nothing to train.
    """
    places = [place for place, gradient in enumerate(gradients) if gradient is not None]
    if not places:
        raise ValueError("no trainable weight has a gradient: unfreeze some, or compile a loss that hangs on one")
    present = sum_over_replicas([gradients[place] for place in places])
    scale = state.loss_scale if state.scales_loss else optimizer.loss_scale_factor
    if scale is not None:
        present = [gradient / tf.cast(scale, gradient.dtype) for gradient in present]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tf.cast(each, tf.float32))) for each in present]))
    finite = tf.math.is_finite(norm)
    for place, gradient in zip(places, _clip(present, norm, optimizer), strict=True):
        gradients[place] = gradient
    if not optimizer.built:  # variables cannot be made inside a branch
        optimizer.build(weights)

    def apply(gradients: list[Any]) -> None:
        optimizer.apply(gradients, weights)

    # Replicas on a TPU are one program, and need not meet: they take one branch by themselves.
    if count_replicas() == 1 or isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        with _as_it_is(optimizer):
            tf.cond(finite, lambda: apply(gradients), lambda: None)
        state.note(finite)
        return

    def apply_everywhere(strategy: Any, finite: Any, gradients: list[Any]) -> None:
        # A branch inside a replica may not wait for the others: it is opened outside of them all.
        finite = strategy.experimental_local_results(finite)[0]  # all have seen the same sum
        with _as_it_is(optimizer):
            tf.cond(finite, lambda: strategy.extended.call_for_each_replica(apply, args=(gradients,)), lambda: None)
        state.note(finite)

    tf.distribute.get_replica_context().merge_call(apply_everywhere, args=(finite, gradients))


def _clip(gradients: list[Any], norm: Any, optimizer: Any) -> list[Any]:
    if optimizer.global_clipnorm:
        factor = optimizer.global_clipnorm / tf.maximum(norm, optimizer.global_clipnorm)
        return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
    if optimizer.clipnorm:
        return [tf.clip_by_norm(gradient, optimizer.clipnorm) for gradient in gradients]
    if optimizer.clipvalue:
        return [tf.clip_by_value(gradient, -optimizer.clipvalue, optimizer.clipvalue) for gradient in gradients]
    return gradients


@contextlib.contextmanager
def _as_it_is(optimizer: Any) -> Iterator[None]:
    """Within, the optimizer takes a gradient for what it is: already clipped, divided by a loss scale, and summed over
    the replicas."""
    names = ("global_clipnorm", "clipnorm", "clipvalue", "loss_scale_factor")
    kept = {name: getattr(optimizer, name) for name in names}
    for name in names:
        setattr(optimizer, name, None)
    optimizer._all_reduce_sum_gradients = list
    try:
        yield
    finally:
        del optimizer._all_reduce_sum_gradients
        for name, value in kept.items():
            setattr(optimizer, name, value)

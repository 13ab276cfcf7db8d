"""The training step under `tf.distribute` (TensorFlow only): the one place where gradients become an update."""

from typing import Any

import keras
import tensorflow as tf


class DistributedModel(keras.Model):
    """A Keras model whose `fit` clips the gradient of the global batch.

    Stock Keras clips the gradient of each replica and adds up what is left, so that two replicas end with other
    weights than one device on the same batch. Here the order is: reduce over the replicas, clip, apply. The limits
    are the optimizer's own `global_clipnorm`, `clipnorm` or `clipvalue`. Stock Keras also clips, and squares for
    Adam, each of the slices that a lookup's gradient consists of; here the slices of one row are added up first.
    """

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update, in the context of one replica. Losses are those given to `compile`, a mean over the batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            # Keras divides a loss by the number of replicas, so that gradients can be summed.
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        self._loss_tracker.update_state(loss * replicas, sample_weight=tf.shape(tf.nest.flatten(x)[0])[0])

        weights = self.trainable_weights
        gradients = [
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(scaled_loss, weights)
        ]
        if replicas > 1:
            gradients = _reduce_and_clip(gradients, self.optimizer, replicas)
        self.optimizer.apply(gradients, weights)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _reduce_and_clip(gradients: list[Any], optimizer: Any, replicas: int) -> list[Any]:
    """The global gradient, clipped, and divided by `replicas`: the optimizer sums what the replicas hand it, and the
    limits, which it applies to each replica first, leave a gradient alone that is below them already."""
    present = [gradient for gradient in gradients if gradient is not None]
    present = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present)
    if optimizer.global_clipnorm:
        present, _ = tf.clip_by_global_norm(present, optimizer.global_clipnorm)
    elif optimizer.clipnorm:
        present = [tf.clip_by_norm(gradient, optimizer.clipnorm) for gradient in present]
    elif optimizer.clipvalue:
        present = [tf.clip_by_value(gradient, -optimizer.clipvalue, optimizer.clipvalue) for gradient in present]
    remaining = iter(present)
    return [None if gradient is None else next(remaining) / replicas for gradient in gradients]

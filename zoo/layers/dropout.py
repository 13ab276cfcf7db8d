"""Dropout that draws another mask on each replica of a distributed step (TensorFlow itself, on its backend)."""

from typing import Any

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable("zoo")
class Dropout(keras.layers.Dropout):
    """Dropout (Srivastava et al. 2014) with masks of each replica's own under `tf.distribute`.

    Keras keeps the same seed on every replica, so that all of them drop the same places. Here the number of the replica
    is mixed into the seed that a call draws, while the state it is drawn from stays the same everywhere, and a
    checkpoint holds it once. The first replica draws the very masks of `keras.layers.Dropout` on one device.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """(...) to the same shape; where not `training`, what came in."""
        if not training or self.rate == 0:
            return inputs
        seeds = _ReplicaSeeds(self.seed_generator)
        return keras.random.dropout(inputs, self.rate, noise_shape=self.noise_shape, seed=seeds)


class _ReplicaSeeds(keras.random.SeedGenerator):
    """What another generator draws, and of this replica's own. It has no state: the other one keeps it."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def next(self, ordered: bool = True) -> Any:
        seed = self.source.next(ordered)
        return _fold_replica(seed) if keras.backend.backend() == "tensorflow" else seed


def _fold_replica(seed: Any) -> Any:
    """A seed (2,) int64, [seed of the layer, draws so far], for the replica that this runs on; replica 0 has it as it
    is, and so has what runs outside of a replica."""
    replica = tf.distribute.get_replica_context()
    if replica is None or tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return seed
    number = tf.convert_to_tensor(replica.replica_id_in_sync_group, tf.int32)
    # Both words are hashed from the layer's seed and the replica, and the draws counted from there: another layer's
    # seed is never met by adding one. XLA takes 32 bits, as Keras does.
    layer = tf.cast(tf.math.floormod(seed[0], tf.int32.max - 1), tf.int32)
    words = tf.random.stateless_uniform(
        (2,), tf.stack([layer, number]), minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    folded = tf.cast(words, seed.dtype) + tf.stack([tf.zeros_like(seed[1]), seed[1]])
    return tf.where(number == 0, seed, folded)

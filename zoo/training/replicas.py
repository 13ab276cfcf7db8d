"""Tensors of all replicas, seen from one of them (TensorFlow only)."""

from typing import Any

import tensorflow as tf


def count_replicas() -> int:
    """Number of replicas that a step runs on."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(tensors: Any) -> Any:
    """The sum over all replicas of each tensor in a structure; gradients flow back through it, summed likewise."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    flat = tf.nest.flatten(tensors)
    return tf.nest.pack_sequence_as(tensors, context.all_reduce(tf.distribute.ReduceOp.SUM, flat)) if flat else tensors


def gather_rows(rows: Any) -> tuple[Any, Any]:
    """The rows of all replicas, and where this replica's begin among them.

    Replicas may have different numbers of rows. Gradients flow back to the replica that a row is from. It is done by
    adding up tables in which the others' rows are zero: `all_gather` fails inside a step on CPUs.

    Args:
        rows: (rows, width) of this replica.

    Returns:
        (rows of all, width), in the order of the replicas; and an int32 scalar.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return rows, 0
    own = tf.shape(rows)[0]
    place = tf.cast(context.replica_id_in_sync_group, tf.int32)
    counts = sum_over_replicas(tf.one_hot(place, context.num_replicas_in_sync, dtype=tf.int32) * own)
    first = tf.reduce_sum(counts[:place])
    table = tf.pad(rows, [[first, tf.reduce_sum(counts) - first - own], [0, 0]])
    return sum_over_replicas(table), first

"""On which devices a run takes place (TensorFlow only)."""

import os
from typing import Any

import tensorflow as tf

from recipes.engine.cluster import counts_several_workers, find_cluster
from zoo.errors import UserError


def make_strategy(name: str, batch_size: int, accumulate: int = 1, cluster: str = "auto") -> tf.distribute.Strategy:
    """Open a strategy.

    Args:
        name: "one" device; "mirrored", all GPUs of this machine, or its logical CPU devices where it has none;
            "multiworker", all devices of several machines or processes; "tpu", the one that `TPU_NAME` names, or of
            this machine; "auto", several workers where this process was started as one of them, a TPU where `TPU_NAME`
            is set, mirrored where there are several GPUs, and else one.
        batch_size: the global batch, which the replicas share evenly.
        accumulate: micro-batches, which a replica's part divides into.
        cluster: how to find several workers; see `find_cluster`.

    Raises:
        UserError: the batch does not divide by the number of replicas, or workers or TPU cannot be found.
    """
    strategy = _open(_choose(name), cluster)
    replicas = strategy.num_replicas_in_sync
    if batch_size % (replicas * accumulate):
        parts = f"{replicas}" if accumulate == 1 else f"{replicas} times --accumulate, {replicas * accumulate}"
        raise UserError(f"--batch-size is {batch_size}, and must be a multiple of the number of replicas, {parts}")
    return strategy


def _choose(name: str) -> str:
    if name != "auto":
        return name
    if counts_several_workers():
        return "multiworker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _open(name: str, cluster: str) -> Any:
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=find_cluster(cluster))
    if name == "tpu":
        return _open_tpu()
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    # Collective operations of two strategies in one process are taken for each other on CPUs, and fail.
    across = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in devices], cross_device_ops=across)


def _open_tpu() -> Any:
    """Untested: it follows TensorFlow's guide, and the step has no path of its own for TPUs."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"--strategy tpu finds no TPU ({first:.200}): set TPU_NAME, or run on a TPU VM") from None
    return tf.distribute.TPUStrategy(resolver)

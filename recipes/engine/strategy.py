"""On which devices a run takes place (TensorFlow only)."""

import tensorflow as tf

from zoo.errors import UserError


def make_strategy(name: str, batch_size: int) -> tf.distribute.Strategy:
    """Open a strategy.

    Args:
        name: "one" device; "mirrored", all GPUs of this machine, or its logical CPU devices where it has none;
            "auto", mirrored where there are several GPUs.
        batch_size: the global batch, which the replicas share evenly.

    Raises:
        UserError: the batch does not divide by the number of replicas.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size is {batch_size}, and must be a multiple of the number of replicas, {len(devices)}"
        )
    # Collective operations of two strategies in one process are taken for each other on CPUs, and fail.
    across = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in devices], cross_device_ops=across)

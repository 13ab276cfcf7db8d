"""What a model makes of batches, outside of `fit` (TensorFlow only)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from recipes.data.batches import Batches


def each_output(model: Any, batches: Batches) -> Iterator[tuple[int, Any, dict[str, np.ndarray]]]:
    """Number, batch and outputs by name of every batch, one after another, on one device."""

    @tf.function(reduce_retracing=True)
    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = model(inputs, training=False)
        return {name: outputs[name] for name in model.output_names}

    assert batches.num_batches is not None
    for step in range(batches.num_batches):
        batch = batches.batch(step)
        outputs = run({name: tf.constant(value) for name, value in batch[0].items()})
        yield step, batch, {name: value.numpy() for name, value in outputs.items()}

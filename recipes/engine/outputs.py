"""What a model makes of batches, outside of `fit` (TensorFlow only)."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from recipes.data.batches import Batches

Run = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]

_runs: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def each_output(model: Any, batches: Batches) -> Iterator[tuple[int, Any, dict[str, np.ndarray]]]:
    """Number, batch and outputs by name of every batch, one after another, on one device."""
    if model not in _runs:  # traced once, however often a training evaluates
        _runs[model] = _trace(weakref.ref(model))
    run = _runs[model]
    assert batches.num_batches is not None
    for step in range(batches.num_batches):
        batch = batches.batch(step)
        outputs = run({name: tf.constant(value) for name, value in batch[0].items()})
        yield step, batch, {name: value.numpy() for name, value in outputs.items()}


def _trace(model_of: Callable[[], Any]) -> Run:
    """The model as a function, which does not keep it alive."""

    @tf.function(reduce_retracing=True)
    def run(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        model = model_of()
        outputs = model(inputs, training=False)
        return {name: outputs[name] for name in model.output_names}

    return run

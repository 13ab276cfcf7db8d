"""TensorFlow itself: a model as a SavedModel that TensorFlow Serving loads, with no Python of ours and no Keras."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from export.runtimes import SIGNATURE
from zoo.model import Axis, ZooModel


def write_saved_model(model: ZooModel, directory: Path) -> None:
    """Write `model` to `directory`, which for TensorFlow Serving is NAME/VERSION, VERSION a number.

    The one signature, `serving_default`, takes and returns tensors under the model's own names. Axes that vary are
    free. The variables are kept under their checkpoint names in the attribute `weights` of the loaded object.

    Raises:
        OSError, tf.errors.OpError: it cannot be written.
    """
    signature = tf.function(lambda **inputs: named_outputs(model, inputs)).get_concrete_function(**tensor_specs(model))
    module = tf.Module()
    module.weights = {name: weight.value for name, weight in model.named_weights().items()}
    tf.saved_model.save(module, str(directory), signatures={SIGNATURE: signature})


def tensor_specs(model: ZooModel) -> dict[str, tf.TensorSpec]:
    """The inputs as TensorFlow's specs, by name."""
    return {
        spec.name: tf.TensorSpec(
            [None if isinstance(size, Axis) else size for size in spec.shape], spec.dtype, name=spec.name
        )
        for spec in model.input_specs
    }


def named_outputs(model: ZooModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """The forward pass that every format holds: the outputs that the model names, dropout off."""
    outputs = model(inputs, training=False)
    return {name: outputs[name] for name in model.output_names}

"""TensorFlow itself: a model as a SavedModel that TensorFlow Serving loads, with no Python of ours and no Keras."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from export.guards import guarded
from export.signatures import (
    SERVING,
    Signature,
    Tensors,
    generates,
    gives_classes,
    serving_cache_signatures,
    signatures,
)
from zoo.image.graph import preprocess_encoded
from zoo.model import Axis, TensorSpec, ZooModel

IMAGE_BYTES = "image_bytes"  # the end of the name is what TensorFlow Serving knows base64 by


def write_saved_model(model: ZooModel, directory: Path, functions: Sequence[Signature]) -> None:
    """Write `functions` of `model` to `directory`, which for TensorFlow Serving is NAME/VERSION, VERSION a number.

    Each function is a signature, and takes and returns tensors under its own names. Axes that vary are free. The
    variables are kept under their checkpoint names in the attribute `weights` of the loaded object.

    Raises:
        OSError, tf.errors.OpError: it cannot be written.
    """
    module = tf.Module()
    module.weights = {name: weight.value for name, weight in model.named_weights().items()}
    traced = {function.name: trace(function) for function in functions}
    tf.saved_model.save(module, str(directory), signatures=traced)


def served_signatures(model: ZooModel) -> list[Signature]:
    """The functions of the plain SavedModel: core TensorFlow's operators alone.

    Beside those of `export.signatures.signatures`, these: for a language model `prefill` and `decode`; for a model that
    sees colours one that takes the content of image files, `image_bytes`, string (batch,), and preprocesses them as
    training does: `image_bytes`, which gives what `serving_default` does, or for two towers `encode_image_bytes`. Where
    classes have names, `label`, string, is the likeliest one's, beside the probabilities. Each looks at what it is
    given first, as `export.guards.guarded` says.
    """
    found = _named_signatures(model)
    if generates(model):
        found += serving_cache_signatures(model)
    if model.preprocessing is not None:
        found.append(decoding(model, lambda files: read_files(files, model)))
    return [guarded(each) for each in found]


def read_files(files: Any, model: ZooModel) -> Any:
    """The content of image files, string (batch,), as what the model takes as `images`. The error of one that cannot be
    decoded names `image_bytes`, as the place where it arose."""
    with tf.name_scope(IMAGE_BYTES):
        return preprocess_encoded(files, model.preprocessing)


def decoding(model: ZooModel, read: Callable[[Any], Any]) -> Signature:
    """The function that takes `image_bytes`.

    Args:
        model: with preprocessing.
        read: the content of files, string (batch,), to what the model takes as `images`.
    """
    by_name = {each.name: each for each in _named_signatures(model)}
    seen = by_name.get("encode_image", by_name[SERVING])
    name = IMAGE_BYTES if seen.name == SERVING else f"encode_{IMAGE_BYTES}"
    spec = TensorSpec(IMAGE_BYTES, "string", (Axis("batch"),))
    return Signature(name, (spec,), seen.outputs, lambda inputs: seen.compute({"images": read(inputs[IMAGE_BYTES])}))


def _named_signatures(model: ZooModel) -> list[Signature]:
    return [_naming(model, each) if each.name == SERVING else each for each in signatures(model)]


def trace(function: Signature) -> Any:
    """A signature as TensorFlow's concrete function."""

    def compute(**tensors: Any) -> Tensors:
        outputs = function.compute(tensors)
        return {name: outputs[name] for name in function.outputs}

    return tf.function(compute).get_concrete_function(**tensor_specs(function.inputs))


def tensor_specs(specs: Sequence[TensorSpec]) -> dict[str, tf.TensorSpec]:
    """Inputs as TensorFlow's specs, by name."""
    return {
        spec.name: tf.TensorSpec(
            [None if isinstance(size, Axis) else size for size in spec.shape], spec.dtype, name=spec.name
        )
        for spec in specs
    }


def _naming(model: ZooModel, function: Signature) -> Signature:
    """With the name of the likeliest class, where classes have names."""
    if not (model.labels and gives_classes(model)):
        return function
    names = [*model.labels]

    def compute(inputs: Tensors) -> Tensors:
        outputs = function.compute(inputs)
        return {**outputs, "label": tf.gather(tf.constant(names), tf.argmax(outputs["logits"], axis=-1))}

    return dataclasses.replace(function, outputs=(*function.outputs, "label"), compute=compute)

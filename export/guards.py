"""Malformed requests refused inside the graph, by operators of core TensorFlow, whoever runs it: see `guarded`."""

import dataclasses
from typing import Any

import tensorflow as tf

from export.signatures import ALL, PAST, Signature, Tensors
from zoo.model import Axis, TensorSpec


def guarded(function: Signature) -> Signature:
    """The same function, which looks at what it is given before it computes anything.

    It refuses, as TensorFlow's InvalidArgumentError that names the input: another rank or another size of an axis than
    is stated; a sequence of no tokens, or of more than an axis allows; sizes that differ between inputs with the same
    axis (of two towers, images and texts need not be equally many); integers below 0 or above the highest; images that
    are not finite numbers; a mask that is not of the cache and the tokens together. A GPU, or a compiled graph, would
    answer some of these with numbers that mean nothing.

    Strings are taken as they are. A batch of no rows has no answers.
    """

    def compute(inputs: Tensors) -> Tensors:
        return function.compute(_checked(function, inputs))

    return dataclasses.replace(function, compute=compute)


def _checked(function: Signature, inputs: Tensors) -> Tensors:
    # Its message has the operator's name. It runs even if the shape is known where it is traced.
    shaped = {
        spec.name: tf.ensure_shape(
            inputs[spec.name],
            [None if isinstance(size, Axis) else size for size in spec.shape],
            name=f"shape_of_{spec.name}",
        )
        for spec in function.inputs
    }
    checks = [check for spec in function.inputs for check in _check_values(spec, shaped[spec.name])]
    with tf.control_dependencies([*checks, *_check_sizes(function.inputs, shaped)]):
        return {name: tf.identity(tensor) for name, tensor in shaped.items()}


def _check_values(spec: TensorSpec, tensor: Any) -> list[Any]:
    name, dtype = spec.name, tf.as_dtype(spec.dtype)
    if spec.dtype == "int32":
        checks = [tf.debugging.assert_non_negative(tensor, f"{name} has a number below 0")]
        if spec.highest is not None:
            message = f"{name} has a number above {spec.highest}, the highest there is"
            checks.append(tf.debugging.assert_less_equal(tensor, tf.constant(spec.highest, dtype), message))
        return checks
    if dtype.is_floating and not any(isinstance(size, Axis) and size.name == PAST for size in spec.shape):
        return [tf.debugging.assert_all_finite(tensor, f"{name} has something that is no finite number")]
    return []


def _check_sizes(specs: tuple[TensorSpec, ...], tensors: Tensors) -> list[Any]:
    checks, seen = [], {}
    for spec in specs:
        for place, axis in enumerate(spec.shape):
            if not isinstance(axis, Axis):
                continue
            size = tf.shape(tensors[spec.name])[place]
            if axis.maximum is not None and axis.name != PAST:
                message = f"{spec.name} has to have from 1 to {axis.maximum} {axis.name}"
                checks.append(tf.debugging.Assert((size >= 1) & (size <= axis.maximum), [message, size]))
            key = "images" if spec.name == "images" else axis.name
            if key not in seen:
                seen[key] = spec.name, size
            first, expected = seen[key]
            if first != spec.name:
                message = f"{first} and {spec.name} have to have equally many {axis.name}"
                checks.append(tf.debugging.assert_equal(size, expected, message))
    if ALL in seen and "tokens" in seen:
        read = seen["tokens"][1] + (seen[PAST][1] if PAST in seen else 0)
        message = f"{seen[ALL][0]} has to be as long as the cache and {seen['tokens'][0]} together"
        checks.append(tf.debugging.assert_equal(seen[ALL][1], read, message))
    return checks

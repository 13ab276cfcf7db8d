"""A batch taken in parts, so that one that does not fit into memory gives the very gradient of the whole (TensorFlow
only)."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def split(data: Any, parts: int) -> Any:
    """Each tensor (rows, ...) of a structure to (parts, rows / parts, ...).

    Raises:
        ValueError: the rows do not divide by `parts`. Where their number is known only as the step runs, it is an
            InvalidArgumentError of TensorFlow's.
    """

    def divide(tensor: Any) -> Any:
        if tensor is None:
            return None
        rows, message = tensor.shape[0], f"a replica's part of the batch must divide into {parts} micro-batches"
        if rows is not None and rows % parts:
            raise ValueError(f"{message}, and has {rows} rows: drop the last batch, or give it as many")
        if rows is None:
            check = tf.debugging.assert_equal(tf.shape(tensor)[0] % parts, 0, message=message)
            with tf.control_dependencies([check] if check is not None else []):
                tensor = tf.identity(tensor)
        shape = tf.shape(tensor)
        divided = tf.reshape(tensor, tf.concat([[parts, shape[0] // parts], shape[1:]], 0))
        return tf.ensure_shape(divided, [parts, None if rows is None else rows // parts, *tensor.shape[1:]])

    return tf.nest.map_structure(divide, data)


def take(parts: Any, place: Any) -> Any:
    """Part `place` of what `split` made."""
    return tf.nest.map_structure(lambda tensor: None if tensor is None else tensor[place], parts)


def add_up(count: int, gradients_of: Callable[[Any], list[Any]], weights: list[Any]) -> list[Any]:
    """The sum of `gradients_of(place)` over `count` places, one after the other.

    Args:
        count: how many.
        gradients_of: given a place, an int32 scalar, makes the dense gradients of the weights; None for one without.
        weights: of which gradients are taken.
    """
    without: list[bool] = []

    def body(place: Any, sums: list[Any]) -> tuple[Any, list[Any]]:
        gradients = gradients_of(place)
        without[:] = [gradient is None for gradient in gradients]
        return place + 1, [total if each is None else total + each for total, each in zip(sums, gradients, strict=True)]

    zeros = [tf.zeros(weight.shape, weight.dtype) for weight in weights]
    sums = in_turn(count, body, zeros)
    return [None if none else total for none, total in zip(without, sums, strict=True)]


def collect(count: int, rows_of: Callable[[Any], list[Any]], specs: list[tf.TensorSpec]) -> list[Any]:
    """What `rows_of(place)` gives for `count` places, each tensor (rows, ...) joined to (count * rows, ...).

    Args:
        count: how many.
        rows_of: given a place, an int32 scalar, makes a list of tensors.
        specs: shape and dtype of each.
    """

    def body(place: Any, arrays: list[Any]) -> tuple[Any, list[Any]]:
        return place + 1, [array.write(place, rows) for array, rows in zip(arrays, rows_of(place), strict=True)]

    arrays = [tf.TensorArray(spec.dtype, count, element_shape=spec.shape) for spec in specs]
    return [array.concat() for array in in_turn(count, body, arrays)]


def in_turn(count: int, body: Callable[..., tuple[Any, list[Any]]], state: list[Any]) -> list[Any]:
    """What is left of `state` after `place, state = body(place, state)` for `count` places, one after the other: no two
    of them in memory at once."""
    _, state = tf.while_loop(
        lambda place, state: place < count,
        body,
        (tf.constant(0), state),
        maximum_iterations=count,
        parallel_iterations=1,
    )
    return state

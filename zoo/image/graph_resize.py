"""Needs TensorFlow: Pillow's resize of 8-bit images as a graph, bit for bit.

Pillow (`Resample.c`) weighs input pixels along one axis, rounds to bytes, and goes on along the other. The weights are
a filter's values in float64, scaled to sum up to 1, and rounded to fixed-point numbers of 22 bits, so that all that
follows is exact in 32-bit integers. Where an image shrinks, the filter is stretched as much: that is the antialiasing.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from zoo.image.preprocessing import is_vertical_first

PRECISION = 22  # bits; with 8 for a byte, 2 are left for weights that sum up to more than 1 on one side


def resize_image(picture: tf.Tensor, height: tf.Tensor, width: tf.Tensor, resample: str) -> tf.Tensor:
    """Resize uint8 (height, width, 3) to the int32 scalars `height` and `width` by a filter of Pillow's."""
    resample_axis = _nearest if resample == "nearest" else _weigh
    shape = tf.shape(picture)

    def along_columns(x: tf.Tensor) -> tf.Tensor:
        return resample_axis(x, height, resample)

    def along_rows(x: tf.Tensor) -> tf.Tensor:
        # A row of the transposed picture is a column, whose pixels can be taken and weighed all at once.
        return tf.transpose(resample_axis(tf.transpose(x, [1, 0, 2]), width, resample), [1, 0, 2])

    def resize() -> tf.Tensor:
        return tf.cond(
            is_vertical_first(shape[0], shape[1], height, width),
            lambda: along_rows(along_columns(picture)),
            lambda: along_columns(along_rows(picture)),
        )

    is_same = (shape[0] == height) & (shape[1] == width)
    return tf.ensure_shape(tf.cond(is_same, lambda: picture, resize), [None, None, 3])


def _weigh(x: tf.Tensor, size: tf.Tensor, resample: str) -> tf.Tensor:
    """Resample uint8 (rows, other, 3) to `size` rows."""
    first, weights = _weights(tf.shape(x)[0], size, resample)  # (size,), (size, taps)
    last_row = tf.shape(x)[0] - 1

    def add(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Beyond the last row the weights are zero, whatever they are multiplied with.
        rows = tf.gather(x, tf.minimum(first + tap, last_row))
        return tap + 1, total + tf.cast(rows, tf.int32) * weights[:, tap, None, None]

    half = tf.fill([size, tf.shape(x)[1], 3], 1 << (PRECISION - 1))  # so that cutting off the fraction rounds
    taps = tf.shape(weights)[1]
    _, total = tf.while_loop(lambda tap, _: tap < taps, add, [tf.constant(0), half])
    return tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, PRECISION), 0, 255), tf.uint8)


def _weights(old: tf.Tensor, new: tf.Tensor, resample: str) -> tuple[tf.Tensor, tf.Tensor]:
    """The first input row of each output row, int32 (new,), and the weights from there on, int32 (new, taps).

    The order of these operations is Pillow's: their rounding decides at the edges of the box filter.
    """
    function, support = FILTERS[resample]
    scale = tf.cast(old, tf.float64) / tf.cast(new, tf.float64)
    stretch = tf.maximum(scale, 1.0)
    support = support * stretch
    center = (tf.cast(tf.range(new), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(center - support + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(center + support + 0.5, tf.int32), old)
    row = first[:, None] + tf.range(tf.cast(tf.math.ceil(support), tf.int32) * 2 + 1)
    weights = function((tf.cast(row, tf.float64) - center[:, None] + 0.5) * (1.0 / stretch))
    weights = tf.where(row < end[:, None], weights, 0.0)
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    fixed = weights / tf.where(total != 0.0, total, 1.0) * (1 << PRECISION)
    return first, tf.cast(tf.where(fixed < 0.0, fixed - 0.5, fixed + 0.5), tf.int32)


def _nearest(x: tf.Tensor, size: tf.Tensor, _: str) -> tf.Tensor:
    """Take the nearest of the rows of (rows, other, 3) for each of `size` rows."""
    scale = tf.cast(tf.shape(x)[0], tf.float64) / tf.cast(size, tf.float64)
    # A running sum, as in Pillow: a product would fall on the other side of a border now and then.
    steps = tf.concat([[scale * 0.5], tf.fill([size - 1], scale)], axis=0)
    return tf.gather(x, tf.cast(tf.cumsum(steps), tf.int32))


def _box(x: tf.Tensor) -> tf.Tensor:
    return tf.cast((x > -0.5) & (x <= 0.5), tf.float64)


def _bilinear(x: tf.Tensor) -> tf.Tensor:
    x = tf.abs(x)
    return tf.where(x < 1.0, 1.0 - x, 0.0)


def _hamming(x: tf.Tensor) -> tf.Tensor:
    x = tf.abs(x)
    window = float(np.float32(0.54)) + float(np.float32(0.46)) * tf.cos(x * math.pi)  # single precision in Pillow
    return tf.where(x < 1.0, _sinc(x) * window, 0.0)


def _bicubic(x: tf.Tensor) -> tf.Tensor:
    a = -0.5
    x = tf.abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return tf.where(x < 1.0, inner, tf.where(x < 2.0, outer, 0.0))


def _lanczos(x: tf.Tensor) -> tf.Tensor:
    return tf.where((x >= -3.0) & (x < 3.0), _sinc(x) * _sinc(x / 3.0), 0.0)


def _sinc(x: tf.Tensor) -> tf.Tensor:
    angle = tf.where(x != 0.0, x * math.pi, 1.0)
    return tf.where(x != 0.0, tf.sin(angle) / angle, 1.0)


# How far each reaches to either side where nothing shrinks, in input pixels.
FILTERS: dict[str, tuple[Callable[[tf.Tensor], tf.Tensor], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}

"""Needs TensorFlow: decoding and `preprocess` as a graph, for `tf.data` and for models that take encoded images.

Everything here is core TensorFlow and works with sizes that are known only at run time. From the same pixels it makes
what `zoo.image.preprocess` makes, bit for bit. The pixels themselves are those of `read_image`, except that

- CMYK JPEGs differ by up to 1 of 255,
- of EXIF, only a JPEG's is read (not a PNG's or WebP's, nor the orientation in an XMP record),
- transparent pixels of a GIF are black, and a first frame smaller than the GIF is taken without what surrounds it,
- animated WebPs, and BMPs with a palette, compression or OS/2's header, are refused,
- the largest image is TensorFlow's, 2^29 values.
"""

import tensorflow as tf
from PIL import Image

from zoo.errors import UserError
from zoo.image.graph_resize import resize_image
from zoo.image.preprocessing import Preprocessing

EXIF_MARKER = 0xE1
SCAN_MARKER = 0xDA  # from here on, a JPEG is pixels
MOST_SEGMENTS = 64
ORIENTATION_TAG = 0x0112
SHORT = 3  # EXIF's number for 16-bit values


def preprocess_encoded(data: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decode and preprocess a batch.

    Args:
        data: string (batch,), each the content of a JPEG, PNG, WebP, BMP or GIF file.
        preprocessing: how.

    Returns:
        float32 (batch, height, width, 3). Content that cannot be decoded is TensorFlow's InvalidArgumentError.

    Raises:
        UserError: `preprocessing` leaves images with different sizes.
    """
    if preprocessing.output_size is None:
        raise UserError("images of different sizes make no batch: set crop_height and crop_width, or height and width")
    return tf.map_fn(
        lambda each: preprocess_image(decode_image(each), preprocessing),
        data,
        fn_output_signature=tf.TensorSpec([*preprocessing.output_size, 3], tf.float32),
    )


def preprocess_image(picture: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resize, crop and normalise one picture, uint8 (height, width, 3), to float32 (height, width, 3)."""
    with tf.device("CPU:0"):  # where float64 is the same everywhere
        shape = tf.shape(picture)
        height, width = _resized_size(shape[0], shape[1], preprocessing)
        picture = resize_image(picture, height, width, preprocessing.resample)
        if preprocessing.crop_height is not None and preprocessing.crop_width is not None:
            picture = crop_center(picture, preprocessing.crop_height, preprocessing.crop_width)
        table = tf.constant(preprocessing.table().reshape(-1))
        values = tf.gather(table, tf.cast(picture, tf.int32) * 3 + tf.range(3))
        return tf.ensure_shape(values, [*(preprocessing.output_size or (None, None)), 3])


def crop_center(picture: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The middle (height, width, 3) of a picture, with zeros around it where it is smaller."""
    wanted = tf.constant([height, width])
    size = tf.shape(picture)[:2]
    start = (size - wanted) // 2  # rounded down, negative where there is too little
    window = tf.maximum(start, 0)
    end = window + tf.minimum(size, wanted)
    picture = picture[window[0] : end[0], window[1] : end[1]]
    before = tf.maximum(-start, 0)
    after = wanted - before - tf.shape(picture)[:2]
    return tf.pad(picture, tf.concat([tf.stack([before, after], axis=1), [[0, 0]]], axis=0))


def decode_image(data: tf.Tensor) -> tf.Tensor:
    """Decode the content of one file, a string scalar, to uint8 (height, width, 3), upright. See the module for what
    differs from `read_image`."""
    with tf.device("CPU:0"):
        picture = tf.cond(tf.io.is_jpeg(data), lambda: _decode_jpeg(data), lambda: _decode_other(data))
        return tf.ensure_shape(picture, [None, None, 3])


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    # The exact transform is the one that Pillow uses; TensorFlow's default differs from it by up to 15 of 255.
    picture = tf.io.decode_jpeg(data, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE")
    return apply_orientation(picture, read_orientation(data))


def _decode_other(data: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies(_require_decodable(data)):
        # With 3 channels asked for, it would refuse a WebP with transparency.
        picture = tf.io.decode_image(data, channels=0, expand_animations=False)
    # Gray, gray and alpha, RGB, or RGB and alpha.
    is_gray = tf.shape(picture)[2] < 3
    return tf.gather(picture, tf.where(is_gray, [0, 0, 0], [0, 1, 2]), axis=2)


def _require_decodable(data: tf.Tensor) -> list[tf.Operation]:
    """Refuse what TensorFlow 2.21 decodes to wrong pixels, or past the end of its memory."""
    start = tf.strings.join([tf.strings.substr(data, 0, 34), b"\0" * 34])
    head = _bytes(start, 0, 34)

    def has(name: bytes, at: int) -> tf.Tensor:
        return tf.strings.substr(start, at, len(name)) == name

    # The header's own size, the bits of a pixel, and the compression.
    plain = (head[14] >= 40) & (head[28] >= 24) & (head[30] == 0)
    animated = has(b"WEBP", 8) & has(b"VP8X", 12) & (tf.bitwise.bitwise_and(head[20], 2) > 0)
    return [
        tf.debugging.Assert(~has(b"BM", 0) | plain, ["a BMP with a palette, compression or an old header: convert it"]),
        tf.debugging.Assert(~animated, ["an animated WebP: convert it"]),
    ]


def apply_orientation(picture: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn and mirror a picture (height, width, 3) by EXIF's orientation, 1 to 8, so that it is upright."""

    def is_one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values))

    picture = tf.cond(orientation >= 5, lambda: tf.transpose(picture, [1, 0, 2]), lambda: picture)
    picture = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(picture, [1]), lambda: picture)
    return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(picture, [0]), lambda: picture)


def read_orientation(data: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG file's content, a string scalar: int32, 1 where there is none."""
    end = tf.strings.length(data)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return (_bytes(data, at, 2)[1] == EXIF_MARKER) & (tf.strings.substr(data, at + 4, 6) == b"Exif\0\0")

    def is_other(at: tf.Tensor) -> tf.Tensor:
        """Whether a segment begins there that is neither EXIF nor pixels."""

        def look() -> tf.Tensor:
            marker = _bytes(data, at, 2)
            return (marker[0] == 0xFF) & (marker[1] != SCAN_MARKER) & ~is_exif(at)

        return tf.cond(at + 10 <= end, look, lambda: False)

    def skip(at: tf.Tensor) -> list[tf.Tensor]:
        size = _bytes(data, at + 2, 2)
        return [at + 2 + size[0] * 256 + size[1]]

    # EXIF comes first, or after a few others; nobody is to keep this busy with millions of empty ones.
    (at,) = tf.while_loop(is_other, skip, [tf.constant(2)], maximum_iterations=MOST_SEGMENTS)

    def read() -> tf.Tensor:
        size = _bytes(data, at + 2, 2)
        size = tf.minimum(size[0] * 256 + size[1] - 8, end - at - 10)
        return tf.cond(is_exif(at) & (size >= 8), lambda: _orientation_in(_bytes(data, at + 10, size)), lambda: 1)

    return tf.cond(at + 10 <= end, read, lambda: 1)


def _orientation_in(exif: tf.Tensor) -> tf.Tensor:
    """The orientation in an EXIF block, int32 (bytes,): a TIFF file whose first directory has 12 bytes an entry."""
    # Numbers have their low byte first in "II" files, and last in "MM" files.
    is_little = exif[0] == ord("I")

    def number(parts: tf.Tensor) -> tf.Tensor:
        """Bytes (..., n) as numbers (...,)."""
        places = tf.range(tf.shape(parts)[-1])
        places = tf.where(is_little, places, tf.reverse(places, [0]))
        shifted = tf.bitwise.left_shift(tf.cast(parts, tf.int64), tf.cast(8 * places, tf.int64))
        return tf.reduce_sum(shifted, axis=-1)

    size = tf.size(exif, tf.int64)
    start = number(exif[4:8])
    count = number(tf.pad(exif, [[0, 2]])[start : start + 2])
    count = tf.minimum(count, tf.maximum(size - start - 2, 0) // 12)
    entries = tf.reshape(exif[start + 2 : start + 2 + 12 * count], [-1, 12])
    found = (number(entries[:, 0:2]) == ORIENTATION_TAG) & (number(entries[:, 2:4]) == SHORT)
    values = tf.boolean_mask(number(entries[:, 8:10]), found)
    # The last one counts where there are several; 1 where there is none.
    value = tf.concat([tf.constant([1], tf.int64), values], axis=0)[-1]
    return tf.where((value >= 1) & (value <= 8), tf.cast(value, tf.int32), 1)


def _bytes(data: tf.Tensor, start: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
    """Bytes of a string scalar as int32 (size,)."""
    return tf.cast(tf.io.decode_raw(tf.strings.substr(data, start, size), tf.uint8), tf.int32)


def _resized_size(height: tf.Tensor, width: tf.Tensor, preprocessing: Preprocessing) -> tuple[tf.Tensor, tf.Tensor]:
    """`Preprocessing.resized_size` of int32 scalars."""
    if preprocessing.height is not None and preprocessing.width is not None:
        return tf.constant(preprocessing.height), tf.constant(preprocessing.width)
    if preprocessing.shortest_edge is None:
        return height, width
    edges = preprocessing.shortest_edge * tf.cast(tf.stack([height, width]), tf.int64)
    resized = edges // tf.cast(tf.minimum(height, width), tf.int64)
    limit = Image.MAX_IMAGE_PIXELS or resized.dtype.max
    is_small = tf.debugging.Assert(tf.reduce_prod(resized) <= limit, ["the image is too long to resize"])
    with tf.control_dependencies([is_small]):  # or else it would be resized in the meantime
        resized = tf.cast(resized, tf.int32)
    return resized[0], resized[1]

"""From decoded images to a vision model's `images` input, with NumPy and Pillow. `zoo.image.graph` is its double."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from zoo.errors import UserError
from zoo.image.decode import require_pixels
from zoo.image.huggingface import FILTERS
from zoo.image.preprocessing import Preprocessing, is_vertical_first


def preprocess(images: Sequence[np.ndarray], preprocessing: Preprocessing) -> np.ndarray:
    """Resize, crop and normalise.

    Args:
        images: each uint8 (height, width, 3), of any size.
        preprocessing: how.

    Returns:
        float32 (batch, height, width, 3), bit for bit what `zoo.image.graph` computes.

    Raises:
        UserError: an image has another dtype or shape, or would become too large; or the images end up with different
            sizes, which `preprocessing` allows if it neither crops nor resizes to an exact size.
    """
    table = preprocessing.table()
    batch = [normalize(fit_image(picture, preprocessing), table) for picture in images]
    if len({picture.shape for picture in batch}) > 1:
        raise UserError("the images of a batch end up with different sizes: set the crop's, or the exact size")
    return np.stack(batch) if batch else np.zeros((0, *(preprocessing.output_size or (0, 0)), 3), np.float32)


def resize_image(picture: np.ndarray, height: int, width: int, resample: str) -> np.ndarray:
    """Resize uint8 (height, width, 3) by one of Pillow's filters, antialiased except for "nearest".

    Each axis is a call of its own. Pillow rounds to bytes between the two, so that their order shows in the result by
    one step of 255, and its order is another since release 13: this way every release gives the same pixels.
    """
    image = Image.fromarray(picture)
    vertical_first = is_vertical_first(image.height, image.width, height, width)
    first = (image.width, height) if vertical_first else (width, image.height)
    number = Image.Resampling(FILTERS.index(resample))
    return np.asarray(image.resize(first, number).resize((width, height), number))


def crop_center(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle (height, width, 3) of a picture, with zeros around it where it is smaller."""
    window, padding = [], []
    for size, wanted in zip(picture.shape[:2], (height, width), strict=True):
        start = (size - wanted) // 2  # rounded down, so that a padded picture lies a pixel low rather than high
        window.append(slice(max(start, 0), max(start, 0) + min(size, wanted)))
        padding.append((max(-start, 0), max(wanted - size + min(start, 0), 0)))
    return np.pad(picture[tuple(window)], [*padding, (0, 0)])


def fit_image(picture: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resize and crop one picture, uint8 (height, width, 3), to another; the first part of `preprocess`, which see."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise UserError(f"an image is {picture.dtype} {picture.shape}, and must be uint8 (height, width, 3)")
    height, width = preprocessing.resized_size(*picture.shape[:2])
    require_pixels(height, width, "the resized image")  # the shortest edge of a very long one
    if (height, width) != picture.shape[:2]:
        picture = resize_image(picture, height, width, preprocessing.resample)
    if preprocessing.crop_height is not None and preprocessing.crop_width is not None:
        picture = crop_center(picture, preprocessing.crop_height, preprocessing.crop_width)
    return picture


def normalize(pictures: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Bytes (..., 3) as `Preprocessing.table` has them, float32; the second part of `preprocess`."""
    return table[pictures, np.arange(3)]

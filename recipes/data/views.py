"""Images as arrays for a model: as an evaluation and an export see them, or cropped and mirrored at random."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from recipes.data.augmentation import NONE, Augmentation, draw_box
from zoo.errors import UserError
from zoo.image import Preprocessing
from zoo.image.pixels import fit_image, normalize, resize_image

AT_ONCE = 8  # images that a thread takes: of small ones, each is less work than the handing over


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images")


class Views:
    """Makes batches of images; each is read and decoded anew, on all cores.

    Args:
        preprocessing: of the model; the size must not hang on the image.
        augmentation: of which crops and mirroring are made here.

    Attributes:
        height, width: of every view, in pixels.

    Raises:
        UserError: `preprocessing` leaves images with different sizes.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation = NONE) -> None:
        if preprocessing.output_size is None:
            raise UserError("the model's preprocessing leaves images with different sizes, which make no batch")
        self.preprocessing, self.augmentation = preprocessing, augmentation
        self.height, self.width = preprocessing.output_size
        self.table = preprocessing.table()

    def pictures(
        self, read: Callable[[int], np.ndarray], places: Sequence[int] | np.ndarray, draw: np.random.Generator
    ) -> np.ndarray:
        """Views of some images, uint8 (images, height, width, 3).

        Args:
            read: gives an image by its place, uint8 (height, width, 3) of any size.
            places: of the images.
            draw: of the crops and of what is mirrored.
        """
        views = np.empty((len(places), self.height, self.width, 3), np.uint8)
        seeds = draw.integers(2**32, size=len(places)) if self.augmentation.crop_area < 1 else None
        mirrored = draw.random(len(places)) < 0.5 if self.augmentation.flip else np.zeros(len(places), bool)

        def fill(first: int) -> None:
            for place in range(first, min(first + AT_ONCE, len(places))):
                picture = read(int(places[place]))
                if seeds is None:
                    view = fit_image(picture, self.preprocessing)
                else:
                    view = self._crop(picture, np.random.default_rng(seeds[place]))
                views[place] = view[:, ::-1] if mirrored[place] else view

        for _ in _threads().map(fill, range(0, len(places), AT_ONCE)):
            pass
        return views

    def images(
        self, read: Callable[[int], np.ndarray], places: Sequence[int] | np.ndarray, draw: np.random.Generator
    ) -> np.ndarray:
        """The same, normalised: float32 (images, height, width, 3)."""
        return normalize(self.pictures(read, places, draw), self.table)

    def _crop(self, picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        top, left, rows, columns = draw_box(draw, picture.shape[0], picture.shape[1], self.augmentation.crop_area)
        part = picture[top : top + rows, left : left + columns]
        if part.shape[:2] == (self.height, self.width):
            return part
        return resize_image(np.ascontiguousarray(part), self.height, self.width, self.preprocessing.resample)

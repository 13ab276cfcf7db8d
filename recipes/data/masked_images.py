"""Images of which most patches are hidden: made into batches, with which these are."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from recipes.data.augmentation import NONE, Augmentation
from recipes.data.batches import ArraySpec
from recipes.data.grouping import Source
from recipes.data.held_out import hold_out, number_alike
from recipes.data.pictures import Pictures
from recipes.data.views import Views
from zoo.errors import UserError
from zoo.image import Preprocessing


@dataclasses.dataclass(frozen=True)
class Images:
    """Images without labels.

    Attributes:
        pictures: all that were found.
        rows: which of them these are: (rows,) int64.
    """

    pictures: Pictures
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, place: int) -> np.ndarray:
        """An image, uint8 (height, width, 3)."""
        return self.pictures.read(int(self.rows[place]))

    def key(self, place: int) -> bytes:
        """A hash of the pixels of an image."""
        return self.pictures.key(int(self.rows[place]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pixels, in hexadecimal."""
        content = hashlib.sha256()
        for row in self.rows:
            content.update(self.pictures.key(int(row)))
        return content.hexdigest()


def all_images(pictures: Pictures) -> Images:
    """All of them."""
    return Images(pictures, np.arange(len(pictures)))


def split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Share images out to training and validation; those that are alike are in one of them."""
    held_out = hold_out(number_alike(map(images.key, range(len(images)))), fraction, seed)
    return tuple(dataclasses.replace(images, rows=images.rows[each]) for each in (~held_out, held_out))  # type: ignore[return-value]


def count_kept(grid: tuple[int, int], mask_ratio: float) -> int:
    """How many patches of an image are seen.

    Raises:
        UserError: all are, or none is.
    """
    patches = grid[0] * grid[1]
    kept = round(patches * (1 - mask_ratio))
    if not 0 < kept < patches:
        raise UserError(
            f"--mask-ratio is {mask_ratio}, and hides {patches - kept} of {patches} patches: some must be seen, and "
            "some hidden"
        )
    return kept


def draw_masks(draw: np.random.Generator, count: int, patches: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Which patches of each image are kept, and which are not: (count, kept) and (count, patches - kept) int32, each
    image's by itself and all as likely (He et al. 2022, section 3, "Masking"); both in rising order."""
    order = draw.permuted(np.broadcast_to(np.arange(patches, dtype=np.int32), (count, patches)), axis=1)
    return np.sort(order[:, :kept], axis=1), np.sort(order[:, kept:], axis=1)


class MaskedImageSource(Source):
    """Images as batches of one element, the inputs of `zoo.objectives.MaskedPatches`.

    Args:
        images: what to draw from.
        preprocessing: of the model.
        grid: rows and columns of patches.
        mask_ratio: the part of the patches that is hidden.
        augmentation: of which crops and mirroring apply.

    Raises:
        UserError: no patch, or every one, would be hidden.
    """

    length = 1

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        grid: tuple[int, int],
        mask_ratio: float,
        augmentation: Augmentation = NONE,
    ) -> None:
        self.images, self.views = images, Views(preprocessing, augmentation)
        self.patches, self.kept = grid[0] * grid[1], count_kept(grid, mask_ratio)
        self.element: Any = (
            {
                "images": ArraySpec((None, self.views.height, self.views.width, 3), "float32"),
                "kept_patches": ArraySpec((None, self.kept)),
                "masked_patches": ArraySpec((None, self.patches - self.kept)),
            },
        )

    def lengths(self, epoch: int) -> np.ndarray:
        return np.ones(len(self.images), np.int64)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        kept, masked = draw_masks(draw, len(rows), self.patches, self.kept)
        images = self.views.images(self.images.read, rows, draw)
        return ({"images": images, "kept_patches": kept, "masked_patches": masked},)

"""What a model makes of the hidden part of images: pictures beside the originals."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from zoo.files import whole_file
from zoo.image import Preprocessing

MOST = 12
TITLES = ("seen", "completed", "original")
HIDDEN = 128  # gray


def to_bytes(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Normalised images back to uint8, rounded and cut to the range."""
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    return np.clip(np.rint((images * std + mean) / preprocessing.rescale_factor), 0, 255).astype(np.uint8)


def hide(pictures: np.ndarray, masked: np.ndarray, grid: tuple[int, int], patch_size: int) -> np.ndarray:
    """Pictures uint8 (images, height, width, 3) with the patches `masked` (images, hidden) in gray."""
    hidden = pictures.copy()
    for picture, patches in zip(hidden, masked, strict=True):
        for row, column in zip(*np.divmod(patches, grid[1]), strict=True):
            top, left = row * patch_size, column * patch_size
            picture[top : top + patch_size, left : left + patch_size] = HIDDEN
    return hidden


def write_reconstructions(
    run: Path, seen: np.ndarray, completed: np.ndarray, original: np.ndarray, normalized: bool
) -> list[str]:
    """Write `reconstructions.png`, an image a column, from above what was seen, what was made of it, and what it is.

    Args:
        run: the run directory.
        seen, completed, original: uint8 (images, height, width, 3); of the first `MOST`.
        normalized: brightness and contrast of what is completed are the original's.

    Returns:
        Markdown that shows it.
    """
    count = min(len(seen), MOST)
    figure = Figure(figsize=(1.3 * count, 4.1), layout="constrained")
    grid = figure.subplots(3, count, squeeze=False)
    for axes_row, title, pictures in zip(grid, TITLES, (seen, completed, original), strict=True):
        for axes, picture in zip(axes_row, pictures, strict=False):
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        axes_row[0].set_ylabel(title)
    with whole_file(run / "reconstructions.png") as partial:
        figure.savefig(partial, format="png", dpi=110)
    return [
        "![seen, completed, original](reconstructions.png)",
        "",
        "Held-out images."
        + (
            " Brightness and contrast of each completed patch are the original's: pixels are predicted without either."
            if normalized
            else ""
        ),
    ]

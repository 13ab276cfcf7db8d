"""Pictures of what was said of images: a sheet of some, and a sheet of the surest mistakes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from recipes.explanation.lettering import families, letter
from zoo.files import whole_file

COLUMNS, ROWS = 8, 5
THUMBNAIL = 256  # pixels of the longer side: more than a sheet shows


def write_predictions(
    run: Path,
    targets: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    read: Callable[[int], np.ndarray],
) -> list[str]:
    """Write `predictions.png`, of images evenly over all, and `mistakes.png`, of those that the model was surest of.

    Args:
        run: the run directory.
        targets: (rows,) the right classes.
        probabilities: (rows, classes).
        labels: names of the classes.
        read: gives the image of a row, uint8 (height, width, 3).

    Returns:
        Markdown that shows them.
    """
    found = probabilities.argmax(axis=1)
    most = COLUMNS * ROWS
    wrong = np.flatnonzero(found != targets)
    surest = wrong[np.argsort(-probabilities[wrong, found[wrong]], kind="stable")][:most]
    some = np.arange(min(most, len(targets))) * len(targets) // min(most, len(targets))
    lines = []
    for name, title, rows in (
        ("predictions.png", "some held-out images, and what was said of them", some),
        ("mistakes.png", "the surest mistakes", surest),
    ):
        if not len(rows):
            (run / name).unlink(missing_ok=True)  # of a report before this one
            continue
        captions = [_caption(labels, int(found[row]), int(targets[row]), probabilities[row]) for row in rows]
        colours = ["black" if found[row] == targets[row] else "firebrick" for row in rows]
        draw_sheet(run / name, [shrink(read(int(row))) for row in rows], captions, colours)
        lines += [f"![{title}]({name})", ""]
    return lines[:-1]


def _caption(labels: Sequence[str], said: int, right: int, probabilities: np.ndarray) -> str:
    caption = f"{_short(labels[said])} {probabilities[said]:.2f}"
    return caption if said == right else f"{caption}\nis {_short(labels[right])}"


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 (height, width, 3), as a sheet shows it: dozens of a camera's would not fit into memory."""
    from zoo.image.pixels import resize_image

    scale = THUMBNAIL / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return resize_image(picture, height, width, "bilinear")


def draw_sheet(
    path: Path,
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    colours: Sequence[str] | None = None,
    title: str = "",
    columns: int = COLUMNS,
) -> None:
    """Write a PNG of pictures in rows, each under its caption.

    Args:
        path: to write, whole.
        pictures: each uint8 (height, width, 3), of any size; see `shrink`.
        captions: as many.
        colours: of the captions; None for black.
        title: over all of them.
        columns: pictures in a row.
    """
    fonts = ["DejaVu Sans", *families()]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.85 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, (axes, picture, caption) in enumerate(zip(grid.flat, pictures, captions, strict=False)):
        axes.imshow(picture, interpolation="nearest")
        colour = colours[place] if colours else "black"
        lines = "\n".join(map(letter, caption.split("\n")))  # names of files and classes are in any script
        axes.set_title(lines, fontsize=7, color=colour, family=fonts, parse_math=False)
    if title:
        figure.suptitle(letter(title), fontsize=9, family=fonts, parse_math=False, wrap=True)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)

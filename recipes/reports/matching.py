"""How well images and captions find each other: ranks, their figures, and pictures to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from recipes.explanation.lettering import families, letter, wrap
from recipes.reports.images import draw_sheet, shrink
from recipes.reports.retrieval import ROWS_AT_ONCE, retrieval_figures
from zoo.files import whole_file

QUERIES, NEAREST = 8, 5  # captions whose nearest images are shown, and how many of these
MATRIX = 40  # pairs whose similarities are shown
NAMED = 24  # of so few, each is named
COLUMNS, LINES = 24, 3  # of a caption over a picture


class Matches:
    """What belongs together among pairs of images and captions.

    Args:
        pairs: (rows, 2) which image and which caption each row is of, the same number for the same.

    Attributes:
        images, captions: the first row of each different image, and of each different caption.
    """

    def __init__(self, pairs: np.ndarray) -> None:
        self.images, image_of = np.unique(pairs[:, 0], return_index=True, return_inverse=True)[1:]
        self.captions, caption_of = np.unique(pairs[:, 1], return_index=True, return_inverse=True)[1:]
        images_of: list[set[int]] = [set() for _ in self.captions]
        captions_of: list[set[int]] = [set() for _ in self.images]
        for image, caption in zip(image_of.tolist(), caption_of.tolist(), strict=True):
            images_of[caption].add(image)
            captions_of[image].add(caption)
        self._images = [np.array(sorted(images_of[caption])) for caption in caption_of]
        self._captions = [np.array(sorted(captions_of[image])) for image in image_of]

    def right_images(self, row: int) -> np.ndarray:
        """Places in `images` of those that the caption of a row stands beside, in whatever row."""
        return self._images[row]

    def right_captions(self, row: int) -> np.ndarray:
        """Places in `captions` of those that stand beside the image of a row."""
        return self._captions[row]


def match_ranks(queries: np.ndarray, candidates: np.ndarray, right: Callable[[int], np.ndarray]) -> np.ndarray:
    """For each query the place of the first right candidate by falling cosine, (queries,) from 1.

    It is found with any of those that are right. Wrong ones that are as near count as nearer, so that vectors which are
    all alike find nothing.

    Args:
        queries: (queries, width) of length 1.
        candidates: (candidates, width) of length 1, each different one once.
        right: the places of those that are right, by query.
    """
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), ROWS_AT_ONCE):
        for row, cosines in enumerate(queries[start : start + ROWS_AT_ONCE] @ candidates.T, start):
            places = right(row)
            is_before = ~(cosines < cosines[places].max())
            is_before[places] = False
            ranks[row] = 1 + is_before.sum()
    return ranks


def matching_figures(images: np.ndarray, captions: np.ndarray, matches: Matches) -> dict[str, float]:
    """Recall at 1 and 10, mean reciprocal rank and median rank, of images by captions and of captions by images.

    A query is found by any image that its caption stands beside, or by any caption of its image. Each different image,
    and each different caption, is there to be found once.

    Args:
        images, captions: (rows, width) of length 1, the vectors of each pair.
        matches: of the same rows.
    """
    by_text = match_ranks(captions, images[matches.images], matches.right_images)
    by_image = match_ranks(images, captions[matches.captions], matches.right_captions)
    figures: dict[str, float] = {}
    for name, ranks in (("text_to_image", by_text), ("image_to_text", by_image)):
        found = {**retrieval_figures(ranks), "median_rank": float(np.median(ranks))}
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return figures


def write_matching(
    run: Path,
    images: np.ndarray,
    captions: np.ndarray,
    matches: Matches,
    read: Callable[[int], np.ndarray],
    caption: Callable[[int], str],
) -> list[str]:
    """Write `retrieved.png`, for some captions the nearest images, and `similarity.png`, all cosines of some pairs.

    Args:
        run: the run directory.
        images, captions, matches: as for `matching_figures`.
        read: gives the image of a row, uint8 (height, width, 3).
        caption: gives the caption of a row.

    Returns:
        Markdown that shows them.
    """
    ranks = match_ranks(captions, images[matches.images], matches.right_images)
    _draw_retrieved(run / "retrieved.png", images[matches.images], captions, matches, read, caption, ranks)
    rows = _evenly(len(images), MATRIX)
    _draw_similarity(run / "similarity.png", captions[rows] @ images[rows].T, [caption(int(row)) for row in rows])
    first, ten = (f"{int((ranks <= place).sum()):,}" for place in (1, 10))
    return [
        f"Of {len(ranks):,} held-out captions {first} find their image first of {len(matches.images):,}, and {ten} "
        "among the first ten.",
        "",
        "![captions, their images, and the nearest images](retrieved.png)",
        "",
        "![cosines of held-out captions and images](similarity.png)",
    ]


def _evenly(count: int, most: int) -> np.ndarray:
    some = min(count, most)
    return np.arange(some) * count // some


def _draw_retrieved(
    path: Path,
    images: np.ndarray,
    captions: np.ndarray,
    matches: Matches,
    read: Callable[[int], np.ndarray],
    caption: Callable[[int], str],
    ranks: np.ndarray,
) -> None:
    """In each row the image that stands beside a caption, and the nearest images, the right ones in green."""
    pictures, titles, colours = [], [], []
    nearest = min(NEAREST, len(images))
    for row in _evenly(len(captions), QUERIES).tolist():
        cosines = images @ captions[row]
        pictures.append(shrink(read(row)))
        lines = wrap(letter(caption(row)), COLUMNS)
        shown = lines[:LINES] if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1]}…"]
        titles.append("\n".join(shown) + f"\nfound at place {ranks[row]:,}")
        colours.append("black")
        for place in np.argsort(-cosines, kind="stable")[:nearest].tolist():
            pictures.append(shrink(read(int(matches.images[place]))))
            is_right = place in matches.right_images(row)
            titles.append(f"{cosines[place]:.2f}" + (" right" if is_right else ""))
            colours.append("green" if is_right else "firebrick")
    draw_sheet(path, pictures, titles, colours, columns=1 + nearest)


def _draw_similarity(path: Path, cosines: np.ndarray, captions: Sequence[str]) -> None:
    """Captions from above down, the images that belong to them from left to right."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(cosines, interpolation="nearest")
    figure.colorbar(drawn, label="cosine")
    axes.set_xlabel("images")
    axes.set_ylabel("captions")
    if len(captions) <= NAMED:
        names = [letter(" ".join(each.split()))[:COLUMNS] for each in captions]
        axes.set_yticks(range(len(names)), names, fontsize=7, family=["DejaVu Sans", *families()], parse_math=False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)

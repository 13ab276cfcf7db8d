"""What an exported model is compared and judged on: the user's data, or what is on every machine."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.data.samples import python_documentation_folder
from recipes.data.text import first_text
from zoo.errors import UserError

if TYPE_CHECKING:
    from export.real import Examples

ROWS = 512  # at most, of examples that quantised files are judged by
IMAGES = 64  # cut from photographs, where there are none of the user's
SIDE = 160  # of these, in pixels


@dataclasses.dataclass(frozen=True)
class ExportData:
    """Texts, images, and examples with their right answers, as far as there are any."""

    texts: Sequence[str] = ()
    images: Sequence[np.ndarray] = ()
    examples: "Examples | None" = None


def sample_data(reads: bool, sees: bool) -> ExportData:
    """For a model that reads, that sees, or both: Python's documentation, and parts of the two photographs that come
    with scikit-learn."""
    texts = [first_text(python_documentation_folder())] if reads else []
    return ExportData(texts, photograph_parts(IMAGES) if sees else [])


def photograph_parts(count: int) -> list[np.ndarray]:
    """Squares cut from scikit-learn's photographs, uint8 (160, 160, 3), the same ones each time."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    draw = np.random.default_rng(0)
    parts = []
    for number in range(count):
        picture = photographs[number % len(photographs)]
        top, left = (int(draw.integers(size - SIDE + 1)) for size in picture.shape[:2])
        parts.append(np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE]))
    return parts


def examples_from(measure: Any) -> "Examples":
    """Examples of what a `recipes.measures.Measure` measures by, at most 512 rows, evenly over all of them.

    Raises:
        UserError: there are none.
    """
    from export.real import UNKNOWN, Examples

    batches = measure.batches
    steps = batches.batches_per_epoch
    wanted = max(1, min(steps, ROWS // batches.batch_size))
    found = []
    for number in range(wanted):
        inputs, labels, weights = batches.batch(number * steps // wanted)
        right = {}
        for name, label in labels.items():
            classes = label.argmax(axis=-1) if label.dtype.kind == "f" else label
            right[name] = np.where(weights[name] > 0, classes, UNKNOWN).astype("int32")
        found.append((inputs, right))
    if not found:
        raise UserError("the data has no rows to judge an export by")
    return Examples(found, "accuracy")

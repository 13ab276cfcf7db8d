"""Images with a label: read from a folder or a table, and made into batches, as they are or augmented."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.data.augmentation import NONE, Augmentation, Augmenter, draw_changes
from recipes.data.batches import ArraySpec
from recipes.data.classes import Classified, name_classes
from recipes.data.examples import Example
from recipes.data.grouping import Source
from recipes.data.lines import Row
from recipes.data.pictures import Pictures, build_pictures
from recipes.data.tables import Table
from recipes.data.views import Views
from zoo.image import Preprocessing

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class LabelledImages(Classified):
    """Images, each with its class."""

    examples: Pictures

    def text(self, place: int) -> str:
        """The name of an image."""
        return self.examples.name(int(self.rows[place]))

    def key(self, place: int) -> bytes:
        """A hash of the pixels of an image."""
        return self.examples.key(int(self.rows[place]))

    def read(self, place: int) -> np.ndarray:
        """An image, uint8 (height, width, 3)."""
        return self.examples.read(int(self.rows[place]))

    def sizes(self) -> np.ndarray:
        """Height and width of each image, in pixels: (images, 2) int32."""
        return np.stack([self.examples.flat(side)[self.rows] for side in ("height", "width")], axis=1)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of pixels and classes, in hexadecimal; where the files lie has no part in it."""
        content = hashlib.sha256(repr((self.labels, self.targets.tolist())).encode())
        for place in range(len(self)):
            content.update(self.key(place))
        return content.hexdigest()


def read_labelled(table: Table, columns: tuple[str, str], labels: Sequence[str] = ()) -> LabelledImages:
    """Read a table, and look at each of its images.

    Args:
        table: the rows.
        columns: of the image and of the label; see `image_columns.find_columns`.
        labels: the classes that there may be, in order; where there are none, those of the table by name.

    Raises:
        UserError: the table cannot be used, too many images are broken, or a label is not among `labels`.
    """
    image, label = columns
    names: dict[str, int] = {}

    def add(row: Row) -> Example | str:
        name = row.get(label)
        if name is None or isinstance(name, list | dict | bytes) or not str(name).strip():
            return f"no {label}"
        if str(name).splitlines() != [str(name)]:
            return f"{label} of several lines"
        return {"label": [names.setdefault(str(name), len(names))]}

    request = {"kind": "labelled images", "columns": columns}
    pictures = build_pictures(table, image, request, add, lambda: {"labels": list(names)})
    order, targets = name_classes(pictures.facts["labels"], pictures.flat("label"), labels, table.path)
    return LabelledImages(pictures, np.arange(len(pictures)), order, targets)


def tell(train_data: LabelledImages, held_out: LabelledImages, preprocessing: Preprocessing) -> None:
    """Say what there is to train on, before it begins."""
    logger.info("%s", train_data.describe("training"))
    logger.info("%s", held_out.describe("held out"))
    sizes, seen = train_data.sizes(), preprocessing.output_size or (0, 0)
    smaller = int((sizes < seen).any(axis=1).sum())
    logger.info(
        "images of %d x %d pixels at the median, seen as %d x %d%s",
        *np.median(sizes, axis=0).astype(int)[::-1],
        *seen[::-1],
        f"; {smaller:,} are smaller than that" if smaller else "",
    )


class ImageSource(Source):
    """Images with their classes as batches `(inputs, labels, weights)` for the task "classify"; the labels are shares
    of all classes, (batch, classes) float32.

    Where the augmentation changes pixels or labels, the images are uint8, and what is to be done comes as a fourth:
    `augment` makes of a data set of such batches one of the others.

    Args:
        data: what to draw from.
        preprocessing: of the model.
        augmentation: of images and labels.
        class_weights: (classes,) what an image of each class weighs.
    """

    length = 1  # of an image there is one

    def __init__(
        self,
        data: LabelledImages,
        preprocessing: Preprocessing,
        augmentation: Augmentation = NONE,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.data, self.augmentation = data, augmentation
        self.views = Views(preprocessing, augmentation)
        classes = len(data.labels)
        self.class_weights = np.ones(classes, np.float32) if class_weights is None else class_weights
        self.changes = augmentation.changes_pixels or augmentation.changes_labels
        size = (None, self.views.height, self.views.width, 3)
        self.element: Any = (
            {"images": ArraySpec(size, "uint8" if self.changes else "float32")},
            {"logits": ArraySpec((None, classes), "float32")},
            {"logits": ArraySpec((None,), "float32")},
        )
        if self.changes:
            draws = draw_changes(np.random.default_rng(0), augmentation, 1, self.views.height, self.views.width)
            specs = {name: ArraySpec((None, *draw.shape[1:]), draw.dtype.name) for name, draw in draws.items()}
            self.element = (*self.element, specs)

    def lengths(self, epoch: int) -> np.ndarray:
        return np.ones(len(self.data), np.int64)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        targets = self.data.targets[rows]
        shares = np.zeros((len(rows), len(self.data.labels)), np.float32)
        shares[np.arange(len(rows)), targets] = 1.0
        labels = {"logits": shares}
        weights = {"logits": self.class_weights[targets]}
        if not self.changes:
            return {"images": self.views.images(self.data.read, rows, draw)}, labels, weights
        pictures = self.views.pictures(self.data.read, rows, draw)
        draws = draw_changes(draw, self.augmentation, len(rows), self.views.height, self.views.width)
        return {"images": pictures}, labels, weights, draws

    def augment(self, dataset: Any) -> Any:
        """Of a `tf.data.Dataset` of batches one of batches as a model takes them."""
        if not self.changes:
            return dataset
        import tensorflow as tf

        augmenter, class_weights = Augmenter(self.augmentation, self.views.table), self.class_weights

        @tf.autograph.experimental.do_not_convert
        def change(inputs: Any, labels: Any, weights: Any, draws: Any) -> Any:
            images, mixed = augmenter(inputs["images"], labels["logits"], draws)
            # Each class of an image weighs what an image of that class does.
            weighed = mixed * class_weights
            weight = tf.reduce_sum(weighed, axis=1)
            return {"images": images}, {"logits": augmenter.smooth(weighed / weight[:, None])}, {"logits": weight}

        return dataset.map(change).prefetch(2)

"""How well the nearest neighbours of an image tell its class: what a model's vectors are worth, with nothing trained on
them (Wu et al. 2018, section 3.4; Caron et al. 2021, section 4.1)."""

from typing import Any

import numpy as np

from recipes.data.grouping import GroupedBatches
from recipes.data.labelled_images import ImageSource, LabelledImages
from recipes.engine.job import Figures
from zoo.image import Preprocessing

NEIGHBOURS = 20
TEMPERATURE = 0.07


def embed_images(model: Any, images: LabelledImages, preprocessing: Preprocessing, batch_size: int) -> np.ndarray:
    """The vector of each image, of length 1: (images, width) float32.

    Args:
        model: for the task "embed".
        images: in this order.
        preprocessing: of the model.
        batch_size: images at a time.
    """
    from recipes.engine.outputs import each_output

    batches = GroupedBatches(ImageSource(images, preprocessing), batch_size, None)
    vectors: np.ndarray = np.empty((len(images), model.config.width), np.float32)
    for step, _, outputs in each_output(model, batches):
        vectors[batches.rows(step)] = outputs["embedding"]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def neighbour_figures(
    known: np.ndarray, known_targets: np.ndarray, vectors: np.ndarray, targets: np.ndarray
) -> Figures:
    """The share of images whose class is that of most of their neighbours, each counted by how near it is.

    Args:
        known: (known, width) float32 of length 1, of images whose classes are given.
        known_targets: (known,) these classes.
        vectors: (images, width) float32 of length 1.
        targets: (images,) the right classes.
    """
    from sklearn.neighbors import KNeighborsClassifier

    def weigh(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / TEMPERATURE)  # of cosines, less a constant that all share

    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(known)), weights=weigh, metric="cosine", algorithm="brute")
    found = nearest.fit(known, known_targets).predict(vectors)
    return {"neighbour_accuracy": float(np.mean(found == targets))}

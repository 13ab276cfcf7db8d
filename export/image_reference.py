"""What a function that takes image files is held to: Pillow's pixels, preprocessed outside of a graph."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from export.reference import Case, Tensors, answer
from export.saved_model import IMAGE_BYTES, decoding
from zoo.image import preprocess, read_image
from zoo.model import ZooModel


def make_image_cases(model: ZooModel, pictures: Sequence[bytes]) -> Iterator[Case]:
    """Files, with what the model makes of them.

    Args:
        model: with preprocessing.
        pictures: the content of image files.
    """
    function = decoding(model, lambda files: preprocess(list(map(read_image, files.numpy())), model.preprocessing))

    def compute(inputs: Tensors) -> Tensors:
        outputs: dict[str, Any] = {**function.compute(inputs)}
        if "label" in outputs:
            numbers = np.argmax(outputs["logits"], axis=-1).tolist()
            outputs["label"] = tf.constant([(model.labels or ())[number] for number in numbers])
        return outputs

    for rows in sorted({1, len(pictures)}):
        inputs = {IMAGE_BYTES: np.array(list(pictures[:rows]), "S")}
        yield answer(dataclasses.replace(function, compute=compute), f"{function.name}-batch{rows}", "shapes", inputs)

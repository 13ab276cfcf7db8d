"""Classifying images by a CLIP without training: each class is what prompts say of its name (Radford et al. 2021,
section 3.1.4)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.prediction import TEMPLATE, Record, embed, model_inputs, name_best, probabilities_of_pairs

PROMPTS_AT_ONCE = 256


def require_templates(templates: Sequence[str]) -> None:
    """Raise UserError unless there is a template, and each has one place for a label, {}."""
    if not templates:
        raise UserError("there is no template: give one, with {} for the label")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"the template {template!r:.80} has to have one {{}} in it, where the label goes")


def class_embeddings(model: Any, labels: Sequence[str], templates: Sequence[str] = (TEMPLATE,)) -> np.ndarray:
    """What a CLIP makes of the names of classes: (classes, width) float32, each of length 1.

    Each is the mean of the embeddings of length 1 of all its prompts, made to have length 1 again: an ensemble that
    costs no more than one prompt once it is made (Radford et al. 2021, section 3.1.4).

    Args:
        model: a CLIP with its tokenizer.
        labels: the names of the classes.
        templates: strings with one `{}` each, where a label goes.

    Raises:
        UserError: there is no label or no template, or a template has no `{}` or several; the model reads no text.
    """
    require_templates(templates)
    if not labels:
        raise UserError("there is no label to choose from")
    means: Any = 0.0
    for template in templates:
        prompts = [template.replace("{}", label) for label in labels]
        parts = [prompts[first : first + PROMPTS_AT_ONCE] for first in range(0, len(prompts), PROMPTS_AT_ONCE)]
        vectors = np.concatenate([embed(model, part, are_images=False) for part in parts])
        means = means + _of_length_one(vectors) / len(templates)
    return _of_length_one(means).astype(np.float32)


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    """In float64, so that sums of many prompts are as exact as the embeddings; a vector of zeros stays one."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class ZeroShotClassifier:
    """A CLIP and the names of classes, as a classifier of images: called as one, it gives what one does.

    Args:
        model: a CLIP with its tokenizer.
        labels: the names of the classes.
        templates: what is said of each; see `class_embeddings`.

    Attributes:
        classes: (classes, width) float32, the embeddings of the classes.
        output_names: as a model has them.

    Raises:
        UserError: as `class_embeddings`, or the model is no CLIP.
    """

    output_names = ("logits",)

    def __init__(self, model: Any, labels: Sequence[str], templates: Sequence[str] = (TEMPLATE,)) -> None:
        if not hasattr(model, "encode_text"):
            raise UserError(f"a {model.family} model does not compare images with words: only CLIP does")
        self.model, self.labels = model, tuple(labels)
        self.classes = class_embeddings(model, self.labels, templates)

    def __call__(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """`images` (batch, height, width, channels) to `logits` (batch, classes), float32: the cosines of images and
        classes, scaled as the model has learned to."""
        return {"logits": self.model.similarity(self.model.encode_image(inputs["images"]), self.classes)}

    def predict(self, images: Sequence[str | Path | bytes | np.ndarray]) -> list[Record]:
        """For each image `label`, `probability`, and the best five of `probabilities`, as `Predictor` gives them.

        They are softmax's over the classes; of a model that was trained with the sigmoid loss, for each class whether
        it fits.

        Raises:
            UserError: a file is no image.
        """
        from keras import ops

        logits = ops.convert_to_numpy(self({"images": model_inputs(self.model, images=images)["images"]})["logits"])
        return [name_best(row, self.labels.__getitem__) for row in probabilities_of_pairs(self.model, logits)]

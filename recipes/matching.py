"""How well a CLIP brings held-out images and captions together, and tells images by the names of their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recipes.data.grouping import GroupedBatches
from recipes.engine.job import Figures
from recipes.measures import Measure

if TYPE_CHECKING:
    from recipes.data.captions import CaptionSource
    from recipes.data.labelled_images import LabelledImages
    from zoo.image import Preprocessing


class Embedded(NamedTuple):
    """Vectors of length 1 of the image and of the caption of each pair, (pairs, width) float32; and what part of the
    images of known classes are told by the classes' names, where there are any."""

    images: np.ndarray
    captions: np.ndarray
    accuracy: float | None


class Matching(Measure):
    """Recall at 1 and 10, mean reciprocal rank and median rank of images by their captions, and of captions by their
    images, among all that are held out; and accuracy without examples, where there are images with labels.

    Args:
        source: the pairs, of which an evaluation reads the first caption.
        batch_size: pairs at a time; it does not change these figures.
        zero_shot: images with labels, to be told by these.
    """

    def __init__(self, source: "CaptionSource", batch_size: int, zero_shot: "ZeroShotAccuracy | None" = None) -> None:
        from recipes.reports.matching import Matches

        self.source, self.zero_shot = source, zero_shot
        self.batches = GroupedBatches(source, batch_size, None)
        self.matches = Matches(source.pairs)

    def judge(self, model: Any) -> Embedded:
        from recipes.engine.outputs import each_output

        images, captions = np.empty((2, len(self.source.data), model.config.projection_width), np.float32)
        for step, _, outputs in each_output(model, self.batches):
            rows = self.batches.rows(step)
            images[rows], captions[rows] = outputs["image_embedding"], outputs["text_embedding"]
        return Embedded(images, captions, None if self.zero_shot is None else self.zero_shot.measure(model))

    def figures(self, said: Embedded) -> Figures:
        from recipes.reports.matching import matching_figures

        figures = matching_figures(said.images, said.captions, self.matches)
        return figures | ({} if said.accuracy is None else {"zero_shot_accuracy": said.accuracy})

    def write(self, said: Embedded, run: Path) -> list[str]:
        from recipes.reports.matching import write_matching

        data = self.source.data
        return write_matching(
            run, said.images, said.captions, self.matches, data.read, lambda row: data.captions(row)[0]
        )


class ZeroShotAccuracy:
    """The part of images that are nearest to what a CLIP makes of the name of their class.

    Args:
        data: the images.
        preprocessing: of the model.
        batch_size: images at a time; it does not change the result.
        templates: prompts for a name; see `zoo.zero_shot.class_embeddings`.
    """

    def __init__(
        self, data: "LabelledImages", preprocessing: "Preprocessing", batch_size: int, templates: Sequence[str]
    ) -> None:
        from recipes.data.labelled_images import ImageSource

        self.data, self.templates = data, tuple(templates)
        self.batches = GroupedBatches(ImageSource(data, preprocessing), batch_size, None)
        self._tower: Any = None

    def measure(self, model: Any) -> float:
        from recipes.engine.outputs import each_output
        from zoo.zero_shot import class_embeddings

        if self._tower is None or self._tower.model is not model:
            self._tower = _ImageTower(model)  # the same at each evaluation, to be traced once
        classes = class_embeddings(model, self.data.labels, self.templates)
        right = 0
        for step, _, outputs in each_output(self._tower, self.batches):
            said = (outputs["embedding"] @ classes.T).argmax(axis=1)
            right += int((said == self.data.targets[self.batches.rows(step)]).sum())
        return right / len(self.data)


class _ImageTower:
    """A CLIP that is shown images alone, as a model that gives their embeddings."""

    output_names = ("embedding",)

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        return {"embedding": self.model.encode_image(inputs["images"])}

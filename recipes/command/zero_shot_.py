"""`zoo zero-shot SOURCE INPUT... --labels FILE_OR_LIST`: classify images by the names of classes alone."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import Positional, UseAppendAction, arg

from recipes.command.inputs import find_images, in_batches, read_listed
from recipes.command.parsing import parse
from recipes.command.printing import as_json
from recipes.command.reporting import progress
from recipes.data.image_columns import ImageColumns, find_columns
from recipes.data.problems import printable
from recipes.data.tables import open_table
from recipes.engine.start import start_tensorflow
from zoo.directory import find_model_directory, read_saved
from zoo.errors import UserError

if TYPE_CHECKING:
    from recipes.data.labelled_images import LabelledImages


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Classify images by a CLIP, without training, by the names of the classes alone. One line of standard output for
    each image; or, with --data, how well it does on images whose classes are known, and the last line is one JSON
    object: accuracy, macro F1, and the number of images.

    A class is the mean of what the model makes of all prompts of its name, one for each template.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Directory of a CLIP, a run that holds one, a Hugging Face checkpoint, or hf:organisation/name[@revision]."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="INPUT")] = ()
    """Image files and folders of them; - reads paths from standard input, one a line."""
    file: Path | None = None
    """Read paths of images from the lines of this file."""
    labels: str | None = None
    """Names of the classes: a file with one on each line, or the names with commas between. None for those of --data;
    where both are given, --data may have no others."""
    template: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """A prompt, with {} for the name of a class; "a photo of a {}." where none is given."""
    templates: Path | None = None
    """Read prompts from the lines of this file."""
    data: Path | None = None
    """Measure on this folder of label/name.jpg, or table with an image and a label in each row."""
    columns: ImageColumns = dataclasses.field(default_factory=ImageColumns)
    batch_size: int = 32
    """Images at a time; it does not change the answers."""
    json: bool = False
    """Print one JSON object a line, with the best five classes."""


def run(arguments: list[str]) -> int:
    settings = parse(ZeroShot, arguments, "zoo zero-shot")
    if settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}, and must be at least 1")
    directory = find_model_directory(settings.source)
    saved = read_saved(directory)
    if not (hasattr(saved.config, "image_size") and hasattr(saved.config, "vocabulary_size")):
        raise UserError(f"a {saved.family.name} model does not compare images with words: zoo zero-shot needs a CLIP")
    templates = _read_templates(settings)
    labels = () if settings.labels is None else _read_labels(settings.labels)
    measured = settings.data is not None
    if measured and (settings.inputs or settings.file):
        raise UserError("--data is measured, and INPUT is answered for: give one of them")
    if not measured and not labels:
        raise UserError("what may the images show? Give --labels, a file or names with commas between")
    # What there is to see is found before TensorFlow is imported, so that a wrong path is told of at once.
    data = _read_data(settings, labels) if measured else None
    batches = iter(()) if measured else in_batches(find_images(settings.inputs, settings.file), settings.batch_size)
    batch: list[Path] | None = next(batches, None)

    start_tensorflow()
    import zoo
    from zoo.zero_shot import ZeroShotClassifier

    classifier = ZeroShotClassifier(zoo.load(directory), data.labels if data else labels, templates)
    if data is not None:
        print(json.dumps(_measure(classifier, data, settings.batch_size)))
        return 0
    while batch:
        for path, record in zip(batch, classifier.predict(batch), strict=True):
            said = f"{record['label']} {record['probability']:.3f}\t{printable(str(path))}"
            print(as_json({"input": str(path), **record}) if settings.json else said, flush=True)
        batch = next(batches, None)
    return 0


def _read_templates(settings: ZeroShot) -> tuple[str, ...]:
    from zoo.zero_shot import TEMPLATE, require_templates

    listed = read_listed(settings.templates) if settings.templates is not None else ()
    templates = (*settings.template, *listed) or (TEMPLATE,)
    require_templates(templates)
    return templates


def _read_labels(given: str) -> tuple[str, ...]:
    """The names in a file or, where there is none of this name, between commas; each once."""
    # Not by `Path`, which raises where a name is too long, as many labels are.
    if "," not in given or os.path.isfile(given):  # noqa: PTH113
        labels = read_listed(Path(given))
    else:
        labels = tuple(label.strip() for label in given.split(","))
        for place, label in enumerate(labels):
            if not label:
                raise UserError(f"--labels is {given!r:.80}, and there is nothing between two of its commas")
            if label in labels[:place]:
                raise UserError(f"--labels names {label!r:.80} twice")
    if len(labels) < 2:
        raise UserError(f"--labels has {labels[0]!r:.80} alone: give two classes at least to choose from")
    return labels


def _read_data(settings: ZeroShot, labels: tuple[str, ...]) -> "LabelledImages":
    from recipes.data.classes import name_classes
    from recipes.data.labelled_images import read_labelled

    assert settings.data is not None
    table = open_table(settings.data)
    data = read_labelled(table, find_columns(table, settings.columns))
    unknown = [label for label in data.labels if label not in labels]
    if labels and unknown:
        raise UserError(
            f"{settings.data} has {len(unknown)} of its {len(data.labels)} classes that --labels does not name, "
            f"such as {unknown[0]!r:.80}"
        )
    order, targets = name_classes(data.labels, data.targets, labels, settings.data)
    if len(order) < 2:
        raise UserError(f"{settings.data} has one class, {order[0]!r:.80}: give others to choose from by --labels")
    return dataclasses.replace(data, labels=order, targets=targets)


def _measure(classifier: Any, data: "LabelledImages", batch_size: int) -> dict[str, Any]:
    """Accuracy, macro F1, and the number of images."""
    from recipes.data.grouping import GroupedBatches
    from recipes.data.labelled_images import ImageSource
    from recipes.engine.outputs import each_output
    from recipes.reports.classification import classification_figures

    batches = GroupedBatches(ImageSource(data, classifier.model.preprocessing), batch_size, None)
    logits = np.empty((len(data), len(data.labels)), np.float32)
    with progress("classifying images") as show:
        show(0, len(data))
        for step, _, outputs in each_output(classifier, batches):
            rows = batches.rows(step)
            logits[rows] = outputs["logits"]
            show(min((step + 1) * batch_size, len(data)), len(data))
    return {**classification_figures(data.targets, logits), "images": len(data)}

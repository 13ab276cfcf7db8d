"""What an exported model is compared and judged on: the user's data, or what is on every machine."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.data import completions
from recipes.data.formats import find_format
from recipes.data.samples import python_documentation_folder
from recipes.data.tables import open_table
from recipes.data.text import first_text
from recipes.measures import Answering, Classification, Completion, ImageClassification, Measure, Retrieval, Tagging
from recipes.measuring import Measured, find_captions, open_measure, prompt_columns, read_images
from zoo.directory import Saved
from zoo.errors import UserError

if TYPE_CHECKING:
    from export.real import Examples

ROWS = 512  # at most, of examples that quantised files are judged by
# The same of prompts, each token of which has as many logits as there are tokens: a case stores 16 MB of them.
PROMPTS, PROMPTS_AT_ONCE = 64, 4
TEXTS = 64  # at most, of those that a table has
IMAGES = 64  # at most, of the user's, or cut from photographs where there are none
SHOWN = 4  # images beside examples that have them already, as the model sees them
SIDE = 160  # of the parts of photographs, in pixels

Read = Callable[[Any], "ExportData"]  # of the model, by which images are preprocessed


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


def open_data(asked: Measured, saved: Saved) -> Read:
    """Open the user's data as `zoo eval` does for the model's task: what it is measured by is what an export is judged
    by, and some of its texts and images are what artefacts are compared on.

    Raises:
        UserError: the data is not what this task takes; what is wrong with it is told now.
    """
    if saved.family.name == "clip":
        return _open_captions(asked)
    if hasattr(saved.config, "patch_size"):
        return _open_images(asked, saved)
    if saved.task == "generate":
        asked = dataclasses.replace(asked, batch_size=PROMPTS_AT_ONCE)
        measured = not completions.is_text(asked.data, prompt_columns(asked), asked.columns.text_column)
    else:  # a text has no pairs, and is good for vectors all the same
        measured = saved.task in ("classify", "tag", "answer") or (saved.task == "embed" and _is_table(asked.data))
    if measured:
        measure, _ = open_measure(asked, saved)
        return lambda model: ExportData(texts_of(measure), examples=examples_of(measure))
    running = ExportData([first_text(asked.data, asked.columns.text_column)])
    return lambda model: running


def _is_table(path: Path) -> bool:
    """Whether it is a table, and no text or folder of texts."""
    if not path.is_dir():
        return find_format(path) is not None
    try:
        open_table(path)
    except UserError:
        return False
    return True


def _open_images(asked: Measured, saved: Saved) -> Read:
    known = saved.labels if saved.task in ("classify", "pretrain") else None
    images = read_images(asked, asked.data, known or ())

    def read(model: Any) -> ExportData:
        if known is None:
            return ExportData(images=[images.read(place) for place in spread(len(images), IMAGES)])
        from recipes.data.labelled_images import ImageSource

        measure = ImageClassification(images, ImageSource(images, model.preprocessing), asked.batch_size)
        shown = [images.read(place) for place in spread(len(images), SHOWN)]
        return ExportData(images=shown, examples=examples_of(measure))

    return read


def _open_captions(asked: Measured) -> Read:
    from recipes.data.captions import read_captions

    table = open_table(asked.data)
    data = read_captions(table, find_captions(asked, table))
    places = spread(len(data), IMAGES)
    found = ExportData([data.captions(place)[0] for place in places], [data.read(place) for place in places])
    return lambda model: found


def spread(count: int, most: int) -> list[int]:
    """At most so many places of `count`, evenly over all of them: a table may be sorted."""
    wanted = min(count, most)
    return [place * count // wanted for place in range(wanted)]


def texts_of(measure: Measure) -> list[str]:
    """Some of the texts that a model is measured by; of two kinds the one before the other."""
    if isinstance(measure, Completion):
        source = measure.source
        return [source.separator_text.join(source.data.texts(place)) for place in spread(len(source.data), TEXTS)]
    if isinstance(measure, Answering):
        questions = [measure.data.question(place) for place in spread(len(measure.data), TEXTS // 2)]
        pairs = [(question.text, question.context) for question in questions]
    elif isinstance(measure, Retrieval):
        most = TEXTS // 2 if measure.data.are_paired else TEXTS
        pairs = [measure.data.texts(place) for place in spread(len(measure.data), most)]
    else:
        assert isinstance(measure, Classification | Tagging)
        return [measure.data.text(place) for place in spread(len(measure.data), TEXTS)]
    return list(dict.fromkeys(text for texts in zip(*pairs, strict=True) for text in texts))


def examples_of(measure: Measure) -> "Examples | None":
    """What a model is measured by, evenly over all of it, with what is right; None where there is nothing that is."""
    from export.real import UNKNOWN, Examples

    if isinstance(measure, Retrieval):
        return None
    batches, is_prompts = measure.batches, isinstance(measure, Completion)
    most = PROMPTS if is_prompts else ROWS
    found = []
    for step in spread(batches.batches_per_epoch, most // batches.batch_size):
        inputs, labels, weights = batches.batch(step)
        right = {}
        for name, label in labels.items():
            classes = label.argmax(axis=-1) if label.dtype.kind == "f" else label
            right[name] = np.where(weights[name] > 0, classes, UNKNOWN).astype("int32")
        if is_prompts:  # a loss takes the sequence that the logits are of, and needs no mask
            lengths = batches.source.lengths(0)[batches.rows(step)]
            mask = np.arange(inputs["token_ids"].shape[1]) < lengths[:, None]
            inputs, right = {**inputs, "padding_mask": mask.astype("int32")}, {"logits": right["sequence"]}
        found.append((inputs, right))
    return Examples(found, "perplexity" if is_prompts else "accuracy")

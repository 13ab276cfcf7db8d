"""`zoo predict SOURCE INPUT...`: what a model says of texts or images."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from recipes.command.inputs import find_images, in_batches, read_texts
from recipes.command.parsing import parse
from recipes.command.printing import as_json
from recipes.data.problems import printable
from recipes.engine.start import start_tensorflow
from zoo.directory import find_model_directory, read_saved
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Predict:
    """Ask a model about texts or images: classes, tags, answers, masked or next tokens, labels for CLIP. One line of
    standard output for each input."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Model directory, a run that holds one, a Hugging Face checkpoint, or hf:organisation/name[@revision]."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="INPUT")] = ()
    """Texts, or image files and folders of them, as the model needs; - reads one a line from standard input."""
    file: Path | None = None
    """Read texts, or paths of images, from the lines of this file."""
    task: str | None = None
    """Load the model for another task than it was saved for."""
    context: str | None = None
    """For a model that answers questions: the text that holds the answer."""
    unanswerable: bool = False
    """For a model that answers questions, and was trained on some without an answer: let it say that there is none."""
    pairs: bool = False
    """Each text is two, with a tab between them."""
    labels: str | None = None
    """For CLIP: what an image may show, with commas between."""
    template: str = "a photo of a {}."
    """For CLIP: what is said of a label, {} standing for it."""
    batch_size: int = 16
    """Inputs at a time; it does not change the answers."""
    json: bool = False
    """Print one JSON object a line, with all there is."""


def run(arguments: list[str]) -> int:
    settings = parse(Predict, arguments, "zoo predict")
    directory = find_model_directory(settings.source)
    if settings.pairs and settings.context is not None:
        raise UserError("--pairs and --context both say what a second text is: give one of them")
    saved = read_saved(directory)
    task = settings.task
    if task is None and saved.task == "pretrain":  # it answers by what it was pretrained to predict
        task = "masked_lm" if "masked_lm" in saved.family.tasks else saved.family.main_task
    sees = hasattr(saved.config, "image_size")
    items = (find_images if sees else read_texts)(settings.inputs, settings.file)
    labels = [label.strip() for label in (settings.labels or "").split(",") if label.strip()]
    # A first batch is read before TensorFlow is imported, so that a wrong path is told of at once.
    batches = in_batches(items, settings.batch_size)
    first = next(batches, [])

    start_tensorflow()
    import zoo
    from zoo.prediction import Predictor

    predictor = Predictor(zoo.load(directory, task=task), labels, settings.template, settings.unanswerable)
    batch: list[Any] | None = first
    while batch:
        texts, pairs = _pair(batch, settings)
        for item, record in zip(batch, predictor.predict(texts, pairs), strict=True):
            said = f"{_say(record)}\t{printable(str(item)) if sees else item}"
            print(as_json({"input": str(item), **record}) if settings.json else said, flush=True)
        batch = next(batches, None)
    return 0


def _pair(batch: list[Any], settings: Predict) -> tuple[list[Any], list[str] | None]:
    if not settings.pairs:
        return batch, None if settings.context is None else [settings.context] * len(batch)
    for text in batch:
        if str(text).count("\t") != 1:
            raise UserError(f"{str(text)!r:.60} is not two texts with a tab between them, as --pairs has it")
    firsts, seconds = zip(*(text.split("\t") for text in batch), strict=True)
    return list(firsts), list(seconds)


def _say(record: dict[str, Any]) -> str:
    """A record in a few words."""
    if "label" in record:
        return f"{record['label']} {record['probability']:.3f}"
    if "entities" in record:
        return ", ".join(f"{each['label']}: {each['text']}" for each in record["entities"]) or "-"
    if "answer" in record:
        return f"{record['answer'] or '(no answer)'} {record['score']:.3f}"
    masks = record.get("masks", [record])
    return "; ".join(
        " ".join(f"{each['token']!r} {each['probability']:.3f}" for each in mask["tokens"]) for mask in masks
    )

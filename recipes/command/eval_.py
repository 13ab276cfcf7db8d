"""`zoo eval SOURCE --data PATH`: how well a model does on data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from recipes.command.parsing import parse
from recipes.data import completions, image_columns
from recipes.data.documents import Document
from recipes.data.held_out import require_apart
from recipes.data.masking import MASK_RATE, Masking
from recipes.data.packing import pack
from recipes.data.sequences import FullSequences, MaskedSequences
from recipes.data.tables import open_table
from recipes.data.text import Corpus, find_documents, open_corpus
from recipes.engine.start import start_tensorflow
from recipes.measures import ImageClassification, MaskedTokens
from recipes.measuring import Measured, find_length, open_measure, prompt_columns, read_images, recorded
from zoo.directory import Saved, find_model_directory, read_saved
from zoo.errors import UserError
from zoo.text import Tokenizer

TABLES = ("classify", "tag", "answer", "embed")  # tasks that are measured by tables alone


@dataclasses.dataclass(frozen=True)
class Evaluate(Measured):
    """Measure a model by its task. The last line of standard output is one JSON object.

    A language model, how well it predicts a text: loss in nats a token, perplexity, bits per byte, and the numbers of
    tokens and bytes; or, on a table as generate-text takes it, how well it completes prompts: loss, perplexity, exact
    match, and the number of rows. A masked one, how well it finds masked tokens of a text: the share that is right, the
    loss in nats of each, and the number of sequences. A classifier, on a table as classify-text takes it: accuracy,
    macro F1, and the number of rows. A tagger, as tag-text: precision, recall and F1 of entities, and the number of
    sentences. A model that answers questions, as answer-questions: exact match, F1, and the number of questions. An
    embedder, as embed-text: how well texts find those that belong to them, by recall at 1 and 10 and mean reciprocal
    rank, and the number of pairs. A classifier of images, on a folder or a table as classify-image takes it: accuracy,
    macro F1, and the number of images; with --neighbours any model of images: how often the nearest of other images
    tell the class. A CLIP, on a table as clip-pretrain takes it: how well captions find their images, and images their
    captions, by recall at 1 and 10, mean reciprocal rank and median rank, and the number of pairs.
    """

    neighbours: Path | None = None
    """Of images, others whose classes are known, such as those of the training: the classes are told by the nearest."""
    validation_fraction: float | None = None
    """Of a text, measure only what training with this fraction holds out; None for all of it."""
    mask_rate: float | None = None
    """The part of a text's tokens to mask; None for that of the run, and else 0.15."""


def run(arguments: list[str]) -> int:
    settings = parse(Evaluate, arguments, "zoo eval")
    for name in ("batch_size", "stride", "max_length"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}, and must be at least 1")
    if settings.completions < 0:
        raise UserError(f"--completions is {settings.completions}, and must be 0 or more")
    saved = read_saved(find_model_directory(settings.source))
    if settings.neighbours is not None and not hasattr(saved.config, "patch_size"):
        raise UserError(f"--neighbours is for models of images, and {saved.directory} is a {saved.family.name} model")
    if not 0 < (settings.mask_rate or 0.5) < 1:
        raise UserError(f"--mask-rate is {settings.mask_rate}, and must be between 0 and 1")
    if hasattr(saved.config, "patch_size"):
        figures = _see(settings, saved)
    elif saved.family.name == "clip":
        figures = _match(settings, saved)
    elif saved.task in ("masked_lm", "pretrain") and "masked_lm" in saved.family.tasks:
        figures = _fill(settings, saved)
    elif saved.task in TABLES or (saved.task == "generate" and _has_prompts(settings)):
        figures = _judge(settings, saved)
    else:
        figures = _predict(settings)
    print(json.dumps(figures))
    return 0


def _has_prompts(settings: Evaluate) -> bool:
    """Whether the data is a table of prompts and completions, and no text."""
    return not completions.is_text(settings.data, prompt_columns(settings), settings.columns.text_column)


def _judge(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a model by a table."""
    if settings.validation_fraction is not None:
        raise UserError("--validation-fraction is for texts: a table is measured as a whole")
    measure, counts = open_measure(settings, saved)
    start_tensorflow()
    import zoo

    return {**measure.figures(measure.judge(zoo.load(saved.directory))), **counts}


def _see(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a model of images by labelled ones."""
    _refuse(settings, "validation_fraction", "mask_rate", "max_length", "stride", "separator")
    if settings.neighbours is None and (saved.task not in ("classify", "pretrain") or saved.labels is None):
        raise UserError(
            f"{saved.directory} tells no classes apart: give images whose classes are known with --neighbours"
        )
    if settings.neighbours is not None:
        require_apart(open_table(settings.neighbours), open_table(settings.data))
    known = None if settings.neighbours is None else read_images(settings, settings.neighbours, ())
    images = read_images(settings, settings.data, (saved.labels or ()) if known is None else known.labels)
    start_tensorflow()
    import zoo
    from recipes.data.labelled_images import ImageSource
    from recipes.neighbours import embed_images, neighbour_figures

    if known is None:
        model = zoo.load(saved.directory)
        source = ImageSource(images, model.preprocessing)
        measure = ImageClassification(images, source, settings.batch_size)
        return {**measure.figures(measure.judge(model)), "images": len(images)}
    model = zoo.load(saved.directory, task="embed")
    sides = [embed_images(model, each, model.preprocessing, settings.batch_size) for each in (known, images)]
    return {**neighbour_figures(sides[0], known.targets, sides[1], images.targets), "images": len(images)}


def _match(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a CLIP by images with captions."""
    _refuse(settings, "validation_fraction", "mask_rate", "stride", "separator")
    from recipes.data.captions import CaptionSource, read_captions
    from recipes.matching import Matching

    tokenizer, table = Tokenizer.load(saved.directory), open_table(settings.data)
    columns = settings.columns
    trained_on = recorded(settings, ("settings", "columns", "caption_column"), [])[:1]
    if not columns.caption_column and all(name in table.columns for name in trained_on):
        columns = dataclasses.replace(columns, caption_column=tuple(trained_on))
    data = read_captions(table, image_columns.find_caption_columns(table, columns))
    if len(data) < 2:
        raise UserError(f"{settings.data} has {len(data)} row: there is no other image to tell its own from")
    start_tensorflow()
    import zoo

    model = zoo.load(saved.directory)
    source = CaptionSource(data, model.preprocessing, tokenizer, find_length(settings, saved, tokenizer))
    measure = Matching(source, settings.batch_size)
    return {**measure.figures(measure.judge(model)), "pairs": len(data)}


def _documents(settings: Evaluate) -> tuple[Document, ...]:
    """The text to measure by."""
    column = settings.columns.text_column
    if settings.validation_fraction is None:
        return tuple(find_documents(settings.data, column))
    return open_corpus(settings.data, None, settings.validation_fraction, column).validation


def _refuse(settings: Evaluate, *names: str) -> None:
    for name in names:
        if getattr(settings, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} says nothing of what is measured here: leave it out")


def _fill(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a masked language model by a text."""
    _refuse(settings, "stride", "separator")
    tokenizer = Tokenizer.load(saved.directory)
    rate = settings.mask_rate or recorded(settings, ("settings", "mask_rate"), MASK_RATE)
    masking = Masking(tokenizer, rate, recorded(settings, ("settings", "whole_words"), False))
    packed = pack(Corpus((), _documents(settings)), tokenizer)
    sequences = FullSequences(packed.tokens("validation"), tokenizer, find_length(settings, saved, tokenizer), None)
    source = MaskedSequences(sequences, masking, tokenizer.special_ids["pad"], pairs=False)
    measure = MaskedTokens(source, settings.batch_size)
    start_tensorflow()
    import zoo

    model = zoo.load(saved.directory, task="masked_lm")
    return {**measure.figures(measure.judge(model)), "sequences": sequences.count}


def _predict(settings: Evaluate) -> dict[str, Any]:
    """The figures of a language model by a text."""
    _refuse(settings, "max_length", "stride", "separator", "mask_rate")
    documents = _documents(settings)
    start_tensorflow()
    from rich.console import Console
    from rich.progress import Progress

    import zoo
    from recipes.evaluation import evaluate_language_model

    model = zoo.load(settings.source, task="generate")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=1.0)
        return evaluate_language_model(
            model, documents, settings.batch_size, lambda part: bar.update(task, completed=part)
        )

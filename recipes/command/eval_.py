"""`zoo eval SOURCE --data PATH`: how well a model does on data."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.data import answered, completions, image_columns, labelled, pairs, questions, sentences, tagged
from recipes.data.documents import Document
from recipes.data.held_out import require_apart
from recipes.data.masking import MASK_RATE, Masking
from recipes.data.packing import pack
from recipes.data.questions import STRIDE
from recipes.data.sequences import FullSequences, MaskedSequences
from recipes.data.tables import open_table
from recipes.data.text import Corpus, find_documents, open_corpus
from recipes.engine.directory import RECORD
from recipes.engine.start import start_tensorflow
from recipes.measures import (
    Answering,
    Classification,
    Completion,
    ImageClassification,
    MaskedTokens,
    Measure,
    Retrieval,
    Tagging,
)
from zoo.directory import LABELS, Saved, find_model_directory, read_saved
from zoo.errors import UserError
from zoo.files import read_json
from zoo.huggingface import reading_length
from zoo.text import Tokenizer
from zoo.text.entities import OUTSIDE, split_label

if TYPE_CHECKING:
    from recipes.data.labelled_images import LabelledImages

TABLES = ("classify", "tag", "answer", "embed")  # tasks that are measured by tables alone


@dataclasses.dataclass(frozen=True)
class AnyColumns(
    labelled.Columns,
    sentences.TagColumns,
    questions.QuestionColumns,
    completions.CompletionColumns,
    image_columns.ImageColumns,
    image_columns.CaptionColumns,
):
    """Which columns of a table hold what; guessed where their names are plain."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
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

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model directory, or a run that holds one."""
    data: Path
    """Text file, or folder of text files; a table; or a folder of label/name.jpg."""
    neighbours: Path | None = None
    """Of images, others whose classes are known, such as those of the training: the classes are told by the nearest."""
    validation_fraction: float | None = None
    """Of a text, measure only what training with this fraction holds out; None for all of it."""
    mask_rate: float | None = None
    """The part of a text's tokens to mask; None for that of the run, and else 0.15."""
    columns: AnyColumns = dataclasses.field(default_factory=AnyColumns)
    max_length: int | None = None
    """Longest input in tokens, of a table or for a masked language model; None for that of the run, and else the
    model's."""
    stride: int | None = None
    """Of questions, by how many tokens of a context a window is further on than the one before; None for that of the
    run, and else 128."""
    separator: str | None = None
    """Of prompts, the text between them and their completions; None for that of the run, and else for a line's end."""
    completions: int = 50
    """Of prompts, how many the model completes at most, evenly spaced; 0 for none."""
    batch_size: int = 16
    """Windows, rows or images at a time; it does not change the result, but for which tokens are masked."""


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
    return not completions.is_text(settings.data, _prompt_columns(settings), settings.columns.text_column)


def _prompt_columns(settings: Evaluate) -> completions.CompletionColumns:
    columns = settings.columns
    return completions.CompletionColumns(columns.prompt_column, columns.completion_column, columns.input_column)


def _judge(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a model by a table."""
    if settings.validation_fraction is not None:
        raise UserError("--validation-fraction is for texts: a table is measured as a whole")
    measure, counts = _open_measure(settings, saved)
    start_tensorflow()
    import zoo

    return {**measure.figures(measure.judge(zoo.load(saved.directory))), **counts}


def _open_measure(settings: Evaluate, saved: Saved) -> tuple[Measure, dict[str, int]]:
    """A measure for the model's task, by the table; and how many examples it is made of."""
    if not hasattr(saved.config, "vocabulary_size"):
        raise UserError(f"{saved.directory} is a {saved.family.name} model, and zoo eval measures those that read text")
    tokenizer, size = Tokenizer.load(saved.directory), settings.batch_size
    length = _length(settings, saved, tokenizer)
    table = open_table(settings.data)
    if saved.task == "answer":
        asked = questions.find_columns(table, settings.columns)
        stride = settings.stride or _recorded(settings, ("settings", "stride"), STRIDE)
        answers = answered.read_answered(table, asked, tokenizer, length, stride)
        null = _recorded(settings, ("facts", "unanswerable"), int(answers.has_unanswerable)) > 0
        return Answering(answers, tokenizer, length, size, null), {"questions": len(answers)}
    if saved.task == "generate":
        prompts = completions.find_columns(table, _prompt_columns(settings))
        rows = completions.read_completions(table, prompts, tokenizer)
        separator = settings.separator
        if separator is None:
            separator = _recorded(settings, ("settings", "separator"), completions.SEPARATOR)
        source = completions.CompletionSource(rows, tokenizer, length, separator)
        return Completion(source, size, settings.completions), {"rows": len(rows)}
    if saved.task == "embed":
        sides = pairs.find_columns(table, pairs.PairColumns(settings.columns.text_column, settings.columns.pair_column))
        texts = pairs.read_pairs(table, sides, tokenizer)
        if len(texts) < 2:
            raise UserError(f"{settings.data} has {len(texts)} row: there is no other text to tell its own from")
        return Retrieval(texts, tokenizer, length, size), {"pairs": len(texts)}
    if saved.labels is None:
        raise UserError(f"{saved.directory} has no {LABELS}: what its classes are called is not known")
    if saved.task == "tag":
        types = dict.fromkeys(split_label(label)[1] for label in saved.labels if label != OUTSIDE)
        layout = sentences.find_layout(table, settings.columns)
        tags = tagged.read_tagged(table, layout, tokenizer, tuple(types))
        return Tagging(tags, tokenizer, length, size), {"sentences": len(tags)}
    columns = labelled.find_columns(table, settings.columns)
    classes = labelled.read_labelled(table, columns, tokenizer, saved.labels)
    return Classification(classes, labelled.TextSource(classes, tokenizer, length), size), {"rows": len(classes)}


def _see(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a model of images by labelled ones."""
    _refuse(settings, "validation_fraction", "mask_rate", "max_length", "stride", "separator")
    if settings.neighbours is None and (saved.task not in ("classify", "pretrain") or saved.labels is None):
        raise UserError(
            f"{saved.directory} tells no classes apart: give images whose classes are known with --neighbours"
        )
    if settings.neighbours is not None:
        require_apart(open_table(settings.neighbours), open_table(settings.data))
    known = None if settings.neighbours is None else _read_images(settings, settings.neighbours, ())
    images = _read_images(settings, settings.data, (saved.labels or ()) if known is None else known.labels)
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


def _read_images(settings: Evaluate, path: Path, labels: tuple[str, ...]) -> "LabelledImages":
    from recipes.data.labelled_images import read_labelled

    table = open_table(path)
    return read_labelled(table, image_columns.find_columns(table, settings.columns), labels)


def _match(settings: Evaluate, saved: Saved) -> dict[str, Any]:
    """The figures of a CLIP by images with captions."""
    _refuse(settings, "validation_fraction", "mask_rate", "stride", "separator")
    from recipes.data.captions import CaptionSource, read_captions
    from recipes.matching import Matching

    tokenizer, table = Tokenizer.load(saved.directory), open_table(settings.data)
    columns = settings.columns
    trained_on = _recorded(settings, ("settings", "columns", "caption_column"), [])[:1]
    if not columns.caption_column and all(name in table.columns for name in trained_on):
        columns = dataclasses.replace(columns, caption_column=tuple(trained_on))
    data = read_captions(table, image_columns.find_caption_columns(table, columns))
    if len(data) < 2:
        raise UserError(f"{settings.data} has {len(data)} row: there is no other image to tell its own from")
    start_tensorflow()
    import zoo

    model = zoo.load(saved.directory)
    source = CaptionSource(data, model.preprocessing, tokenizer, _length(settings, saved, tokenizer))
    measure = Matching(source, settings.batch_size)
    return {**measure.figures(measure.judge(model)), "pairs": len(data)}


def _length(settings: Evaluate, saved: Saved, tokenizer: Tokenizer) -> int:
    """The most tokens of an input."""
    longest = reading_length(tokenizer, saved.config)
    return min(settings.max_length or _recorded(settings, ("settings", "origin", "max_length"), longest), longest)


def _recorded(settings: Evaluate, path: tuple[str, ...], otherwise: Any) -> Any:
    """What the record of a run says, where the source is one and it says anything of this.

    Raises:
        UserError: it is damaged.
    """
    record = settings.source / RECORD
    value = read_json(record) if record.is_file() else None
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return otherwise
    if type(value) is not type(otherwise):
        raise UserError(f"{record} is damaged: {'.'.join(path)} is {value!r:.80}")
    return value


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
    rate = settings.mask_rate or _recorded(settings, ("settings", "mask_rate"), MASK_RATE)
    masking = Masking(tokenizer, rate, _recorded(settings, ("settings", "whole_words"), False))
    packed = pack(Corpus((), _documents(settings)), tokenizer)
    sequences = FullSequences(packed.tokens("validation"), tokenizer, _length(settings, saved, tokenizer), None)
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

"""What a model is measured by: the examples of the user's data that suit its task, opened before TensorFlow is."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from recipes.data import answered, completions, image_columns, labelled, pairs, questions, sentences, tagged
from recipes.data.questions import STRIDE
from recipes.data.tables import Table, open_table
from recipes.engine.directory import RECORD
from recipes.measures import Answering, Classification, Completion, Measure, Retrieval, Tagging
from zoo.directory import LABELS, Saved
from zoo.errors import UserError
from zoo.files import read_json
from zoo.huggingface import reading_length
from zoo.text import Tokenizer
from zoo.text.entities import OUTSIDE, split_label

if TYPE_CHECKING:
    from recipes.data.labelled_images import LabelledImages


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
class Measured:
    """A model, and the data to measure it by."""

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model directory, or a run that holds one."""
    data: Path
    """Text file, or folder of text files; a table; or a folder of label/name.jpg."""
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


def prompt_columns(settings: Measured) -> completions.CompletionColumns:
    columns = settings.columns
    return completions.CompletionColumns(columns.prompt_column, columns.completion_column, columns.input_column)


def open_measure(settings: Measured, saved: Saved) -> tuple[Measure, dict[str, int]]:
    """A measure for the model's task, by the table; and how many examples it is made of."""
    if not hasattr(saved.config, "vocabulary_size"):
        raise UserError(f"{saved.directory} is a {saved.family.name} model, and zoo eval measures those that read text")
    tokenizer, size = Tokenizer.load(saved.directory), settings.batch_size
    length = find_length(settings, saved, tokenizer)
    table = open_table(settings.data)
    if saved.task == "answer":
        asked = questions.find_columns(table, settings.columns)
        stride = settings.stride or recorded(settings, ("settings", "stride"), STRIDE)
        answers = answered.read_answered(table, asked, tokenizer, length, stride)
        null = recorded(settings, ("facts", "unanswerable"), int(answers.has_unanswerable)) > 0
        return Answering(answers, tokenizer, length, size, null), {"questions": len(answers)}
    if saved.task == "generate":
        prompts = completions.find_columns(table, prompt_columns(settings))
        rows = completions.read_completions(table, prompts, tokenizer)
        separator = settings.separator
        if separator is None:
            separator = recorded(settings, ("settings", "separator"), completions.SEPARATOR)
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


def read_images(settings: Measured, path: Path, labels: tuple[str, ...]) -> "LabelledImages":
    from recipes.data.labelled_images import read_labelled

    table = open_table(path)
    return read_labelled(table, image_columns.find_columns(table, settings.columns), labels)


def find_captions(settings: Measured, table: Table) -> tuple[str, tuple[str, ...]]:
    """The columns of images and of captions, of which a run has noted its own."""
    columns = settings.columns
    trained_on = recorded(settings, ("settings", "columns", "caption_column"), [])[:1]
    if not columns.caption_column and all(name in table.columns for name in trained_on):
        columns = dataclasses.replace(columns, caption_column=tuple(trained_on))
    return image_columns.find_caption_columns(table, columns)


def find_length(settings: Measured, saved: Saved, tokenizer: Tokenizer) -> int:
    """The most tokens of an input."""
    longest = reading_length(tokenizer, saved.config)
    return min(settings.max_length or recorded(settings, ("settings", "origin", "max_length"), longest), longest)


def recorded(settings: Measured, path: tuple[str, ...], otherwise: Any) -> Any:
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

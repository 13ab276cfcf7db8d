"""distill: train a small student to say what a large teacher says (Hinton et al. 2015; Sanh et al. 2019, sections 2 and
3; Jiao et al. 2020).

On a laptop (two cores, minutes), of a classifier that was trained before, with half of its blocks:

    zoo train distill --teacher classifier --data train.csv --validation-data test.csv --out run

On a GPU, as DistilBERT: `--teacher hf:google-bert/bert-base-uncased --data text --precision bfloat16 --batch-size 256
--learning-rate 5e-4 --epochs 3`.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from recipes.data.augmentation import Augmentation
from recipes.data.batches import Batches
from recipes.data.classes import Rows
from recipes.data.labelled import Columns
from recipes.data.masking import MASK_RATE
from recipes.data.tables import Table, open_table
from recipes.engine.settings import Training, require_trained
from recipes.engine.start import start_tensorflow
from recipes.engine.student import Lesson, Student, look_up_lesson
from recipes.fine_tuning import fine_tuning
from zoo.errors import UserError

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class Distill:
    """Train a student on what a teacher makes of a table of texts or of images (a classifier) or of plain text (a
    language model, masked or not).

    Leaves in --out: summary.md, which has both side by side, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs,
    checkpoints/, and model/, the student that did best on held-out data, which stands for itself. A run that was
    stopped, by whatever, goes on when the same command is given again.
    """

    free: ClassVar[frozenset[str]] = frozenset({"data", "validation_data", "teacher", "evaluation_sequences"})

    data: Path
    """For a classifier of texts a table with a text and a label in each row, of images a folder of label/name.jpg or a
    table; else a text file, or a folder of them."""
    teacher: str
    """Model to learn from, for classify, masked_lm or generate: a model directory, a run, a Hugging Face checkpoint, or
    hf:organisation/name."""
    out: Path
    """Run directory to make, or to go on in."""
    validation_data: Path | None = None
    """Held-out rows, or text; without it a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the data to hold out."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    image_column: str | None = None
    """Column of the image, where the teacher sees; guessed where its name is plain."""
    crop_area: float = 0.5
    """Of images, the smallest part that a random crop takes, by area: both models see the same."""
    flip: bool = True
    """Of images, mirror every other one; not for what has a left and a right, such as letters."""
    student: Student = dataclasses.field(default_factory=Student)
    temperature: float = 2.0
    """What the logits of both are divided by, for the student to learn from what the teacher finds unlikely as well."""
    alpha: float = 0.7
    """What the teacher's word weighs, from 0 to 1; the data's own labels weigh the rest."""
    beta: float = 0.1
    """What it weighs, beside both, that the student's last vectors point as the teacher's do."""
    mask_rate: float = MASK_RATE
    """The part of the tokens that a masked language model is to predict."""
    evaluation_sequences: int = 1000
    """Most held-out sequences of plain text to evaluate on."""
    training: Training = dataclasses.field(default_factory=fine_tuning)
    force: bool = False
    """Go on with the run in --out although settings have changed."""
    restart: bool = False
    """Throw away the run in --out and begin anew."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "mask_rate"):
            self._require(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        Augmentation(crop_area=self.crop_area)
        self._require("temperature", 0 < self.temperature < float("inf"), "above 0")
        self._require("alpha", 0 <= self.alpha <= 1, "from 0 to 1")
        self._require("beta", 0 <= self.beta < float("inf"), "0 or more")
        self._require("evaluation_sequences", self.evaluation_sequences >= 1, "at least 1")
        require_trained(self.student.source, self.training)

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, and must be {allowed}")


@dataclasses.dataclass(frozen=True)
class Material:
    """What a student is trained on, as its task has it.

    Attributes:
        train, held_out: the batches.
        batches_per_epoch: of the former.
        unit, units_per_step: as in `Job`.
        facts: as `Run` takes them.
        soft_labels: labels are shares of all classes, and not the number of one.
    """

    train: Batches
    held_out: Batches
    batches_per_epoch: int
    unit: str
    units_per_step: int
    facts: dict[str, Any]
    soft_labels: bool = False


def train_student(settings: Distill) -> dict[str, Any]:
    """Run the recipe: data as the teacher's task has it, the teacher beside the student, and the engine trains."""
    from recipes.engine.directory import Run, require_run_directory
    from recipes.engine.state import summarize

    paths = (Path(each) for each in (settings.teacher, settings.student.source) if each)
    require_run_directory(settings.out, settings.restart, (settings.data, settings.validation_data, *paths))
    lesson = look_up_lesson(settings.teacher, settings.student)
    if lesson.tokenizer is not None:
        _refuse_of_images(settings)
    readers = {"classify": _read_rows, "masked_lm": _read_masked_text, "generate": _read_text}
    read = _read_images if lesson.tokenizer is None else readers[lesson.task]
    material = read(settings, lesson)
    training = settings.training.counted(material.batches_per_epoch)
    facts = {**material.facts, "data": f"{material.facts['data']} {lesson.fingerprint}"}
    run = Run(settings.out, "distill", dataclasses.replace(settings, training=training), facts)
    if finished := run.finished():
        logger.info("the run in %s is finished: nothing is left to train", settings.out)
        return summarize(settings.out, finished.state, material.unit)
    lesson.tell()
    per_epoch = f"{material.batches_per_epoch:,}"
    logger.info("%s updates, %s of them to see all of the data once", f"{training.steps:,}", per_epoch)
    start_tensorflow()
    import keras

    from recipes.data.dataset import make_dataset
    from recipes.engine.job import Job
    from recipes.engine.loop import train
    from recipes.reports.comparison import FIGURES, Comparison
    from zoo.objectives import Distillation

    load_teacher = functools.cache(lesson.load_teacher)

    def make_model(dtype: str) -> Any:
        teacher = load_teacher(dtype)
        student = lesson.make_student(teacher, dtype)
        return Distillation(student, teacher, settings.temperature, settings.alpha, settings.beta)

    def compare(student: Any) -> Comparison:
        return Comparison(student, load_teacher(student.dtype_policy.name), material.held_out)

    def make_evaluation(student: Any) -> Callable[[], dict[str, float]]:
        comparison = compare(student)
        return lambda: {f"validation_{name}": value for name, value in comparison.figures().items()}

    figure, losses = FIGURES[lesson.task], keras.losses
    loss = losses.CategoricalCrossentropy if material.soft_labels else losses.SparseCategoricalCrossentropy
    job = Job(
        make_model,
        {"logits": loss(from_logits=True, reduction="mean_with_sample_weight")},
        lambda first_step: make_dataset(material.train, first_step),
        lambda: make_dataset(material.held_out),
        unit=material.unit,
        units_per_step=material.units_per_step,
        make_evaluation=make_evaluation,
        judged_by=f"validation_{figure}",
        highest_is_best=figure != "perplexity",
        kept=lambda distillation: distillation.model,
        report=lambda student, directory: compare(student).table(),
    )
    return train(job, training, run)


def _read_rows(settings: Distill, lesson: Lesson) -> Material:
    """A table of texts with labels, as classify-text has it, and the teacher's classes."""
    from recipes.data import labelled
    from recipes.data.grouping import GroupedBatches

    labels = lesson.labels or tuple(map(str, range(lesson.teacher_config.num_classes)))
    batch_size, seed = settings.training.batch_size, settings.training.seed

    def read(table: Table) -> labelled.LabelledTexts:
        return labelled.read_labelled(table, labelled.find_columns(table, settings.columns), lesson.reader, labels)

    train_data, held_out = _share_out(settings, read)
    source = labelled.TextSource(train_data, lesson.reader, lesson.length)
    labelled.tell(train_data, held_out, source)
    train = GroupedBatches(source, batch_size, seed)
    held_out_batches = GroupedBatches(labelled.TextSource(held_out, lesson.reader, lesson.length), batch_size, None)
    facts = {
        "train_rows": len(train_data),
        "validation_rows": len(held_out),
        "classes": len(labels),
        "data": f"{train_data.examples.fingerprint} {held_out.examples.fingerprint}",
    }
    return Material(train, held_out_batches, train.batches_per_epoch, "rows", batch_size, facts)


def _share_out(settings: Distill, read: Callable[[Table], Rows]) -> tuple[Rows, Rows]:
    """What to train on, and what to hold out, of a table with labels."""
    from recipes.data import classes
    from recipes.data.held_out import require_apart

    table = open_table(settings.data)
    if settings.validation_data is None:
        shares = classes.split(read(table), settings.validation_fraction, settings.training.seed)
    else:
        other = open_table(settings.validation_data)
        require_apart(table, other)
        shares = read(table), read(other)
    classes.tell_held_out(*shares)
    return shares


def _refuse_of_images(settings: Distill) -> None:
    for name in ("image_column", "crop_area", "flip"):
        if getattr(settings, name) != Distill.__dataclass_fields__[name].default:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for images, and the teacher sees none: leave it out")


def _read_images(settings: Distill, lesson: Lesson) -> Material:
    """Images with labels, as classify-image has them, and the teacher's classes."""
    from recipes.data import labelled_images
    from recipes.data.grouping import GroupedBatches
    from recipes.data.image_columns import ImageColumns, find_columns

    assert lesson.preprocessing is not None
    for name in ("text_column", "pair_column"):
        if getattr(settings.columns, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for texts, and the teacher reads none: leave it out")
    labels = lesson.labels or tuple(map(str, range(lesson.teacher_config.num_classes)))
    batch_size, seed = settings.training.batch_size, settings.training.seed
    columns = ImageColumns(settings.image_column, settings.columns.label_column)

    def read(table: Table) -> labelled_images.LabelledImages:
        return labelled_images.read_labelled(table, find_columns(table, columns), labels)

    train_data, held_out = _share_out(settings, read)
    labelled_images.tell(train_data, held_out, lesson.preprocessing)
    changes = Augmentation(crop_area=settings.crop_area, flip=settings.flip)
    train = GroupedBatches(labelled_images.ImageSource(train_data, lesson.preprocessing, changes), batch_size, seed)
    held_out_source = labelled_images.ImageSource(held_out, lesson.preprocessing)
    facts = {
        "train_images": len(train_data),
        "validation_images": len(held_out),
        "classes": len(labels),
        "data": f"{train_data.fingerprint} {held_out.fingerprint}",
    }
    held_out_batches = GroupedBatches(held_out_source, batch_size, None)
    return Material(train, held_out_batches, train.batches_per_epoch, "images", batch_size, facts, soft_labels=True)


def _read_masked_text(settings: Distill, lesson: Lesson) -> Material:
    """Full sequences of text with masked tokens, as bert-pretrain --no-nsp has them."""
    from recipes.data.grouping import GroupedBatches
    from recipes.data.masking import Masking
    from recipes.data.packing import pack
    from recipes.data.sequences import FullSequences, MaskedSequences

    tokenizer, batch_size = lesson.reader, settings.training.batch_size
    masking = Masking(tokenizer, settings.mask_rate)
    packed = pack(_open_text(settings), tokenizer)

    def make_batches(split: Any, seed: int | None, most: int | None) -> GroupedBatches:
        sequences = FullSequences(packed.tokens(split), tokenizer, lesson.length, seed, most)
        source = MaskedSequences(sequences, masking, tokenizer.special_ids["pad"], pairs=False)
        return GroupedBatches(source, batch_size, seed)

    train = make_batches("train", settings.training.seed, None)
    held_out = make_batches("validation", None, settings.evaluation_sequences)
    return Material(train, held_out, train.batches_per_epoch, "tokens", batch_size * lesson.length, packed.facts)


def _open_text(settings: Distill) -> Any:
    """The corpus of a language model."""
    from recipes.data.text import open_corpus

    columns = settings.columns
    for name in ("pair_column", "label_column"):
        if getattr(columns, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for a classifier, and the teacher is none: leave it out")
    return open_corpus(settings.data, settings.validation_data, settings.validation_fraction, columns.text_column)


def _read_text(settings: Distill, lesson: Lesson) -> Material:
    """Windows of text and the tokens that follow, as gpt-pretrain has them."""
    from recipes.data.batches import TrainingBatches, ValidationBatches
    from recipes.data.packing import pack

    length, batch_size = lesson.length, settings.training.batch_size
    packed = pack(_open_text(settings), lesson.reader)
    train = TrainingBatches(packed.tokens("train"), length, batch_size, settings.training.seed)
    held_out = ValidationBatches(packed.tokens("validation"), length, batch_size, settings.evaluation_sequences)
    batches_per_epoch = -(-train.windows_per_epoch // batch_size)
    return Material(train, held_out, batches_per_epoch, "tokens", batch_size * length, packed.facts)

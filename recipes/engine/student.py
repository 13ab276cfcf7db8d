"""A teacher, which is there already, and the student that learns from it, which may have to be made."""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from zoo.directory import Saved, find_model_directory, load_preprocessing, read_saved, require_vocabulary
from zoo.errors import UserError
from zoo.registry import Family, find_preset
from zoo.tensors import fingerprint
from zoo.text import Tokenizer

if TYPE_CHECKING:
    from zoo.image import Preprocessing

logger = logging.getLogger("zoo")

FAMILIES = ("bert", "gpt", "vit")
TASKS = ("classify", "masked_lm", "generate")
# What a student of another size has from its teacher, for both to read and to answer the same.
SHARED = ("vocabulary_size", "max_length", "num_segments", "num_classes", "image_size", "channels", "patch_size")


@dataclasses.dataclass(frozen=True)
class Student:
    """The model that learns, before it does. By default it is the teacher with every other of its blocks."""

    source: Annotated[str | None, arg(name="from")] = None
    """Model to begin with, of the teacher's family, and with its tokenizer or its patches; None makes one."""
    preset: str | None = None
    """Size of a fresh model; zoo list shows them. None for the teacher's."""
    depth: int | None = None
    """Blocks of a student that is made; None for the preset's, or half of the teacher's."""
    width: int | None = None
    """Its width, in heads as wide as the preset's or the teacher's; with another than the teacher's it begins with
    fresh weights."""
    max_length: int | None = None
    """Longest input in tokens; None for what both models read."""
    dropout: float | None = None
    """Rate of every dropout; None for the model's."""

    def __post_init__(self) -> None:
        for name in ("depth", "width", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}, and must be at least 1")
        for name in ("preset", "depth", "width"):
            if self.source is not None and getattr(self, name) is not None:
                raise UserError(f"--from brings its own size: leave out --{name}, or --from")


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A teacher and a student that were looked up, before anything heavy is imported.

    Attributes:
        family, task: of both.
        tokenizer, preprocessing, labels: of the teacher, which the student gets; None of what it has not.
        teacher: its directory.
        teacher_config: its configuration.
        config: the student's.
        student: the student's directory; None where it is made.
        begins_as_teacher: a student that is made gets weights of the teacher.
        length: tokens of the longest input; of images 1.
    """

    family: Family
    task: str
    tokenizer: Tokenizer | None
    preprocessing: "Preprocessing | None"
    labels: tuple[str, ...] | None
    teacher: Path
    teacher_config: Any
    config: Any
    student: Path | None
    begins_as_teacher: bool
    length: int

    @property
    def reader(self) -> Tokenizer:
        """The tokenizer, of models of text."""
        assert self.tokenizer is not None
        return self.tokenizer

    def load_teacher(self, dtype: str) -> Any:
        """The teacher, for its task."""
        import zoo

        return zoo.load(self.teacher, task=self.task, dtype=dtype)

    def make_student(self, teacher: Any, dtype: str) -> Any:
        """The student of a teacher that was loaded."""
        import zoo
        from zoo.objectives import begin_as_teacher

        if self.student is not None:
            saved = read_saved(self.student).config.to_dict()
            changes = {name: value for name, value in self.config.to_dict().items() if value != saved[name]}
            student = zoo.load(self.student, task=self.task, dtype=dtype, **changes)
        else:
            student = self.family.model_class(self.task)(self.config, task=self.task, dtype=dtype)
            student.build()
            if self.begins_as_teacher:
                begin_as_teacher(student, teacher)
            student.tokenizer = self.tokenizer
        if self.preprocessing is not None:
            student.preprocessing = self.preprocessing
        student.labels = self.labels
        return student

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the teacher's weights, in hexadecimal."""
        return fingerprint(self.teacher)

    def tell(self) -> None:
        """Say who learns from whom."""
        kinds = {True: "begun with the teacher's blocks", False: "begun with fresh weights"}
        logger.info(
            "teacher: %s for %s, %d blocks of width %d; student: %d of width %d, %s",
            self.family.name,
            self.task,
            self.teacher_config.depth,
            self.teacher_config.width,
            self.config.depth,
            self.config.width,
            f"from {self.student}" if self.student is not None else kinds[self.begins_as_teacher],
        )


def look_up_lesson(teacher: str, settings: Student) -> Lesson:
    """Find the teacher, and what its student is to be.

    Args:
        teacher: a model directory, a run, a Hugging Face checkpoint, or hf:organisation/name.
        settings: of the student.

    Raises:
        UserError: a model is not there, is damaged, or is for another task; or the student does not fit the teacher.
    """
    directory = find_model_directory(teacher)
    saved = read_saved(directory)
    family, task = saved.family, saved.task
    teacher_config: Any = saved.config
    if task == "pretrain":
        task = next((each for each in ("masked_lm", "generate", "classify") if each in family.tasks), None)
    if task not in TASKS or family.name not in FAMILIES:
        raise UserError(
            f"distill learns from a model of {', '.join(FAMILIES)} for {', '.join(TASKS)}, and {teacher} is a "
            f"{family.name} model for {saved.task or 'nothing here'}"
        )
    tokenizer, preprocessing = None, load_preprocessing(saved) or teacher_config.make_preprocessing()
    if hasattr(teacher_config, "vocabulary_size"):
        tokenizer = Tokenizer.load(directory)
        require_vocabulary(tokenizer, teacher_config, directory)
    elif preprocessing is None:
        raise UserError(f"distill reads colour pictures, and {teacher} takes {teacher_config.channels} channels")
    student = None if settings.source is None else find_model_directory(settings.source)
    config: Any = _find_config(settings, student, family, teacher_config, tokenizer)
    begins_as_teacher = student is None and settings.preset is None and config.width == teacher_config.width
    if begins_as_teacher and config.depth > teacher_config.depth:
        raise UserError(f"--depth is {config.depth}, and the teacher has {teacher_config.depth} blocks to begin with")
    if settings.dropout is not None:
        config = config.replace(dropout=settings.dropout, attention_dropout=settings.dropout)
    longest = 1 if tokenizer is None else min(config.max_length, teacher_config.max_length)
    if tokenizer is None and settings.max_length is not None:
        raise UserError("--max-length is for models of text, and the teacher is none: leave it out")
    if settings.max_length is not None and settings.max_length > longest:
        logger.warning("--max-length %d is cut to the %d tokens that both models read", settings.max_length, longest)
    return Lesson(
        family,
        task,
        tokenizer,
        preprocessing,
        saved.labels,
        directory,
        teacher_config,
        config,
        student,
        begins_as_teacher,
        min(settings.max_length or longest, longest),
    )


def _find_config(
    settings: Student, student: Path | None, family: Family, teacher_config: Any, tokenizer: Tokenizer | None
) -> Any:
    """The student's configuration, but for dropout."""
    config: Any
    if student is not None:
        saved = read_saved(student)
        if tokenizer is None:
            return _fit_to_images(student, saved, family, teacher_config)
        if saved.family is not family or not Tokenizer.load(student).same_as(tokenizer):
            raise UserError(
                f"{student} is no {family.name} model with the teacher's tokenizer: both must read the same"
            )
        config = saved.config
        if config.vocabulary_size != teacher_config.vocabulary_size:
            raise UserError(
                f"{student} has a vocabulary_size of {config.vocabulary_size:,}, and the teacher's is "
                f"{teacher_config.vocabulary_size:,}: they could not be compared"
            )
        return config.replace(num_classes=teacher_config.num_classes)
    shared = {name: getattr(teacher_config, name) for name in SHARED if hasattr(teacher_config, name)}
    if settings.preset is not None:
        found, config = find_preset(settings.preset)
        if found is not family:
            raise UserError(
                f"--preset {settings.preset} is a {found.name} model, and the teacher a {family.name} model"
            )
        depth = config.depth
    else:
        config, depth = teacher_config, max(1, teacher_config.depth // 2)
    sizes: dict[str, Any] = {"depth": settings.depth or depth}
    if settings.width is not None and settings.width != config.width:
        head = config.width // config.num_heads
        if settings.width % head:
            raise UserError(f"--width is {settings.width}, and must be a multiple of {head}, the width of a head")
        sizes |= {"width": settings.width, "num_heads": settings.width // head, "mlp_width": None}
    return config.replace(**shared, **sizes)


def _fit_to_images(student: Path, saved: Saved, family: Family, teacher_config: Any) -> Any:
    """The configuration of a student that is there, for the images of its teacher."""
    config: Any = saved.config
    if saved.family is not family or (config.patch_size, config.channels) != (
        teacher_config.patch_size,
        teacher_config.channels,
    ):
        raise UserError(
            f"{student} is no {family.name} model with patches of {teacher_config.patch_size} pixels, as the teacher's "
            "are: their vectors could not be compared"
        )
    return config.replace(num_classes=teacher_config.num_classes, image_size=teacher_config.image_size)

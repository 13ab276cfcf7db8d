"""What the recipes share that train a model on somebody's examples: settings, held-out rows, and the run itself."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from recipes.data.grouping import GroupedBatches, Source
from recipes.data.held_out import require_apart
from recipes.data.tables import Table, open_table
from recipes.engine.optimizer import Optimization
from recipes.engine.origin import Beginning, Origin, look_up
from recipes.engine.settings import Training, require_trained
from recipes.engine.start import start_tensorflow
from recipes.measures import Measure, evaluation_by
from zoo.errors import UserError

logger = logging.getLogger("zoo")

Data = TypeVar("Data")


def fine_tuning(**changes: Any) -> Training:
    """The settings that small models and small data do well with."""
    optimization = Optimization(learning_rate=5e-4, schedule="linear", warmup_steps=50, weight_decay=0.01, beta_2=0.98)
    fixed = {"epochs": 10.0, "evaluate_every": None, "xla": False, "keep_last": 1, "optimization": optimization}
    return Training(**{**fixed, **changes})


@dataclasses.dataclass(frozen=True)
class TrainingOnExamples:
    """The settings of every recipe that trains on examples."""

    free: ClassVar[frozenset[str]] = frozenset({"data", "validation_data"})

    data: Path
    """Table of examples."""
    out: Path
    """Run directory to make, or to go on in."""
    validation_data: Path | None = None
    """Held-out rows; without them a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the rows to hold out."""
    training: Training = dataclasses.field(default_factory=fine_tuning)
    force: bool = False
    """Go on with the run in --out although settings have changed."""
    restart: bool = False
    """Throw away the run in --out and begin anew."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"--validation-fraction is {self.validation_fraction}, and must be between 0 and 1")


@dataclasses.dataclass(frozen=True)
class FineTuning(TrainingOnExamples):
    """The settings of every recipe that trains a model of text on examples."""

    origin: Origin = dataclasses.field(default_factory=lambda: Origin(max_length=128))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_trained(None if self.origin.fresh else self.origin.source, self.training)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What tells one recipe's training on examples from another's.

    Attributes:
        recipe: its name.
        unit: what the examples are called.
        source: those to train on.
        measure: of those that are held out.
        losses: the outputs of the model that are logits of classes, of which the right one is to be learnt; the loss is
            the mean over them. Or what makes the losses, given the model, which then keeps its vectors for them.
        soft_labels: labels are shares of all classes, and not the number of one.
        judged_by: the figure of `measure` by which the best model is told.
        facts: what was found in the data, as `Run` takes it.
        labels: names of the classes, where there are any.
        objective: given the model, makes a `zoo.objectives.Objective` of it, which trains it; None where the losses do.
        highest_is_best: whether a higher figure is better.
        make_sample: as `Job` takes it.
        augment: what makes other examples of a `tf.data.Dataset` of batches of `source`, each time that it is run.
    """

    recipe: str
    unit: str
    source: Source
    measure: Measure
    losses: tuple[str, ...] | Callable[[Any], dict[str, Any]]
    judged_by: str
    facts: dict[str, Any]
    soft_labels: bool = False
    labels: tuple[str, ...] | None = None
    objective: Callable[[Any], Any] | None = None
    highest_is_best: bool = True
    make_sample: Callable[[Any], Callable[[], str]] | None = None
    augment: Callable[[Any], Any] = lambda dataset: dataset


def begin(settings: FineTuning, recipe: str, task: str) -> tuple[Beginning, Table]:
    """Look up what a run begins from, and look into its data.

    Raises:
        UserError: either is not what the recipe can use, or --out is taken.
    """
    table = open_examples(settings, settings.origin.paths)
    return look_up(settings.origin, recipe, task), table


def open_examples(
    settings: TrainingOnExamples, inputs: tuple[Path, ...], look_into: Callable[[Path], Table] = open_table
) -> Table:
    """Look into the data of a run.

    Args:
        settings: of the recipe.
        inputs: what else the run reads, which it must not replace.
        look_into: makes a table of a path.

    Raises:
        UserError: the data is not what the recipe can use, or --out is taken.
    """
    from recipes.engine.directory import require_run_directory

    require_run_directory(settings.out, settings.restart, (settings.data, settings.validation_data, *inputs))
    table = look_into(settings.data)
    if settings.validation_data is not None:
        require_apart(table, look_into(settings.validation_data))
    return table


def require_wordpiece(beginning: Beginning, recipe: str) -> None:
    """Raise UserError unless the model reads words in pieces, as BERT's own tokenizer makes them."""
    if beginning.tokenizer.kind != "wordpiece":
        raise UserError(f"{recipe} needs a wordpiece tokenizer, and not {beginning.tokenizer.kind}")


def share_out(
    settings: TrainingOnExamples,
    data: Data,
    split: Callable[[Data, float, int], tuple[Data, Data]],
    read: Callable[[Table], Data],
    look_into: Callable[[Path], Table] = open_table,
) -> tuple[Data, Data]:
    """What to train on, and what to hold out.

    Args:
        settings: say how.
        data: what was read of `settings.data`.
        split: makes two of it, by the fraction to hold out and a seed.
        read: reads other data to hold out.
        look_into: makes a table of its path.
    """
    if settings.validation_data is not None:
        return data, read(look_into(settings.validation_data))
    return split(data, settings.validation_fraction, settings.training.seed)


def fine_tune(settings: TrainingOnExamples, tuning: Tuning, make: Callable[[str], Any]) -> dict[str, Any]:
    """Train, or go on, or tell of a run that is finished; what there is to tell.

    Args:
        settings: of the recipe.
        tuning: all else of it.
        make: makes the model with the dtype policy it is given, before it is trained.
    """
    from recipes.engine.directory import Run
    from recipes.engine.state import summarize

    measure, batch_size = tuning.measure, settings.training.batch_size
    batches = GroupedBatches(tuning.source, batch_size, settings.training.seed)
    training = settings.training.counted(batches.batches_per_epoch)
    run = Run(settings.out, tuning.recipe, dataclasses.replace(settings, training=training), tuning.facts)
    if finished := run.finished():
        logger.info("the run in %s is finished: nothing is left to train", settings.out)
        return summarize(settings.out, finished.state, tuning.unit)
    updates = "%s updates of %d %s, %s of them to see each once"
    logger.info(updates, f"{training.steps:,}", batch_size, tuning.unit, f"{batches.batches_per_epoch:,}")
    start_tensorflow()
    import keras

    from recipes.data.dataset import make_dataset
    from recipes.engine.job import Job
    from recipes.engine.loop import train

    def make_model(dtype: str) -> Any:
        model = make(dtype)
        model.labels = tuning.labels
        if callable(tuning.losses):
            model.keeps_sequence = True
        return tuning.objective(model) if tuning.objective else model

    def loss() -> Any:
        losses = keras.losses
        kind = losses.CategoricalCrossentropy if tuning.soft_labels else losses.SparseCategoricalCrossentropy
        return kind(from_logits=True, reduction="mean_with_sample_weight")

    logits = () if callable(tuning.losses) else tuning.losses
    job = Job(
        make_model,
        tuning.losses if callable(tuning.losses) else {name: loss() for name in logits} or None,
        lambda first_step: tuning.augment(make_dataset(batches, first_step)),
        lambda: make_dataset(measure.batches),
        unit=tuning.unit,
        units_per_step=batch_size,
        loss_weights={name: 1 / len(logits) for name in logits} or None,
        make_evaluation=evaluation_by(measure),
        judged_by=f"validation_{tuning.judged_by}",
        highest_is_best=tuning.highest_is_best,
        make_sample=tuning.make_sample,
        kept=(lambda objective: objective.model) if tuning.objective else (lambda model: model),
        report=lambda model, directory: measure.write(measure.judge(model), directory),
    )
    return train(job, training, run)

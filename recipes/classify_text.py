"""classify-text: train BERT or GPT to tell classes of texts, or of pairs of texts (Devlin et al. 2019, section 3.2;
Radford et al. 2018, section 3.2).

On a laptop (two cores, minutes), from a model that was pretrained before:

    zoo train classify-text --data train.csv --validation-data test.csv --from pretrained --out run

On a GPU: `--from hf:google-bert/bert-base-uncased --precision bfloat16 --learning-rate 2e-5 --epochs 3`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from recipes.data.labelled import Columns
from recipes.engine.optimizer import Optimization
from recipes.engine.origin import Origin, look_up
from recipes.engine.settings import Training, require_trained
from recipes.engine.start import start_tensorflow
from zoo.errors import UserError


def fine_tuning(**changes: Any) -> Training:
    """The settings that small models and small data do well with."""
    optimization = Optimization(learning_rate=5e-4, schedule="linear", warmup_steps=50, weight_decay=0.01, beta_2=0.98)
    fixed = {"epochs": 10.0, "evaluate_every": None, "xla": False, "keep_last": 1, "optimization": optimization}
    return Training(**{**fixed, **changes})


@dataclasses.dataclass(frozen=True)
class ClassifyText:
    """Train a classifier of texts on a table: CSV, TSV, JSON Lines, JSON, Parquet, or a folder of label/name.txt.

    Leaves in --out: summary.md, confusion.png, mistakes.md, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs,
    checkpoints/, and model/, the model with the highest accuracy on held-out rows, which zoo predict, eval and export
    take. A run that was stopped, by whatever, goes on when the same command is given again.
    """

    free: ClassVar[frozenset[str]] = frozenset({"data", "validation_data"})

    data: Path
    """Table with a text and a label in each row."""
    out: Path
    """Run directory to make, or to go on in."""
    validation_data: Path | None = None
    """Held-out rows; without them a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the rows of each class to hold out."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    examples_per_class: int | None = None
    """Train on no more than so many rows of each class, at random; None for all."""
    balance: bool = False
    """Weigh classes alike, however many rows they have."""
    origin: Origin = dataclasses.field(default_factory=lambda: Origin(max_length=128))
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
        if self.examples_per_class is not None and self.examples_per_class < 1:
            raise UserError(f"--examples-per-class is {self.examples_per_class}, and must be at least 1")
        require_trained(self.origin.source, self.training)


def train_classifier(settings: ClassifyText) -> dict[str, Any]:
    """Run the recipe: rows to encoded texts, texts to groups of like length, and the engine trains."""
    import numpy as np

    from recipes.data import labelled
    from recipes.data.grouping import GroupedBatches
    from recipes.data.tables import open_table
    from recipes.data.vocabulary import tokenizer_for
    from recipes.engine.directory import Run, require_run_directory
    from recipes.engine.state import summarize

    origin, seed = settings.origin, settings.training.seed
    require_run_directory(settings.out, settings.restart, (settings.data, settings.validation_data, *origin.paths))
    beginning = look_up(origin, "classify-text", "classify")
    table = open_table(settings.data)
    columns = labelled.find_columns(table, settings.columns)
    tokenizer = tokenizer_for(beginning.tokenizer, table, tuple(name for name in columns[:2] if name))
    data = labelled.read_labelled(table, columns, tokenizer)
    labelled.require_classes(data, settings.data)
    if settings.validation_data is None:
        train_data, held_out = labelled.split(data, settings.validation_fraction, seed)
    else:
        other = open_table(settings.validation_data)
        train_data = data
        held_out = labelled.read_labelled(
            other, labelled.find_columns(other, Columns(*columns)), tokenizer, data.labels
        )
    if settings.examples_per_class is not None:
        train_data = labelled.few(train_data, settings.examples_per_class, seed)
    counts = np.maximum(np.bincount(train_data.targets, minlength=len(data.labels)), 1)
    weights = (counts.mean() / counts).astype(np.float32) if settings.balance else None
    train_source = labelled.TextSource(train_data, tokenizer, beginning.length, weights)
    train_batches = GroupedBatches(train_source, settings.training.batch_size, seed)
    held_out_batches = GroupedBatches(
        labelled.TextSource(held_out, tokenizer, beginning.length), settings.training.batch_size, None
    )
    training = settings.training.counted(train_batches.batches_per_epoch)
    facts = {
        "train_rows": len(train_data),
        "validation_rows": len(held_out),
        "classes": len(data.labels),
        "data": f"{data.examples.fingerprint} {held_out.examples.fingerprint}",
    }
    run = Run(settings.out, "classify-text", dataclasses.replace(settings, training=training), facts)
    labelled.tell(train_data, held_out, train_source, training)
    if finished := run.finished():
        return summarize(settings.out, finished.state, "rows")
    start_tensorflow()
    import keras

    from recipes.data.dataset import make_dataset
    from recipes.engine.job import Job
    from recipes.engine.loop import train
    from recipes.engine.outputs import each_output
    from recipes.reports.classification import classification_figures, write_classification
    from zoo.prediction import softmax

    def measure(model: Any) -> tuple[np.ndarray, np.ndarray]:
        """The right class, and the probability of each, of the held-out rows in their order."""
        probabilities = np.empty((len(held_out), len(data.labels)), np.float32)
        for step, _, outputs in each_output(model, held_out_batches):
            probabilities[held_out_batches.rows(step)] = softmax(outputs["logits"])
        return held_out.targets, probabilities

    def make_model(dtype: str) -> Any:
        model = beginning.make("classify", dtype, tokenizer, num_classes=len(data.labels))
        model.labels = data.labels
        return model

    def make_evaluation(model: Any) -> Callable[[], dict[str, float]]:
        return lambda: classification_figures(*measure(model))

    job = Job(
        make_model,
        {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")},
        lambda first_step: make_dataset(train_batches, first_step),
        lambda: make_dataset(held_out_batches),
        unit="rows",
        units_per_step=training.batch_size,
        make_evaluation=make_evaluation,
        judged_by="validation_accuracy",
        highest_is_best=True,
        report=lambda model, run: write_classification(run, *measure(model), data.labels, held_out.text),
    )
    return train(job, training, run)

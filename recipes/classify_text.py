"""classify-text: train BERT or GPT to tell classes of texts, or of pairs of texts (Devlin et al. 2019, section 3.2;
Radford et al. 2018, section 3.2).

On a laptop (two cores, minutes), from a model that was pretrained before; on banking77 expect an accuracy of 0.90, and
of 0.77 on 10 examples a class (docs/results.md):

    zoo train classify-text --data train.csv --validation-data test.csv --from pretrained --out run

On a GPU: `--from hf:google-bert/bert-base-uncased --precision bfloat16 --learning-rate 2e-5 --epochs 3`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from recipes.data.labelled import Columns
from recipes.data.tables import Table
from recipes.fine_tuning import FineTuning, Tuning, begin, fine_tune, share_out
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClassifyText(FineTuning):
    """Train a classifier of texts on a table: CSV, TSV, JSON Lines, JSON, Parquet, or a folder of label/name.txt.

    Leaves in --out: summary.md, confusion.png, mistakes.md, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs,
    checkpoints/, and model/, the model with the highest accuracy on held-out rows, which zoo predict, eval and export
    take. A run that was stopped, by whatever, goes on when the same command is given again.
    """

    data: Path
    """Table with a text and a label in each row."""
    validation_fraction: float = 0.1
    """Part of the rows of each class to hold out."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    examples_per_class: int | None = None
    """Train on no more than so many rows of each class, at random; None for all."""
    balance: bool = False
    """Weigh classes alike, however many rows they have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples_per_class is not None and self.examples_per_class < 1:
            raise UserError(f"--examples-per-class is {self.examples_per_class}, and must be at least 1")


def train_classifier(settings: ClassifyText) -> dict[str, Any]:
    """Run the recipe: rows to encoded texts, texts to groups of like length, and the engine trains."""
    from recipes.data import classes, labelled
    from recipes.data.vocabulary import tokenizer_for
    from recipes.measures import Classification

    beginning, table = begin(settings, "classify-text", "classify")
    length, training = beginning.length, settings.training
    columns = labelled.find_columns(table, settings.columns)
    tokenizer = tokenizer_for(beginning.tokenizer, table, tuple(name for name in columns[:2] if name))
    data = labelled.read_labelled(table, columns, tokenizer)
    classes.require_classes(data, settings.data)

    def read(other: Table) -> labelled.LabelledTexts:
        return labelled.read_labelled(other, labelled.find_columns(other, Columns(*columns)), tokenizer, data.labels)

    train_data, held_out = share_out(settings, data, classes.split, read)
    if settings.examples_per_class is not None:
        train_data = classes.few(train_data, settings.examples_per_class, training.seed)
    weights = classes.balance(train_data) if settings.balance else None
    source = labelled.TextSource(train_data, tokenizer, length, weights)
    labelled.tell(train_data, held_out, source)
    classes.tell_held_out(train_data, held_out)
    facts = {
        "train_rows": len(train_data),
        "validation_rows": len(held_out),
        "classes": len(data.labels),
        "data": f"{data.examples.fingerprint} {held_out.examples.fingerprint}",
    }
    tuning = Tuning(
        "classify-text",
        "rows",
        source,
        Classification(held_out, labelled.TextSource(held_out, tokenizer, length), training.batch_size),
        losses=("logits",),
        judged_by="accuracy",
        facts=facts,
        labels=data.labels,
    )
    return fine_tune(
        settings, tuning, lambda dtype: beginning.make("classify", dtype, tokenizer, num_classes=len(data.labels))
    )

"""What the recipes share that train ViT on images with labels: settings, and the run itself."""

import dataclasses
from pathlib import Path
from typing import Any

from recipes.data.augmentation import Augmentation, require_operations
from recipes.data.image_columns import ImageColumns, find_columns
from recipes.data.tables import Table
from recipes.engine.image_origin import ImageOrigin, look_up_image_model
from recipes.fine_tuning import TrainingOnExamples, Tuning, fine_tune, open_examples, share_out
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainingOnImages(TrainingOnExamples):
    """The settings of a recipe that trains on images with labels."""

    data: Path
    """Folder of label/name.jpg, or table or TFRecords with an image and a label in each row."""
    validation_data: Path | None = None
    """Held-out images; without them a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the images of each class to hold out."""
    columns: ImageColumns = dataclasses.field(default_factory=ImageColumns)
    examples_per_class: int | None = None
    """Train on no more than so many images of each class, at random; None for all."""
    balance: bool = False
    """Weigh classes alike, however many images they have."""
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples_per_class is not None and self.examples_per_class < 1:
            raise UserError(f"--examples-per-class is {self.examples_per_class}, and must be at least 1")


def train_image_classifier(settings: TrainingOnImages, recipe: str, task: str, origin: ImageOrigin) -> dict[str, Any]:
    """Run a recipe: images found and looked at, shared out, augmented, and the engine trains.

    Args:
        settings: of the recipe.
        recipe: its name.
        task: of the model.
        origin: what the model begins from.
    """
    from recipes.data import classes, labelled_images
    from recipes.measures import ImageClassification

    require_operations(settings.augmentation)
    training = settings.training
    beginning = look_up_image_model(origin, recipe, task)
    table = open_examples(settings, origin.paths)
    columns = find_columns(table, settings.columns)
    data = labelled_images.read_labelled(table, columns)
    classes.require_classes(data, settings.data)

    def read(other: Table) -> labelled_images.LabelledImages:
        same = set(columns) <= set(other.columns)  # or else guessed anew, unless they were given
        chosen = columns if same else find_columns(other, settings.columns)
        return labelled_images.read_labelled(other, chosen, data.labels)

    train_data, held_out = share_out(settings, data, classes.split, read)
    if settings.examples_per_class is not None:
        train_data = classes.few(train_data, settings.examples_per_class, training.seed)
    weights = classes.balance(train_data) if settings.balance else None
    preprocessing = beginning.preprocessing
    source = labelled_images.ImageSource(train_data, preprocessing, settings.augmentation, weights)
    labelled_images.tell(train_data, held_out, preprocessing)
    classes.tell_held_out(train_data, held_out)
    facts = {
        "train_images": len(train_data),
        "validation_images": len(held_out),
        "classes": len(data.labels),
        "data": f"{data.fingerprint} {held_out.fingerprint}",
    }
    held_out_source = labelled_images.ImageSource(held_out, preprocessing)
    tuning = Tuning(
        recipe,
        "images",
        source,
        ImageClassification(held_out, held_out_source, training.batch_size),
        losses=("logits",),
        judged_by="accuracy",
        facts=facts,
        soft_labels=True,
        labels=data.labels,
        augment=source.augment,
    )
    return fine_tune(settings, tuning, lambda dtype: beginning.make(task, dtype, num_classes=len(data.labels)))

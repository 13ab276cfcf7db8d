"""classify-image: train ViT to tell classes of images, from a model that was trained before (Dosovitskiy et al. 2021,
section 3.2).

On a laptop (two cores, minutes):

    zoo train classify-image --data photos --from pretrained --out run

photos holds a folder for each class. `--adapt frozen` trains the head alone, a linear probe; `--adapt lora` low-rank
adapters. On a tenth of CIFAR-10's labels, from 10 epochs of mae-pretrain, they came to an accuracy of 0.42 and 0.61;
all of the model, by `--optimizer muon --learning-rate 3e-3 --cutmix 1 --label-smoothing 0.1`, which suit one that was
trained shortly, to 0.62.

On a GPU: `--from hf:google/vit-base-patch16-224-in21k --image-size 384 --precision bfloat16 --batch-size 512
--optimizer sgd --learning-rate 0.01 --weight-decay 0 --schedule cosine --steps 10000`.
"""

import dataclasses
from typing import Any

from recipes.engine.image_origin import ImageOrigin
from recipes.engine.settings import Training, require_trained
from recipes.fine_tuning import fine_tuning
from recipes.image_classes import TrainingOnImages, train_image_classifier
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClassifyImage(TrainingOnImages):
    """Train a classifier of images on a folder of label/name.jpg, or on a table or TFRecords with an image and a label
    in each row.

    Leaves in --out: summary.md, confusion.png, predictions.png, mistakes.png and mistakes.md, loss.png, recipe.json,
    metrics.jsonl, TensorBoard's logs, checkpoints/, and model/, the model with the highest accuracy on held-out images,
    which zoo predict, eval and export take. A run that was stopped, by whatever, goes on when the same command is given
    again.
    """

    origin: ImageOrigin = dataclasses.field(default_factory=ImageOrigin)
    training: Training = dataclasses.field(default_factory=fine_tuning)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_trained(None if self.origin.fresh else self.origin.source, self.training)
        if self.origin.source is None:
            raise UserError("classify-image goes on from a model: give one with --from, or begin with vit-pretrain")


def train_classifier(settings: ClassifyImage) -> dict[str, Any]:
    """Run the recipe."""
    return train_image_classifier(settings, "classify-image", "classify", settings.origin)

"""vit-pretrain: train ViT from fresh weights on labelled images (Dosovitskiy et al. 2021, section 4.1), with the
augmentation and regularisation that small data needs (Touvron et al. 2021, section 6; Steiner et al. 2022).

On a laptop (one core, 20 minutes), images of 32 pixels; on CIFAR-10 expect an accuracy of 0.68:

    zoo train vit-pretrain --data cifar10/train --out run --epochs 5
    zoo eval run --data cifar10/test

On a GPU, as DeiT on ImageNet: `--preset vit-s16 --precision bfloat16 --batch-size 1024 --epochs 300 --optimizer adamw
--learning-rate 1e-3 --weight-decay 0.05 --warmup-steps 6250 --crop-area 0.08 --rand-augment 2 --magnitude 0.9 --mixup
0.8 --cutmix 1 --label-smoothing 0.1 --stochastic-depth 0.1 --ema 0.99996`; on several machines or a TPU pod with
`--strategy` besides.
"""

import dataclasses
from typing import Any

from recipes.engine.image_origin import ImageOrigin
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.image_classes import TrainingOnImages, train_image_classifier
from zoo.errors import UserError


def _pretraining() -> Training:
    optimization = Optimization(
        optimizer="muon", learning_rate=3e-3, warmup_steps=100, weight_decay=0.1, final_learning_rate=0.02
    )
    return Training(epochs=10.0, batch_size=64, evaluate_every=None, optimization=optimization)


@dataclasses.dataclass(frozen=True)
class ViTPretrain(TrainingOnImages):
    """Train ViT from fresh weights to tell classes of images, on a folder of label/name.jpg, or on a table or TFRecords
    with an image and a label in each row.

    Leaves in --out what classify-image does: summary.md, pictures, metrics, checkpoints/, and model/, the model with
    the highest accuracy on held-out images, to go on from with --from.
    """

    origin: ImageOrigin = dataclasses.field(default_factory=ImageOrigin)
    training: Training = dataclasses.field(default_factory=_pretraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training.optimization.adapt != "full":
            raise UserError(f"--adapt {self.training.optimization.adapt} is for a trained model: use classify-image")


def train_vit(settings: ViTPretrain) -> dict[str, Any]:
    """Run the recipe."""
    return train_image_classifier(settings, "vit-pretrain", "pretrain", settings.origin)

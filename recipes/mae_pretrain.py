"""mae-pretrain: train ViT on images without labels, to complete them from a quarter of their patches (He et al. 2022).

On a laptop (two cores), images of 32 pixels:

    zoo train mae-pretrain --data cifar10/train --out run

Then go on with `zoo train classify-image --from run` on as many labelled images as there are. On CIFAR-10, half of it
(10 epochs, 17 minutes on one core) and 30 epochs of a tenth of the labels came to an accuracy of 0.625, and the labels
alone, in as much time, to 0.609.

On a GPU, by the paper: `--preset vit-b16 --decoder-width 512 --decoder-depth 8 --crop-area 0.2 --precision bfloat16
--batch-size 4096 --accumulate 4 --optimizer adamw --learning-rate 2.4e-3 --beta-2 0.95 --weight-decay 0.05
--warmup-steps 12500 --epochs 800 --final-learning-rate 0`; on several machines or a TPU pod with `--strategy` besides.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recipes.data.augmentation import Augmentation
from recipes.data.tables import Table
from recipes.engine.image_origin import ImageOrigin, look_up_image_model
from recipes.engine.job import Figures
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.fine_tuning import TrainingOnExamples, Tuning, fine_tune, open_examples, share_out
from recipes.measures import Measure
from zoo.errors import UserError


def _pretraining() -> Training:
    optimization = Optimization(
        optimizer="muon", learning_rate=3e-3, warmup_steps=100, weight_decay=0.05, final_learning_rate=0.02, beta_2=0.95
    )
    return Training(epochs=20.0, batch_size=128, evaluate_every=None, optimization=optimization)


@dataclasses.dataclass(frozen=True)
class MAEPretrain(TrainingOnExamples):
    """Train ViT to complete images, on a folder of images at any depth, or on a table or TFRecords with an image in
    each row. Labels are not looked at.

    Leaves in --out: summary.md, reconstructions.png, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs,
    checkpoints/, and model/, the encoder with the lowest loss on held-out images, to go on from with --from. A run that
    was stopped, by whatever, goes on when the same command is given again.
    """

    data: Path
    """Folder of images, or table or TFRecords with an image in each row."""
    validation_data: Path | None = None
    """Held-out images; without them a part of the data is held out."""
    validation_fraction: float = 0.02
    """Part of the images to hold out."""
    image_column: str | None = None
    """Column of the image in a table; guessed where its name is plain."""
    mask_ratio: float = 0.75
    """The part of the patches that is hidden."""
    decoder_width: int = 64
    """Width of the decoder, which is thrown away. It sees all patches: keep it near a tenth of the encoder's work a
    patch."""
    decoder_depth: int = 1
    """Blocks of the decoder."""
    normalize_pixels: bool = True
    """Predict pixels less the mean of their patch, over its deviation."""
    crop_area: float = 0.2
    """Smallest part of an image that a random crop takes, by area; 1 takes images as an evaluation does."""
    flip: bool = True
    """Mirror every other image."""
    origin: ImageOrigin = dataclasses.field(default_factory=ImageOrigin)
    training: Training = dataclasses.field(default_factory=_pretraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        Augmentation(crop_area=self.crop_area)
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"--mask-ratio is {self.mask_ratio}, and must be between 0 and 1")
        for name in ("decoder_width", "decoder_depth"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, and must be at least 1")
        if self.decoder_width % 64 and (self.decoder_width % 4 or self.decoder_width > 64):
            raise UserError(f"--decoder-width is {self.decoder_width}, and must be a multiple of 64, or of 4 below it")
        if self.training.optimization.adapt != "full":
            raise UserError(f"--adapt {self.training.optimization.adapt} is for a trained model: use classify-image")


def train_mae(settings: MAEPretrain) -> dict[str, Any]:
    """Run the recipe: images found and looked at, most of their patches hidden, and the engine trains."""
    from recipes.data import masked_images
    from recipes.data.held_out import tell_copies
    from recipes.data.image_columns import IMAGE_COLUMNS
    from recipes.data.pictures import build_pictures
    from recipes.data.tables import choose_column, open_images

    beginning = look_up_image_model(settings.origin, "mae-pretrain", "backbone")
    masked_images.count_kept(beginning.config.grid, settings.mask_ratio)  # before anything long
    table = open_examples(settings, settings.origin.paths, open_images)

    def read(table: Table) -> masked_images.Images:
        column = choose_column(table, "image", settings.image_column, IMAGE_COLUMNS)
        return masked_images.all_images(build_pictures(table, column, {"kind": "images"}))

    data = read(table)
    train_data, held_out = share_out(settings, data, masked_images.split, read, open_images)
    tell_copies(train_data, held_out)
    grid, preprocessing = beginning.config.grid, beginning.preprocessing
    augmentation = Augmentation(crop_area=settings.crop_area, flip=settings.flip)
    ratio = settings.mask_ratio
    source = masked_images.MaskedImageSource(train_data, preprocessing, grid, ratio, augmentation)
    measure = Reconstruction(masked_images.MaskedImageSource(held_out, preprocessing, grid, ratio), settings)
    facts = {
        "train_images": len(train_data),
        "validation_images": len(held_out),
        "data": f"{train_data.fingerprint} {held_out.fingerprint}",
    }
    tuning = Tuning(
        "mae-pretrain",
        "images",
        source,
        measure,
        losses=(),
        judged_by="loss",
        facts=facts,
        objective=measure.make_objective,
        highest_is_best=False,
    )
    # The pooler has no part in it, and a model that has one keeps it.
    changes = {} if settings.origin.source else {"pooler": False}
    return fine_tune(settings, tuning, lambda dtype: beginning.make("backbone", dtype, **changes))


class Reconstruction(Measure):
    """Shows how held-out images are completed; the loss tells how well.

    Args:
        source: the held-out images.
        settings: of the recipe.
    """

    def __init__(self, source: Any, settings: MAEPretrain) -> None:
        from recipes.data.grouping import GroupedBatches

        self.source, self.settings = source, settings
        self.batches = GroupedBatches(source, settings.training.batch_size, None)
        self.objective: Any = None

    def make_objective(self, model: Any) -> Any:
        """The model with the decoder beside it, of which no more than the run knows is kept."""
        from zoo.objectives import MaskedPatches

        settings = self.settings
        self.objective = MaskedPatches(
            model, settings.decoder_width, settings.decoder_depth, normalize_pixels=settings.normalize_pixels
        )
        return self.objective

    def judge(self, model: Any) -> None:
        """Nothing: the loss is the engine's to find."""

    def figures(self, said: None) -> Figures:
        return {}

    def write(self, said: None, run: Path) -> list[str]:
        """Pictures by the decoder as it is at the end of the run, and the encoder that it was trained with."""
        from recipes.reports.reconstruction import MOST, hide, to_bytes, write_reconstructions

        count = len(self.source.images)
        rows = np.arange(min(MOST, count)) * count // min(MOST, count)
        (inputs,) = self.source.collate(0, rows, 1, np.random.default_rng(0))
        preprocessing, config = self.source.views.preprocessing, self.objective.model.config
        completed = to_bytes(np.asarray(self.objective.reconstruct(**inputs)), preprocessing)
        original = to_bytes(inputs["images"], preprocessing)
        seen = hide(original, inputs["masked_patches"], config.grid, config.patch_size)
        return write_reconstructions(run, seen, completed, original, self.settings.normalize_pixels)

"""clip-pretrain: train CLIP on images with captions, each to be told from all others of its batch (Radford et al. 2021;
with --loss sigmoid, Zhai et al. 2023), from fresh weights or from towers that were trained apart, locked or not (Zhai
et al. 2022).

On a laptop (two cores), images of 32 pixels:

    zoo train clip-pretrain --data pairs.jsonl --out run

pairs.jsonl has an image and a caption in each row. On 2,609 emoji with their names this takes 11 minutes on one core;
expect three quarters of held-out names to find their image among the first ten of 289. Then `zoo retrieve run --index
photos "a red square"` searches a folder, and `zoo zero-shot run photos --labels cat,dog` tells classes that no label
was trained on. A trained image tower that captions learn to meet: `--image-from hf:google/vit-base-patch16-224-in21k
--lock image`.

On GPUs, as CLIP on 400 million pairs: `--preset clip-b32 --vocabulary-size 49408 --precision bfloat16 --batch-size
32768 --accumulate 16 --optimizer adamw --learning-rate 5e-4 --beta-2 0.98 --epsilon 1e-6 --weight-decay 0.2
--warmup-steps 2000 --final-learning-rate 0 --crop-area 0.9 --epochs 32`; on several machines or a TPU pod with
`--strategy` besides.
Negatives come from the whole batch, of all devices and micro-batches.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import UseAppendAction, arg

from recipes.data.augmentation import Augmentation
from recipes.data.image_columns import CaptionColumns, ImageColumns, find_caption_columns, find_columns
from recipes.data.tables import Table, open_table
from recipes.engine.clip_origin import CLIPBeginning, CLIPOrigin, look_up_clip
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training, require_trained
from recipes.fine_tuning import TrainingOnExamples, Tuning, fine_tune, open_examples, share_out
from zoo.errors import UserError


def _pretraining() -> Training:
    optimization = Optimization(
        optimizer="muon", learning_rate=3e-3, warmup_steps=100, weight_decay=0.1, final_learning_rate=0.02
    )
    return Training(epochs=30.0, batch_size=128, evaluate_every=None, optimization=optimization)


@dataclasses.dataclass(frozen=True)
class CLIPPretrain(TrainingOnExamples):
    """Train CLIP on a table or TFRecords with an image and a caption in each row.

    An image may have several captions, in a list, of which one is drawn each time; and further columns of words, such
    as keywords, of which any number is put around the caption in training. Held-out captions stand alone. The same
    caption of several images, and the same image with several captions, are no negatives of each other, and each of
    them is right where it is looked for.

    Leaves in --out: summary.md, retrieved.png and similarity.png, loss.png, recipe.json, metrics.jsonl, TensorBoard's
    logs, checkpoints/, and model/, the model that ranks the images of held-out captions highest, which zoo retrieve,
    zero-shot, embed, predict, eval and export take. It is chosen by the mean reciprocal rank, in which each place
    counts, and not by recall at 10, which is one for most models where little is held out. A run that was stopped, by
    whatever, goes on when the same command is given again.
    """

    free: ClassVar[frozenset[str]] = TrainingOnExamples.free | {"zero_shot_data", "template"}

    data: Path
    """Table or TFRecords with an image and a caption in each row."""
    validation_fraction: float = 0.1
    """Part of the rows to hold out; those with the same image or caption go together."""
    columns: CaptionColumns = dataclasses.field(default_factory=CaptionColumns)
    crop_area: float = 0.5
    """Smallest part of an image that a random crop takes, by area; 1 takes images as an evaluation does."""
    flip: bool = False
    """Mirror every other image; not where captions tell left from right."""
    zero_shot_data: Path | None = None
    """Folder of label/name.jpg, or table with an image and a label in each row: how many are told by the names of their
    classes is measured beside."""
    template: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """A prompt for these, with {} for the name of a class, once or several times; "a photo of a {}." where none is
    given."""
    origin: CLIPOrigin = dataclasses.field(default_factory=CLIPOrigin)
    training: Training = dataclasses.field(default_factory=_pretraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        Augmentation(crop_area=self.crop_area)
        if self.training.optimization.adapt != "full":
            raise UserError(
                f"--adapt {self.training.optimization.adapt} is for a model with a head: of CLIP, --lock a tower"
            )
        require_trained(self.origin.source, self.training)
        if self.training.batch_size < 2:
            raise UserError("--batch-size is 1, and a pair is told from the others of its batch: give more")


def train_clip(settings: CLIPPretrain) -> dict[str, Any]:
    """Run the recipe: images found and looked at, captions encoded as they are drawn, and the engine trains."""
    from recipes.data import captions
    from recipes.data.held_out import tell_copies
    from recipes.data.vocabulary import tokenizer_for
    from recipes.matching import Matching
    from zoo.zero_shot import TEMPLATE, require_templates

    beginning, training = look_up_clip(settings.origin), settings.training
    zero_shot_data = () if settings.zero_shot_data is None else (settings.zero_shot_data,)
    table = open_examples(settings, (*settings.origin.paths, *zero_shot_data))
    templates = settings.template or (TEMPLATE,)
    require_templates(templates)  # before anything long
    columns = find_caption_columns(table, settings.columns)
    data = captions.read_captions(table, columns)
    tokenizer = tokenizer_for(
        beginning.tokenizer, table, columns[1], lambda table, problems: captions.each_text(table, problems, columns[1])
    )

    def read(other: Table) -> captions.CaptionedImages:
        # Words beside the caption vary it in training, and are not asked for.
        named = CaptionColumns(settings.columns.image_column, columns[1][:1])
        return captions.read_captions(other, find_caption_columns(other, named))

    train_data, held_out = share_out(settings, data, captions.split, read)
    if len(held_out) < 2:
        raise UserError(f"{len(held_out)} held-out row leaves nothing to tell its image from: hold out more")
    augmentation = Augmentation(crop_area=settings.crop_area, flip=settings.flip)
    length, preprocessing = beginning.length, beginning.preprocessing
    source = captions.CaptionSource(train_data, preprocessing, tokenizer, length, True, augmentation)
    held_out_source = captions.CaptionSource(held_out, preprocessing, tokenizer, length)
    zero_shot = _open_zero_shot(settings, beginning, templates)
    captions.tell(train_data, held_out, source, length)
    # Captions may come again; images should not.
    tell_copies(train_data, held_out)
    facts = {
        "train_pairs": len(train_data),
        "validation_pairs": len(held_out),
        "data": f"{train_data.fingerprint} {held_out.fingerprint}",
    }
    tuning = Tuning(
        "clip-pretrain",
        "pairs",
        source,
        Matching(held_out_source, training.batch_size, zero_shot),
        losses=(),
        judged_by="text_to_image_mean_reciprocal_rank",
        facts=facts,
    )
    return fine_tune(settings, tuning, lambda dtype: beginning.make(dtype, tokenizer))


def _open_zero_shot(settings: CLIPPretrain, beginning: CLIPBeginning, templates: tuple[str, ...]) -> Any:
    """What is measured by the names of classes, if anything."""
    if settings.zero_shot_data is None:
        return None
    from recipes.data.classes import require_classes
    from recipes.data.labelled_images import read_labelled
    from recipes.matching import ZeroShotAccuracy

    table = open_table(settings.zero_shot_data)
    data = read_labelled(table, find_columns(table, ImageColumns()))
    require_classes(data, settings.zero_shot_data)
    return ZeroShotAccuracy(data, beginning.preprocessing, settings.training.batch_size, templates)

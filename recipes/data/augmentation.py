"""Augmentation of images: what is drawn for a batch, by NumPy, and what is made of it, by keras-cv and Keras layers.

All that is random is drawn apart from the pixels, from a generator that hangs on the step alone: a run that goes on
sees the very images that it would have seen. The layers draw from states of their own, which a checkpoint of the run
would not have; here they are told what to do, and do it.

TensorFlow and keras-cv are imported where they are used, and keras-cv nowhere else.
"""

import dataclasses
import importlib.util
from typing import Any

import numpy as np

from zoo.errors import UserError

# RandAugment's operations (Cubuk et al. 2020, figure 2) that keras-cv has in batches, with what they do at full
# strength; of these with a sign, half do the opposite. Ranges are AutoAugment's (Cubuk et al. 2019, table 6).
OPERATIONS = (
    "auto_contrast",
    "equalize",
    "solarize",  # inverts what is above 256 * (1 - strength)
    "rotate",  # by 30 degrees
    "color",  # 0.9 towards gray, or away
    "contrast",  # by a factor of 1.9, or 0.1
    "brightness",  # by half of the range
    "sharpness",  # 0.9 towards the smoothed image, or away
    "shear_x",  # by 0.3
    "shear_y",
    "translate_x",  # by 0.3 of the width
    "translate_y",
)
SPREAD = 0.15  # standard deviation of strengths around the magnitude
RATIOS = (3 / 4, 4 / 3)  # of a crop's width to its height
CROP_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images are changed each time that they are trained on."""

    crop_area: float = 0.5
    """Smallest part of an image that a random crop takes, by area; 1 takes images as an evaluation does."""
    flip: bool = True
    """Mirror every other image; not for what has a left and a right, such as letters."""
    rand_augment: int = 0
    """Operations of RandAugment on each image, such as 2."""
    magnitude: float = 0.4
    """How strong the operations of --rand-augment are, from 0 to 1."""
    mixup: float = 0.0
    """Blend pairs of images and of their labels; alpha of the Beta distribution of weights, such as 0.2."""
    cutmix: float = 0.0
    """Paste a part of another image in, and of its label; alpha, such as 1. With --mixup, each has half the batches."""
    label_smoothing: float = 0.0
    """The part of a label that is shared out among all classes, such as 0.1."""

    def __post_init__(self) -> None:
        for name, low_allowed, high_allowed in (
            ("crop_area", False, True),
            ("magnitude", True, True),
            ("label_smoothing", True, False),
        ):
            value = getattr(self, name)
            if not (0 <= value <= 1) or (value == 0 and not low_allowed) or (value == 1 and not high_allowed):
                low, high = "from 0" if low_allowed else "above 0", "to 1" if high_allowed else "to below 1"
                raise UserError(f"--{name.replace('_', '-')} is {value}, and must be {low} {high}")
        for name in ("rand_augment", "mixup", "cutmix"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {value}, and must be 0 or more")

    @property
    def changes_pixels(self) -> bool:
        """Whether images are more than cropped and mirrored."""
        return bool(self.rand_augment or self.mixup or self.cutmix)

    @property
    def changes_labels(self) -> bool:
        """Whether an image may belong to several classes."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)


NONE = Augmentation(crop_area=1.0, flip=False)


def require_operations(settings: Augmentation) -> None:
    """Raise UserError where RandAugment is asked for, and the package that has its operations is not installed."""
    if settings.rand_augment and importlib.util.find_spec("keras_cv") is None:
        raise UserError(
            "--rand-augment takes its operations from keras-cv, which is not installed: "
            "pip install 'tf-model-zoo[image]'"
        )


Draws = dict[str, np.ndarray]


def draw_box(draw: np.random.Generator, height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """A random crop (Szegedy et al. 2015, section 6): top, left, height and width, in pixels, within the image.

    Its part of the area is uniform between `area` and 1, and the logarithm of its ratio between those of `RATIOS`;
    where none of ten tries fits, which an image of another shape may bring about, the largest that does, from the
    middle.
    """
    for _ in range(CROP_TRIES):
        size = height * width * draw.uniform(area, 1.0)
        ratio = np.exp(draw.uniform(*np.log(RATIOS)))
        rows, columns = round((size / ratio) ** 0.5), round((size * ratio) ** 0.5)
        if 0 < rows <= height and 0 < columns <= width:
            return int(draw.integers(height - rows + 1)), int(draw.integers(width - columns + 1)), rows, columns
    rows = min(height, round(width / RATIOS[0]))
    columns = min(width, round(height * RATIOS[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def draw_changes(draw: np.random.Generator, settings: Augmentation, count: int, height: int, width: int) -> Draws:
    """What is to be done to a batch of `count` images of (height, width) pixels.

    Returns:
        `operation` and `strength` (count, operations), places in `OPERATIONS` and float32 from -1 to 1, and where pairs
        are mixed `partner` (count,), `blend` (count,) float32, the part of an image that stays, and `box` (count, 4)
        int32, top, left, bottom and right of what the partner is pasted into.
    """
    changes: Draws = {}
    if settings.rand_augment:
        shape = (count, settings.rand_augment)
        changes["operation"] = draw.integers(len(OPERATIONS), size=shape).astype(np.int32)
        strength = np.clip(draw.normal(settings.magnitude, SPREAD, shape), 0.0, 1.0)
        changes["strength"] = (strength * draw.choice([-1.0, 1.0], shape)).astype(np.float32)
    if settings.mixup or settings.cutmix:
        pastes = bool(settings.cutmix) and (not settings.mixup or draw.random() < 0.5)
        alpha = settings.cutmix if pastes else settings.mixup
        stays = draw.beta(alpha, alpha, count)
        changes["partner"] = draw.permutation(count).astype(np.int32)
        changes["blend"] = (np.ones(count) if pastes else stays).astype(np.float32)
        changes["box"] = np.zeros((count, 4), np.int32)
        if pastes:
            # Yun et al. 2019, equation 2: around a place anywhere, and cut at the border.
            for side, size in enumerate((height, width)):
                half = np.sqrt(1.0 - stays) * size / 2
                middle = draw.uniform(0, size, count)
                changes["box"][:, side] = np.clip(np.rint(middle - half), 0, size)
                changes["box"][:, side + 2] = np.clip(np.rint(middle + half), 0, size)
    return changes


class Augmenter:
    """Does what was drawn, in a TensorFlow graph.

    Args:
        settings: as the draws were made by.
        table: float32 (256, 3), what each byte becomes: `Preprocessing.table`.
    """

    def __init__(self, settings: Augmentation, table: np.ndarray) -> None:
        import keras

        self.settings, self.table = settings, table
        # Between the bytes, where changed pixels lie, the table is a line.
        self.first, self.step = table[0], (table[255] - table[0]) / 255
        self.operations = _make_operations() if settings.rand_augment else {}
        self.mix_up, self.cut_mix = keras.layers.MixUp(), keras.layers.CutMix()

    def __call__(self, pictures: Any, labels: Any, draws: dict[str, Any]) -> tuple[Any, Any]:
        """Change a batch.

        Args:
            pictures: uint8 (batch, height, width, 3).
            labels: float32 (batch, classes), whose sum is 1.
            draws: of `draw_changes`.

        Returns:
            `images`, normalised float32 of the same shape, and the labels that belong to them, mixed as these are.
        """
        import tensorflow as tf

        if not self.settings.changes_pixels:
            values = tf.constant(self.table.reshape(-1))  # the very numbers that an evaluation sees
            return tf.gather(values, tf.cast(pictures, tf.int32) * 3 + tf.range(3)), labels
        images = tf.cast(pictures, tf.float32)
        for place in range(self.settings.rand_augment):
            images = self._operate(images, draws["operation"][:, place], draws["strength"][:, place])
        if "partner" in draws:
            images, labels = self._mix(images, labels, draws)
        return images * self.step + self.first, labels

    def smooth(self, labels: Any) -> Any:
        """Share a part of each label out among all classes (Szegedy et al. 2016, section 7)."""
        import tensorflow as tf

        smoothing = self.settings.label_smoothing
        return labels * (1.0 - smoothing) + smoothing / tf.cast(tf.shape(labels)[1], tf.float32)

    def _operate(self, images: Any, operation: Any, strength: Any) -> Any:
        """Each image by its own operation: those of an operation together."""
        import tensorflow as tf

        shape = images.shape
        places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), operation, len(OPERATIONS))
        parts = tf.dynamic_partition(images, operation, len(OPERATIONS))
        strengths = tf.dynamic_partition(strength, operation, len(OPERATIONS))
        changed = []
        for name, part, strong in zip(OPERATIONS, parts, strengths, strict=True):
            part = tf.ensure_shape(part, [None, *shape[1:]])
            change = self.operations[name]
            # An operation on no image at all is an error to some of the layers.
            some = tf.cond(tf.shape(part)[0] > 0, lambda: change(part, strong), lambda: part)  # noqa: B023
            changed.append(tf.clip_by_value(some, 0.0, 255.0))
        return tf.ensure_shape(tf.dynamic_stitch(places, changed), shape)

    def _mix(self, images: Any, labels: Any, draws: dict[str, Any]) -> tuple[Any, Any]:
        import tensorflow as tf

        height, width = images.shape[1:3]
        blended = {"mix_weight": draws["blend"], "permutation_order": draws["partner"]}
        images = self.mix_up.transform_images(images, blended)
        labels = self.mix_up.transform_labels(labels, blended)
        top, left, bottom, right = (draws["box"][:, side] for side in range(4))
        rows, columns = tf.range(height)[None, :, None], tf.range(width)[None, None, :]
        inside = (rows >= top[:, None, None]) & (rows < bottom[:, None, None])
        inside &= (columns >= left[:, None, None]) & (columns < right[:, None, None])
        stays = 1.0 - tf.cast((bottom - top) * (right - left), tf.float32) / (height * width)
        pasted = {"permutation_order": draws["partner"], "batch_masks": inside[..., None], "mix_weight": stays}
        return self.cut_mix.transform_images(images, pasted), self.cut_mix.transform_labels(labels, pasted)


def _make_operations() -> dict[str, Any]:
    """By name, what makes other images of (images, strengths); the layers are asked for no draw of their own."""
    import math

    import tensorflow as tf
    from keras_cv import layers

    full: Any = {"value_range": (0, 255)}
    auto_contrast = layers.AutoContrast(**full)
    # It has conditions that AutoGraph must convert. Of one image at a time it counts the levels as fast as can be; of
    # several it loops over them, and warns of that.
    equalize = tf.function(layers.Equalization(**full).augment_images)
    solarize, rotate = layers.Solarization(threshold_factor=1.0, **full), layers.RandomRotation(1.0)
    color, contrast = layers.RandomColorDegeneration(1.0), layers.RandomContrast(factor=1.0, **full)
    brightness, sharpness = layers.RandomBrightness(1.0, **full), layers.RandomSharpness(1.0, **full)
    shear, translate = layers.RandomShear(1.0, 1.0), layers.RandomTranslation(1.0, 1.0)

    def each(strength: Any) -> Any:
        return tf.reshape(strength, (-1, 1, 1, 1))

    def column(strength: Any) -> Any:
        return tf.reshape(strength, (-1, 1))

    def move(images: Any, down: Any, right: Any) -> Any:
        return translate.augment_images(images, {"height_translations": down, "width_translations": right})

    return {
        "auto_contrast": lambda x, s: auto_contrast.augment_images(x),
        "equalize": lambda x, s: tf.map_fn(lambda image: equalize(image[None])[0], x),
        "solarize": lambda x, s: solarize.augment_images(
            x, {"additions": tf.zeros_like(each(s)), "thresholds": 256.0 * (1.0 - tf.abs(each(s)))}
        ),
        "rotate": lambda x, s: rotate.augment_images(x, {"angles": s * (math.pi / 6)}),
        "color": lambda x, s: color.augment_images(x, 0.9 * each(s)),
        "contrast": lambda x, s: contrast.augment_images(x, 1.0 + 0.9 * each(s)),
        "brightness": lambda x, s: brightness.augment_images(x, 127.5 * each(s)),
        "sharpness": lambda x, s: sharpness.augment_images(x, 0.9 * each(s)),
        "shear_x": lambda x, s: shear.augment_images(x, {"shear_x": 0.3 * column(s), "shear_y": None}),
        "shear_y": lambda x, s: shear.augment_images(x, {"shear_x": None, "shear_y": 0.3 * column(s)}),
        "translate_x": lambda x, s: move(x, tf.zeros_like(column(s)), 0.3 * column(s)),
        "translate_y": lambda x, s: move(x, 0.3 * column(s), tf.zeros_like(column(s))),
    }

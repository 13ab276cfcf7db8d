"""Augmentation: what is drawn, and what is made of it, against Pillow's operations and against arithmetic."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from recipes.data.augmentation import (
    NONE,
    OPERATIONS,
    RATIOS,
    Augmentation,
    Augmenter,
    draw_box,
    draw_changes,
)
from recipes.data.views import Views
from tests.recipes.refusing import assert_refused
from zoo.image import Preprocessing, preprocess

BYTES = np.arange(256, dtype=np.float32)[:, None].repeat(3, axis=1)  # a table that leaves values as they are
sides = st.integers(1, 300)


def some_pictures(count: int, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    smooth = draw.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)) for each in smooth]
    )


@given(sides, sides, st.floats(0.01, 1.0), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_a_crop_lies_in_the_image_and_has_the_area_and_ratio_asked_for(
    height: int, width: int, area: float, seed: int
) -> None:
    top, left, rows, columns = draw_box(np.random.default_rng(seed), height, width, area)
    assert 0 <= top <= height - rows and 0 <= left <= width - columns and min(rows, columns) >= 1
    # By half a pixel each side is rounded.
    low, high = (rows - 0.5) * (columns - 0.5), (rows + 0.5) * (columns + 0.5)
    allowed = RATIOS[0] * (rows - 0.5) <= columns + 0.5 and columns - 0.5 <= RATIOS[1] * (rows + 0.5)
    fills = rows == height or columns == width  # where no try fitted
    assert (allowed and (high >= area * height * width or fills) and low <= height * width) or min(height, width) == 1


def test_crops_have_all_areas_and_places() -> None:
    boxes = np.array([draw_box(np.random.default_rng(seed), 100, 100, 0.3) for seed in range(2000)])
    areas = boxes[:, 2] * boxes[:, 3] / 100**2
    # Large crops are square, or they would not fit: those up to half of the image are free.
    small = areas[areas < 0.5]
    assert abs(small.mean() - 0.4) < 0.01 and abs(len(small) / 2000 - 0.2 / 0.7) < 0.1
    assert abs(np.log(boxes[areas < 0.5, 3] / boxes[areas < 0.5, 2]).mean()) < 0.02
    free = boxes[areas < 0.5]
    assert abs((free[:, 0] / (100 - free[:, 2])).mean() - 0.5) < 0.03


@pytest.mark.parametrize("mixup, cutmix", [(0.3, 0.0), (0.0, 1.0), (0.3, 1.0)])
def test_labels_are_mixed_as_their_images_are(mixup: float, cutmix: float) -> None:
    """Images of one value each, whose classes are these values: the mean of an image is the mean of its labels."""
    chosen = Augmentation(mixup=mixup, cutmix=cutmix)
    count, height, width = 64, 12, 16
    values = np.random.default_rng(0).permutation(256)[:count].astype(np.uint8)
    pictures = np.broadcast_to(values[:, None, None, None], (count, height, width, 3))
    labels = np.eye(256, dtype=np.float32)[values]
    augment = Augmenter(chosen, BYTES)
    kinds = set()
    for step in range(12):
        draws = draw_changes(np.random.default_rng(step), chosen, count, height, width)
        images, mixed = augment(pictures, labels, draws)
        assert np.allclose(mixed.numpy().sum(axis=1), 1.0, atol=1e-6) and mixed.numpy().min() >= 0
        assert np.allclose(images.numpy().mean(axis=(1, 2, 3)), mixed.numpy() @ np.arange(256), atol=0.02)
        assert ((mixed.numpy() > 0).sum(axis=1) <= 2).all() and ((mixed.numpy() > 0).sum(axis=1) == 2).any()
        pasted = np.ptp(images.numpy(), axis=(1, 2, 3)) > 0  # an image has two values, and not one between them
        kinds.add("paste" if pasted.any() else "blend")
        if not pasted.any():
            alone = draws["partner"] == np.arange(count)
            assert np.allclose(mixed.numpy()[np.arange(count), values][~alone], draws["blend"][~alone], atol=1e-6)
    assert kinds == {name for name, alpha in (("blend", mixup), ("paste", cutmix)) if alpha}


def test_smoothed_labels() -> None:
    """Szegedy et al. 2016, section 7."""
    labels = np.eye(4, dtype=np.float32)
    table = Preprocessing.for_clip(8).table()
    augment = Augmenter(Augmentation(label_smoothing=0.2), table)
    images, same = augment(some_pictures(4), labels, {})
    assert np.allclose(augment.smooth(labels).numpy(), 0.8 * labels + 0.05) and np.array_equal(same, labels)
    assert np.array_equal(images.numpy(), table[some_pictures(4), np.arange(3)])  # as an evaluation sees them


def operate(name: str, pictures: np.ndarray, strength: float) -> np.ndarray:
    """All pictures by one operation."""
    chosen = Augmentation(rand_augment=1)
    augment = Augmenter(chosen, BYTES)
    draws = {
        "operation": np.full((len(pictures), 1), OPERATIONS.index(name), np.int32),
        "strength": np.full((len(pictures), 1), strength, np.float32),
    }
    labels = np.ones((len(pictures), 1), np.float32)
    return augment(pictures, labels, draws)[0].numpy()


def by_pillow(pictures: np.ndarray, change: Any) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(each))) for each in pictures]).astype(np.float32)


def test_operations_are_those_of_pillow() -> None:
    """Which AutoAugment and RandAugment were published with."""
    pictures = some_pictures(5)
    assert np.abs(operate("auto_contrast", pictures, 0.5) - by_pillow(pictures, ImageOps.autocontrast)).max() <= 1
    # keras-cv takes the rarest level for the highest, when it finds how many pixels are to have each: of many pixels
    # that changes little.
    large = some_pictures(3, 150, 200) // 2 + 50
    assert np.abs(operate("equalize", large, 0.5) - by_pillow(large, ImageOps.equalize)).max() <= 12
    inverted = by_pillow(pictures, lambda image: ImageOps.solarize(image, 64))
    assert np.array_equal(operate("solarize", pictures, 0.75), inverted)
    assert np.array_equal(operate("solarize", pictures, -0.75), inverted)
    moved = operate("translate_x", pictures, 3 / 32 / 0.3)  # by three pixels
    assert np.allclose(moved[:, :, 3:], pictures[:, :, :-3], atol=1e-3)
    moved = operate("translate_y", pictures, -3 / 24 / 0.3)
    assert np.allclose(moved[:, :-3], pictures[:, 3:], atol=1e-3)
    gray = by_pillow(pictures, lambda image: image.convert("L").convert("RGB"))
    assert np.abs(operate("color", pictures, 1.0) - (0.1 * pictures + 0.9 * gray)).max() < 1.5
    brighter = np.clip(pictures + np.float32(0.4 * 127.5), 0, 255)
    assert np.allclose(operate("brightness", pictures, 0.4), brighter, atol=1e-3)
    mean = pictures.mean(axis=(1, 2), keepdims=True)
    assert np.allclose(operate("contrast", pictures, -0.5), (pictures - mean) * 0.55 + mean, atol=1e-2)


@pytest.mark.parametrize("strength", [1.0, -1.0])
def test_operations_that_look_at_neighbours_are_those_of_pillow(strength: float) -> None:
    noise = np.random.default_rng(0).integers(60, 190, (2, 24, 32, 3), dtype=np.uint8)
    sharper = by_pillow(noise, lambda image: ImageEnhance.Sharpness(image).enhance(1 - 0.9 * strength))
    assert np.abs(operate("sharpness", noise, strength) - sharper).max() < 2
    # Where colours change slowly, since what is between pixels is not found alike; and away from the edges, where one
    # of them makes up what was not in the picture.
    smooth = by_pillow(noise[:, :5, :5], lambda image: image.resize((60, 60), Image.Resampling.BICUBIC)).astype(
        np.uint8
    )
    inside = np.s_[:, 20:-20, 20:-20]

    def transformed(change: Any) -> np.ndarray:
        return by_pillow(smooth, change)[inside]

    turned = transformed(lambda image: image.rotate(30 * strength, Image.Resampling.BILINEAR))
    assert np.abs(operate("rotate", smooth, strength)[inside] - turned).max() <= 1.01
    for name, slant in (("shear_x", (1, 0.3 * strength, 0, 0, 1, 0)), ("shear_y", (1, 0, 0, 0.3 * strength, 1, 0))):
        slanted = transformed(
            lambda image, slant=slant: image.transform(
                (60, 60), Image.Transform.AFFINE, slant, Image.Resampling.BILINEAR
            )
        )
        found = operate(name, smooth, strength)[inside]
        assert np.abs(found - slanted).max() < 4 and np.abs(found - smooth[inside]).max() > 20


def test_every_operation_keeps_to_the_range_and_does_something() -> None:
    pictures = np.broadcast_to(some_pictures(1), (len(OPERATIONS), 24, 32, 3))
    labels = np.ones((len(OPERATIONS), 1), np.float32)
    augment = tf.function(Augmenter(Augmentation(rand_augment=1), BYTES), autograph=False)
    changed = {}
    for strength in (1.0, -1.0, 0.0):
        strengths = np.full((len(OPERATIONS), 1), strength, np.float32)
        draws = {"operation": np.arange(len(OPERATIONS), dtype=np.int32)[:, None], "strength": strengths}
        images = augment(tf.constant(pictures), tf.constant(labels), draws)[0].numpy()
        assert images.shape == pictures.shape and images.min() >= 0 and images.max() <= 255
        changed[strength] = np.abs(images - pictures).max(axis=(1, 2, 3))
    assert (changed[1.0] > 1).all() and (changed[-1.0] > 1).all()
    without_strength = [OPERATIONS.index(name) for name in ("auto_contrast", "equalize", "solarize")]
    assert (np.delete(changed[0.0], without_strength) < 1e-3).all()


def test_each_image_has_its_own_operations() -> None:
    pictures, chosen = some_pictures(40), Augmentation(rand_augment=2, magnitude=0.6)
    draws = draw_changes(np.random.default_rng(0), chosen, 40, 24, 32)
    labels = np.ones((40, 1), np.float32)
    images, _ = Augmenter(chosen, BYTES)(pictures, labels, draws)
    for place in (0, 7, 39):
        alone = {name: draw[place : place + 1] for name, draw in draws.items()}
        image, _ = Augmenter(chosen, BYTES)(pictures[place : place + 1], labels[:1], alone)
        assert np.allclose(image[0], images[place], atol=1e-3)
    assert len(set(draws["operation"].ravel())) == len(OPERATIONS)
    assert abs(np.abs(draws["strength"]).mean() - 0.6) < 0.05 and draws["strength"].min() < 0 < draws["strength"].max()


PREPROCESSINGS = [
    Preprocessing.for_vit(16, 16),
    Preprocessing.for_clip(12),
    Preprocessing(height=None, width=None, shortest_edge=20, resample="bicubic", crop_height=16, crop_width=16),
]


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_without_augmentation_training_sees_what_evaluation_and_export_see(preprocessing: Preprocessing) -> None:
    pictures = [*some_pictures(5), *some_pictures(14, 31, 23)]
    views = Views(preprocessing, NONE).images(pictures.__getitem__, range(19), np.random.default_rng(0))
    assert np.array_equal(views, preprocess(pictures, preprocessing)) and views.dtype == np.float32


def test_views_are_crops_and_mirrored() -> None:
    """Of a picture whose pixels tell where they are."""
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    picture = np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)
    views = Views(Preprocessing.for_vit(8, 8), Augmentation(crop_area=0.2))
    seen = views.pictures(lambda place: picture, range(200), np.random.default_rng(0)).astype(int)
    down = seen[:, -1, 0, 0] - seen[:, 0, 0, 0]
    right = seen[:, 0, -1, 1] - seen[:, 0, 0, 1]
    assert (down > 0).all() and 60 < (right < 0).sum() < 140
    parts = np.abs(down * right) / (7 / 8 * 200) ** 2  # from the middles of the outermost pixels
    assert parts.min() < 0.3 and 0.9 < parts.max() <= 1.02
    again = views.pictures(lambda place: picture, range(200), np.random.default_rng(0))
    assert np.array_equal(again, seen)


def test_between_the_bytes_the_normalisation_is_a_line() -> None:
    pictures, labels = some_pictures(3), np.ones((3, 1), np.float32)
    draws = {"partner": np.arange(3), "blend": np.ones(3, np.float32), "box": np.zeros((3, 4), np.int32)}
    for preprocessing in PREPROCESSINGS:
        table = preprocessing.table()
        images, _ = Augmenter(Augmentation(mixup=1.0), table)(pictures, labels, draws)
        assert np.allclose(images.numpy(), table[pictures, np.arange(3)], atol=1e-6)


def test_wrong_settings_are_refused() -> None:
    for name, value in (("crop_area", 0.0), ("crop_area", 1.5), ("magnitude", -0.1), ("label_smoothing", 1.0)):
        fields: dict[str, Any] = {name: value}
        assert_refused(lambda: Augmentation(**fields), f"--{name.replace('_', '-')} is {value}")  # noqa: B023
    for name in ("rand_augment", "mixup", "cutmix"):
        fields = {name: -1}
        assert_refused(lambda: Augmentation(**fields), f"--{name.replace('_', '-')} is -1")  # noqa: B023
    assert_refused(
        lambda: Views(Preprocessing(height=None, width=None)), "preprocessing leaves images with different sizes"
    )

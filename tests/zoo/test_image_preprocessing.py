"""The settings in both layouts, and the pixels that NumPy and Pillow make of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import UserError
from zoo.image import Preprocessing, preprocess
from zoo.image.pixels import crop_center, resize_image

GOLDEN = Path(__file__).parent.parent / "golden" / "image"
RANDOM = np.random.default_rng(0)
# As once released with google/vit-base-patch16-224, openai/clip-vit-base-patch32 and facebook/deit-base-patch16-224.
OLD_VIT = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
OLD_CLIP = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
OLD_DEIT = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "DeiTFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 256,
}
# As the releases of 2025 write it.
FAST_VIT = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": None,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "input_data_format": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"height": 224, "width": 224},
}


def picture(height, width):
    return RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_it_imports_no_framework():
    code = "import sys, zoo.image; assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"height": 0}, "height is 0, and must be int or null >= 1"),
        ({"height": None}, "height is None, and must be null exactly where width is"),
        ({"crop_width": 3}, "crop_height is None"),
        ({"shortest_edge": 8}, "shortest_edge is 8, and must be null where height"),
        ({"resample": "cubic"}, "resample is 'cubic', and must be one of nearest, lanczos"),
        ({"std": (1.0, 0.0, 1.0)}, "std is 0.0"),
        ({"mean": (1.0, 2.0)}, "mean is .*must be 3 values"),
        ({"rescale_factor": float("nan")}, "rescale_factor is nan"),
        ({"sharpen": True}, "unknown field 'sharpen'"),
    ],
)
def test_wrong_fields_are_named(fields, told):
    with pytest.raises(UserError, match=told):
        Preprocessing().replace(**fields)


@pytest.mark.parametrize(
    "settings",
    [
        Preprocessing(),
        Preprocessing.for_vit(48, 32),
        Preprocessing.for_clip(64),
        Preprocessing(height=None, width=None, rescale_factor=1.0, mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 3.0)),
        Preprocessing(height=30, width=20, resample="hamming", crop_height=50, crop_width=10),
    ],
)
def test_files_and_both_layouts_give_it_back(settings, tmp_path):
    assert not Preprocessing.is_saved_in(tmp_path)
    settings.save(tmp_path)
    assert Preprocessing.is_saved_in(tmp_path)
    assert Preprocessing.load(tmp_path) == settings
    for family in ("vit", "clip"):
        record = json.loads(json.dumps(settings.to_huggingface(family)))
        assert Preprocessing.from_huggingface(record, family) == settings


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "preprocessing.json"
    for content, told in (
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"blur": 1}', "unknown field 'blur'"),
        ('{"width": "wide"}', "width is 'wide'"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=f"preprocessing.json: .*{told}"):
            Preprocessing.load(tmp_path)


@pytest.mark.parametrize(
    ("record", "family", "expected"),
    [
        (OLD_VIT, "vit", Preprocessing()),
        (OLD_CLIP, "clip", Preprocessing.for_clip(224)),
        (
            OLD_DEIT,
            "vit",
            Preprocessing(
                *(256, 256, None, "bicubic", 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
            ),
        ),
        (FAST_VIT, "vit", Preprocessing()),
        ({}, "vit", Preprocessing()),
        ({}, "clip", Preprocessing.for_clip(224)),
        ({"image_processor_type": "CLIPImageProcessor"}, "vit", Preprocessing.for_clip(224)),
        ({"size": [20, 30]}, "vit", Preprocessing.for_vit(20, 30)),
        ({"size": {"height": 20, "width": 30}, "do_center_crop": False}, "clip", "20x30"),
        ({"size": 20, "default_to_square": False}, "vit", "edge 20"),
        ({"size": {"shortest_edge": 20}, "crop_size": {"height": 7, "width": 9}}, "clip", "edge 20, crop 7x9"),
        ({"do_resize": False, "do_rescale": False, "do_normalize": None, "resample": 5}, "vit", "nothing"),
        ({"image_mean": 0.25, "image_std": 0.5, "rescale_factor": 1}, "vit", "quarter"),
        ({"do_resize": False, "resample": None}, "vit", Preprocessing(height=None, width=None)),
    ],
)
def test_huggingface_settings_of_all_ages(record, family, expected):
    clip = Preprocessing.for_clip(224)
    named = {
        "20x30": clip.replace(shortest_edge=None, height=20, width=30, crop_height=None, crop_width=None),
        "edge 20": Preprocessing(height=None, width=None, shortest_edge=20),
        "edge 20, crop 7x9": clip.replace(shortest_edge=20, crop_height=7, crop_width=9),
        "nothing": Preprocessing(None, None, None, "hamming", rescale_factor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3),
        "quarter": Preprocessing(rescale_factor=1, mean=(0.25,) * 3),
    }
    wanted = named[expected] if isinstance(expected, str) else expected
    assert Preprocessing.from_huggingface(record, family) == wanted


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "'SiglipImageProcessor' is not supported"),
        ({"do_pad": True}, "'do_pad' is True, and there is no such step"),
        ({"crop_pct": 0.9}, "'crop_pct' is 0.9"),
        ({"auto_map": {"AutoImageProcessor": "code.Processor"}}, "'auto_map'"),
        ({"size": {"longest_edge": 30}}, "'size' is .*must be height and width or shortest_edge"),
        ({"size": {"shortest_edge": 30, "longest_edge": 40}}, "'size' is"),
        ({"size": None}, "'size' is None"),
        ({"size": "large"}, "'size' is 'large'"),
        ({"size": 10**9}, "height is 1000000000"),
        ({"do_center_crop": True}, "'crop_size' is None"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 3}}, "'crop_size' is .*must be height and width"),
        ({"resample": 6}, "'resample' is 6"),
        ({"resample": None}, "'resample' is None"),
        ({"resample": "bilinear"}, "'resample' is 'bilinear'"),
        ({"rescale_factor": None}, "rescale_factor is None"),
        ({"image_mean": [0.5, 0.5]}, "mean is .*must be 3 values"),
        ({"image_std": [0.5, 0.5, 0.0]}, "std is 0.0"),
        ([], "expected an object"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(record, told):
    with pytest.raises(UserError, match=told) as caught:
        Preprocessing.from_huggingface(record, "vit")
    assert "\n" not in str(caught.value)


def test_the_file_of_a_whole_processor_comes_first(tmp_path):
    assert Preprocessing.load_huggingface(tmp_path, "clip") is None
    # Older ones name no more than the class that puts image and text together.
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert Preprocessing.load_huggingface(tmp_path, "clip") is None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OLD_CLIP))
    assert Preprocessing.load_huggingface(tmp_path, "clip") == Preprocessing.for_clip(224)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {**OLD_CLIP, "size": 300}}))
    loaded = Preprocessing.load_huggingface(tmp_path, "clip")
    assert loaded == Preprocessing.for_clip(224).replace(shortest_edge=300)
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"do_pad": true}}')
    with pytest.raises(UserError, match=r"processor_config\.json: 'do_pad'"):
        Preprocessing.load_huggingface(tmp_path, "clip")


@pytest.mark.parametrize("resample", ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"])
def test_resize_is_pillows(resample):
    """Pillow 13's, in one call where ours takes two. Earlier releases always begin with the rows."""
    number = getattr(Image.Resampling, resample.upper())
    for _ in range(60):
        height, width, *new = (int(edge) for edge in RANDOM.integers(1, 70, 4))
        x = picture(height, width)
        expected = np.asarray(Image.fromarray(x).resize(new[::-1], number))
        np.testing.assert_array_equal(resize_image(x, *new, resample), expected, err_msg=f"{x.shape} -> {new}")


@pytest.mark.parametrize(
    ("size", "wanted", "rows", "columns"),
    [
        ((5, 6), (3, 2), [1, 2, 3], [2, 3]),
        ((6, 5), (3, 2), [1, 2, 3], [1, 2]),
        ((2, 5), (5, 3), [None, None, 0, 1, None], [1, 2, 3]),
        ((3, 1), (3, 4), [0, 1, 2], [None, None, 0, None]),
        ((1, 1), (2, 3), [None, 0], [None, 0, None]),
        ((4, 4), (4, 4), [0, 1, 2, 3], [0, 1, 2, 3]),
    ],
)
def test_center_crop_and_padding(size, wanted, rows, columns):
    """The reference's: of an odd rest, what is cut off above is less, and what is added above is more."""
    x = picture(*size)
    cropped = crop_center(x, *wanted)
    assert cropped.shape == (*wanted, 3)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected = np.zeros(3) if row is None or column is None else x[row, column]
            np.testing.assert_array_equal(cropped[i, j], expected)


def test_normalisation_and_order_of_the_steps():
    settings = Preprocessing(
        height=4, width=6, resample="box", crop_height=6, crop_width=2, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    x = np.repeat(np.repeat(picture(4, 6), 3, axis=0), 2, axis=1)  # the box filter undoes this
    (result,) = preprocess([x], settings)

    expected = np.zeros((6, 2, 3))
    expected[1:5] = x[::3, 4:8:2]
    expected = (expected / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "resized"), [((100, 50), (20, 10)), ((50, 99), (10, 19)), ((7, 7), (10, 10)), ((1, 3), (10, 30))]
)
def test_the_shortest_edge(size, resized):
    settings = Preprocessing(height=None, width=None, shortest_edge=10)
    assert settings.resized_size(*size) == resized
    assert settings.output_size is None
    assert preprocess([picture(*size)], settings).shape == (1, *resized, 3)


def test_what_each_setting_puts_out():
    assert Preprocessing.for_clip(8).output_size == (8, 8)
    assert Preprocessing.for_vit(8, 12).output_size == (8, 12)
    assert Preprocessing(height=None, width=None).output_size is None
    assert preprocess([picture(9, 30), picture(30, 9)], Preprocessing.for_clip(8)).shape == (2, 8, 8, 3)
    assert preprocess([], Preprocessing.for_vit(8, 12)).shape == (0, 8, 12, 3)


def test_images_that_make_no_batch():
    free = Preprocessing(height=None, width=None)
    assert preprocess([picture(3, 4), picture(3, 4)], free).shape == (2, 3, 4, 3)
    with pytest.raises(UserError, match="different sizes"):
        preprocess([picture(3, 4), picture(4, 3)], free)
    for bad in (picture(3, 4)[..., 0], picture(3, 4).astype(np.float32), picture(0, 4), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(UserError, match=r"must be uint8 \(height, width, 3\)"):
            preprocess([bad], Preprocessing())
    with pytest.raises(UserError, match=r"the resized image: .* is more than"):
        preprocess([picture(1, 20_000)], Preprocessing.for_clip(224))


@pytest.mark.parametrize("name", ["vit", "vit_lanczos", "clip", "clip_padded", "clip_raw"])
def test_the_references_pixels(name):
    """What `transformers` made of the same pictures, by `tests/golden/make_image.py`."""
    settings = Preprocessing.from_huggingface(json.loads((GOLDEN / f"{name}.json").read_text()), "vit")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        for i in range(3):
            (result,) = preprocess([arrays[f"picture_{i}"]], settings)
            np.testing.assert_array_equal(result, arrays[f"pixel_values_{i}"])


def test_another_size_keeps_the_way_of_getting_there() -> None:
    clip = Preprocessing.for_clip(224).with_output_size(336, 448)
    assert (
        clip.output_size == (336, 448) and clip.shortest_edge == 336 and clip.mean == Preprocessing.for_clip(224).mean
    )
    cut = Preprocessing(height=None, width=None, shortest_edge=256, crop_height=224, crop_width=224)
    assert cut.with_output_size(448, 448).shortest_edge == 512  # an eighth is cut off, as before
    stretched = Preprocessing.for_vit(224, 224).with_output_size(32, 48)
    assert (stretched.height, stretched.width, stretched.crop_height) == (32, 48, None)

"""Images against `transformers`: the same files and settings give the same pixels, and its settings files are ours."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from zoo.image import Preprocessing, preprocess, read_image

pytestmark = pytest.mark.peers


def draw_picture(random):
    """Areas and edges with noise, of any shape from a few pixels to a few hundred."""
    height, width = (int(edge) for edge in random.integers(2, random.choice([20, 300]), 2))
    ground = random.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(ground).resize((width, height), Image.Resampling.BILINEAR))
    return np.clip(smooth + random.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)


def draw_file(random, directory):
    """A file in one of the formats and modes that both read in the same way."""
    image = Image.fromarray(draw_picture(random))
    mode = random.choice(["RGB", "L", "P", "RGBA", "CMYK", "1"])
    image = image.quantize(100) if mode == "P" else image.convert(mode)
    kinds = {"CMYK": ["JPEG"], "RGBA": ["PNG", "WEBP"], "P": ["PNG", "GIF", "BMP"], "1": ["PNG", "BMP"]}
    kind = random.choice(kinds.get(mode, ["JPEG", "PNG", "WEBP"]))
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(1, 9))
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    path = directory / f"picture.{kind.lower()}"
    image.save(path, kind, **options)
    return path


def draw_processor(random):
    from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

    edges = [int(edge) for edge in random.integers(4, 120, 5)]
    size = {"height": edges[0], "width": edges[1]} if random.random() < 0.5 else {"shortest_edge": edges[2]}
    options = {
        "size": size,
        "crop_size": {"height": edges[3], "width": edges[4]},
        "do_center_crop": bool(random.random() < 0.7),
        "resample": int(random.integers(0, 6)),
        "do_resize": bool(random.random() < 0.9),
        "do_normalize": bool(random.random() < 0.8),
        "image_mean": random.uniform(0.2, 0.8, 3).round(4).tolist(),
        "image_std": random.uniform(0.2, 0.8, 3).round(4).tolist(),
        "rescale_factor": float(random.choice([1 / 255, 1 / 127.5, 0.01])),
        "do_convert_rgb": True,
    }
    return (ViTImageProcessorPil if random.random() < 0.5 else CLIPImageProcessorPil)(**options)


def their_pixels(processor, image):
    (pixels,) = processor(image, return_tensors="np")["pixel_values"]
    return np.moveaxis(pixels, 0, -1)


def test_files_are_read_as_theirs_are(tmp_path):
    from transformers.image_utils import load_image

    random = np.random.default_rng(0)
    for _ in range(150):
        path = draw_file(random, tmp_path)
        with Image.open(path) as image:  # what they do as well, without closing it
            expected = np.asarray(load_image(image))
        np.testing.assert_array_equal(read_image(path), expected, err_msg=path.name)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_are_theirs(seed, tmp_path):
    """Exactly: the target of 1/255 on 99.9 % of the pixels is not needed."""
    random = np.random.default_rng(seed)
    for _ in range(40):
        processor = draw_processor(random)
        processor.save_pretrained(tmp_path)
        settings = Preprocessing.load_huggingface(tmp_path, "vit")
        picture = draw_picture(random)
        ours = preprocess([picture], settings)[0]
        np.testing.assert_array_equal(ours, their_pixels(processor, Image.fromarray(picture)), err_msg=str(processor))


@pytest.mark.parametrize("family", ["vit", "clip"])
def test_they_read_what_we_write(family, tmp_path):
    from transformers import AutoImageProcessor

    random = np.random.default_rng(7)
    ours = [Preprocessing.for_vit(40, 56), Preprocessing.for_clip(48), Preprocessing(height=None, width=None)]
    ours += [
        Preprocessing.from_huggingface(json.loads(draw_processor(random).to_json_string()), "vit") for _ in range(30)
    ]
    for settings in ours:
        record = settings.to_huggingface(family)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(record))
        theirs = AutoImageProcessor.from_pretrained(tmp_path)
        picture = draw_picture(random)
        expected = their_pixels(theirs, Image.fromarray(picture))
        np.testing.assert_array_equal(preprocess([picture], settings)[0], expected, err_msg=str(record))
        # And once more around: what they save is what we wrote.
        theirs.save_pretrained(tmp_path)
        assert Preprocessing.load_huggingface(tmp_path, family) == settings


def test_their_file_for_image_and_text_together(tmp_path):
    from transformers import CLIPImageProcessorPil, CLIPProcessor, CLIPTokenizer

    words = {word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", "a", "a</w>"])}
    processor = CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 24, "width": 28}),
        CLIPTokenizer(vocab=words, merges=[]),
    )
    processor.save_pretrained(tmp_path)

    assert not (tmp_path / "preprocessor_config.json").exists()
    loaded = Preprocessing.load_huggingface(tmp_path, "clip")
    assert loaded == Preprocessing.for_clip(30).replace(crop_height=24, crop_width=28)


@pytest.mark.parametrize(
    "record",
    [
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 60},
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 50, "resample": 3},
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 50, "crop_size": 44, "resample": 3},
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 50, "crop_size": 44, "image_mean": [0.4] * 3},
        {"image_processor_type": "DeiTImageProcessor"},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 37}, "crop_size": [20, 50]},
        {"image_processor_type": "ViTImageProcessor", "size": [20, 30], "do_rescale": None},
        {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 31, "width": 17}, "do_center_crop": None},
        {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 300},
        {"image_processor_type": "ViTImageProcessor", "image_mean": 0.4, "image_std": 0.3, "size": 20},
    ],
)
def test_settings_of_all_ages_mean_the_same(record, tmp_path):
    from transformers import AutoImageProcessor, ViTConfig

    ViTConfig().save_pretrained(tmp_path)  # the oldest files do not name the class
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(record))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    random = np.random.default_rng(3)
    for _ in range(5):
        picture = draw_picture(random)
        ours = preprocess([picture], Preprocessing.from_huggingface(record, "vit"))[0]
        np.testing.assert_array_equal(ours, their_pixels(theirs, Image.fromarray(picture)))


def test_where_their_alpha_differs_from_ours():
    """A file's transparency they drop, as we do; that of an opened image they blend with white since release 5."""
    from transformers import CLIPImageProcessorPil

    image = Image.new("RGBA", (20, 20), (200, 100, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_normalize=False)
    assert (read_image(buffer.getvalue()) == (200, 100, 0)).all()
    np.testing.assert_allclose(their_pixels(processor, image), 1.0)

"""What is asked wrongly is refused with the name of what is wrong, or has an answer that is written down: no crash, no
number that is none, no answer to another question."""

import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from export.saved_model import served_signatures, write_saved_model
from tests.export.served import LABELS, LENGTH, Functions, as_saved, assert_defined, make_model, strings
from tests.zoo.reference import assert_close
from zoo.image import preprocess, read_image
from zoo.model import ZooModel

REFUSED = (tf.errors.InvalidArgumentError, TypeError, ValueError)


# --- tensors


def tokens(shape: tuple[int, ...] = (2, 5), **changes: Any) -> dict[str, Any]:
    given = {"token_ids": np.full(shape, 3), "padding_mask": np.ones(shape), "segment_ids": np.zeros(shape)} | changes
    return {name: np.asarray(value, "int32") for name, value in given.items()}


@pytest.fixture(scope="module")
def bert(enliven: Callable[..., ZooModel]) -> Functions:
    return as_saved(served_signatures(make_model(enliven, "bert", "classify")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tokens(token_ids=np.full((2, 5), 522)), "token_ids has a number above 521"),
        (tokens(token_ids=np.full((2, 5), -1)), "token_ids has a number below 0"),
        (tokens(padding_mask=np.full((2, 5), 2)), "padding_mask has a number above 1"),
        (tokens(segment_ids=np.full((2, 5), 2)), "segment_ids has a number above 1"),
        (tokens((2, LENGTH + 1)), f"token_ids has to have from 1 to {LENGTH} tokens"),
        (tokens((2, 0)), f"token_ids has to have from 1 to {LENGTH} tokens"),
        (tokens((2, 5, 1)), "shape_of_(token|segment)_ids|shape_of_padding_mask"),
        (tokens((5,)), "shape_of_(token|segment)_ids|shape_of_padding_mask"),
        (tokens(padding_mask=np.ones((2, 1))), "token_ids and padding_mask have to have equally many tokens"),
        (tokens(segment_ids=np.zeros((1, 5))), "token_ids and segment_ids have to have equally many batch"),
    ],
)
def test_wrong_tokens_are_refused(given: dict[str, Any], message: str, bert: Functions) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        bert["serving_default"](**given)


def test_no_rows_and_nothing_but_padding_have_answers(bert: Functions) -> None:
    assert_defined(bert["serving_default"](**tokens((0, 5))), 0)
    assert_defined(bert["serving_default"](**tokens(padding_mask=np.zeros((2, 5)))), 2)


def test_the_label_is_the_likeliest_one_s_name(bert: Functions) -> None:
    outputs = bert["serving_default"](**tokens((8, 5), token_ids=np.arange(40).reshape(8, 5)))
    assert_named(outputs, LABELS)


def assert_named(outputs: dict[str, Any], names: Sequence[str]) -> None:
    best = outputs["logits"].numpy().argmax(axis=-1)
    assert len({*best}) > 1  # else any rule would do
    assert strings(outputs["label"]) == [names[number] for number in best]


@pytest.fixture(scope="module")
def gpt(enliven: Callable[..., ZooModel]) -> tuple[ZooModel, Functions]:
    """A model, and its functions by which a server's client generates."""
    model = make_model(enliven, "gpt", "generate")
    return model, as_saved(each for each in served_signatures(model) if each.name in ("prefill", "decode"))


def test_a_cache_and_its_mask_fit_together(gpt: tuple[ZooModel, Functions]) -> None:
    _, functions = gpt
    given = tokens((1, 3), positions=[[0, 1, 2]])
    given.pop("segment_ids")
    outputs = functions["prefill"](**given)
    cache = {name: value for name, value in outputs.items() if name != "logits"}
    step = {"token_ids": [[1]], "positions": [[3]], "padding_mask": np.ones((1, 4), "int32"), **cache}
    assert_defined(functions["decode"](**step), 1)
    for change, message in [
        ({"positions": [[LENGTH]]}, f"positions has a number above {LENGTH - 1}"),
        ({"positions": [[-1]]}, "positions has a number below 0"),
        (
            {"padding_mask": np.ones((1, 7), "int32")},
            "padding_mask has to be as long as the cache and token_ids together",
        ),
        ({"padding_mask": np.ones((1, LENGTH + 1), "int32")}, f"padding_mask has to have from 1 to {LENGTH}"),
        ({"key_0": np.zeros((1, 1, 3, 1), "float32")}, "shape_of_key_0"),
        ({"key_0": cache["key_0"][:, :, :2]}, "have to have equally many past"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            functions["decode"](**(step | change))
    with pytest.raises(tf.errors.InvalidArgumentError, match="as long as the cache and token_ids together"):
        functions["prefill"](**(given | {"padding_mask": np.ones((1, 2), "int32")}))


def test_prompts_of_several_lengths_are_read_together(gpt: tuple[ZooModel, Functions]) -> None:
    """They begin with padding, end together, and go on as each alone."""
    model, functions = gpt
    lengths, new = (21, 9, 16), 3
    rows = [np.random.default_rng(n).integers(0, model.config.vocabulary_size, n + new, "int32") for n in lengths]
    width = max(lengths)

    def read(function: str, first: int, count: int, cache: dict[str, Any]) -> dict[str, Any]:
        """Slots `first` to `first + count`, of which a row's own are the last of the prompt and those after."""
        places = np.arange(first, first + count) - (width - np.array(lengths))[:, None]
        given = {
            "token_ids": [np.where(own < 0, 7, row[own]) for own, row in zip(places, rows, strict=True)],
            "positions": np.maximum(places, 0),
            "padding_mask": np.arange(first + count) >= (width - np.array(lengths))[:, None],
        }
        return functions[function](**{name: np.asarray(value, "int32") for name, value in given.items()}, **cache)

    outputs = read("prefill", 0, width, {})
    for step in range(new + 1):
        logits = outputs.pop("logits")
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            alone = model({"token_ids": row[None, : length + step]})["logits"]
            assert_close(logits[place], alone[0, -1])
        if step < new:
            outputs = read("decode", width + step, 1, outputs)


# --- images


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    """Of all kinds that people have."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    color = Image.fromarray(noise).resize((64, 48), Image.Resampling.BILINEAR)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encode(color, "JPEG"),
        "jpeg, turned": encode(color, "JPEG", exif=exif),
        "jpeg, gray": encode(color.convert("L"), "JPEG"),
        "jpeg, progressive": encode(color, "JPEG", progressive=True, quality=60),
        "png": encode(color, "PNG"),
        "png, transparent": encode(color.convert("RGBA"), "PNG"),
        "png, gray": encode(color.convert("L"), "PNG"),
        "png, palette": encode(color.quantize(30), "PNG"),
        "png, two colors": encode(color.convert("1"), "PNG"),
        "png, tall": encode(color.resize((3, 200)), "PNG"),
        "gif": encode(color.quantize(30), "GIF"),
        "webp": encode(color, "WEBP", lossless=True),
        "bmp": encode(color, "BMP"),
    }


@pytest.fixture(scope="module")
def vit(enliven: Callable[..., ZooModel], tmp_path_factory: pytest.TempPathFactory) -> tuple[ZooModel, Any]:
    """A model, and what was loaded of it."""
    model = enliven(zoo.create("vit-nano"))
    model.labels = tuple(f"class {number}" for number in range(model.config.num_classes))
    path = tmp_path_factory.mktemp("vit") / "1"
    write_saved_model(model, path, served_signatures(model))
    return model, tf.saved_model.load(str(path)).signatures


def test_files_are_seen_as_in_training(vit: tuple[ZooModel, Any]) -> None:
    model, signatures = vit
    files = images()
    pictures = preprocess([read_image(data) for data in files.values()], model.preprocessing)
    expected = signatures["serving_default"](images=tf.constant(pictures))
    outputs = signatures["image_bytes"](image_bytes=tf.constant([*files.values()]))
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)
    assert_close(outputs["logits"], model({"images": pictures})["logits"])


def test_the_label_of_an_image_is_the_likeliest_one_s_name(vit: tuple[ZooModel, Any]) -> None:
    model, signatures = vit
    pictures = np.random.default_rng(0).normal(size=(16, *model.preprocessing.output_size, 3), scale=2.0)
    assert_named(signatures["serving_default"](images=tf.constant(pictures, tf.float32)), model.labels)


def test_files_that_are_no_images_are_refused(vit: tuple[ZooModel, Any]) -> None:
    _, signatures = vit
    see = signatures["image_bytes"]
    good = images()
    assert_defined(see(image_bytes=tf.constant([], tf.string)), 0)
    for data in [
        b"",
        b"\0",
        b"text",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"\xff" * 99,
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes"):
            see(image_bytes=tf.constant([good["png"], data]))
    for wrong, message in [
        (tf.constant(good["png"]), "image_bytes"),
        (tf.constant([[good["png"]]]), "image_bytes"),
        (tf.constant([1.0]), "was expected to be a string tensor"),
    ]:
        with pytest.raises(REFUSED, match=message):
            see(image_bytes=wrong)


def test_damaged_files_are_refused_or_seen(vit: tuple[ZooModel, Any]) -> None:
    """A file cut short or changed is no image, or another one: never a crash, and never a number that is none."""
    see, draw, refused = vit[1]["image_bytes"], random.Random(0), 0
    for data in images().values():
        damaged = [data[: len(data) * part // 8] for part in range(8)]
        for _ in range(8):
            place = draw.randrange(len(data))
            damaged.append(data[:place] + draw.randbytes(draw.randrange(1, 5)) + data[place + 1 :])
        for each in damaged:
            try:
                assert_defined(see(image_bytes=tf.constant([each])), 1)
            except tf.errors.InvalidArgumentError:
                refused += 1
    assert refused > 50


def test_pixels_that_are_no_numbers_are_refused(vit: tuple[ZooModel, Any]) -> None:
    see = as_saved(served_signatures(vit[0]))["serving_default"]
    height, width = vit[0].preprocessing.output_size
    for value in (np.nan, np.inf):
        with pytest.raises(tf.errors.InvalidArgumentError, match="images has something that is no finite number"):
            see(images=np.full((1, height, width, 3), value, "float32"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape_of_images"):
        see(images=np.zeros((1, height, width + 1, 3), "float32"))
    assert_defined(see(images=np.zeros((0, height, width, 3), "float32")), 0)


def test_loaded_signatures_refuse_wrong_dtypes_and_missing_inputs(vit: tuple[ZooModel, Any]) -> None:
    see = vit[1]["serving_default"]
    height, width = vit[0].preprocessing.output_size
    with pytest.raises(REFUSED, match="was expected to be a float tensor"):
        see(images=tf.zeros((1, height, width, 3), tf.int32))
    with pytest.raises(REFUSED, match="images"):
        see()

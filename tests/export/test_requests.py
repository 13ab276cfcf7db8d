"""What is asked wrongly is refused with the name of what is wrong, or has an answer that is written down: no crash, no
number that is none, no answer to another question."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from export.saved_model import served_signatures, trace, write_saved_model
from export.text_model import make_tokenizer, text_signatures
from tests.zoo.reference import assert_close
from zoo.image import preprocess, read_image
from zoo.model import ZooModel
from zoo.text import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
LENGTH = 24
REFUSED = (tf.errors.InvalidArgumentError, TypeError, ValueError)

Functions = dict[str, Callable[..., dict[str, Any]]]


def as_saved(functions: Any) -> Functions:
    """As a server calls them: with tensors of any shape and of the right dtype, which nothing has looked at before."""

    def loosen(concrete: Any) -> Callable[..., dict[str, Any]]:
        specs = concrete.structured_input_signature[1]
        loose = tf.function(lambda given: concrete(**given))
        loose = loose.get_concrete_function({name: tf.TensorSpec(None, spec.dtype) for name, spec in specs.items()})
        return lambda **given: loose({name: tf.constant(value, specs[name].dtype) for name, value in given.items()})

    return {each.name: loosen(trace(each)) for each in functions}


@pytest.fixture(scope="module")
def make(enliven: Callable[..., ZooModel]) -> Callable[..., ZooModel]:
    def make(preset: str, tokenizer: str | None = None, **options: Any) -> ZooModel:
        read = None if tokenizer is None else Tokenizer.load(GOLDEN / tokenizer)
        options |= {"vocabulary_size": read.vocabulary_size, "max_length": LENGTH} if read else {}
        model = enliven(zoo.create(preset, **options), seed=2)
        model.tokenizer = read
        return model

    return make


def assert_defined(outputs: dict[str, Any], rows: int) -> None:
    for name, value in outputs.items():
        assert value.shape[0] == rows, name
        if value.dtype.is_floating:
            assert np.isfinite(value.numpy()).all(), name


# --- strings

STRINGS: dict[str, list[str | bytes]] = {
    "no rows": [],
    "an empty string": ["", "a"],
    "a long text": ["word and " * 11_112],
    "a long word": ["abcdefghij" * 10_000],
    "white space": [" \t\n" * 10_000],
    "bytes that are no text": [b"\xff\xfe\x80", b"ok \xe6\x97", b"\xed\xa0\x80"],
    "NUL": ["\0", "a\0b", "\0" * 1000],
    "nothing for the tokenizer": ["\u096c", "\u200d\ufeff", "\u0300"],
    "marks of the libraries": ["\u0134A\u0134B", "\x1f\x1e", "</w>##", "[no-token-1]"],
    "special tokens": ["[MASK]" * 3000, "[SEP][CLS]", "<|endoftext|>" * 3000],
}


@pytest.fixture(scope="module")
def of_texts(make: Callable[..., ZooModel]) -> dict[str, Functions]:
    found, graphs = {}, {}
    tasks = [("bert", "classify"), ("bert", "tag"), ("bert", "answer"), ("bert", "masked_lm"), ("gpt", "generate")]
    for family, task in tasks:
        model = make(f"{family}-nano", {"bert": "bert-uncased", "gpt": "gpt2"}[family], task=task)
        graph = graphs.setdefault(family, make_tokenizer(model))
        found[task] = as_saved(text_signatures(model, graph))
    return found


SAMPLING = {"max_new_tokens": 5, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}


@pytest.mark.parametrize("name", STRINGS)
def test_any_string_has_an_answer(name: str, of_texts: dict[str, Functions]) -> None:
    texts = STRINGS[name]
    for task, functions in of_texts.items():
        given = {"question": texts, "context": texts} if task == "answer" else {"text": texts}
        outputs = functions["serving_default"](**given, **(SAMPLING if task == "generate" else {}))
        assert_defined(outputs, len(texts))
        if task == "generate":
            assert ((outputs["lengths"] >= 0) & (outputs["lengths"] <= 5)).numpy().all()
        if task == "masked_lm":
            assert outputs["token"].shape[1] == (LENGTH - 2 if "[MASK]" * 3000 in texts else 0)
        if task == "answer":
            for text, answer in zip(texts, outputs["answer"].numpy(), strict=True):
                assert answer.decode() in (text if isinstance(text, str) else text.decode(errors="replace"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature has something that is no finite number"),
        ({"temperature": float("inf")}, "temperature has something that is no finite number"),
        ({"top_k": -1}, "top_k has a number below 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1"),
        ({"max_new_tokens": -1}, "max_new_tokens has a number below 0"),
        ({"max_new_tokens": 2**31 - 1}, "max_new_tokens has a number above 65536"),
        ({"max_new_tokens": [1, 2]}, "shape_of_max_new_tokens"),
        ({"text": "no batch"}, "shape_of_text"),
        ({"text": [["a"]]}, "shape_of_text"),
    ],
)
def test_wrong_settings_of_generation_are_refused(
    change: dict[str, Any], message: str, of_texts: dict[str, Functions]
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        of_texts["generate"]["serving_default"](**({"text": ["a"]} | SAMPLING | change))


def test_texts_without_their_pair_are_refused(of_texts: dict[str, Functions]) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and pair have to have equally many batch"):
        of_texts["classify"]["pairs"](text=["a", "b"], pair=["c"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="question and context have to have equally many batch"):
        of_texts["answer"]["serving_default"](question=["a"], context=["b", "c"])


# --- tensors


def tokens(shape: tuple[int, ...] = (2, 5), **changes: Any) -> dict[str, Any]:
    given = {"token_ids": np.full(shape, 3), "padding_mask": np.ones(shape), "segment_ids": np.zeros(shape)} | changes
    return {name: np.asarray(value, "int32") for name, value in given.items()}


@pytest.fixture(scope="module")
def bert(make: Callable[..., ZooModel]) -> Functions:
    return as_saved(served_signatures(make("bert-nano", "bert-uncased", task="classify")))


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


def test_a_cache_and_its_mask_fit_together(make: Callable[..., ZooModel]) -> None:
    model = make("gpt-nano", "gpt2")
    functions = as_saved(served_signatures(model))
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
def vit(make: Callable[..., ZooModel], tmp_path_factory: pytest.TempPathFactory) -> tuple[ZooModel, Any]:
    """A model, and what was loaded of it."""
    model = make("vit-nano")
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
        with pytest.raises(tf.errors.InvalidArgumentError):
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


def test_images_and_texts_are_compared_in_any_numbers(make: Callable[..., ZooModel]) -> None:
    """But with texts there must be."""
    tokenizer = Tokenizer.load(GOLDEN / "clip")
    text = {"vocabulary_size": tokenizer.vocabulary_size}
    model = make("clip-nano", text=text, end_token=tokenizer.special_ids["end"])
    model.tokenizer = tokenizer
    plain = as_saved(served_signatures(model)[:1])["serving_default"]
    height, width = model.preprocessing.output_size
    ids = np.full((3, 4), 5, "int32")
    outputs = plain(images=np.zeros((2, height, width, 3), "float32"), token_ids=ids, padding_mask=np.ones_like(ids))
    assert outputs["logits_per_image"].shape == (2, 3)
    functions = as_saved(text_signatures(model, make_tokenizer(model)))
    file = images()["png"]
    outputs = functions["serving_default"](image_bytes=[], text=["a", "b"])
    assert outputs["label"].shape == (0,) and outputs["probabilities"].shape == (0, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text has to have 1 text or more"):
        functions["serving_default"](image_bytes=[file], text=[])
    with pytest.raises(tf.errors.InvalidArgumentError):
        functions["serving_default"](image_bytes=[b"no image"], text=["a"])
    for texts in STRINGS.values():
        assert_defined(functions["encode_text"](text=texts), len(texts))

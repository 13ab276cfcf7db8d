"""A CLIP of strings and image files says what the model says, in any numbers of both."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from export.saved_model import served_signatures
from export.text_model import make_tokenizer, text_signatures
from tests.export.served import STRINGS, TEXTS, Functions, as_saved, assert_defined, load_tokenizer, strings
from tests.zoo.reference import assert_close
from zoo.bert.config import BERTConfig
from zoo.image import preprocess, read_image
from zoo.model import ZooModel
from zoo.prediction import model_inputs, probabilities_of_pairs


@pytest.fixture(scope="module")
def clip(enliven: Callable[..., ZooModel]) -> tuple[ZooModel, Functions]:
    """A model, and its functions of strings."""
    tokenizer = load_tokenizer("clip")
    text = {"vocabulary_size": tokenizer.vocabulary_size}
    model = enliven(zoo.create("clip-nano", text=text, end_token=tokenizer.special_ids["end"]), seed=1)
    model.tokenizer = tokenizer
    return model, as_saved(text_signatures(model, make_tokenizer(model)))


@pytest.fixture(scope="module")
def plain(clip: tuple[ZooModel, Functions]) -> Functions:
    """Two of its functions of tensors."""
    wanted = ("serving_default", "encode_image_bytes")
    return as_saved(each for each in served_signatures(clip[0]) if each.name in wanted)


def picture(seed: int, size: tuple[int, int] = (50, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_are_compared_with_texts(clip: tuple[ZooModel, Functions]) -> None:
    model, functions = clip
    files, texts = [picture(1), picture(2, (30, 60))], ["a dog", "", "two \u00e9cl\u00e2irs"]
    outputs = functions["serving_default"](image_bytes=files, text=texts)
    expected = model(model_inputs(model, texts, images=files))
    for name in ("image_embedding", "text_embedding", "logits_per_image"):
        assert_close(outputs[name], expected[name])
    logits = expected["logits_per_image"].numpy()
    assert_close(outputs["probabilities"], probabilities_of_pairs(model, logits))
    assert strings(outputs["label"]) == [texts[n] for n in logits.argmax(axis=1)]
    assert_close(functions["encode_text"](text=texts)["text_embedding"], expected["text_embedding"])


def test_images_and_texts_are_compared_in_any_numbers(clip: tuple[ZooModel, Functions], plain: Functions) -> None:
    """But with texts there must be."""
    model, functions = clip
    height, width = model.preprocessing.output_size
    ids = np.full((3, 4), 5, "int32")
    given = {"images": np.zeros((2, height, width, 3), "float32"), "token_ids": ids, "padding_mask": np.ones_like(ids)}
    assert plain["serving_default"](**given)["logits_per_image"].shape == (2, 3)
    outputs = functions["serving_default"](image_bytes=[], text=["a", "b"])
    assert outputs["label"].shape == (0,) and outputs["probabilities"].shape == (0, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text has to have 1 text or more"):
        functions["serving_default"](image_bytes=[picture(1)], text=[])
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes"):
        functions["serving_default"](image_bytes=[b"no image"], text=["a"])


def test_the_tower_of_images_reads_files(clip: tuple[ZooModel, Functions], plain: Functions) -> None:
    files = [picture(1), picture(2, (30, 60)), picture(3, (5, 80))]
    pictures = preprocess([read_image(data) for data in files], clip[0].preprocessing)
    outputs = plain["encode_image_bytes"](image_bytes=files)
    assert outputs.keys() == {"image_embedding"}
    expected = clip[0].encode_image(images=pictures)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # else any image would do
    assert_close(outputs["image_embedding"], expected)


@pytest.mark.full  # the tokenizer's strings are in the quick tier in test_text_bert and test_text_gpt
@pytest.mark.parametrize("name", STRINGS)
def test_any_string_is_encoded(name: str, clip: tuple[ZooModel, Functions]) -> None:
    assert_defined(clip[1]["encode_text"](text=STRINGS[name]), len(STRINGS[name]))


@pytest.mark.full  # both losses are in the quick tier in test_prediction, and both towers by themselves
def test_a_clip_of_the_sigmoid_loss_says_of_each_text_whether_it_fits(enliven: Callable[..., ZooModel]) -> None:
    """And its tower of texts is a BERT."""
    text = BERTConfig(vocabulary_size=522, max_length=20, width=16, depth=1, num_heads=2, pooler=False)
    model = enliven(zoo.create("clip-nano", text=text, text_pooling="first", end_token=None, loss="sigmoid"))
    model.tokenizer = load_tokenizer("bert")
    functions = as_saved(text_signatures(model, make_tokenizer(model))[:1])
    outputs = functions["serving_default"](image_bytes=[picture(1)], text=TEXTS[:2])
    expected = model(model_inputs(model, TEXTS[:2], images=[picture(1)]))["logits_per_image"].numpy()
    assert_close(outputs["probabilities"], probabilities_of_pairs(model, expected))

"""A BERT of strings says of texts what `zoo.prediction` says, and has an answer for any string."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tests.export.served import (
    LABELS,
    LENGTH,
    STRINGS,
    TEXTS,
    Functions,
    assert_defined,
    assert_every_token_s_vector_is_the_model_s,
    assert_vectors_are_the_model_s,
    making,
    strings,
)
from tests.zoo.reference import assert_close
from zoo.model import ZooModel
from zoo.prediction import Predictor, model_inputs, softmax

Made = Callable[[str], tuple[ZooModel, Functions]]


@pytest.fixture(scope="module")
def made(enliven: Callable[..., ZooModel]) -> Made:
    return making(enliven, "bert")


def test_classes_are_those_of_the_predictor(made: Made) -> None:
    model, functions = made("classify")
    outputs = functions["serving_default"](text=TEXTS)
    expected = Predictor(model).predict(TEXTS)
    assert strings(outputs["label"]) == [record["label"] for record in expected]
    probabilities = [record["probability"] for record in expected]
    assert outputs["probability"].numpy().tolist() == pytest.approx(probabilities, abs=1e-6)
    assert_close(outputs["logits"], model(model_inputs(model, TEXTS))["logits"])
    assert_close(outputs["probabilities"], softmax(outputs["logits"].numpy()))
    outputs = functions["pairs"](text=TEXTS, pair=TEXTS[::-1])
    assert_close(outputs["logits"], model(model_inputs(model, TEXTS, TEXTS[::-1]))["logits"])


def test_tags_stand_where_the_tokens_stand(made: Made) -> None:
    model, functions = made("tag")
    outputs = functions["serving_default"](text=TEXTS)
    inputs = model_inputs(model, TEXTS, offsets=True)
    inside = inputs.pop("sequence_ids") == 0
    offsets = inputs.pop("offsets")
    probabilities = softmax(model(inputs)["logits"].numpy())
    np.testing.assert_array_equal(np.stack([outputs["start"], outputs["end"]], axis=-1), offsets)
    assert_close(outputs["probability"], probabilities.max(axis=-1) * inside)
    vocabulary = {number: token for token, number in model.tokenizer.specification.vocabulary.items()}
    for place in np.ndindex(inside.shape):
        token, label = outputs["token"].numpy()[place].decode(), outputs["label"].numpy()[place].decode()
        if inside[place]:
            assert (token, label) == (vocabulary[inputs["token_ids"][place]], LABELS[probabilities[place].argmax()])
        else:
            assert (token, label) == ("", "")
    assert inside.sum() > 30


def test_an_answer_is_a_part_of_its_context(made: Made) -> None:
    model, functions = made("answer")
    contexts = ["", *TEXTS[:3], "\u00c9t\u00e9 [SEP] na\u00efve \ufffd word."]
    questions = ["Who?", "Where is it", "", TEXTS[2], "What"]
    outputs = functions["serving_default"](question=questions, context=contexts)
    inputs = model_inputs(model, questions, contexts, offsets=True)
    inside, offsets = inputs.pop("sequence_ids") == 1, inputs.pop("offsets")
    logits = {name: value.numpy() for name, value in model(inputs).items()}
    for row, context in enumerate(contexts):
        places = np.flatnonzero(inside[row])
        spans = [(a, b) for a in places for b in places if 0 <= b - a < 30]
        start, end, score = (outputs[name].numpy()[row] for name in ("start", "end", "score"))
        answer = outputs["answer"].numpy()[row].decode()
        if not spans:
            assert (start, end, score, answer) == (0, 0, np.float32(-1e9), "")
            continue
        a, b = max(spans, key=lambda s: logits["start_logits"][row, s[0]] + logits["end_logits"][row, s[1]])
        assert score == pytest.approx(logits["start_logits"][row, a] + logits["end_logits"][row, b], abs=1e-5)
        assert (start, end) == (offsets[row, a, 0], offsets[row, b, 1])
        assert answer == context[start:end] != ""


def test_masks_are_filled_as_by_the_predictor(made: Made) -> None:
    model, functions = made("masked_lm")
    texts = ["the [MASK] fox", "[MASK][MASK] is [MASK].", "a[MASK]"]
    outputs = functions["serving_default"](text=[*texts, "nothing"])
    assert outputs["token"].shape == outputs["probability"].shape == (4, 3, 5)
    for row, record in enumerate(Predictor(model).predict(texts)):
        for place, mask in enumerate(record["masks"]):
            assert [each["token"] for each in mask["tokens"]] == strings(outputs["token"])[row][place]
            expected = [each["probability"] for each in mask["tokens"]]
            assert outputs["probability"].numpy()[row, place].tolist() == pytest.approx(expected, abs=1e-6)
        rest = slice(len(record["masks"]), None)
        assert set(outputs["token"].numpy()[row, rest].ravel()) <= {b""}
    assert not outputs["probability"].numpy()[3].any()
    assert functions["serving_default"](text=["none"])["token"].shape == (1, 0, 5)


def test_vectors_are_the_model_s(made: Made) -> None:
    assert_vectors_are_the_model_s(*made("embed"))


@pytest.mark.full  # the vectors of `embed` are in the quick tier, and any bundle holds its own
def test_every_token_s_vector_is_the_model_s(made: Made) -> None:
    assert_every_token_s_vector_is_the_model_s(*made("backbone"))


# --- whatever is asked


@pytest.mark.parametrize("name", STRINGS)
def test_any_string_has_an_answer(name: str, made: Made) -> None:
    texts = STRINGS[name]
    for task in ("classify", "tag", "answer", "masked_lm"):
        given = {"question": texts, "context": texts} if task == "answer" else {"text": texts}
        outputs = made(task)[1]["serving_default"](**given)
        assert_defined(outputs, len(texts))
        if task == "masked_lm":
            assert outputs["token"].shape[1] == (LENGTH - 2 if "[MASK]" * 3000 in texts else 0)
        if task == "answer":
            for text, answer in zip(texts, outputs["answer"].numpy(), strict=True):
                assert answer.decode() in (text if isinstance(text, str) else text.decode(errors="replace"))


def test_texts_without_their_pair_are_refused(made: Made) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="text and pair have to have equally many batch"):
        made("classify")[1]["pairs"](text=["a", "b"], pair=["c"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="question and context have to have equally many batch"):
        made("answer")[1]["serving_default"](question=["a"], context=["b", "c"])

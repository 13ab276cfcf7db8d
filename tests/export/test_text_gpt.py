"""A GPT of strings generates what `zoo.generation` does, and has an answer for any string."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from export.manifest import Artefact
from export.reference import Case
from export.text_model import write_text_model
from export.verify import run_alone
from tests.export.served import (
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
from zoo.generation import GREEDY, Generator, Sampling
from zoo.model import ZooModel
from zoo.prediction import Predictor, model_inputs, softmax

Made = Callable[[str], tuple[ZooModel, Functions]]


@pytest.fixture(scope="module")
def made(enliven: Callable[..., ZooModel]) -> Made:
    return making(enliven, "gpt")


def test_classes_without_names_are_numbers(made: Made) -> None:
    model, functions = made("classify")
    outputs = functions["serving_default"](text=TEXTS)
    expected = Predictor(model).predict(TEXTS)
    assert strings(outputs["label"]) == [record["label"].removeprefix("LABEL_") for record in expected]
    probabilities = [record["probability"] for record in expected]
    assert outputs["probability"].numpy().tolist() == pytest.approx(probabilities, abs=1e-6)
    assert_close(outputs["logits"], model(model_inputs(model, TEXTS))["logits"])
    assert_close(outputs["probabilities"], softmax(outputs["logits"].numpy()))
    assert functions.keys() == {"serving_default"}  # it reads no pairs


def test_vectors_are_the_model_s(made: Made) -> None:
    assert_vectors_are_the_model_s(*made("embed"))


@pytest.mark.full  # the vectors of `embed` are in the quick tier, and any bundle holds its own
def test_every_token_s_vector_is_the_model_s(made: Made) -> None:
    assert_every_token_s_vector_is_the_model_s(*made("backbone"))


# --- generation


def settings(count: int, sampling: Sampling) -> dict[str, Any]:
    return {
        "max_new_tokens": count,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    }


RANDOM = [Sampling(seed=-5), Sampling(4.0, 50, 0.99, seed=2**40)]


@pytest.mark.parametrize(
    ("count", "sampling"),
    [*((count, GREEDY) for count in (0, 1, 7, 100)), *((100, sampling) for sampling in RANDOM)],
    ids=str,
)
def test_the_graph_generates_what_the_generator_does(count: int, sampling: Sampling, made: Made) -> None:
    """Past the context, from prompts longer than it and from none, together and alone."""
    model, functions = made("generate")
    tokenizer = model.tokenizer
    prompts = [tokenizer.encode(text) or [tokenizer.end_of_text] for text in TEXTS[:3]]
    expected = Generator(model).generate(prompts, count, sampling, [tokenizer.end_of_text])
    outputs = functions["serving_default"](text=TEXTS[:3], **settings(count, sampling))
    counts = outputs["lengths"].numpy()
    assert [row[:n].tolist() for row, n in zip(outputs["token_ids"].numpy(), counts, strict=True)] == expected
    assert strings(outputs["text"]) == [tokenizer.decode(row) for row in expected]
    alone = functions["serving_default"](text=TEXTS[:1], **settings(count, sampling))
    assert strings(alone["text"]) == [Generator(model).generate_text(TEXTS[0], count, sampling)]


def test_the_graph_stops_at_the_end_of_the_text(made: Made) -> None:
    model, functions = made("generate")
    texts = ["one", "two words", "and three more"]
    end, sampling = model.tokenizer.end_of_text, Sampling(3.0, seed=1)
    row = model.named_weights()["backbone.token_embedding.table"]
    kept = row.numpy()
    changed = kept.copy()
    changed[end] *= 3.0  # a token so lively comes up
    row.assign(changed)
    try:
        prompts = [model.tokenizer.encode(text) for text in texts]
        expected = Generator(model).generate(prompts, 60, sampling, [end])
        outputs = functions["serving_default"](text=texts, **settings(60, sampling))
    finally:
        row.assign(kept)
    lengths = outputs["lengths"].numpy().tolist()
    assert lengths == list(map(len, expected)) and min(lengths) < max(lengths)
    for ids, new in zip(outputs["token_ids"].numpy().tolist(), expected, strict=True):
        assert ids[: len(new)] == new and set(ids[len(new) :]) <= {end}


@pytest.mark.full  # a process of its own; that of a bundle generates greedily in the quick tier
def test_a_seed_draws_the_same_in_a_process_of_its_own(made: Made, tmp_path: Path) -> None:
    model, functions = made("generate")
    write_text_model(model, tmp_path / "1")
    given = {"text": np.array([text.encode() for text in TEXTS[:3]])}
    kinds = {"max_new_tokens": "int32", "temperature": "float32", "top_k": "int32", "top_p": "float32", "seed": "int64"}
    drawn = settings(40, Sampling(0.7, 40, 0.95, seed=11))
    given |= {name: np.array(value, kinds[name]) for name, value in drawn.items()}
    outputs = {name: value.numpy() for name, value in functions["serving_default"](**given).items()}
    case = Case("given", "serving_default", "shapes", given, outputs)
    artefact = Artefact("1", {}, "tensorflow_text", "float32", {"serving_default": "serving_default"}, {}, {})
    _, answers = run_alone(tmp_path, artefact, [case], {})
    assert answers["given"].keys() == outputs.keys()
    for name, value in outputs.items():
        assert answers["given"][name].tolist() == value.tolist(), name


# --- whatever is asked

SAMPLING = settings(5, Sampling(seed=1))


@pytest.mark.parametrize("name", STRINGS)
def test_any_string_is_continued(name: str, made: Made) -> None:
    outputs = made("generate")[1]["serving_default"](text=STRINGS[name], **SAMPLING)
    assert_defined(outputs, len(STRINGS[name]))
    assert ((outputs["lengths"] >= 0) & (outputs["lengths"] <= 5)).numpy().all()


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
def test_wrong_settings_of_generation_are_refused(change: dict[str, Any], message: str, made: Made) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        made("generate")[1]["serving_default"](**({"text": ["a"]} | SAMPLING | change))

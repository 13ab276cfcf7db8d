"""Functions of models as a server calls them, and texts to call them with."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import zoo
from export.saved_model import trace
from export.signatures import Signature
from export.text_model import make_tokenizer, text_signatures
from tests.zoo.reference import assert_close
from zoo.model import ZooModel
from zoo.prediction import encode, model_inputs
from zoo.text import Tokenizer
from zoo.text.graph import GraphTokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
TOKENIZERS = {"bert": "bert-uncased", "gpt": "gpt2", "clip": "clip"}
LENGTH = 24  # of all models of one tower: shorter than the third text
TEXTS = [
    "The quick brown Fox jumps over the lazy dog.",
    "",
    "Cafe\u0301s in Z\u00fcrich\u2026 \u65e5\u672c\u8a9e \U0001f600, unaffable! " * 3,
    "a [MASK] b\u200d [MASK] c",
]
STRINGS: dict[str, list[str | bytes]] = {  # that somebody may send who means no good
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
LABELS = ("B-PER", "I-PER", "O")

Functions = dict[str, Callable[..., dict[str, Any]]]


def as_saved(functions: Iterable[Signature]) -> Functions:
    """As a server calls them: with tensors of any shape and of the right dtype, which nothing has looked at before."""

    def loosen(concrete: Any) -> Callable[..., dict[str, Any]]:
        specs = concrete.structured_input_signature[1]
        loose = tf.function(lambda given: concrete(**given))
        loose = loose.get_concrete_function({name: tf.TensorSpec(None, spec.dtype) for name, spec in specs.items()})
        return lambda **given: loose({name: tf.constant(value, specs[name].dtype) for name, value in given.items()})

    return {each.name: loosen(trace(each)) for each in functions}


def load_tokenizer(family: str) -> Tokenizer:
    return Tokenizer.load(GOLDEN / TOKENIZERS[family])


def make_model(enliven: Callable[..., ZooModel], family: str, task: str) -> ZooModel:
    """A tiny model of texts; some have names for their classes."""
    tokenizer = load_tokenizer(family)
    classes = {"num_classes": len(LABELS)} if task in ("classify", "tag") else {}
    sizes = {"vocabulary_size": tokenizer.vocabulary_size, "max_length": LENGTH, **classes}
    model = enliven(zoo.create(f"{family}-nano", task=task, **sizes), seed=3)
    model.tokenizer = tokenizer
    if task == "tag" or (family, task) == ("bert", "classify"):
        model.labels = LABELS
    return model


def making(enliven: Callable[..., ZooModel], family: str) -> Callable[[str], tuple[ZooModel, Functions]]:
    """A function that gives a model for a task, and its functions of strings. Each is made once, and the tokenizer in
    their graphs once for all: that takes seconds."""
    tokenizers: list[GraphTokenizer] = []

    @functools.cache
    def make(task: str) -> tuple[ZooModel, Functions]:
        model = make_model(enliven, family, task)
        if not tokenizers:
            tokenizers.append(make_tokenizer(model))
        return model, as_saved(text_signatures(model, tokenizers[0]))

    return make


def strings(values: Any) -> Any:
    return np.char.decode(np.asarray(values.numpy(), "S"), "utf-8").tolist()


def assert_defined(outputs: dict[str, Any], rows: int) -> None:
    for name, value in outputs.items():
        assert value.shape[0] == rows, name
        if value.dtype.is_floating:
            assert np.isfinite(value.numpy()).all(), name


def assert_vectors_are_the_model_s(model: ZooModel, functions: Functions) -> None:
    """Those of whole texts, by the model over the tokenizer that is the reference."""
    vectors = functions["serving_default"](text=TEXTS)["embedding"]
    assert_close(vectors, encode(model, model_inputs(model, TEXTS)))


def assert_every_token_s_vector_is_the_model_s(model: ZooModel, functions: Functions) -> None:
    """Likewise."""
    outputs, inputs = functions["serving_default"](text=TEXTS), model_inputs(model, TEXTS)
    assert outputs.keys() == {*model.output_names, "padding_mask"}
    np.testing.assert_array_equal(outputs["padding_mask"], inputs["padding_mask"])
    assert_close(outputs["sequence"], model(inputs)["sequence"])

"""Models of strings: they say of texts what `zoo.prediction` and `zoo.generation` say, alone in their runtime."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import zoo
from export import verify
from export.saved_model import trace
from export.text_model import make_tokenizer, reads_text, text_signatures, write_text_model
from tests.zoo.reference import assert_close
from zoo.bert.config import BERTConfig
from zoo.errors import UserError
from zoo.generation import GREEDY, Generator, Sampling
from zoo.model import ZooModel
from zoo.prediction import Predictor, encode, model_inputs, probabilities_of_pairs, softmax
from zoo.text import Tokenizer, train_characters

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
TEXTS = [
    "The quick brown Fox jumps over the lazy dog.",
    "",
    "Cafe\u0301s in Z\u00fcrich\u2026 \u65e5\u672c\u8a9e \U0001f600, unaffable! " * 3,
    "a [MASK] b\u200d [MASK] c",
]
LABELS = ("B-PER", "I-PER", "O")
Functions = dict[str, Callable[..., dict[str, Any]]]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {family: Tokenizer.load(GOLDEN / name) for family, name in NAMES.items()}


NAMES = {"bert": "bert-uncased", "gpt": "gpt2", "clip": "clip"}
LENGTH = 24  # of all models: shorter than the third text


def make_model(enliven: Callable[..., ZooModel], tokenizer: Tokenizer, family: str, task: str) -> ZooModel:
    classes = {"num_classes": 3} if task in ("classify", "tag") else {}
    model = zoo.create(
        f"{family}-nano", task=task, vocabulary_size=tokenizer.vocabulary_size, max_length=LENGTH, **classes
    )
    model.tokenizer = tokenizer
    if task == "tag" or (family, task) == ("bert", "classify"):
        model.labels = LABELS
    return enliven(model, seed=3)


@pytest.fixture(scope="module")
def made(
    enliven: Callable[..., ZooModel], tokenizers: dict[str, Tokenizer]
) -> Callable[..., tuple[ZooModel, Functions]]:
    """A model, and its functions of strings as they are saved. A family shares a tokenizer: it takes seconds."""
    models: dict[tuple[str, str], tuple[ZooModel, Functions]] = {}
    graphs: dict[str, Any] = {}

    def make(family: str, task: str) -> tuple[ZooModel, Functions]:
        if (family, task) not in models:
            model = make_model(enliven, tokenizers[family], family, task)
            graph = graphs.setdefault(family, make_tokenizer(model))
            found = {each.name: trace(each) for each in text_signatures(model, graph)}
            models[family, task] = model, found
        return models[family, task]

    return make


@pytest.fixture(scope="module")
def clip(enliven: Callable[..., ZooModel], tokenizers: dict[str, Tokenizer]) -> tuple[ZooModel, Functions]:
    ids = tokenizers["clip"].special_ids
    text = {"vocabulary_size": tokenizers["clip"].vocabulary_size}
    model = enliven(zoo.create("clip-nano", text=text, end_token=ids["end"]), seed=1)
    model.tokenizer = tokenizers["clip"]
    return model, {each.name: trace(each) for each in text_signatures(model, make_tokenizer(model))}


def strings(values: Any) -> Any:
    return np.char.decode(np.asarray(values.numpy(), "S"), "utf-8").tolist()


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_classes_are_those_of_the_predictor(family: str, made: Any) -> None:
    model, functions = made(family, "classify")
    outputs = functions["serving_default"](text=tf.constant(TEXTS))
    expected = Predictor(model).predict(TEXTS)
    for row, record in enumerate(expected):
        assert strings(outputs["label"])[row] == record["label"].removeprefix("LABEL_")
        assert float(outputs["probability"][row]) == pytest.approx(record["probability"], abs=1e-6)
    assert_close(outputs["logits"], model(model_inputs(model, TEXTS))["logits"])
    assert_close(outputs["probabilities"], softmax(outputs["logits"].numpy()))
    assert ("pairs" in functions) == (family == "bert")
    if family == "bert":
        outputs = functions["pairs"](text=tf.constant(TEXTS), pair=tf.constant(TEXTS[::-1]))
        assert_close(outputs["logits"], model(model_inputs(model, TEXTS, TEXTS[::-1]))["logits"])


def test_tags_stand_where_the_tokens_stand(made: Any) -> None:
    model, functions = made("bert", "tag")
    outputs = functions["serving_default"](text=tf.constant(TEXTS))
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


def test_an_answer_is_a_part_of_its_context(made: Any) -> None:
    model, functions = made("bert", "answer")
    contexts = ["", *TEXTS[:3], "\u00c9t\u00e9 [SEP] na\u00efve \ufffd word."]
    questions = ["Who?", "Where is it", "", TEXTS[2], "What"]
    outputs = functions["serving_default"](question=tf.constant(questions), context=tf.constant(contexts))
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


def test_masks_are_filled_as_by_the_predictor(made: Any) -> None:
    model, functions = made("bert", "masked_lm")
    texts = ["the [MASK] fox", "[MASK][MASK] is [MASK].", "a[MASK]"]
    outputs = functions["serving_default"](text=tf.constant([*texts, "nothing"]))
    assert outputs["token"].shape == outputs["probability"].shape == (4, 3, 5)
    for row, record in enumerate(Predictor(model).predict(texts)):
        for place, mask in enumerate(record["masks"]):
            assert [each["token"] for each in mask["tokens"]] == strings(outputs["token"])[row][place]
            expected = [each["probability"] for each in mask["tokens"]]
            assert outputs["probability"].numpy()[row, place].tolist() == pytest.approx(expected, abs=1e-6)
        rest = slice(len(record["masks"]), None)
        assert set(outputs["token"].numpy()[row, rest].ravel()) <= {b""}
    assert not outputs["probability"].numpy()[3].any()
    assert functions["serving_default"](text=tf.constant(["none"]))["token"].shape == (1, 0, 5)


def test_vectors_are_the_model_s(made: Any) -> None:
    for family in ("bert", "gpt"):
        model, functions = made(family, "embed")
        vectors = functions["serving_default"](text=tf.constant(TEXTS))["embedding"]
        assert_close(vectors, encode(model, model_inputs(model, TEXTS)))
        model, functions = made(family, "backbone")
        outputs, inputs = functions["serving_default"](text=tf.constant(TEXTS)), model_inputs(model, TEXTS)
        assert outputs.keys() == {*model.output_names, "padding_mask"}
        np.testing.assert_array_equal(outputs["padding_mask"], inputs["padding_mask"])
        assert_close(outputs["sequence"], model(inputs)["sequence"])


def generate(functions: Functions, texts: list[str], count: int, sampling: Sampling) -> dict[str, Any]:
    return functions["serving_default"](
        text=tf.constant(texts),
        max_new_tokens=tf.constant(count),
        temperature=tf.constant(sampling.temperature),
        top_k=tf.constant(sampling.top_k),
        top_p=tf.constant(sampling.top_p),
        seed=tf.constant(sampling.seed, tf.int64),
    )


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=-5), Sampling(4.0, 50, 0.99, seed=2**40)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_the_graph_generates_what_the_generator_does(made: Any, sampling: Sampling, count: int) -> None:
    """Past the context, from prompts longer than it and from none, together and alone."""
    model, functions = made("gpt", "generate")
    tokenizer = model.tokenizer
    prompts = [tokenizer.encode(text) or [tokenizer.end_of_text] for text in TEXTS[:3]]
    expected = Generator(model).generate(prompts, count, sampling, [tokenizer.end_of_text])
    outputs = generate(functions, TEXTS[:3], count, sampling)
    counts = outputs["lengths"].numpy()
    assert [row[:n].tolist() for row, n in zip(outputs["token_ids"].numpy(), counts, strict=True)] == expected
    assert strings(outputs["text"]) == [tokenizer.decode(row) for row in expected]
    alone = generate(functions, TEXTS[:1], count, sampling)
    assert strings(alone["text"]) == [Generator(model).generate_text(TEXTS[0], count, sampling)]


def test_the_graph_stops_at_the_end_of_the_text(made: Any) -> None:
    model, functions = made("gpt", "generate")
    end, sampling = model.tokenizer.end_of_text, Sampling(3.0, seed=1)
    row = model.named_weights()["backbone.token_embedding.table"]
    kept = row.numpy()
    changed = kept.copy()
    changed[end] *= 3.0  # a token so lively comes up
    row.assign(changed)
    try:
        prompts = [model.tokenizer.encode(text) for text in ("one", "two words", "and three more")]
        expected = Generator(model).generate(prompts, 60, sampling, [end])
        outputs = generate(functions, ["one", "two words", "and three more"], 60, sampling)
    finally:
        row.assign(kept)
    lengths = outputs["lengths"].numpy().tolist()
    assert lengths == list(map(len, expected)) and min(lengths) < max(lengths)
    for ids, new in zip(outputs["token_ids"].numpy().tolist(), expected, strict=True):
        assert ids[: len(new)] == new and set(ids[len(new) :]) <= {end}


def picture(seed: int, size: tuple[int, int] = (50, 40)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_are_compared_with_texts(clip: tuple[ZooModel, Functions]) -> None:
    model, functions = clip
    files, texts = [picture(1), picture(2, (30, 60))], ["a dog", "", "two \u00e9cl\u00e2irs"]
    outputs = functions["serving_default"](image_bytes=tf.constant(files), text=tf.constant(texts))
    expected = model(model_inputs(model, texts, images=files))
    for name in ("image_embedding", "text_embedding", "logits_per_image"):
        assert_close(outputs[name], expected[name])
    logits = expected["logits_per_image"].numpy()
    assert_close(outputs["probabilities"], probabilities_of_pairs(model, logits))
    assert strings(outputs["label"]) == [texts[n] for n in logits.argmax(axis=1)]
    assert_close(functions["encode_text"](text=tf.constant(texts))["text_embedding"], expected["text_embedding"])


def test_a_clip_of_the_sigmoid_loss_says_of_each_text_whether_it_fits(
    enliven: Callable[..., ZooModel], tokenizers: dict[str, Tokenizer]
) -> None:
    """And its tower of texts is a BERT."""
    text = BERTConfig(vocabulary_size=522, max_length=20, width=16, depth=1, num_heads=2, pooler=False)
    model = enliven(zoo.create("clip-nano", text=text, text_pooling="first", end_token=None, loss="sigmoid"))
    model.tokenizer = tokenizers["bert"]
    (serve, _) = (trace(each) for each in text_signatures(model, make_tokenizer(model)))
    outputs = serve(image_bytes=tf.constant([picture(1)]), text=tf.constant(TEXTS[:2]))
    expected = model(model_inputs(model, TEXTS[:2], images=[picture(1)]))["logits_per_image"].numpy()
    assert_close(outputs["probabilities"], probabilities_of_pairs(model, expected))


# --- saved, and in a process of its own

PROGRAM = """
import importlib.util, json, pathlib, runpy, sys
program = runpy.run_path(sys.argv[1])
sys.meta_path.insert(0, program["RefusedImports"]())
import tensorflow as tf
[folder] = importlib.util.find_spec("tensorflow_text").submodule_search_locations  # not imported: it needs Keras
for library in pathlib.Path(folder).glob("python/ops/_*.so"):
    tf.load_op_library(str(library))
answers = {}
for name, calls in json.load(open("calls.json")).items():
    loaded = tf.saved_model.load(name)
    for signature, given in calls.items():
        function = loaded.signatures[signature]
        specs = function.structured_input_signature[1]
        given = {key: tf.constant(value, specs[key].dtype) for key, value in given.items()}
        outputs = function(**given)
        answers[f"{name} {signature}"] = {
            key: tf.strings.as_string(value).numpy().tolist() if value.dtype != tf.string else value.numpy().tolist()
            for key, value in outputs.items()
        }
assert not {"zoo", "export", "keras", "keras_hub", "tensorflow_text", "tokenizers"} & {*sys.modules}
print(json.dumps(answers, default=bytes.decode))
"""


def test_saved_models_answer_without_our_code(made: Any, tmp_path: Path) -> None:
    calls = {
        "bert-answer": {"serving_default": {"question": ["Who?"], "context": [TEXTS[2]]}},
        "gpt-generate": {
            "serving_default": {
                "text": TEXTS[:3],
                "max_new_tokens": 40,
                "temperature": 0.7,
                "top_k": 40,
                "top_p": 0.95,
                "seed": 11,
            }
        },
    }
    expected = {}
    for name, functions_called in calls.items():
        model, functions = made(*name.split("-"))
        write_text_model(model, tmp_path / name)
        for signature, given in functions_called.items():
            function = functions[signature]
            specs = function.structured_input_signature[1]
            outputs = function(**{key: tf.constant(value, specs[key].dtype) for key, value in given.items()})
            expected[f"{name} {signature}"] = {key: value.numpy() for key, value in outputs.items()}
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    command = [sys.executable, "-I", "-c", PROGRAM, verify.PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout)
    assert answers.keys() == expected.keys()
    for call, outputs in expected.items():
        assert answers[call].keys() == outputs.keys()
        for key, value in outputs.items():
            if value.dtype == object:
                assert answers[call][key] == np.char.decode(value.astype("S"), "utf-8").tolist()
            else:
                np.testing.assert_allclose(np.array(answers[call][key], value.dtype), value, atol=1e-5)


# --- what is refused


def test_models_that_read_no_strings_are_refused(
    enliven: Callable[..., ZooModel], tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    sees, reads = zoo.create("vit-nano"), zoo.create("gpt-nano")
    assert not reads_text(sees) and reads_text(reads)
    with pytest.raises(UserError, match=r"a vit model for .* reads no text"):
        write_text_model(sees, tmp_path / "none")
    with pytest.raises(UserError, match="the gpt model has no tokenizer"):
        write_text_model(reads, tmp_path / "none")
    reads.tokenizer = train_characters(["a"])
    with pytest.raises(UserError, match="a char tokenizer has no counterpart in a graph"):
        write_text_model(reads, tmp_path / "none")
    reads.tokenizer = tokenizers["bert"]
    with pytest.raises(UserError, match="what a wordpiece tokenizer generates cannot be written"):
        write_text_model(reads, tmp_path / "none")
    pretrained = make_model(enliven, tokenizers["bert"], "bert", "pretrain")
    with pytest.raises(UserError, match="a bert model for 'pretrain' gives no answer in words"):
        write_text_model(pretrained, tmp_path / "none")
    blind = zoo.create("clip-nano")
    blind.tokenizer, blind.preprocessing = tokenizers["clip"], None
    with pytest.raises(UserError, match="no preprocessing for images of colour"):
        write_text_model(blind, tmp_path / "none")
    assert not (tmp_path / "none").exists()

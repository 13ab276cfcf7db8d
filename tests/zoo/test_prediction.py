"""`zoo.prediction`: from outputs to words, on outputs that are known."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import zoo
from zoo.model import TensorSpec
from zoo.prediction import CANDIDATES, Predictor, embed, model_inputs
from zoo.text import Tokenizer, train_bpe, train_wordpiece
from zoo.text.windows import LONGEST_ANSWER

TEXT = "Ada Lovelace met Charles Babbage in London. They spoke of engines and of numbers, engines and numbers."


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_wordpiece([TEXT] * 20, 128)


def model(task: str, tokenizer: Tokenizer | None, outputs: dict[str, np.ndarray], labels: Any = None) -> Any:
    """Something that answers as a model of `task` would, with outputs that are given."""
    names = ("token_ids", "padding_mask", "segment_ids")
    return _Fixed(
        task=task,
        family="bert",
        tokenizer=tokenizer,
        labels=labels,
        preprocessing=None,
        config=SimpleNamespace(max_length=64, vocabulary_size=1000),
        input_specs=tuple(TensorSpec(name, "int32", ()) for name in names),
        output_names=tuple(outputs),
        outputs=outputs,
    )


class _Fixed(SimpleNamespace):
    def __call__(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        positions = inputs.pop("masked_positions", None)
        assert set(inputs) == {spec.name for spec in self.input_specs} and training is False
        if positions is None:
            return self.outputs
        return {name: np.take_along_axis(value, positions[:, :, None], axis=1) for name, value in self.outputs.items()}


def softmax(row: np.ndarray) -> list[float]:
    powers = [math.exp(x) for x in row]
    return [power / sum(powers) for power in powers]


def test_classes_come_with_their_probabilities(wordpiece):
    logits = np.array([[1.0, 3.0, -2.0], [0.5, 0.0, 0.4]], "float32")
    records = Predictor(model("classify", wordpiece, {"logits": logits}, ("no", "yes", "maybe"))).predict(["a", "b"])
    assert [record["label"] for record in records] == ["yes", "no"]
    for record, row in zip(records, logits, strict=True):
        expected = dict(zip(("no", "yes", "maybe"), softmax(row), strict=True))
        assert record["probabilities"] == pytest.approx(expected, rel=1e-5)
        assert record["probability"] == max(record["probabilities"].values())
    twins = Predictor(model("classify", wordpiece, {"logits": logits[:1]}, ("crane", "crane", "dog"))).predict(["a"])[0]
    assert (twins["label"], twins["probability"]) == ("crane (1)", pytest.approx(softmax(logits[0])[1]))
    unnamed = Predictor(model("classify", wordpiece, {"logits": logits[:1]})).predict(["a"])
    assert unnamed[0]["label"] == "LABEL_1"


LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def tagged(tokenizer: Tokenizer, text: str, words: dict[str, str]) -> np.ndarray:
    """Logits that give each word of `words` its label at its first token, and nonsense to the rest of it."""
    inputs = tokenizer.prepare([text], max_length=64, offsets=True)
    logits = np.zeros((1, inputs["token_ids"].shape[1], len(LABELS)), "float32")
    for i, (start, _) in enumerate(inputs["offsets"][0]):
        if inputs["sequence_ids"][0, i] == 0:
            first = start == 0 or not text[start - 1].isalpha() or not text[start].isalpha()
            word = text[start:].split(" ")[0].rstrip(".") if first else ""
            label = words.get(word, "O") if first else "B-LOC"
            logits[0, i, LABELS.index(label)] = 5.0
        else:
            logits[0, i, LABELS.index("B-LOC")] = 9.0  # special tokens are never part of anything
    return logits


def test_entities_are_joined_from_tokens(wordpiece):
    text = "Ada Lovelace met Charles in Londonium."
    words = {"Ada": "B-PER", "Lovelace": "I-PER", "Charles": "B-PER", "Londonium": "I-LOC"}
    assert len(wordpiece.encode("Londonium")) > 1  # so that there is something to join
    logits = tagged(wordpiece, text, words)
    entities = Predictor(model("tag", wordpiece, {"logits": logits}, LABELS)).predict([text])[0]["entities"]
    assert [(each["label"], each["text"]) for each in entities] == [
        ("PER", "Ada Lovelace"),
        ("PER", "Charles"),
        ("LOC", "Londonium"),
    ]
    assert all(text[each["start"] : each["end"]] == each["text"] for each in entities)


def test_two_entities_side_by_side_stay_two(wordpiece):
    text = "Ada Charles London"
    logits = tagged(wordpiece, text, {"Ada": "B-PER", "Charles": "B-PER", "London": "B-LOC"})
    entities = Predictor(model("tag", wordpiece, {"logits": logits}, LABELS)).predict([text])[0]["entities"]
    assert [each["text"] for each in entities] == ["Ada", "Charles", "London"]


def test_the_answer_is_the_best_span_of_the_context(wordpiece):
    question, context = "Who met Babbage in London?", "They spoke of engines and of numbers, said Ada Lovelace."
    inputs = wordpiece.prepare([question], [context], max_length=64, offsets=True)
    tokens = inputs["token_ids"].shape[1]
    rng = np.random.default_rng(3)
    for _ in range(20):
        starts, ends = rng.normal(size=(2, 1, tokens)).astype("float32") * 3
        starts[0, :5] = ends[0, :5] = 20.0  # the question and [CLS] are no answers, however likely
        places = [i for i in range(tokens) if inputs["sequence_ids"][0, i] == 1]
        spans = [
            (starts[0, i] + ends[0, j], i, j)
            for i, j in itertools.product(places, places)
            if i <= j < i + LONGEST_ANSWER
        ]
        _, first, last = max(spans)
        outputs = {"start_logits": starts, "end_logits": ends}
        record = Predictor(model("answer", wordpiece, outputs)).predict([question], [context])[0]
        assert record["start"] == inputs["offsets"][0, first, 0] and record["end"] == inputs["offsets"][0, last, 1]
        assert record["answer"] == context[record["start"] : record["end"]]
        probabilities = [softmax(logits[0, places]) for logits in (starts, ends)]
        score = probabilities[0][first - places[0]] * probabilities[1][last - places[0]]
        assert record["score"] == pytest.approx(score, rel=1e-5)


def test_a_question_may_have_no_answer(wordpiece):
    question, context = "Who met Babbage in London?", "They spoke of engines and of numbers, said Ada Lovelace."
    inputs = wordpiece.prepare([question], [context], max_length=64, offsets=True)
    starts, ends = np.zeros((2, 1, inputs["token_ids"].shape[1]), "float32")
    context_begins = int(np.argmax(inputs["sequence_ids"][0] == 1))
    starts[0, context_begins] = ends[0, context_begins] = 2.0
    for no_answer, said in ((1.0, "They"), (3.0, "")):
        starts[0, 0] = ends[0, 0] = no_answer
        answerer = model("answer", wordpiece, {"start_logits": starts, "end_logits": ends})
        assert Predictor(answerer, unanswerable=True).predict([question], [context])[0]["answer"] == said
        assert Predictor(answerer).predict([question], [context])[0]["answer"] == "They"


class _Reader(SimpleNamespace):
    """Says of each token, wherever it stands, what a table says of it; and remembers how many rows it was given."""

    def __call__(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        self.rows.append(len(inputs["token_ids"]))
        return {name: table[inputs["token_ids"]] for name, table in self.tables.items()}


def reader(tokenizer: Tokenizer, **likely: str) -> Any:
    """A model that begins answers with the first token of one word, and ends them with the last of another."""
    tables = {name: np.zeros(tokenizer.vocabulary_size, "float32") for name in ("start_logits", "end_logits")}
    tables["start_logits"][tokenizer.encode(likely["start"])[0]] = 5.0
    tables["end_logits"][tokenizer.encode(likely["end"])[-1]] = 4.0
    return _Reader(**{**vars(model("answer", tokenizer, tables)), "tables": tables, "rows": []})


def test_an_answer_is_found_at_any_place_of_a_long_context(wordpiece, caplog):
    question, filler = "Who met Babbage?", "They spoke of numbers. "
    contexts = [filler * count + "Ada Lovelace in London." + filler * 3 for count in (0, 7, 90)] + ["", filler]
    made = reader(wordpiece, start="Ada", end="Lovelace")
    records = Predictor(made).predict([question] * 5, contexts)
    for record, context in zip(records[:3], contexts, strict=False):
        start = context.index("Ada")
        assert (record["answer"], record["start"], record["end"]) == ("Ada Lovelace", start, start + 12)
    assert records[3] == {"answer": "", "start": 0, "end": 0, "score": 0.0}
    assert not caplog.records  # everything was read
    # The probabilities are of all tokens of all windows.
    inputs = wordpiece.prepare_windows([question], contexts[2:3], max_length=64)
    tokens = inputs["token_ids"][inputs["sequence_ids"] == 1]
    best = [max(softmax(made.tables[name][tokens])) for name in ("start_logits", "end_logits")]
    assert len(inputs["pair"]) > 5 and records[2]["score"] == pytest.approx(best[0] * best[1], rel=1e-5)
    # What is asked besides, and how many windows are run at a time, change nothing.
    assert max(made.rows) == 16 < sum(made.rows)
    for context, record in zip(contexts, records, strict=True):
        assert Predictor(made).predict([question], [context]) == [record]
    many = Predictor(made).predict([question] * 20, contexts * 4)
    assert many == records * 4 and max(made.rows) == 20


def test_masks_are_filled_where_they_stand(wordpiece):
    text = "Ada [MASK] in [MASK]."
    inputs = wordpiece.prepare([text], max_length=64)
    logits = np.zeros((1, inputs["token_ids"].shape[1], wordpiece.vocabulary_size), "float32")
    words = iter([wordpiece.encode("met")[0], wordpiece.encode("engines")[0]])
    for i in np.flatnonzero(inputs["token_ids"][0] == wordpiece.special_ids["mask"]):
        logits[0, i, next(words)] = 9.0
    masks = Predictor(model("masked_lm", wordpiece, {"logits": logits})).predict([text])[0]["masks"]
    assert [mask["start"] for mask in masks] == [4, 14]
    assert [mask["tokens"][0]["token"] for mask in masks] == [
        wordpiece.decode(wordpiece.encode("met")[:1]),
        wordpiece.decode(wordpiece.encode("engines")[:1]),
    ]
    with pytest.raises(zoo.UserError, match=r"holds nothing to predict: write \[MASK\]"):
        Predictor(model("masked_lm", wordpiece, {"logits": logits})).predict(["no mask"])


@pytest.fixture(scope="module")
def gpt(enliven) -> Any:
    tokenizer = train_bpe([TEXT] * 5, 300)
    made = enliven(zoo.create("gpt-nano", vocabulary_size=tokenizer.vocabulary_size + 3))
    made.tokenizer = tokenizer
    return made


def test_next_tokens_are_those_after_the_last_real_one(gpt):
    texts = ["Ada met", "They spoke of engines and"]
    records = Predictor(gpt).predict(texts)
    for text, record in zip(texts, records, strict=True):
        ids = np.array([gpt.tokenizer.encode(text)], "int32")
        row = keras.ops.convert_to_numpy(gpt({"token_ids": ids})["logits"])[0, -1]
        best = int(np.argmax(row[: gpt.tokenizer.vocabulary_size]))
        assert record["tokens"][0]["token"] == gpt.tokenizer.decode([best])
        assert record["tokens"][0]["probability"] == pytest.approx(softmax(row)[best], rel=1e-4)
        assert len(record["tokens"]) == CANDIDATES


def test_an_empty_text_is_read_as_the_end_of_one(gpt):
    inputs = model_inputs(gpt, texts=["", "Ada"])
    assert inputs["token_ids"][0, 0] == gpt.tokenizer.end_of_text and inputs["padding_mask"][0].sum() == 1


def test_long_texts_are_cut_and_told_of(gpt, caplog):
    model_inputs(gpt, texts=["short", TEXT * 20])
    assert "1 of 2 texts are longer than 64 tokens" in caplog.text
    caplog.clear()
    model_inputs(gpt, texts=["short"])
    assert not caplog.text


def test_clip_chooses_the_nearest_label(enliven, wordpiece):

    clip = enliven(zoo.create("clip-nano", text={"vocabulary_size": 300}, end_token=wordpiece.special_ids["sep"]))
    clip.tokenizer = wordpiece
    images = [np.random.default_rng(i).integers(0, 256, (40, 50, 3)).astype("uint8") for i in range(3)]
    labels = ["engines", "numbers", "London"]
    records = Predictor(clip, labels, "of {}.").predict(images)
    inputs = model_inputs(clip, texts=[f"of {label}." for label in labels], images=images)
    logits = keras.ops.convert_to_numpy(clip(inputs)["logits_per_image"])
    for record, row in zip(records, logits, strict=True):
        assert record["label"] == labels[int(np.argmax(row))]
        assert record["probabilities"] == pytest.approx(dict(zip(labels, softmax(row), strict=True)), rel=1e-3)
    vectors = embed(clip, labels, are_images=False)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert embed(clip, images, are_images=True).shape == (3, clip.config.projection_width)


def test_what_cannot_be_answered_is_said(gpt, wordpiece):
    vit = zoo.create("vit-nano", task="embed")
    refusals = {
        "gives no answer in words": lambda: Predictor(vit),
        "takes no texts": lambda: model_inputs(vit, texts=["a"]),
        "takes no images": lambda: model_inputs(gpt, images=["a.png"]),
        "has no tokenizer": lambda: model_inputs(zoo.create("gpt-nano"), texts=["a"]),
        "only CLIP takes labels": lambda: Predictor(gpt, ["a"]),
        "answers no questions": lambda: Predictor(gpt, unanswerable=True),
        "CLIP needs labels": lambda: Predictor(zoo.create("clip-nano")),
        "gives no single vector": lambda: embed(gpt, ["a"], are_images=False),
        "reads no pairs": lambda: Predictor(gpt).predict(["a"], ["b"]),
        "a question needs the text": lambda: Predictor(
            model("answer", wordpiece, {"start_logits": np.zeros((1, 3))})
        ).predict(["q"]),
    }
    for message, attempt in refusals.items():
        with pytest.raises(zoo.UserError, match=message):
            attempt()
    assert Predictor(gpt).predict([]) == []

"""Inputs that occur are made of texts and images as the model reads and sees them."""

import numpy as np
import pytest

import zoo
from export.real import UNKNOWN, Examples, make_examples
from zoo.image import preprocess
from zoo.text import train_bpe, train_wordpiece

TEXT = (
    "The model reads a text, token by token, and says which comes next. It finds the words that are masked too. " * 30
)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe([TEXT], 300)


@pytest.fixture(scope="module")
def wordpiece():
    return train_wordpiece([TEXT], 150)


def joined(examples: Examples, place: int, name: str) -> np.ndarray:
    return np.concatenate([batch[place][name] for batch in examples.batches])


def test_a_language_model_is_to_find_the_next_tokens(bpe) -> None:
    model = zoo.create("gpt-nano", vocabulary_size=bpe.vocabulary_size)
    model.tokenizer = bpe
    examples = make_examples(model, [TEXT])
    ids, right = joined(examples, 0, "token_ids"), joined(examples, 1, "logits")
    assert examples.metric == "perplexity" and ids.shape[1] == 64
    assert ids.ravel().tolist() == bpe.encode(TEXT)[: ids.size]
    assert (right[:, :-1] == ids[:, 1:]).all() and (right[:, -1] == UNKNOWN).all()


def test_masked_tokens_are_to_be_found(wordpiece) -> None:
    model = zoo.create("bert-nano", task="masked_lm", vocabulary_size=wordpiece.vocabulary_size)
    model.tokenizer = wordpiece
    examples = make_examples(model, [TEXT])
    ids, right, mask = (
        joined(examples, 0, "token_ids"),
        joined(examples, 1, "logits"),
        joined(examples, 0, "padding_mask"),
    )
    hidden = ids == wordpiece.special_ids["mask"]
    assert 0.1 < hidden.sum() / mask.sum() < 0.2
    assert (right[hidden] >= len(wordpiece.special_ids)).all() and (right[~hidden] == UNKNOWN).all()
    assert (ids[:, 0] == wordpiece.special_ids["cls"]).all()


def test_a_question_and_its_context_are_two_segments(wordpiece) -> None:
    model = zoo.create("bert-nano", task="answer", vocabulary_size=wordpiece.vocabulary_size)
    model.tokenizer = wordpiece
    examples = make_examples(model, [TEXT])
    segments = joined(examples, 0, "segment_ids")
    assert examples.metric == "" and all(not right for _, right in examples.batches)
    assert (segments.sum(1) > segments.shape[1] // 2).all() and (segments[:, 0] == 0).all()


def test_several_texts_are_a_row_each(wordpiece) -> None:
    model = zoo.create("bert-nano", task="embed", vocabulary_size=wordpiece.vocabulary_size)
    model.tokenizer = wordpiece
    texts = [f"{TEXT[:40]} {word}" for word in ("one", "two", "three", "four", "five")] * 3
    ids = joined(make_examples(model, texts), 0, "token_ids")
    np.testing.assert_array_equal(ids, wordpiece.prepare(texts, max_length=64)["token_ids"])
    few = make_examples(model, ["", *texts[:3], " \n"], tokens=9)  # too few tokens for a window, and shortened
    np.testing.assert_array_equal(joined(few, 0, "token_ids"), wordpiece.prepare(texts[:3], max_length=9)["token_ids"])


def test_images_are_preprocessed_and_towers_take_their_own() -> None:
    model = zoo.create("vit-nano")
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (40, 50, 3), dtype="uint8") for _ in range(20)]
    examples = make_examples(model, [], pictures)
    assert [len(inputs["images"]) for inputs, _ in examples.batches] == [16, 4]
    np.testing.assert_array_equal(joined(examples, 0, "images"), preprocess(pictures, model.preprocessing))
    assert examples.of(["images"]).batches == examples.batches
    assert examples.of(["token_ids", "padding_mask"]).batches == []


def test_without_text_there_is_nothing(bpe) -> None:
    model = zoo.create("gpt-nano", vocabulary_size=bpe.vocabulary_size)
    assert make_examples(model, [TEXT]).batches == []  # no tokenizer
    model.tokenizer = bpe
    assert make_examples(model, [" "]).batches == []


def test_a_text_shorter_than_a_row_is_a_row(bpe) -> None:
    model = zoo.create("gpt-nano", vocabulary_size=bpe.vocabulary_size)
    model.tokenizer = bpe
    assert joined(make_examples(model, ["short"]), 0, "token_ids").tolist() == [bpe.encode("short")]


def test_rows_that_fit_are_kept_and_cut() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], "int32")
    inputs = {"token_ids": mask * 7, "padding_mask": mask, "positions": np.arange(3, dtype="int32")}
    right = {"logits": np.arange(12, dtype="int32").reshape(3, 4), "other": np.array([5, 6, 7], "int32")}
    short = {"token_ids": mask[:1, :1], "padding_mask": mask[:1, :1]}
    ((first, known), (second, _)) = Examples([(inputs, right), (short, {})], "accuracy").fitting(2).batches
    assert first["token_ids"].tolist() == [[7, 7], [7, 0]] and first["positions"].tolist() == [0, 2]
    assert known["logits"].tolist() == [[0, 1], [8, 9]] and known["other"].tolist() == [5, 7]
    assert second is short
    assert Examples([(inputs, right)]).fitting(3).rows == 3
    assert Examples([({"images": np.zeros((2, 4, 4, 3))}, {})]).fitting(1).rows == 2  # which have no tokens


def test_some_rows_are_calibrated_on_and_others_judged_by() -> None:
    batches = [({"images": np.arange(6)}, {"logits": np.arange(6)}), ({"images": np.arange(6, 7)}, {})]
    first, others = Examples(batches, "accuracy").divide()  # type: ignore[arg-type]
    assert [inputs["images"].tolist() for inputs, _ in first.batches] == [[0, 4], [6]]
    assert [inputs["images"].tolist() for inputs, _ in others.batches] == [[1, 2, 3, 5]]
    assert others.batches[0][1]["logits"].tolist() == [1, 2, 3, 5] and others.metric == "accuracy"

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
    assert make_examples(model, ["short"]).batches == []

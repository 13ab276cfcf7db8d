"""Entities: read as `conlleval` reads them, and to and fro between labels, pieces of words and characters."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.model import TensorSpec
from zoo.prediction import Predictor
from zoo.text import Tokenizer
from zoo.text.entities import Entity, find_words, join_labels, label_words, split_label

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
BERT = Tokenizer.load(GOLDEN / "bert-uncased")
ACCENTS = Tokenizer.load(GOLDEN / "bert-accents")

# Words of several pieces, of one, of characters that are a word each, of none at all, and ones that are normalised.
words = st.sampled_from(
    ["the", "cat", "unhappily", "Wombat's", "naïve", "E\u0301a", "日本", "3.5", "한국", "(U.N.)", "☃", "\u200b", "##a"]
)
texts = st.lists(st.tuples(words, st.sampled_from([" ", "  ", "\n", "", " \u200b"])), max_size=20).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)
types = st.sampled_from(["PER", "LOC", "creative-work"])


def spans_of(count: int) -> list[tuple[int, int]]:
    return [(3 * i, 3 * i + 2) for i in range(count)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("B-PER I-PER O B-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
        ("I-PER I-PER B-PER O I-LOC", [(0, 2, "PER"), (2, 3, "PER"), (4, 5, "LOC")]),  # IOB1
        ("S-PER B-LOC I-LOC E-LOC E-LOC", [(0, 1, "PER"), (1, 4, "LOC"), (4, 5, "LOC")]),  # IOBES
        ("U-PER B-LOC L-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC"), (3, 4, "LOC")]),  # BILOU
        ("B-PER I-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),
        ("B-creative-work I-creative-work I-work", [(0, 2, "creative-work"), (2, 3, "work")]),
        ("PER PER LOC O LOC", [(0, 2, "PER"), (2, 3, "LOC"), (4, 5, "LOC")]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_counted_by_hand(labels: str, expected: list[tuple[int, int, str]]) -> None:
    """Numbers of words here; of characters below."""
    found = join_labels(labels.split(), [(i, i + 1) for i in range(len(labels.split()))])
    assert found == [Entity(*each) for each in expected]


def test_a_prefix_is_told_from_a_name() -> None:
    labels = ("B-PER", "I-a-b", "S-BAR", "X-ray", "PER", "O", "B-", "B", "-PER", "")
    split = [("B", "PER"), ("I", "a-b"), ("S", "BAR"), ("", "X-ray"), ("", "PER"), ("", "O")]
    assert [split_label(label) for label in labels] == [*split, ("", "B-"), ("", "B"), ("", "-PER"), ("", "")]


def conlleval(tags: list[str]) -> list[tuple[int, int, str]]:
    """`startOfChunk` and `endOfChunk` of https://www.clips.uantwerpen.be/conll2000/chunking/conlleval.txt, as the
    numbers of the first word and of one past the last."""
    chunks, begun = [], 0
    before, before_type = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        kind, _, name = tag.partition("-")
        ends = (before, kind) in {(b, k) for b in "BI" for k in "BO"} or before == "E"
        starts = kind == "B" or (before, kind) in {("E", "E"), ("E", "I"), ("O", "E"), ("O", "I")}
        if ends or (before != "O" and before_type != name):
            chunks.append((begun, i, before_type))
        if starts or (kind != "O" and before_type != name):
            begun = i
        before, before_type = kind, name
    return chunks


@settings(deadline=None, database=None)
@given(st.lists(st.one_of(st.just("O"), st.tuples(st.sampled_from("BIE"), types).map("-".join)), max_size=12))
def test_labels_in_any_order_are_read_as_conlleval_does(labels: list[str]) -> None:
    found = join_labels(labels, [(i, i + 1) for i in range(len(labels))])
    assert [(each.start, each.end, each.label) for each in found] == conlleval(labels)


segments = st.lists(st.tuples(st.integers(1, 3), st.one_of(st.none(), types)), max_size=8)


def labels_of(parts: list[tuple[int, str | None]]) -> list[str]:
    """IOB2, of as many words each."""
    return ["O" if name is None else f"{'I' if i else 'B'}-{name}" for count, name in parts for i in range(count)]


@settings(deadline=None, database=None)
@given(segments)
def test_labels_make_entities_and_these_the_labels(parts: list[tuple[int, str | None]]) -> None:
    labels = labels_of(parts)
    spans = spans_of(len(labels))
    entities = join_labels(labels, spans)
    assert len(entities) == sum(name is not None for _, name in parts)
    assert label_words(entities[::-1], spans) == labels


def test_words_that_share_a_character_with_an_entity_are_labelled() -> None:
    spans = [(0, 4), (5, 8), (9, 12)]
    assert label_words([Entity(2, 6, "X")], spans) == ["B-X", "I-X", "O"]
    assert label_words([Entity(8, 11, "X"), Entity(3, 4, "Y")], spans) == ["B-Y", "O", "B-X"]
    with pytest.raises(ValueError, match="share a word"):
        label_words([Entity(0, 2, "X"), Entity(3, 8, "X")], spans)
    for nowhere in (Entity(4, 5, "X"), Entity(12, 14, "X")):
        with pytest.raises(ValueError, match="without a word"):
            label_words([nowhere], spans)


# --- pieces of words


def words_of_rust(tokenizer: Tokenizer, text: str) -> list[tuple[int, int, int]]:
    """First piece, first character, and one past the last, of each word, as the tokenizer itself counts them."""
    encoding = tokenizer._rust.encode(text, add_special_tokens=False)
    found: list[tuple[int, int, int]] = []
    for number in sorted({each for each in encoding.word_ids if each is not None}):
        found.append((encoding.word_to_tokens(number)[0], *encoding.word_to_chars(number)))
    return found


def find(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    (encoded,) = tokenizer.encode_with_spans([text])
    offsets = np.array(encoded.spans, np.int64).reshape(-1, 2)
    return find_words(offsets, tokenizer.continues_word[np.array(encoded.ids, np.int64)])


@settings(deadline=None, database=None)
@given(texts, st.sampled_from([BERT, ACCENTS]))
def test_pieces_make_the_words_that_the_tokenizer_split(text: str, tokenizer: Tokenizer) -> None:
    firsts, spans = find(tokenizer, text)
    assert [(first, *span) for first, span in zip(firsts, spans, strict=True)] == words_of_rust(tokenizer, text)


@settings(deadline=None, database=None)
@given(texts, st.data())
def test_a_model_that_is_right_gives_the_exact_characters(text: str, data: st.DataObject) -> None:
    """Label, pieces, label, by way of `zoo predict`: what a tagger says of the first piece of each word, whatever it
    says of the rest, becomes the parts of the text that were labelled."""
    own = words_of_rust(BERT, text)
    labels = data.draw(segments.map(labels_of))[: len(own)]
    labels += ["O"] * (len(own) - len(labels))
    names = ("O", *(f"{prefix}-{name}" for name in ("PER", "LOC", "creative-work") for prefix in "BI"))
    tokens = BERT.prepare([text], max_length=500)["token_ids"].shape[1]
    logits = np.random.default_rng(0).normal(size=(1, tokens, len(names)))
    for label, (first, _, _) in zip(labels, own, strict=True):
        logits[0, first + 1, names.index(label)] += 50  # behind [CLS]
    (record,) = Predictor(tagger(logits, names)).predict([text])
    expected = join_labels(labels, [(start, end) for _, start, end in own])
    assert [(each["start"], each["end"], each["label"]) for each in record["entities"]] == [
        (each.start, each.end, each.label) for each in expected
    ]
    for each in record["entities"]:
        assert each["text"] == text[each["start"] : each["end"]] != ""
        assert each["probability"] > 0.99


def test_an_entity_is_as_sure_as_its_least_certain_word() -> None:
    logits = np.zeros((1, 5, 3))
    for place, (number, value) in enumerate([(1, 3.0), (2, 1.0), (2, 2.0)]):
        logits[0, place + 1, number] = value
    (record,) = Predictor(tagger(logits, ("O", "B-PER", "I-PER"))).predict(["the cat sat"])
    (entity,) = record["entities"]
    assert (entity["label"], entity["text"]) == ("PER", "the cat sat")
    assert entity["probability"] == pytest.approx(np.e / (np.e + 2))


def tagger(logits: np.ndarray, labels: tuple[str, ...]) -> Any:
    """Something that says these logits, whatever it is asked."""

    class Fixed(SimpleNamespace):
        def __call__(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
            return {"logits": logits.astype("float32")}

    return Fixed(
        task="tag",
        family="bert",
        tokenizer=BERT,
        labels=labels,
        preprocessing=None,
        config=SimpleNamespace(max_length=500, vocabulary_size=BERT.vocabulary_size),
        input_specs=tuple(TensorSpec(name, "int32", ()) for name in ("token_ids", "padding_mask", "segment_ids")),
        output_names=("logits",),
    )

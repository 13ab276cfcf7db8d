"""Words with labels: every scheme and layout, what the model is to learn of them, and what is read from it again."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tag_baseline import Dictionary
from recipes.data import tagged
from recipes.data.problems import Problems
from recipes.data.sentences import Layout, TagColumns, find_layout
from recipes.data.tables import open_table
from recipes.data.tagged import TaggedTexts, TagSource, read_tagged, read_texts
from tests.recipes.refusing import assert_refused
from zoo.text import train_wordpiece

BERT = train_wordpiece(["Ada Lovelace met Charles in London. The U.N. said so: unhappily, again-and-again."] * 20, 160)
Put = Callable[[str, Any], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file: text as it is, or rows as JSON Lines."""

    def write(name: str, content: Any) -> Path:
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def read(path: Path, columns: TagColumns | None = None, types: tuple[str, ...] = ()) -> TaggedTexts:
    table = open_table(path)
    return read_tagged(table, find_layout(table, columns or TagColumns()), BERT, types)


def entities(data: TaggedTexts, place: int) -> list[tuple[str, str]]:
    """What is said of which part of the text."""
    text = data.text(place)
    return [(each.label, text[each.start : each.end]) for each in data.entities(place)]


CONLL = "Ada B-PER\nLovelace I-PER\nmet O\nCharles B-PER\n\nin O\nLondon B-LOC\n"
AS_LISTS = [
    {"tokens": ["Ada", "Lovelace", "met", "Charles"], "ner_tags": ["B-PER", "I-PER", "O", "B-PER"]},
    {"tokens": ["in", "London"], "ner_tags": ["O", "B-LOC"]},
]
AS_SPANS = [
    {"text": "Ada Lovelace met Charles", "entities": [
        {"start": 17, "end": 24, "label": "PER"}, {"start": 0, "end": 12, "label": "PER"}]},
    {"text": "in London", "entities": [{"start": 3, "end": 9, "label": "LOC"}]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", CONLL),
        ("a.jsonl", AS_LISTS),
        ("a.jsonl", AS_SPANS),
        ("a.iob", CONLL.replace("B-", "I-")),
        ("a.bio", CONLL.replace("London B-", "London S-").replace("Charles B-", "Charles S-").replace("I-", "E-")),
        ("a.conll", CONLL.replace("London B-", "London U-").replace("Charles B-", "Charles U-").replace("I-", "L-")),
        ("a.conll", CONLL.replace("B-", "").replace("I-", "")),
    ],
    ids=["IOB2", "lists", "spans", "IOB1", "IOBES", "BILOU", "no prefix"],
)
def test_every_layout_and_scheme_says_the_same(put: Put, name: str, content: Any) -> None:
    data = read(put(name, content))
    assert (data.types, len(data)) == (("LOC", "PER"), 2)
    assert data.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert [data.text(place) for place in (0, 1)] == ["Ada Lovelace met Charles", "in London"]
    assert entities(data, 0) == [("PER", "Ada Lovelace"), ("PER", "Charles")]
    assert entities(data, 1) == [("LOC", "London")]
    assert data.targets(0).tolist() == [3, 4, 0, 3]
    assert data.describe("all") == "all: 2 sentences, 3 entities: 2 PER, 1 LOC"


def test_parts_of_speech_are_each_by_themselves(put: Put) -> None:
    data = read(put("a.conll", "Ada NOUN\nCharles NOUN\nsaid VERB\n"))
    assert entities(data, 0) == [("NOUN", "Ada"), ("NOUN", "Charles"), ("VERB", "said")]


def test_columns_are_chosen_as_asked(put: Put) -> None:
    both = [row | {"words": row["text"].split(), "tags": ["B-X"] * len(row["text"].split())} for row in AS_SPANS]
    path = put("a.jsonl", [row | {"spans": row["entities"]} for row in both])
    assert read(path).types == ("X",)
    assert read(path, TagColumns(entities_column="spans")).types == ("LOC", "PER")
    assert read(path, TagColumns(text_column="text")).types == ("LOC", "PER")
    table = open_table(path)
    assert find_layout(table, TagColumns(tags_column="tags")) == Layout(True, "words", "tags")
    renamed = put("c.jsonl", [{"x": row["words"], "y": row["tags"]} | AS_SPANS[0] for row in both])
    assert read(renamed).types == ("PER",)
    assert read(renamed, TagColumns(tokens_column="x", tags_column="y")).types == ("X",)
    assert_refused(
        lambda: read(path, TagColumns(tags_column="tag")), "--tags-column is 'tag'", "'text', 'entities', 'words'"
    )
    assert_refused(
        lambda: read(put("b.csv", "a,b\n1,2\n")), "which column is the tags", "--tags-column, one of 'a', 'b'"
    )


# --- what the model is to learn


def learnt(data: TaggedTexts, length: int = 60) -> list[list[tuple[str, str | None]]]:
    """Of each sentence the tokens as they are written, each with the label that it is to get, None where it weighs
    nothing."""
    source = TagSource(data, BERT, length)
    width = int(source.lengths(0).max())
    inputs, labels, weights = source.collate(0, np.arange(len(data)), width, np.random.default_rng(0))
    assert inputs.keys() == source.element[0].keys()
    found = []
    for ids, numbers, weight, mask in zip(
        inputs["token_ids"], labels["logits"], weights["logits"], inputs["padding_mask"], strict=True
    ):
        assert weight[mask == 0].sum() == 0 and set(weight.tolist()) <= {0.0, 1.0}
        tokens = [BERT.decode([number]) for number in ids[mask == 1]]
        said = [data.labels[number] if w else None for number, w in zip(numbers, weight, strict=True)]
        found.append(list(zip(tokens, said, strict=False)))
    return found


def test_the_first_piece_of_a_word_is_labelled_and_the_rest_weighs_nothing(put: Put) -> None:
    ((*pieces,),) = learnt(read(put("a.conll", "Londonium B-LOC\nmet O\n")))
    count = len(BERT.encode("Londonium"))
    assert count > 2
    assert [label for _, label in pieces] == [None, "B-LOC", *[None] * (count - 1), "O", None]
    assert (pieces[0][0], pieces[-1][0]) == ("[CLS]", "[SEP]")


def test_what_the_tokenizer_splits_off_goes_on_with_its_word(put: Put) -> None:
    ((*of_words,),) = learnt(read(put("a.conll", "The O\nU.N. B-ORG\nAda-Ada I-ORG\n. O\n")))
    said = [("the", "O"), ("u", "B-ORG"), *[(each, "I-ORG") for each in (".", "n", ".", "ada", "-", "ada")], (".", "O")]
    assert [pair for pair in of_words if pair[1]] == said
    text = "The U.N. Ada-Ada."
    ((*of_text,),) = learnt(
        read(put("b.jsonl", [{"text": text, "entities": [{"start": 4, "end": 16, "label": "ORG"}]}]))
    )
    assert of_text == of_words


def test_long_sentences_are_cut_and_told(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = read(put("a.conll", "Ada B-PER\nmet O\nCharles B-PER\nin O\nLondon B-LOC\n\nAda B-PER\n"))
    whole, cut = learnt(data)[0], learnt(data, 5)[0]
    assert len(whole) > 5 and cut == [*whole[:4], ("[SEP]", None)]
    source = TagSource(data, BERT, 5)
    assert source.lengths(0).tolist() == [5, 3]
    tagged.tell(data, data, source)
    assert (
        caplog.text.count("1 of the ") == 2
        and "longer than 5 tokens and cut: the words beyond count as O" in caplog.text
    )


# --- what is read from it again

names = st.sampled_from(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
words = st.sampled_from(["Ada", "Lovelace", "Londonium", "U.N.", "unhappily", "日本", "\u200b", "☃", "two words"])


@settings(deadline=None, database=None, max_examples=40)
@given(st.lists(st.lists(st.tuples(words, names), min_size=1, max_size=8), min_size=1, max_size=3), st.integers(4, 30))
def test_labels_to_pieces_to_labels(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[tuple[str, str]]], length: int
) -> None:
    """What a model that has learnt all by heart says is what is right, but for the words that it does not reach, or
    that have no piece."""
    path = tmp_path_factory.mktemp("tagged") / "a.jsonl"
    rows = [dict(zip(("tokens", "tags"), zip(*sentence, strict=True), strict=True)) for sentence in sentences]
    anchor = {"tokens": ["Ada", "in"], "tags": ["B-PER", "B-LOC"]}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, anchor]))
    data = read(path)
    source = TagSource(data, BERT, length)
    for place, row in enumerate(rows):
        width = int(source.lengths(0)[place])
        inputs, labels, weights = source.collate(0, np.array([place]), width, np.random.default_rng(0))
        # Where it weighs nothing, a model says anything.
        said = np.where(weights["logits"][0] > 0, labels["logits"][0], 1)
        found = data.read_labels(place, [data.labels[number] for number in source.of_pieces(said)])
        reached = words_reached(row["tokens"], inputs["token_ids"][0], length)
        within = [label if is_reached else "O" for label, is_reached in zip(row["tags"], reached, strict=True)]
        expected = read(write(path.with_name(f"{place}.jsonl"), row["tokens"], within), types=data.types)
        assert found == expected.entities(0)
        assert all(
            data.text(place)[each.start : each.end].strip() == data.text(place)[each.start : each.end] for each in found
        )


def words_reached(tokens: tuple[str, ...], ids: np.ndarray, length: int) -> list[bool]:
    """Whether each word has a piece, and its first one is among those that are read."""
    at, reached = 0, []
    for word in tokens:
        pieces = BERT.encode(word)
        reached.append(bool(pieces) and at < length - 2)
        at += len(pieces)
    assert len(ids) == min(at + 2, length)
    return reached


def write(path: Path, tokens: tuple[str, ...], tags: list[str]) -> Path:
    """A sentence, and another one for there to be an entity."""
    rows = [{"tokens": tokens, "tags": tags}, {"tokens": ["Ada"], "tags": ["B-PER"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_word_without_a_piece_is_nothing(put: Put) -> None:
    data = read(put("a.jsonl", [{"tokens": ["Ada", "\u200b", "met"], "tags": ["B-PER", "I-PER", "O"]}]))
    assert entities(data, 0) == [("PER", "Ada \u200b")]
    assert data.read_labels(0, ["B-PER", "I-PER"])[0].end == 3  # the second piece is of the third word
    assert [each.label for each in data.read_labels(0, ["O", "B-PER"])] == ["PER"]


# --- texts with entities


def test_borders_within_a_word_are_widened_to_it(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"text": "the Londoners said", "entities": [{"start": 4, "end": 10, "label": "LOC"}]},
        {"text": "pre-London talks ", "entities": [{"start": 4, "end": 10, "label": "LOC"}]},
        {"text": " Ada  Lovelace", "entities": [{"start": 0, "end": 14, "label": "PER"}]},
        {"text": "no one", "entities": []},
    ]
    data = read(put("a.jsonl", rows))
    assert [entities(data, place) for place in range(4)] == [
        [("LOC", "Londoners")],
        [("LOC", "London")],  # the tokenizer splits at a hyphen
        [("PER", "Ada  Lovelace")],
        [],
    ]
    assert "1 entities end within a word, and are widened to it" in caplog.text
    caplog.clear()
    read(put("a.jsonl", rows))  # found in the cache
    assert "1 entities" in caplog.text


def test_rows_that_cannot_be_labelled_are_left_out(put: Put) -> None:
    def spans(*entities: Any, text: Any = "Ada met Ada") -> dict[str, Any]:
        return {"text": text, "entities": list(entities)}

    def one(start: Any, end: Any, label: Any = "PER") -> dict[str, Any]:
        return {"start": start, "end": end, "label": label}

    reasons = {
        "no text": spans(one(0, 3), text=" "),
        "no list of entities": {"text": "Ada", "entities": "Ada"},
        "an entity without start, end and label": spans({"start": 0, "end": 3}),
        "an entity that is neither an object nor [start, end, label]": spans([0, 3]),
        "an entity that is not in its text": spans(one(8, 12)),
        "entities that share a word": spans(one(0, 3), one(2, 7)),
        "an entity without a word": spans(one(3, 4)),
        "a label of several lines": spans(one(0, 3, "a\nb")),
    }
    for reason, row in reasons.items():
        path = put("a.jsonl", [spans(one(0, 3))] * 9 + [row])
        assert_refused(lambda path=path: read(path), f"1 of 10 rows (10.0%) cannot be used: {reason} (1)", f"{path}:10")
    for start, end in ((-1, 3), (3, 3), ("0", 3), (0.0, 3.0), (True, 3)):
        path = put("a.jsonl", [spans(one(0, 3))] * 9 + [spans(one(start, end))])
        assert_refused(lambda path=path: read(path), "1 of 10 rows")
    reasons = {
        "no list of words": {"tokens": ["a", ""], "tags": ["O", "O"]},
        "no list of tags by name": {"tokens": ["a", "b"], "tags": ["O", 1]},
        "tags that are numbers: write their names": {"tokens": ["a", "b"], "tags": [0, 1]},
        "not as many tags as words": {"tokens": ["a", "b"], "tags": ["O"]},
        "a tag of several lines": {"tokens": ["a"], "tags": ["B-a\nb"]},
    }
    for reason, row in reasons.items():
        path = put("b.jsonl", [AS_LISTS[1] | {"tags": ["O", "B-LOC"]}] * 9 + [row])
        assert_refused(lambda path=path: read(path), f"1 of 10 rows (10.0%) cannot be used: {reason} (1)", f"{path}:10")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (
            "B-PER I-PER PER O",
            ["with a prefix, as 'B-PER', and without, as 'PER'", "write each as B-NAME or I-NAME, or O"],
        ),
        ("B I O O", ["tags that name nothing, as 'B'"]),
        ("PER-B PER-I O LOC-B", ["of a scheme that is not known, as 'PER-B'"]),
        ("b-per i-per O O", ["of a scheme that is not known, as 'b-per'"]),
        ("B_PER I_PER O O", ["of a scheme that is not known, as 'B_PER'"]),
        ("O O O O", ["no label but O: there is nothing to learn"]),
    ],
)
def test_other_schemes_are_refused(put: Put, tags: str, words: list[str]) -> None:
    path = put("a.jsonl", [{"tokens": ["a", "b", "c", "d"], "tags": tags.split()}])
    assert_refused(lambda: read(path), str(path), *words)


def test_types_unseen_in_training_are_refused(put: Put) -> None:
    path = put("a.conll", CONLL)
    assert_refused(lambda: read(path, types=("LOC",)), str(path), "1 labels unseen in training, such as 'PER'")
    data = read(path, types=("PER", "ORG", "LOC"))
    assert data.labels[1::2] == ("B-PER", "B-ORG", "B-LOC")
    assert entities(data, 1) == [("LOC", "London")]


def test_sentences_are_shared_out_and_texts_are_told(put: Put) -> None:
    data = read(put("a.conll", CONLL + "\n" + CONLL))
    train, held_out = tagged.split(data, 0.25, 0)
    assert sorted([*train.rows, *held_out.rows]) == [0, 1, 2, 3]
    # Both of the same are in one share.
    assert held_out.text(0) == held_out.text(1) == data.text(int(held_out.rows[0])) != train.text(0) == train.text(1)
    for name, content in (("b.jsonl", AS_LISTS), ("c.jsonl", AS_SPANS)):
        table = open_table(put(name, content))
        assert list(read_texts(table, find_layout(table, TagColumns()), Problems())) == [
            "Ada Lovelace met Charles",
            "in London",
        ]


# --- the baseline


def test_the_dictionary_takes_the_longest_entity_and_its_most_frequent_label(put: Put) -> None:
    train = put(
        "a.conll",
        "New B-LOC\nYork I-LOC\n\nNew B-LOC\nYork I-LOC\nTimes I-LOC\n\nYork B-PER\n\nYork B-LOC\n\nYork B-PER\n\n"
        "Ada B-PER\n\nAda B-LOC\n\nof O\n",
    )
    dictionary = Dictionary(train, lowercase=False)
    text = "Ada of New York Times York New york Ada"
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    found = [(each.label, text[each.start : each.end]) for each in dictionary.find(text, words)]
    assert found == [("LOC", "Ada"), ("LOC", "New York Times"), ("PER", "York"), ("LOC", "Ada")]
    lowered = Dictionary(train, lowercase=True)
    assert [text[each.start : each.end] for each in lowered.find(text, words)][3:] == ["New york", "Ada"]
    spans = put("b.jsonl", AS_SPANS)
    assert Dictionary(spans, lowercase=False).labels == {
        ("Ada", "Lovelace"): "PER",
        ("Charles",): "PER",
        ("London",): "LOC",
    }

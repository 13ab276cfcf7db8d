"""Texts with labels: what is read of a table, how it is shared out, and the batches that are made of it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data import classes, labelled
from recipes.data.held_out import hold_out, hold_out_of_each
from recipes.data.labelled import Columns, LabelledTexts, TextSource, find_columns, read_labelled
from recipes.data.tables import open_table
from tests.recipes.refusing import assert_refused
from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_wordpiece

TEXTS = ["the cat sat", "a dog ran away", "the cat and the dog", "Ünïcode 日本 (mat)."]
BERT = train_wordpiece(TEXTS * 5, 160)
Put = Callable[[str, str], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def read(
    path: Path, columns: Columns | None = None, labels: tuple[str, ...] = (), tokenizer: Tokenizer = BERT
) -> LabelledTexts:
    table = open_table(path)
    return read_labelled(table, find_columns(table, columns or Columns()), tokenizer, labels)


def test_texts_and_labels_are_those_of_the_table(put: Put) -> None:
    rows = [("the cat sat", "pet"), ("Ünïcode 日本 (mat).", "odd"), ("a dog, ran", "pet"), ('say ""a""', "b c")]
    data = read(put("a.csv", "label,text\n" + "".join(f'{label},"{text}"\n' for text, label in rows)))
    assert data.labels == ("b c", "odd", "pet")
    assert data.targets.tolist() == [2, 1, 2, 0] and data.targets.dtype == np.int32
    for place, (text, _) in enumerate(rows):
        text = text.replace('""', '"')
        assert data.text(place) == text
        assert data.examples.row("first", place).tolist() == BERT.encode(text)
    assert data.describe("all") == "all: 4 rows of 3 classes: pet 2, b c 1, odd 1"


def test_pairs_are_read_together_and_cut_from_the_longer_one(put: Put) -> None:
    lines = [{"question1": "the cat", "question2": "a dog ran away", "is_duplicate": i % 2} for i in range(3)]
    path = put("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    columns = Columns("question1", "question2", "is_duplicate")
    data = read(path, columns)
    assert data.labels == ("0", "1")
    assert data.text(0) == "the cat\na dog ran away"
    for length in (60, 7):
        source = TextSource(data, BERT, length)
        expected = BERT.prepare(["the cat"] * 2, ["a dog ran away"] * 2, max_length=length)
        width = expected["token_ids"].shape[1]
        assert source.lengths(0).tolist() == [width] * 3
        inputs, labels, weights = source.collate(0, np.array([2, 0]), width, np.random.default_rng(0))
        for name, value in expected.items():
            np.testing.assert_array_equal(inputs[name], value, err_msg=name)
        assert (labels["logits"].tolist(), weights["logits"].tolist()) == ([0, 0], [1.0, 1.0])


def test_classes_weigh_alike_where_they_are_balanced(put: Put) -> None:
    data = read(put("a.csv", "text,label\n" + "a cat,x\n" * 6 + "a dog,y\n" * 2))
    weights = classes.balance(data)
    assert weights.tolist() == pytest.approx([4 / 6, 4 / 2])
    assert weights[data.targets].sum() == pytest.approx(8)
    _, labels, of_rows = TextSource(data, BERT, 9, weights).collate(0, np.arange(8), 9, np.random.default_rng(0))
    assert of_rows["logits"].tolist() == weights[labels["logits"]].tolist()
    assert of_rows["logits"].dtype == np.float32


def test_a_bpe_tokenizer_has_no_segments(put: Put) -> None:
    data = read(put("a.csv", "text,label\na cat,x\na dog,y\n"), tokenizer=train_bpe(TEXTS, 280))
    source = TextSource(data, train_bpe(TEXTS, 280), 9)
    inputs, _, _ = source.collate(0, np.arange(2), 8, np.random.default_rng(0))
    assert inputs.keys() == source.element[0].keys() == {"token_ids", "padding_mask"}


@pytest.mark.parametrize(
    ("header", "columns", "words"),
    [
        (
            "body,topic,x",
            Columns(label_column="topics"),
            ["--label-column is 'topics'", "'body', 'topic', 'x'", "did you mean"],
        ),
        ("a,b,c", Columns(), ["does not show which column is the label", "give --label-column, one of 'a', 'b', 'c'"]),
        ("a,b,label", Columns(), ["does not show which column is the text", "give --text-column, one of 'a', 'b'"]),
        ("text,label,b", Columns(pair_column="c"), ["--pair-column is 'c'", "'text', 'label', 'b'"]),
    ],
)
def test_columns_that_are_not_there_are_named_with_those_that_are(
    put: Put, header: str, columns: Columns, words: list[str]
) -> None:
    assert_refused(lambda: read(put("a.csv", f"{header}\n1,2,3\n"), columns), *words)


def test_rows_that_lack_something_are_left_out(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    good = [{"text": "a cat", "label": "x"}, {"text": "a dog", "label": 3}] * 40
    bad = [{"text": " ", "label": "x"}, {"text": "a"}, {"text": ["a"], "label": "x"}, {"text": "a", "label": "x\ny"}]
    path = put("a.jsonl", "".join(json.dumps(line) + "\n" for line in good + bad))
    data = read(path)
    assert (len(data), data.labels) == (80, ("3", "x"))
    assert "4 of 84 rows (4.8%) cannot be used: no text (2), no label (1), label of several lines (1)" in caplog.text
    assert f"{path}:81: no text" in caplog.text
    assert_refused(
        lambda: read(put("b.jsonl", "".join(json.dumps(line) + "\n" for line in good[:60] + bad))),
        "(6.2%)",
        "no more than 5%",
    )
    pairs = [{"a": "x", "b": "y", "label": "z"}] * 9 + [{"a": "x", "label": "z"}]
    path = put("c.jsonl", "".join(json.dumps(line) + "\n" for line in pairs))
    assert_refused(lambda: read(path, Columns("a", "b")), "no b (1)")


def test_labels_unseen_in_training_are_refused(put: Put) -> None:
    path = put("a.csv", "text,label\na cat,x\na dog,why\na dog,no\n")
    assert_refused(lambda: read(path, labels=("x", "y")), str(path), "2 labels unseen in training, such as 'no'")
    data = read(put("b.csv", "text,label\na cat,x\n"), labels=("y", "x"))
    assert (data.labels, data.targets.tolist()) == (("y", "x"), [1])


def test_one_class_is_none(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    path = put("a.csv", "text,label\na cat,x\na dog,x\n")
    assert_refused(lambda: classes.require_classes(read(path), path), str(path), "one class only, 'x'")
    path = put("b.csv", "text,label\n" + "a cat,x\n" * 31 + "a dog,y\n" * 3)
    classes.require_classes(read(path), path)
    assert "x has 31 rows, y has 3; --balance" in caplog.text


def test_what_there_is_is_told(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = read(put("a.csv", "text,label\n" + "the cat sat,x\n" * 9 + "the cat and the dog,y\n"))
    train, held_out = data.select(np.arange(10)), data.select(np.array([0, 9]))
    labelled.tell(train, held_out, TextSource(train, BERT, 6))
    longest = len(BERT.encode("the cat and the dog")) + 2
    assert "training: 10 rows of 2 classes: x 9, y 1" in caplog.text
    assert "held out: 2 rows of 2 classes: x 1, y 1" in caplog.text
    assert f"5 tokens a text at the median, {longest} at most; 1 are longer than 6 and cut" in caplog.text


# --- shares


@settings(deadline=None, database=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=80), st.floats(0.05, 0.6), st.integers(0, 5))
def test_each_class_is_shared_out_by_itself(classes: list[int], fraction: float, seed: int) -> None:
    targets, apart = np.array(classes), np.arange(len(classes))
    counts = {each: classes.count(each) for each in set(classes)}
    shares = {each: min(round(fraction * count), count - 1) for each, count in counts.items()}  # of none all
    if not any(shares.values()):
        assert_refused(
            lambda: hold_out_of_each(targets, apart, fraction, seed), "cannot be shared out", "--validation-data"
        )
        return
    held_out = hold_out_of_each(targets, apart, fraction, seed)
    assert {each: int(held_out[targets == each].sum()) for each in shares} == shares
    np.testing.assert_array_equal(held_out, hold_out_of_each(targets, apart, fraction, seed))
    # Rows that read alike: none is in both shares, and no class gives more than its share.
    groups = targets + 4 * (np.arange(len(targets)) % 3)
    try:
        held_out = hold_out_of_each(targets, groups, fraction, seed)
    except UserError:
        return
    assert set(groups[held_out]).isdisjoint(groups[~held_out])
    assert all(int(held_out[targets == each].sum()) <= share for each, share in shares.items())


@settings(deadline=None, database=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=80), st.floats(0.05, 0.6), st.integers(0, 5))
def test_groups_stay_together(members: list[int], fraction: float, seed: int) -> None:
    groups = np.array(members)
    if len(set(members)) == 1:
        assert_refused(lambda: hold_out(groups, fraction, seed), "cannot be shared out")
        return
    held_out = hold_out(groups, fraction, seed)
    taken = set(groups[held_out])
    assert taken and taken.isdisjoint(groups[~held_out])
    assert held_out.sum() <= fraction * len(groups) or len(taken) == 1
    np.testing.assert_array_equal(held_out, hold_out(groups, fraction, seed))


def test_a_large_group_is_not_held_out_where_small_ones_do() -> None:
    groups = np.array([0] * 380 + list(range(1, 21)))
    for seed in range(20):
        held_out = hold_out(groups, 0.1, seed)
        assert 0 < held_out.sum() <= 40 and not held_out[0]
    assert_refused(lambda: hold_out(np.zeros(30, int), 0.1, 0), "all 30 rows belong together", "--validation-data")


def test_another_seed_holds_others_out() -> None:
    groups = np.arange(40)
    assert hold_out(groups, 0.25, 0).sum() == 10
    assert (hold_out(groups, 0.25, 0) != hold_out(groups, 0.25, 1)).any()
    classes = np.zeros(40, int)
    assert (hold_out_of_each(classes, groups, 0.25, 0) != hold_out_of_each(classes, groups, 0.25, 1)).any()


def test_a_text_that_stands_in_a_table_twice_is_in_one_share(put: Put) -> None:
    data = read(
        put("a.csv", "text,label\n" + "".join(f"{'cat ' * (i // 2)}dog,{'xy'[i // 2 % 2]}\n" for i in range(80)))
    )
    train, held_out = classes.split(data, 0.25, 0)
    texts = [{each.text(place) for place in range(len(each))} for each in (train, held_out)]
    assert len(held_out) == 20 and not texts[0] & texts[1]


def test_of_many_classes_the_largest_and_the_smallest_are_named(put: Put) -> None:
    rows = [f"cat {i} {j},c{i:02}" for i in range(30) for j in range(30 - i)]
    told = read(put("a.csv", "text,label\n" + "\n".join(rows) + "\n")).describe("all")
    assert told.startswith("all: 465 rows of 30 classes: c00 30, c01 29, ")
    assert told.endswith(", c19 11, 9 more, c29 1")


def test_a_few_of_each_class_are_drawn(put: Put) -> None:
    data = read(put("a.csv", "text,label\n" + "".join(f"{'cat ' * i}dog,{'xyy'[i % 3]}\n" for i in range(30))))
    part = classes.few(data, 12, 0)
    assert np.bincount(part.targets).tolist() == [10, 12]
    assert part.rows.tolist() == sorted(set(part.rows))
    assert [data.targets[row] for row in part.rows] == part.targets.tolist()
    assert classes.few(data, 12, 1).rows.tolist() != part.rows.tolist()
    held = classes.split(data, 0.2, 0)
    assert [np.bincount(each.targets).tolist() for each in held] == [[8, 16], [2, 4]]
    everything: Any = np.concatenate([each.rows for each in held])
    assert sorted(everything) == list(range(30))

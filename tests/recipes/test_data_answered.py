"""Questions and answers: every layout, what each window is to learn, and what cannot be used."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data import answered
from recipes.data.answered import AnsweredQuestions, WindowSource, read_answered
from recipes.data.problems import Problems
from recipes.data.questions import Answer, Columns, QuestionColumns, find_columns, read_texts
from recipes.data.tables import open_table
from zoo.errors import UserError
from zoo.text import train_wordpiece
from zoo.text.windows import best_spans

CONTEXT = "Ada Lovelace met Charles Babbage in London. He built engines; she wrote programs for them, in London too."
QUESTION = "Who met Babbage?"
BERT = train_wordpiece([f"{CONTEXT} {QUESTION} When?"] * 20, 200)
Put = Callable[[str, Any], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file: rows as JSON Lines, or anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        lines = name.endswith(".jsonl")
        text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def read(path: Path, length: int = 60, stride: int = 128) -> AnsweredQuestions:
    table = open_table(path)
    return read_answered(table, find_columns(table, QuestionColumns()), BERT, length, stride)


def refuse(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def asked(*answers: str, question: str = QUESTION, context: str = CONTEXT, **more: Any) -> dict[str, Any]:
    """A row with these answers at their first place."""
    found = [{"text": text, "start": context.index(text)} for text in answers]
    return {"question": question, "context": context, "answers": found, **more}


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "1", "question": QUESTION, "answers": [{"text": "Ada Lovelace", "answer_start": 0}]},
                        {"id": "2", "question": "When?", "is_impossible": True, "answers": []},
                    ],
                }
            ]
        }
    ]
}
ROWS = [asked("Ada Lovelace"), asked(question="When?")]
SIDE_BY_SIDE = [
    row
    | {"answers": {"text": [a["text"] for a in row["answers"]], "answer_start": [a["start"] for a in row["answers"]]}}
    for row in ROWS
]


@pytest.mark.parametrize(("name", "content"), [("a.json", SQUAD), ("a.jsonl", ROWS), ("b.jsonl", SIDE_BY_SIDE)])
def test_every_layout_says_the_same(put: Put, name: str, content: Any) -> None:
    data = read(put(name, content))
    assert len(data) == 2 and data.has_unanswerable
    assert data.question(0) == (QUESTION, CONTEXT, (Answer("Ada Lovelace", 0),))
    assert data.question(1) == ("When?", CONTEXT, ())
    assert data.contexts().tolist() == [0, 0]
    assert data.describe("all") == "all: 2 questions about 1 contexts, in 2 windows"


def test_columns_are_chosen_as_asked(put: Put) -> None:
    path = put("a.jsonl", [{"query": QUESTION, "passage": CONTEXT, "answer": [], "text": "a"}])
    table = open_table(path)
    assert find_columns(table, QuestionColumns()) == Columns("query", "passage", "answer")
    assert find_columns(table, QuestionColumns(context_column="text")).context == "text"
    refuse(lambda: find_columns(table, QuestionColumns("q")), "--question-column is 'q'", "'query', 'passage'")
    bare = open_table(put("b.jsonl", [{"a": 1, "b": 2, "c": 3}]))
    refuse(lambda: find_columns(bare, QuestionColumns()), "which column is the question", "'a', 'b', 'c'")


# --- windows


def batch(data: AnsweredQuestions, length: int) -> tuple[WindowSource, Any]:
    """All windows at once."""
    source = WindowSource(data, BERT, length)
    lengths = source.lengths(0)
    return source, source.collate(0, np.arange(len(lengths)), int(lengths.max()), np.random.default_rng(0))


contexts = st.lists(st.sampled_from(CONTEXT.split()), min_size=1, max_size=40).map(" ".join)
limits = {"length": st.integers(16, 40), "stride": st.integers(2, 30)}


@settings(deadline=None, database=None, max_examples=40)
@given(st.lists(contexts, min_size=1, max_size=3), st.fixed_dictionaries(limits), st.data())
def test_windows_are_those_of_the_tokenizer_and_point_to_the_answer(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], limits: dict[str, int], data: st.DataObject
) -> None:
    rows, answers = [], []
    for text in texts:
        words = text.split(" ")
        first = data.draw(st.integers(0, len(words) - 1))
        answer = " ".join(words[first : first + data.draw(st.integers(1, 3))])
        start = len(" ".join(words[:first])) + (first > 0)
        given = data.draw(st.booleans())
        answers.append((start, start + len(answer)) if given else None)
        rows.append({"question": QUESTION, "context": text, "answers": [{"text": answer, "start": start}] * given})
    path = tmp_path_factory.mktemp("answered") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_again = read(path, **limits)
    source, (inputs, labels, weights) = batch(read_again, limits["length"])
    expected = BERT.prepare_windows(
        [QUESTION] * len(texts), texts, max_length=limits["length"], stride=limits["stride"]
    )
    for name in ("token_ids", "padding_mask", "segment_ids"):
        np.testing.assert_array_equal(inputs[name], expected[name], err_msg=name)
    assert source.windows.tolist() == list(range(len(expected["pair"])))
    for number, answer in enumerate(answers):
        rows_of = source.rows_of(number)
        assert list(rows_of) == np.flatnonzero(expected["pair"] == number).tolist()
        tokens = source.tokens(rows_of, inputs["token_ids"].shape[1])
        for name in ("offsets", "sequence_ids"):
            wanted = expected[name][rows_of.start : rows_of.stop]
            inside = expected["sequence_ids"][rows_of.start : rows_of.stop] == 1
            np.testing.assert_array_equal(tokens[name][inside], wanted[inside])
        assert (tokens["sequence_ids"] == 1).tolist() == inside.tolist()
        for row in rows_of:
            first, last = int(labels["start_logits"][row]), int(labels["end_logits"][row])
            spans = expected["offsets"][row][expected["sequence_ids"][row] == 1]
            holds = answer is not None and spans[0, 0] <= answer[0] and answer[1] <= spans[-1, 1]
            if holds:
                assert (expected["offsets"][row, first, 0], expected["offsets"][row, last, 1]) == answer
            else:
                assert (first, last) == (0, 0)
        known = answer is None or labels["start_logits"][rows_of.start : rows_of.stop].any()
        for weight in weights.values():
            assert weight[rows_of.start : rows_of.stop].tolist() == [float(known)] * len(rows_of)


def test_what_is_learnt_by_heart_is_what_was_asked_for(put: Put) -> None:
    """Labels as logits, by `best_spans`: the answer, or none."""
    rows = [asked("engines", context=CONTEXT * 4), asked("Charles Babbage", "Babbage"), asked(question="When?")]
    data_path = put("a.jsonl", rows)
    data = read(data_path, 30, 10)
    source, (inputs, labels, _) = batch(data, 30)
    width = inputs["token_ids"].shape[1]
    starts, ends = (10.0 * np.eye(width)[labels[name]] for name in ("start_logits", "end_logits"))
    for place, expected in enumerate(("engines", "Charles Babbage", "")):
        rows_of = source.rows_of(place)
        part = slice(rows_of.start, rows_of.stop)
        (span,) = best_spans(source.tokens(rows_of, width), starts[part], ends[part], null=True)
        question = data.question(place)
        assert question.context[span.start : span.end] == expected
    assert data.question(1).answers[1] == Answer("Babbage", CONTEXT.index("Babbage"))
    assert int(data.counts()[0]) > 3
    for length, stride in ((30, 4), (50, 10)):  # each is cut anew
        assert int(read(data_path, length, stride).counts()[0]) != int(data.counts()[0])


def test_some_questions_have_their_own_windows(put: Put) -> None:
    data = read(
        put("a.jsonl", [asked("London", context=f"{i} {CONTEXT * i}", question=f"{i}?") for i in (1, 3, 2)]), 30, 10
    )
    part = answered.AnsweredQuestions(data.examples, np.array([2, 0]), data.begins, data.passages)
    assert [part.question(place).text for place in (0, 1)] == ["2?", "1?"]
    source, (inputs, _, _) = batch(part, 30)
    whole, (others, _, _) = batch(data, 30)
    rows = [*whole.rows_of(2), *whole.rows_of(0)]
    assert [*source.rows_of(0), *source.rows_of(1)] == list(range(len(rows)))
    np.testing.assert_array_equal(inputs["token_ids"], others["token_ids"][rows])
    np.testing.assert_array_equal(
        source.tokens(source.rows_of(1), 30)["offsets"], whole.tokens(whole.rows_of(0), 30)["offsets"]
    )


def test_an_answer_that_no_window_holds_is_told_and_not_learnt(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    data = read(put("a.jsonl", [asked(CONTEXT[4:60]), asked("London")]), 16, 4)
    source, (_, labels, weights) = batch(data, 16)
    one, other = source.rows_of(0), source.rows_of(1)
    assert weights["start_logits"].tolist() == [0.0] * len(one) + [1.0] * len(other)
    assert not labels["end_logits"][one.start : one.stop].any()
    assert "1 answers are held by no window, and not learnt: raise --max-length" in caplog.text


# --- what cannot be used


def test_answers_at_another_place_are_put_right_where_it_is_plain(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    moved = asked("engines")
    moved["answers"][0]["start"] += 3
    spaced = asked(" Babbage in ")
    from_behind = asked("too.")
    from_behind["answers"][0]["start"] = -4
    rows = [moved, spaced, asked("London"), asked("London"), from_behind]
    rows[3]["answers"][0]["start"] = CONTEXT.rindex("London")
    data = read(put("a.jsonl", rows))
    assert [data.question(place).answers for place in range(5)] == [
        (Answer("engines", CONTEXT.index("engines")),),
        (Answer("Babbage in", CONTEXT.index("Babbage")),),
        (Answer("London", CONTEXT.index("London")),),
        (Answer("London", CONTEXT.rindex("London")),),
        (Answer("too.", len(CONTEXT) - 4),),
    ]
    assert "2 answers were not where they are said to be, and stand elsewhere just once" in caplog.text


def test_rows_that_cannot_be_used_are_left_out(put: Put) -> None:
    def said(text: Any, start: Any) -> dict[str, Any]:
        return {**asked(), "answers": [{"text": text, "start": start}]}

    reasons = {
        "answers that are not in their context (3)": [said("Paris", 0), said("London", 3), said("in", -1)],
        "an answer without text and start (4)": [
            said("Ada", "0"),
            said(" ", 3),
            said(None, 0),
            {**asked(), "answers": ["Ada"]},
        ],
        "no list of answers (1)": [{"question": "a", "context": "b"}],
        "answers without as many texts and starts (1)": [{**asked(), "answers": {"text": ["Ada"], "answer_start": []}}],
        "no question (1)": [asked(question=" ")],
        "no context (1)": [asked(context="\n")],
    }
    for reason, rows in reasons.items():
        path = put("a.jsonl", [asked("London")] * 6 + rows)
        refuse(
            lambda path=path: read(path), f"cannot be used: {reason}, for example {path}:7: {reason.partition(' (')[0]}"
        )
    refuse(lambda: read(put("b.jsonl", [asked("London")]), 3), "max_length is 3")
    data = read(put("c.jsonl", [asked("London")] * 40 + [said("Paris", 0)]))
    assert len(data) == 40 and not data.has_unanswerable


# --- shares


def test_questions_about_one_context_stay_together(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [asked("London", context=f"{CONTEXT} {i % 7}.", question=f"{i}?") for i in range(28)]
    data = read(put("a.jsonl", [*rows, asked(question="When?")]))
    train, held_out = answered.split(data, 0.3, 0)
    assert sorted([*train.numbers, *held_out.numbers]) == list(range(29))
    assert len(held_out) in range(4, 9)
    assert set(train.contexts()).isdisjoint(held_out.contexts())
    assert {held_out.question(place).context for place in range(len(held_out))}.isdisjoint(
        train.question(place).context for place in range(len(train))
    )
    answered.tell(train, held_out)
    assert f"held out: {len(held_out)} questions about {len(set(held_out.contexts()))} contexts" in caplog.text
    assert "1 questions have no answer: the model learns to say so" in caplog.text


def test_a_context_is_read_once_where_its_questions_follow_one_another(put: Put) -> None:
    table = open_table(put("a.jsonl", [*ROWS, asked("a", context="a cat"), asked("London")]))
    texts = list(read_texts(table, find_columns(table, QuestionColumns()), Problems()))
    assert texts == [QUESTION, CONTEXT, "When?", QUESTION, "a cat", QUESTION, CONTEXT]

"""The recipe answer-questions, from its table to its pages, with tiny settings."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share

import zoo
from recipes.answers import exact_match, f1
from recipes.command import run as zoo_command
from tests.recipes.fine_tuned import (
    STEPS,
    best_of,
    command,
    facts_of,
    figures,
    predict,
    refuse,
    rows_of,
    stop_and_go_on,
)
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import outcome
from zoo.prediction import Predictor

ANSWERS = {"What colour?": ["red", "blue", "green"], "How many?": ["one", "two", "nine"]}
FILLING = [
    "the",
    "a",
    "we",
    "saw",
    "some",
    "of",
    "it",
    "again",
    "and",
    "then",
    "there",
    "was",
    "no",
    "more",
    "to",
    "say",
]
LENGTH, WORDS = 24, 30  # a question and its context are two windows of 24 tokens, all of them full


def make_rows(count: int, seed: int, unanswerable: float = 0.0) -> list[dict[str, Any]]:
    """A context has what is asked for among words that say nothing; some have not."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        question = draw.choice(list(ANSWERS))
        words = draw.choices(FILLING, k=WORDS)
        place = draw.randrange(WORDS)
        words[place] = draw.choice(ANSWERS[question])
        answers = [{"text": words[place], "start": len(" ".join(["", *words[:place]]))}]
        if draw.random() < unanswerable:
            words[place], answers = "it", []
        rows.append({"question": question, "context": " ".join(words), "answers": answers})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With train.jsonl and dev.jsonl."""
    folder = tmp_path_factory.mktemp("questions")
    write(folder / "train.jsonl", make_rows(300, 0))
    write(folder / "dev.jsonl", make_rows(40, 1))
    return folder


def arguments(folder: Path, out: Path | None, *options: object) -> list[str]:
    held_out = ("--validation-data", folder / "dev.jsonl", "--max-length", LENGTH)
    return command("answer-questions", folder / "train.jsonl", out, *held_out, *options)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("answer") / "run"
    assert zoo_command(arguments(folder, out)) == 0
    return out


def test_a_run_learns_and_leaves_what_it_promises(trained: Path) -> None:
    assert [row["step"] for row in rows_of(trained)] == [30, 60, 90]
    best = best_of(trained, "validation_f1")
    assert best["validation_f1"] > 0.9 and best["validation_exact_match"] > 0.9
    assert rows_of(trained)[-1]["validation_loss"] < 0.5 * math.log(LENGTH)  # fresh, all tokens are as likely
    facts = facts_of(trained)
    assert (facts["train_questions"], facts["validation_questions"], facts["unanswerable"]) == (300, 40, 0)
    assert facts["train_windows"] > 2 * 300
    assert zoo.load(trained).task == "answer"
    page = (trained / "answers.md").read_text()
    assert page.count("## ") == 40 and "- it said: " in page
    summary = (trained / "summary.md").read_text()
    assert f"| best step | {best['step']} of {STEPS} |" in summary and "(answers.md)" in summary


def test_what_was_measured_is_what_is_predicted(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `zoo eval`, and by `zoo predict`, on questions of which some are given wrong answers."""
    measured = figures(capsys, trained, "--data", folder / "dev.jsonl", "--batch-size", 7)
    best = best_of(trained, "validation_f1")
    names = ("exact_match", "f1")
    assert measured == pytest.approx({name: best[f"validation_{name}"] for name in names} | {"questions": 40})

    rows = make_rows(30, 4)
    for row in rows[::4]:
        start = row["answers"][0]["start"]
        row["answers"].append({"text": row["context"][max(0, start - 4) :], "start": max(0, start - 4)})
        del row["answers"][0]
    measured = figures(capsys, trained, "--data", write(tmp_path / "some.jsonl", rows))
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    records = Predictor(zoo.load(trained)).predict(questions, contexts)
    for name, measure in (("exact_match", exact_match), ("f1", f1)):
        each = [
            measure(record["answer"], [answer["text"] for answer in row["answers"]])
            for record, row in zip(records, rows, strict=True)
        ]
        assert measured[name] == pytest.approx(sum(each) / len(each))
    assert 0.5 < measured["exact_match"] < measured["f1"] < 0.95
    (record,) = predict(capsys, trained, "What colour?", "--context", "then we saw the red of it")
    assert record["answer"] == "red"


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_stopped_and_started_again_it_ends_as_one_that_never_was(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_and_go_on(arguments(folder, out), out, monkeypatch)
    assert outcome(out, STEPS) == outcome(trained, STEPS)


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_two_replicas_end_where_one_device_does(folder: Path, tmp_path: Path) -> None:
    options = "--dropout 0 --clip-norm 0.1 --steps 6 --evaluate-every 3 --learning-rate 1e-3"
    # What is added to the vectors of all tokens alike changes no probability of a place.
    last = ("backbone.transformer.block_1.feed_forward_norm.beta", "span.bias")
    arguments_of_both = arguments(folder, None, *options.split())
    assert_two_replicas_equal_one(arguments_of_both, tmp_path, "validation_f1", without_gradient=last)
    # The loss is the mean of those of both ends, here as good as fresh.
    assert rows_of(tmp_path / "one")[0]["validation_loss"] == pytest.approx(math.log(LENGTH), abs=0.3)


@pytest.mark.full  # takes half a minute; its parts are in the quick tier in test_data_answered
def test_a_question_may_have_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In SQuAD's own layout; a part of the contexts is held out, and one answer stands elsewhere than is said."""
    rows = make_rows(300, 5, unanswerable=0.4)
    next(row for row in rows if row["answers"])["answers"][0]["start"] += 1
    articles = [
        {
            "paragraphs": [
                {
                    "context": row["context"],
                    "qas": [
                        {
                            "id": str(number),
                            "question": row["question"],
                            "is_impossible": not row["answers"],
                            "answers": [
                                {"text": each["text"], "answer_start": each["start"]} for each in row["answers"]
                            ],
                        }
                    ],
                }
            ]
        }
        for number, row in enumerate(rows)
    ]
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"version": "v2.0", "data": articles}))
    options = ("--max-length", LENGTH, "--stride", 5, "--validation-fraction", 0.2)
    out = tmp_path / "run"
    assert zoo_command(command("answer-questions", data, out, *options)) == 0
    told = capsys.readouterr().err
    assert "training: 240 questions about 240 contexts" in told and "held out: 60 questions" in told
    without = sum(not row["answers"] for row in rows)
    assert f"{without} questions have no answer: the model learns to say so" in told
    assert "1 answers were not where they are said to be" in told
    # Always an answer, or never one, would be right in 0.6 or 0.4 of them.
    assert best_of(out, "validation_f1")["validation_f1"] > 0.75
    page = (out / "answers.md").read_text()
    assert "- it said: (no answer)" in page or "- right: (no answer)" in page
    measured = figures(capsys, out, "--data", data, "--stride", 5)
    assert measured["questions"] == 300 and measured["f1"] > 0.75
    assert figures(capsys, out, "--data", data, "--max-length", 12)["questions"] == 300


def test_bad_data_gets_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", folder / "train.jsonl"

    def refuse_data(data: Path, *words: str, options: tuple[object, ...] = ()) -> None:
        refuse(capsys, command("answer-questions", data, out, *options), *words)
        assert not out.exists()

    rows = make_rows(40, 0)
    for row in rows[:4]:
        row["answers"][0]["text"] = "purple"
    wrong = write(tmp_path / "wrong.jsonl", rows)
    reason = "answers that are not in their context"
    refuse_data(wrong, f"4 of 40 rows (10.0%) cannot be used: {reason} (4), for example {wrong}:1: {reason}", "5%")
    refuse_data(table, "--answers-column is 'reply'", "'question', 'context'", options=("--answers-column", "reply"))
    refuse_data(table, "--stride is 0, and must be at least 1", options=("--stride", 0))
    refuse_data(table, "max_length is 3, and a window has 4 tokens or more", options=("--max-length", 3))
    refuse_data(table, "needs a wordpiece tokenizer, and not char", options=("--tokenizer", "char"))
    refuse_data(table, "trains a model to answer, and gpt-nano is a gpt model", options=("--preset", "gpt-nano"))
    one = write(tmp_path / "one.jsonl", [{**row, "context": rows[9]["context"], "answers": []} for row in rows])
    refuse_data(one, "all 40 rows belong together")


@pytest.mark.full  # three conversions, each in a process of its own
def test_a_trained_answerer_is_exported(trained: Path, tmp_path: Path) -> None:
    from export.bundle import export_bundle

    texts = [row["context"] for row in make_rows(8, 3)]
    report = export_bundle(zoo.load(trained), tmp_path / "bundle", texts=texts)
    assert report.passed, report.failure_lines()

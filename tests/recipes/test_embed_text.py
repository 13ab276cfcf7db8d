"""The recipe embed-text, from its table to its report, with tiny settings."""

import csv
import itertools
import json
import math
import os
import random
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share

import zoo
from recipes.command import run as zoo_command
from recipes.data.grouping import GroupedBatches
from recipes.data.pairs import PairColumns, PairSource, find_columns, read_pairs, split
from recipes.data.tables import open_table
from recipes.reports.retrieval import partner_ranks, retrieval_figures, write_neighbours
from tests.recipes.fine_tuned import figures
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import newest_step, outcome
from zoo.errors import UserError
from zoo.prediction import embed
from zoo.text import Tokenizer, train_wordpiece

# A text says three things, and its partner says the same in another language.
LANGUAGES = [
    [["red", "blue", "green", "black"], ["cat", "dog", "cow", "fox"], ["runs", "eats", "sleeps", "hides"]],
    [["rot", "blau", "gruen", "schwarz"], ["katze", "hund", "kuh", "fuchs"], ["rennt", "isst", "schlaeft", "lauert"]],
]
STEPS, EVERY, HELD_OUT = 40, 10, 16


def write_table(path: Path, *rows: Iterable[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def sentences() -> list[list[str]]:
    rows = [
        [" ".join(words[place] for words, place in zip(language, places, strict=True)) for language in LANGUAGES]
        for places in itertools.product(range(4), repeat=3)
    ]
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def pairs_file(sentences: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("pairs") / "pairs.csv", ["anchor", "positive"], *sentences)


@pytest.fixture(scope="module")
def tokenizer(sentences: list[list[str]]) -> Tokenizer:
    return train_wordpiece((text for row in sentences for text in row), 300)


def command(data: Path, out: Path | None, *options: str) -> list[str]:
    fixed = (
        "--preset bert-nano --vocabulary-size 300 --max-length 16 --batch-size 16 --learning-rate 3e-3 "
        f"--warmup-steps 5 --steps {STEPS} --evaluate-every {EVERY} --validation-fraction 0.25"
    )
    where = [] if out is None else ["--out", str(out)]
    return ["train", "embed-text", "--data", str(data), *where, *fixed.split(), *options]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embed") / "run"
    assert zoo_command(command(pairs_file, out)) == 0
    return out


# --- the run


def test_a_run_learns_which_texts_belong_together(trained: Path) -> None:
    found = rows_of(trained)
    assert [row["step"] for row in found] == list(range(EVERY, STEPS + 1, EVERY))
    # Vectors that are all alike have a loss of log 16, and a right partner at random among 16 the rank 3.4 ** -1.
    assert found[-1]["validation_loss"] < 0.5 * math.log(HELD_OUT)
    best = max(found, key=lambda row: (row["validation_mean_reciprocal_rank"], -row["validation_loss"]))
    assert best["validation_mean_reciprocal_rank"] > 0.7
    assert best["validation_recall_at_1"] <= best["validation_mean_reciprocal_rank"] <= best["validation_recall_at_10"]
    summary = (trained / "summary.md").read_text()
    assert f"| best step | {best['step']} of {STEPS} |" in summary
    assert "[neighbours](neighbours.md), the worst first" in summary
    facts = json.loads((trained / "recipe.json").read_text())["facts"]
    assert (facts["train_pairs"], facts["validation_pairs"]) == (48, HELD_OUT)


def test_the_model_that_is_left_is_the_family_s_own(trained: Path, sentences: list, capsys: Any) -> None:
    model = zoo.load(trained)
    assert (model.family, model.task, type(model).__name__) == ("bert", "embed", "BERTEmbedder")
    assert (model.config.normalize, model.config.pooling) == (True, "mean")
    vectors = embed(model, sentences[0], are_images=False)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert zoo_command(["embed", str(trained), *sentences[0]]) == 0
    told = [json.loads(line)["embedding"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(told, vectors, rtol=1e-5, atol=1e-6)


@pytest.mark.full  # ranks are compared with a loop in the quick tier
def test_the_best_model_is_measured_again_text_by_text(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was held out is in neighbours.md; each text is embedded by itself, and looked for among all."""
    page = (trained / "neighbours.md").read_text()
    texts = [line.strip("*") for line in page.splitlines() if line.startswith("**")]
    assert len(set(texts)) == HELD_OUT
    translation = {
        ours: theirs for one, other in zip(*LANGUAGES, strict=True) for ours, theirs in zip(one, other, strict=True)
    }
    partners = [" ".join(translation[word] for word in text.split()) for text in texts]
    model = zoo.load(trained)
    firsts, seconds = (
        np.concatenate([embed(model, [text], are_images=False) for text in each]) for each in (texts, partners)
    )
    ranks = [
        1 + sum(first @ other > first @ own for other in seconds) for first, own in zip(firsts, seconds, strict=True)
    ]
    best = max(rows_of(trained), key=lambda row: (row["validation_mean_reciprocal_rank"], -row["validation_loss"]))
    assert best["validation_mean_reciprocal_rank"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert best["validation_recall_at_1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert ranks == sorted(ranks, reverse=True)  # the worst first
    assert f"{ranks.count(1)} of {HELD_OUT} held-out texts are nearest to their partner" in page
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in zip(texts, partners, strict=True)))
    measured = figures(capsys, trained, "--data", held_out, "--text-column", "a", "--pair-column", "b")
    assert measured["pairs"] == HELD_OUT
    assert measured["mean_reciprocal_rank"] == pytest.approx(best["validation_mean_reciprocal_rank"])


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_stopped_and_started_again_it_ends_as_one_that_never_was(
    trained: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    fetch = GroupedBatches.batch

    def signal_and_fetch(self: Any, step: int) -> Any:
        if self.num_batches is None and step == 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return fetch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(GroupedBatches, "batch", signal_and_fetch)
        with pytest.raises(SystemExit) as stopped:
            zoo_command(command(pairs_file, out))
        assert stopped.value.code == 75
    assert 0 < newest_step(out) < STEPS
    assert zoo_command(command(pairs_file, out)) == 0
    assert outcome(out, STEPS) == outcome(trained, STEPS)


@pytest.mark.full  # pairs are in the quick tier
def test_texts_alone_are_paired_with_themselves(
    sentences: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT, without pairs; what is held out is looked for by every other token."""
    data = write_table(tmp_path / "texts.csv", ["id", "text"], *([str(i), row[0]] for i, row in enumerate(sentences)))
    options = ["--preset", "gpt-nano", "--tokenizer", "bpe", "--vocabulary-size", "300", "--pooling", "mean"]
    assert zoo_command(command(data, tmp_path / "run", *options, "--learning-rate", "1e-3")) == 0
    told = capsys.readouterr().err
    assert "training: 48 texts, each paired with itself under another dropout" in told
    assert "held out: 16 texts, each paired with every other token of it" in told
    model = zoo.load(tmp_path / "run")
    assert (model.family, model.config.pooling, model.config.normalize) == ("gpt", "mean", True)
    assert rows_of(tmp_path / "run")[-1]["validation_mean_reciprocal_rank"] > 0.5
    page = (tmp_path / "run" / "neighbours.md").read_text()
    assert page.count("| yes |") == HELD_OUT and "| 1.00 | yes |" not in page  # no text is looked for by itself

    again = command(data, tmp_path / "paired", *options, "--validation-data", str(tmp_path / "pairs.csv"))
    write_table(tmp_path / "pairs.csv", ["Sentence1", "SENTENCE2"], *sentences[:10])
    assert zoo_command([*again, "--steps", "2"]) == 0
    assert "held out: 10 pairs of texts" in capsys.readouterr().err


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_two_replicas_end_where_one_device_does(pairs_file: Path, tmp_path: Path) -> None:
    """Stated twice, each pair meets its like in a batch, on either replica."""
    content = pairs_file.read_text().splitlines()
    data = tmp_path / "twice.csv"
    data.write_text("\n".join([*content, *content[1:], ""]))
    options = "--dropout 0 --clip-norm 0.1 --steps 6 --evaluate-every 3 --learning-rate 1e-3"
    assert_two_replicas_equal_one(
        command(data, None, *options.split()), tmp_path, "validation_recall_at_1", "validation_mean_reciprocal_rank"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--temperature", "0"], "--temperature is 0.0, and must be above 0"),
        (["--batch-size", "1"], "--batch-size is 1, and a pair is told from the others of its batch"),
        (["--validation-fraction", "1"], "--validation-fraction is 1.0, and must be between 0 and 1"),
        (["--pooling", "last"], "pooling is 'last', and must be one of mean, first"),
        (["--pair-column", "positiv"], "--pair-column is 'positiv', and"),
        (["--text-column", "anchor", "--dropout", "0"], "without dropout a text is the same each time"),
        (["--validation-fraction", "0.01"], "leaves nothing to tell its texts from"),
        (["--adapt", "lora"], "give one with --from"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert zoo_command(command(pairs_file, tmp_path / "run", *options)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: ")]
    assert len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "run").exists()


# --- the table


@pytest.mark.parametrize(
    ("header", "wanted", "found"),
    [
        ("text1,text2", PairColumns(), ("text1", "text2")),
        ("positive,id,Anchor", PairColumns(), ("Anchor", "positive")),
        ("question,answer", PairColumns(), ("question", "answer")),
        ("sentence2,sentence1,id", PairColumns(), ("sentence1", "sentence2")),
        ("sentence1,sentence2,score", PairColumns("sentence1", "sentence2"), ("sentence1", "sentence2")),
        ("query,passage", PairColumns(), ("query", "passage")),
        ("query,passage", PairColumns("query"), ("query", None)),
        ("question,answer,alike", PairColumns(None, "alike"), ("question", "alike")),
        ("a,b", PairColumns(None, "a"), ("b", "a")),
        ("a,b", PairColumns("b", "a"), ("b", "a")),
        ("text,label", PairColumns(), ("text", None)),
        ("whatever", PairColumns(), ("whatever", None)),
    ],
)
def test_columns_are_found(tmp_path: Path, header: str, wanted: PairColumns, found: tuple) -> None:
    table = open_table(write_table(tmp_path / "a.csv", header.split(","), ["x"] * (header.count(",") + 1)))
    assert find_columns(table, wanted) == found


def test_columns_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    table = open_table(write_table(tmp_path / "a.csv", ["a", "b"], ["x", "y"]))
    with pytest.raises(UserError, match="give --text-column, one of 'a', 'b'"):
        find_columns(table, PairColumns())


def test_pairs_that_may_not_belong_together_are_not_taken_for_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, judged in (("question", "is_duplicate"), ("sentence", "label")):
        table = open_table(write_table(tmp_path / "a.csv", [f"{name}1", f"{name}2", judged], ["x", "y", "0"]))
        with pytest.raises(UserError, match=f"its column '{judged}'.*--pair-column"):
            find_columns(table, PairColumns())
    caplog.set_level("INFO")
    table = open_table(write_table(tmp_path / "a.csv", ["anchor", "positive", "negative"], ["x", "y", "z"]))
    assert find_columns(table, PairColumns()) == ("anchor", "positive")
    assert "pairs of 'anchor' and 'positive'; not read: 'negative'" in caplog.text


def test_a_pair_the_other_way_round_is_the_same(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = LANGUAGES
    pairs = [[f"{a} cat", f"{b} katze"] for a, b in zip(one[0], other[0], strict=True)]
    data = read(tmp_path / "a.csv", tokenizer, ["text1", "text2"], *pairs, *(pair[::-1] for pair in pairs))
    train_data, held_out = split(data, 0.25, seed=1)
    seen, unseen = ({frozenset(part.texts(place)) for place in range(len(part))} for part in (train_data, held_out))
    assert len(held_out) == 2 and not seen & unseen
    assert "have a text that is in a pair of the training too" not in caplog.text
    shared = [[f"{colour} cat", "rot katze"] for colour in one[0]]
    split(read(tmp_path / "b.csv", tokenizer, ["text1", "text2"], *shared), 0.25, seed=1)
    assert "1 of 1 held-out pairs have a text that is in a pair of the training too" in caplog.text


def read(path: Path, tokenizer: Tokenizer, *rows: Iterable[str]) -> Any:
    table = open_table(write_table(path, *rows))
    return read_pairs(table, find_columns(table, PairColumns()), tokenizer)


def test_pairs_are_read_and_numbered(tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    good = [["red cat", "rot katze"], ["blue cat", "rot katze"], ["rot katze", "red  cat"], ["red cat runs", "rot"]]
    data = read(tmp_path / "a.csv", tokenizer, ["text1", "text2"], *good, *[["blue dog", "blau hund"]] * 40, ["a", " "])
    assert "1 of 45 rows (2.2%) cannot be used: no text2 (1)" in caplog.text
    assert len(data) == 44
    assert data.texts(2) == ("rot katze", "red  cat")
    source = PairSource(data, tokenizer, length=4)
    numbers = source.numbers
    assert numbers[0, 1] == numbers[1, 1] == numbers[2, 0]
    assert numbers[0, 0] == numbers[2, 1] == numbers[3, 0]  # which is cut to its first two words
    assert len(np.unique(numbers)) == 6
    np.testing.assert_array_equal(source.lengths(0)[:4], 4)
    inputs, labels = source.collate(0, np.array([3, 1]), 4, np.random.default_rng(0))
    for side, texts in (("", ["red cat runs", "blue cat"]), ("pair_", ["rot", "rot katze"])):
        wanted = tokenizer.prepare(texts, max_length=4, padding="max_length")
        for name, value in wanted.items():
            np.testing.assert_array_equal(inputs[f"{side}{name}"], value, err_msg=f"{side}{name}")
    assert len(inputs) == 6
    np.testing.assert_array_equal(labels["texts"], numbers[[3, 1]])


def test_a_text_without_a_pair_is_thinned_where_it_is_held_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = read(tmp_path / "a.csv", tokenizer, ["text"], ["red cat runs"], ["blue dog eats"])
    assert not data.are_paired and data.texts(1) == ("blue dog eats", "blue dog eats")
    training, held_out = (PairSource(data, tokenizer, 8, thinned) for thinned in (False, True))
    np.testing.assert_array_equal(training.numbers[:, 0], training.numbers[:, 1])
    assert len(np.unique(held_out.numbers)) == 4
    (inputs, _), (thinned, _) = (
        source.collate(0, np.array([1]), 8, np.random.default_rng(0)) for source in (training, held_out)
    )
    np.testing.assert_array_equal(inputs["pair_token_ids"], inputs["token_ids"])
    assert tokenizer.decode(thinned["pair_token_ids"][0][:4]) == "[CLS] blue eats [SEP]"


def test_what_stands_twice_is_held_out_twice(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [[f"{colour} cat", f"{colour} fox"] for colour in LANGUAGES[0][0]] * 5
    data = read(tmp_path / "a.csv", tokenizer, ["text1", "text2"], *rows)
    train_data, held_out = split(data, 0.25, seed=1)
    assert (len(train_data), len(held_out)) == (15, 5)
    seen, unseen = ({part.texts(place) for place in range(len(part))} for part in (train_data, held_out))
    assert (len(seen), len(unseen), len(seen & unseen)) == (3, 1, 0)
    other, _ = split(data, 0.25, seed=2)
    assert {other.texts(place) for place in range(len(other))} != seen


# --- the measure


def draw_vectors(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    firsts = rng.normal(size=(rows, 6)).astype("float32")
    seconds = firsts + rng.normal(size=(rows, 6)).astype("float32")
    numbers = np.stack([rng.integers(0, rows // 3, rows), rng.integers(rows // 6, rows // 2, rows)], axis=1)
    firsts, seconds = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (firsts, seconds))
    return firsts, seconds, numbers.astype("int32")


def test_ranks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.reports.retrieval.ROWS_AT_ONCE", 7)
    firsts, seconds, numbers = draw_vectors(30)
    expected, plain = [], []
    for i, first in enumerate(firsts):
        nearer = [j for j in range(30) if j != i and first @ seconds[j] >= first @ seconds[i]]
        wrong = [
            j
            for j in nearer
            if numbers[j, 0] != numbers[i, 0] and numbers[j, 1] != numbers[i, 1] and numbers[j, 1] != numbers[i, 0]
        ]
        expected.append(1 + len(wrong))
        plain.append(1 + len(nearer))
    assert expected != plain
    ranks = partner_ranks(firsts, seconds, numbers)
    assert ranks.tolist() == expected
    assert retrieval_figures(ranks) == {
        "recall_at_1": pytest.approx(np.mean([rank <= 1 for rank in expected])),
        "recall_at_10": pytest.approx(np.mean([rank <= 10 for rank in expected])),
        "mean_reciprocal_rank": pytest.approx(np.mean([1 / rank for rank in expected])),
    }


def test_vectors_that_are_all_alike_find_nothing() -> None:
    same = np.full((20, 4), 0.5, "float32")
    numbers = np.arange(40).reshape(20, 2)
    assert partner_ranks(same, same, numbers).tolist() == [20] * 20
    assert partner_ranks(same * np.nan, same, numbers).tolist() == [20] * 20


def test_neighbours_are_shown_the_worst_first(tmp_path: Path) -> None:
    turns = np.deg2rad([0, 40, 90, 180]), np.deg2rad([10, 175, 85, 30])
    firsts, seconds = (np.stack([np.cos(each), np.sin(each)], axis=1) for each in turns)
    numbers = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    texts = [("zero", "ten"), ("for|ty", "one *75*"), ("ninety", "eighty\nfive"), ("one 80", "thir|ty")]
    lines = write_neighbours(tmp_path, firsts, seconds, numbers, texts.__getitem__)
    assert lines == [
        "2 of 4 held-out texts are nearest to their partner: [neighbours](neighbours.md), the worst first."
    ]
    page = (tmp_path / "neighbours.md").read_text().splitlines()
    assert [line for line in page if line.startswith("**")] == ["**for\\|ty**", "**one 80**", "**zero**", "**ninety**"]
    first = page.index("**for\\|ty**")
    assert page[first + 4 : first + 9] == [
        "| 1 | 0.98 |  | thir\\|ty |",
        "| 2 | 0.87 |  | ten |",
        "| 3 | 0.71 |  | eighty five |",
        "| 4 | -0.71 | yes | one *75* |",
        "",
    ]

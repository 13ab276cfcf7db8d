"""The recipe classify-text, from its table to its pages, with tiny settings."""

import csv
import math
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share

import zoo
from recipes.command import run as zoo_command
from tests.recipes.fine_tuned import (
    STEPS,
    best_of,
    command,
    facts_of,
    figures,
    going_on,
    predict,
    refuse,
    rows_of,
    stop_and_go_on,
)
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import arrays, outcome
from zoo.prediction import Predictor

TELLING = {"pets": ["cat", "dog", "mouse"], "food": ["bread", "soup", "rice"], "sky": ["moon", "star", "cloud"]}
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


def make_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of words that say nothing, but for one of the class; all of one width as batches, which is one shape to
    trace."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.choice(list(TELLING))
        words = draw.choices(FILLING, k=draw.randint(2, 5))
        words.insert(draw.randint(0, len(words)), draw.choice(TELLING[label]))
        rows.append((" ".join(words), label))
    return rows


def write(path: Path, rows: Iterable[Iterable[str]], header: Iterable[str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With train.csv and test.csv."""
    folder = tmp_path_factory.mktemp("classes")
    write(folder / "train.csv", make_rows(240, 0))
    write(folder / "test.csv", make_rows(60, 1))
    return folder


def arguments(folder: Path, out: Path | None, *options: object) -> list[str]:
    held_out = ("--validation-data", folder / "test.csv", "--max-length", 16)
    return command("classify-text", folder / "train.csv", out, *held_out, *options)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classify") / "run"
    assert zoo_command(arguments(folder, out)) == 0
    return out


def test_a_run_learns_and_leaves_what_it_promises(trained: Path) -> None:
    assert [row["step"] for row in rows_of(trained)] == [30, 60, 90]
    best = best_of(trained, "validation_accuracy")
    assert best["validation_accuracy"] > 0.95 and best["validation_macro_f1"] > 0.95
    assert rows_of(trained)[-1]["validation_loss"] < 0.5 * math.log(3)  # fresh, all classes are as likely
    facts = facts_of(trained)
    assert (facts["train_rows"], facts["validation_rows"], facts["classes"]) == (240, 60, 3)
    model = zoo.load(trained)
    assert (model.task, model.labels) == ("classify", ("food", "pets", "sky"))
    assert (trained / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (trained / "mistakes.md").read_text().startswith("# Mistakes")
    summary = (trained / "summary.md").read_text()
    assert f"| best step | {best['step']} of {STEPS} |" in summary and "](confusion.png)" in summary


def test_what_was_measured_is_what_is_predicted(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By `zoo eval`, and by `zoo predict`."""
    measured = figures(capsys, trained, "--data", folder / "test.csv", "--batch-size", 7)
    best = best_of(trained, "validation_accuracy")
    assert measured == pytest.approx(
        {"accuracy": best["validation_accuracy"], "macro_f1": best["validation_macro_f1"], "rows": 60}
    )
    predictor = Predictor(zoo.load(trained))
    rows = make_rows(60, 1)
    records = predictor.predict([text for text, _ in rows])
    right = [record["label"] == label for record, (_, label) in zip(records, rows, strict=True)]
    assert measured["accuracy"] == pytest.approx(np.mean(right))
    (tmp_path / "texts.txt").write_text("\n".join(text for text, _ in rows[:5]))
    said = predict(capsys, trained, "--file", tmp_path / "texts.txt")
    assert [each["label"] == label for each, (_, label) in zip(said, rows, strict=False)] == right[:5]


@pytest.mark.full  # gpt-pretrain is stopped and goes on in the quick tier
def test_stopped_and_started_again_it_ends_as_one_that_never_was(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_and_go_on(arguments(folder, out), out, monkeypatch)
    assert outcome(out, STEPS) == outcome(trained, STEPS)


def test_a_finished_run_tells_the_same(trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = outcome(trained, STEPS)
    assert zoo_command(arguments(folder, trained)) == 0
    captured = capsys.readouterr()
    assert "is finished: nothing is left to train" in captured.err
    assert f"best step: {best_of(trained, 'validation_accuracy')['step']}" in captured.out
    assert outcome(trained, STEPS) == before


@pytest.mark.full  # its kin in test_gpt_pretrain is in the quick tier
def test_two_replicas_end_where_one_device_does(folder: Path, tmp_path: Path) -> None:
    options = "--dropout 0 --clip-norm 0.1 --steps 6 --evaluate-every 3 --learning-rate 1e-3 --balance"
    assert_two_replicas_equal_one(arguments(folder, None, *options.split()), tmp_path, "validation_accuracy")


def test_a_part_is_held_out_of_each_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And only so many are taken of each, which are weighed; corrupt rows are left out; and a length that is no
    multiple of 8 is one."""
    options = ("--validation-fraction", 0.25, "--examples-per-class", 20, "--balance", "--max-length", 7)
    rows = make_rows(240, 0)
    rows = [row for row in rows if row[1] != "sky"] + [row for row in rows if row[1] == "sky"][:16]
    data = write(tmp_path / "data.csv", rows)
    data.write_bytes(data.read_bytes() + b"a,b,c\r\ncaf\xe9,food\r\n")
    arguments = command("classify-text", data, tmp_path / "run", *options, "--steps", 4, "--evaluate-every", 4)
    assert zoo_command(arguments) == 0
    told = capsys.readouterr().err
    assert f"left out: 2 of {len(rows) + 2} rows" in told
    assert "cannot be used: 3 fields instead of 2 (1), invalid UTF-8 (1)" in told
    assert "training: 52 rows of 3 classes: food 20," in told and ", sky 12\n" in told
    held_out = sum(round(0.25 * sum(each == label for _, each in rows)) for label in TELLING)
    assert f"held out: {held_out} rows of 3 classes: " in told and ", sky 4\n" in told
    assert "are longer than 7 and cut" in told
    assert facts_of(tmp_path / "run")["train_rows"] == 52
    assert zoo.load(tmp_path / "run").config.max_length == 7


@pytest.mark.full  # two trainings
def test_fresh_weights_show_what_training_was_worth(trained: Path, folder: Path, tmp_path: Path) -> None:
    """One update that changes nothing."""
    options = ("--validation-data", folder / "test.csv", "--steps", 1, "--evaluate-every", 1, "--learning-rate", 1e-7)
    out = tmp_path / "anew"
    assert zoo_command(going_on("classify-text", folder / "train.csv", out, trained, *options, "--fresh")) == 0
    (row,) = rows_of(out)
    assert row["validation_accuracy"] < 0.7 and row["validation_loss"] == pytest.approx(math.log(3), abs=0.1)
    models = [zoo.load(run) for run in (trained, out)]
    assert models[0].config == models[1].config and models[0].tokenizer.same_as(models[1].tokenizer)


@pytest.mark.full  # its kin in test_image_recipes is in the quick tier
def test_a_model_goes_on_and_its_backbone_may_stay(trained: Path, folder: Path, tmp_path: Path) -> None:
    options = ("--validation-data", folder / "test.csv", "--steps", 2, "--evaluate-every", 2, "--adapt", "frozen")
    out = tmp_path / "on"
    assert zoo_command(going_on("classify-text", folder / "train.csv", out, trained, *options)) == 0
    assert rows_of(out)[0]["validation_accuracy"] > 0.95
    before, after = (arrays(run / "model" / "model.safetensors") for run in (trained, out))
    changed = {name for name, value in before.items() if after[name] != value}
    assert changed and all(name.startswith(("classifier.", "backbone.pooler.")) for name in changed)


@pytest.mark.full  # its parts are tested in the quick tier, in test_data_labelled
def test_pairs_are_told_by_gpt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(40):
        first, second = draw.choices(FILLING, k=2)
        rows.append((first, second, str(first < second)))
    data = write(tmp_path / "pairs.csv", rows, ("sentence1", "sentence2", "gold"))
    columns = ("--text-column", "sentence1", "--pair-column", "sentence2", "--label-column", "gold")
    kind = ("--preset", "gpt-nano", "--tokenizer", "bpe", "--max-length", 16, "--steps", 2, "--evaluate-every", 2)
    assert zoo_command(command("classify-text", data, tmp_path / "run", *columns, *kind)) == 0
    model = zoo.load(tmp_path / "run")
    assert (model.family, model.labels) == ("gpt", ("False", "True"))
    assert set(figures(capsys, tmp_path / "run", "--data", data, *columns)) == {"accuracy", "macro_f1", "rows"}


def test_bad_data_gets_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    rows = make_rows(100, 0)

    def refuse_data(data: Path, *words: str, options: tuple[object, ...] = ()) -> None:
        refuse(capsys, command("classify-text", data, out, *options), *words)
        assert not out.exists()

    one = write(tmp_path / "one.csv", [(text, "pets") for text, _ in rows])
    refuse_data(one, str(one), "one class only, 'pets'")
    table = folder / "train.csv"
    refuse_data(
        table, "--label-column is 'lable'", "'text', 'label'", "did you mean", options=("--label-column", "lable")
    )
    other = write(tmp_path / "other.csv", [*rows, ("we saw a train", "rails")])
    refuse_data(table, str(other), "1 labels unseen in training, such as 'rails'", options=("--validation-data", other))
    content = table.read_bytes().split(b"\n")
    broken = tmp_path / "broken.csv"
    broken.write_bytes(b"\n".join([*content[:-1], *[b"a,b,c\r"] * 20, b""]))
    refuse_data(
        broken, "20 of 260 rows (7.7%) cannot be used: 3 fields instead of 2", f"{broken}:242", "no more than 5%"
    )
    mixed = tmp_path / "mixed.csv"
    latin = "caf\xe9 and soup,food\r".encode("latin-1")
    mixed.write_bytes(b"\n".join([*content[:-1], "日本 moon,sky\r".encode(), *[latin] * 20, b""]))
    refuse_data(mixed, "20 of 261 rows", "invalid UTF-8", "encodings are mixed: other text in it is valid UTF-8")
    mixed.write_bytes(b"\n".join([*content[:-1], *[latin] * 20, b""]))
    refuse_data(mixed, "invalid UTF-8", "iconv")
    empty = write(tmp_path / "empty.csv", [])
    refuse_data(empty, "holds no rows")
    few = write(tmp_path / "few.csv", [("a cat", "pets"), ("a star", "sky")])
    refuse_data(few, "2 rows cannot be shared out with 10% held out", "--validation-data")
    for option, value, told in (
        ("--validation-fraction", 0, "must be between 0 and 1"),
        ("--examples-per-class", 0, "must be at least 1"),
        ("--adapt", "frozen", "give one with --from"),
        ("--preset", "vit-nano", "trains a model of text, and vit-nano is a vit model"),
    ):
        refuse_data(table, told, options=(option, value))


@pytest.mark.full  # three conversions, each in a process of its own
def test_a_trained_classifier_is_exported(trained: Path, tmp_path: Path) -> None:
    from export.bundle import export_bundle

    report = export_bundle(zoo.load(trained), tmp_path / "bundle", texts=[text for text, _ in make_rows(8, 3)])
    assert report.passed, report.failure_lines()
    assert (tmp_path / "bundle" / "config.json").exists()

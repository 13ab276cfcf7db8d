"""The recipe tag-text, from its table to its pages, with tiny settings."""

import json
import math
import random
import shutil
from pathlib import Path

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

Sentence = tuple[list[str], list[str]]


def make_sentences(count: int, seed: int) -> list[Sentence]:
    """Somebody in some place: who or what follows which word can be learnt, and names have one word or two."""
    draw = random.Random(seed)
    firsts, lasts = ["Ada", "Grace", "Alan", "Emmy"], ["Lovelace", "Hopper", "Turing", "Noether"]
    places = [["London"], ["Paris"], ["New", "York"], ["U.N."]]
    sentences = []
    for _ in range(count):
        name = [draw.choice(firsts), *([draw.choice(lasts)] if draw.random() < 0.5 else [])]
        place = draw.choice(places)
        tokens = [*name, draw.choice(["met", "saw", "left"]), "us", "in", *place, "."]
        tags = ["B-PER", *["I-PER"] * (len(name) - 1), "O", "O", "O", "B-LOC", *["I-LOC"] * (len(place) - 1), "O"]
        sentences.append((tokens, tags))
    return sentences


def write(path: Path, sentences: list[Sentence]) -> Path:
    """As CoNLL, or as JSON Lines."""
    if path.suffix == ".jsonl":
        lines = [json.dumps({"tokens": tokens, "tags": tags}) for tokens, tags in sentences]
    else:
        lines = [
            line
            for tokens, tags in sentences
            for line in (*(f"{token} {tag}" for token, tag in zip(tokens, tags, strict=True)), "")
        ]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With train.conll and dev.conll."""
    folder = tmp_path_factory.mktemp("tags")
    write(folder / "train.conll", make_sentences(200, 0))
    write(folder / "dev.conll", make_sentences(40, 1))
    return folder


def arguments(folder: Path, out: Path | None, *options: object) -> list[str]:
    held_out = ("--validation-data", folder / "dev.conll", "--max-length", 16)
    return command("tag-text", folder / "train.conll", out, *held_out, *options)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tag") / "run"
    assert zoo_command(arguments(folder, out)) == 0
    return out


def test_a_run_learns_and_leaves_what_it_promises(trained: Path) -> None:
    assert [row["step"] for row in rows_of(trained)] == [30, 60, 90]
    best = best_of(trained, "validation_entity_f1")
    assert best["validation_entity_f1"] > 0.95
    for name in ("precision", "recall"):
        assert 0 < best[f"validation_entity_{name}"] <= 1
    assert rows_of(trained)[-1]["validation_loss"] < 0.5 * math.log(5)  # fresh, all labels are as likely
    facts = facts_of(trained)
    assert (facts["train_sentences"], facts["validation_sentences"], facts["types"]) == (200, 40, "LOC, PER")
    model = zoo.load(trained)
    assert (model.task, model.labels) == ("tag", ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    page = (trained / "tagged.md").read_text()
    assert "**Ada" in page or "**Grace" in page
    summary = (trained / "summary.md").read_text()
    assert f"| best step | {best['step']} of {STEPS} |" in summary
    assert "(tagged.md)" in summary and "| all | " in summary and "| PER | " in summary


def test_what_was_measured_is_what_is_predicted(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `zoo eval`, and by `zoo predict`, which finds the words by itself, in the characters of the text."""
    measured = figures(capsys, trained, "--data", folder / "dev.conll", "--batch-size", 7)
    best = best_of(trained, "validation_entity_f1")
    names = ("entity_precision", "entity_recall", "entity_f1")
    assert measured == pytest.approx({name: best[f"validation_{name}"] for name in names} | {"sentences": 40})

    sentences = [each for each in make_sentences(60, 4) if "U.N." not in each[0]]  # a word by itself in the table alone
    sentences[::4] = [(tokens, [tag.replace("LOC", "PER") for tag in tags]) for tokens, tags in sentences[::4]]
    measured = figures(capsys, trained, "--data", write(tmp_path / "whole.conll", sentences))
    assert 0.5 < measured["entity_f1"] < 0.95  # every fourth is given wrongly
    texts = [" ".join(tokens) for tokens, _ in sentences]
    right: set[tuple[int, str, str, int]] = set()
    for number, (tokens, tags) in enumerate(sentences):
        for i, tag in enumerate(tags):
            if tag[0] == "B":
                words = [tokens[i], *([tokens[i + 1]] if tags[i + 1][0] == "I" else [])]
                right.add((number, tag[2:], " ".join(words), len(" ".join(["", *tokens[:i]]))))
    records = Predictor(zoo.load(trained)).predict(texts)
    said = {
        (number, each["label"], each["text"], each["start"])
        for number, record in enumerate(records)
        for each in record["entities"]
    }
    assert all(text == texts[number][start : start + len(text)] for number, _, text, start in said)
    assert measured["entity_f1"] == pytest.approx(2 * len(right & said) / (len(right) + len(said)))
    assert len(said) > len(sentences)
    (record,) = predict(capsys, trained, "Ada Hopper saw us in London.")
    assert [(each["label"], each["text"]) for each in record["entities"]] == [("PER", "Ada Hopper"), ("LOC", "London")]


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
    assert_two_replicas_equal_one(arguments(folder, None, *options.split()), tmp_path, "validation_entity_f1")


@pytest.mark.full  # how entities become tags is in the quick tier in test_data_tagged
def test_texts_with_entities_are_learnt_and_long_ones_cut(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a length that is no multiple of 8."""
    rows = []
    for tokens, tags in make_sentences(40, 2):
        text, entities = "", []
        for token, tag in zip(tokens, tags, strict=True):
            text += " " * bool(text)
            if tag[0] == "B":
                entities.append({"start": len(text), "end": 0, "label": tag[2:]})
            text += token
            if tag != "O":
                entities[-1]["end"] = len(text)
        rows.append({"text": text, "entities": entities})
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--validation-fraction", 0.25, "--max-length", 9, "--steps", 2, "--evaluate-every", 2)
    assert zoo_command(command("tag-text", data, tmp_path / "run", *options)) == 0
    told = capsys.readouterr().err
    assert "training: 30 sentences, 60 entities: 30 " in told and "held out: 10 sentences, 20 entities" in told
    assert "of the training sentences are longer than 9 tokens and cut: the words beyond count as O" in told
    model = zoo.load(tmp_path / "run")
    assert (model.config.max_length, model.labels) == (9, ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))


@pytest.mark.full  # adapters are in the quick tier in test_generate_text
def test_adapters_learn_other_types(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a model that knows the words: its head is fresh, and the rest of it is changed by adapters alone."""
    other = [(tokens, [tag.replace("LOC", "PLACE") for tag in tags]) for tokens, tags in make_sentences(60, 3)]
    other.append((["here"], ["B-X"]))
    data = write(tmp_path / "data.jsonl", other)
    held_out = write(tmp_path / "held_out.jsonl", other)
    options = ("--adapt", "lora", "--steps", 60, "--evaluate-every", 60, "--validation-data", held_out)
    out = tmp_path / "run"
    assert zoo_command(going_on("tag-text", data, out, trained, *options)) == 0
    assert rows_of(out)[0]["validation_entity_f1"] > 0.6
    assert (out / "adapters").is_dir()
    assert zoo.load(out).labels == ("O", *(f"{prefix}-{name}" for name in ("PER", "PLACE", "X") for prefix in "BI"))
    before, after = (arrays(run / "model" / "model.safetensors") for run in (trained, out))
    changed = {name for name, value in before.items() if after[name] != value}
    parts = ("classifier.", "attention.", "feed_forward.")
    assert changed and all(any(part in name for part in parts) for name in changed)


def test_bad_data_gets_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", folder / "train.conll"

    def refuse_data(data: Path, *words: str, options: tuple[object, ...] = ()) -> None:
        refuse(capsys, command("tag-text", data, out, *options), *words)
        assert not out.exists()

    nothing = write(tmp_path / "nothing.conll", [(tokens, ["O"] * len(tokens)) for tokens, _ in make_sentences(20, 0)])
    refuse_data(nothing, str(nothing), "no label but O: there is nothing to learn")
    other = write(tmp_path / "other.conll", [*make_sentences(20, 0), (["IBM"], ["B-ORG"])])
    refuse_data(table, str(other), "1 labels unseen in training, such as 'ORG'", options=("--validation-data", other))
    refuse_data(table, "--tags-column is 'ner'", "'tokens', 'tags'", options=("--tags-column", "ner"))
    mixed = write(tmp_path / "mixed.conll", [*make_sentences(20, 0), (["IBM"], ["ORG"])])
    refuse_data(mixed, "tags with a prefix, as 'B-", "and without, as 'ORG': write each as B-NAME or I-NAME, or O")
    broken = tmp_path / "broken.conll"
    broken.write_text(table.read_text() + "\nword\n" * 20)
    refuse_data(broken, "20 of 220 rows (9.1%) cannot be used: a line without a tag (20)", "no more than 5%")
    lists = tmp_path / "lists.jsonl"
    lists.write_text(
        "".join(json.dumps({"tokens": tokens, "tags": [0] * len(tokens)}) + "\n" for tokens, _ in make_sentences(9, 0))
    )
    refuse_data(lists, "tags that are numbers: write their names")
    refuse_data(table, "tag-text needs a wordpiece tokenizer, and not bpe", options=("--tokenizer", "bpe"))
    refuse_data(table, "tag-text trains a model to tag, and gpt-nano is a gpt model", options=("--preset", "gpt-nano"))


def test_what_cannot_be_measured_is_said(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "other.conll", [(["IBM"], ["B-ORG"])])
    refuse(capsys, ["eval", str(trained), "--data", str(data)], "1 labels unseen in training, such as 'ORG'")
    known = ["eval", str(trained), "--data", str(folder / "dev.conll")]
    refuse(capsys, [*known, "--validation-fraction", "0.1"], "a table is measured as a whole")
    for name in ("batch-size", "stride", "max-length"):
        refuse(capsys, [*known, f"--{name}", "0"], f"--{name} is 0, and must be at least 1")
    refuse(capsys, [*known, "--tags-column", "x"], "--tags-column is 'x'")
    zoo.save(zoo.create("vit-nano"), tmp_path / "vit")
    refuse(capsys, ["eval", str(tmp_path / "vit"), *known[2:]], "tells no classes apart: give images whose classes")
    nameless = shutil.copytree(trained / "model", tmp_path / "nameless")
    (nameless / "labels.txt").unlink()
    refuse(capsys, ["eval", str(nameless), *known[2:]], f"{nameless} has no labels.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"other.conll", "vit", "nameless"}  # nothing was left


@pytest.mark.full  # three conversions, each in a process of its own
def test_a_trained_tagger_is_exported(trained: Path, tmp_path: Path) -> None:
    from export.bundle import export_bundle

    texts = [" ".join(tokens) for tokens, _ in make_sentences(8, 3)]
    report = export_bundle(zoo.load(trained), tmp_path / "bundle", texts=texts)
    assert report.passed, report.failure_lines()

"""The recipe generate-text, from its table to its report, with tiny settings."""

import csv
import itertools
import json
import random
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from recipes.command import run as zoo_command
from recipes.data.completions import (
    CompletionColumns,
    Completions,
    CompletionSource,
    find_columns,
    is_text,
    read_completions,
    split,
    tell,
)
from recipes.data.tables import open_table
from recipes.evaluation import Completer
from recipes.generate_text import next_token_loss
from recipes.measures import Completion
from recipes.reports.completion import completion_figures, write_completions
from tests.recipes.fine_tuned import figures
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import arrays, newest_step, outcome, start
from zoo.errors import UserError
from zoo.generation import Generator
from zoo.text import Tokenizer, train_bpe, train_characters

# What is to be said is the same words in another language, two or three of them.
LANGUAGES = [
    [
        ["red", "blue", "green", "black", "white"],
        ["cat", "dog", "cow", "fox", "hen"],
        ["runs", "eats", "sleeps", "hides", "sings"],
    ],
    [
        ["rot", "blau", "gruen", "schwarz", "weiss"],
        ["katze", "hund", "kuh", "fuchs", "huhn"],
        ["rennt", "isst", "schlaeft", "lauert", "singt"],
    ],
]
STEPS, EVERY, HELD_OUT = 240, 60, 30


def write_table(path: Path, *rows: Iterable[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    found = []
    for count in (2, 3):
        for places in itertools.product(range(5), repeat=count):
            said, right = (
                " ".join(words[place] for words, place in zip(language[3 - count :], places, strict=True))
                for language in LANGUAGES
            )
            found.append((f"say {said}", right))
    random.Random(0).shuffle(found)
    return found


@pytest.fixture(scope="module")
def folder(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv, and held_out.jsonl, with the columns the other way round."""
    folder = tmp_path_factory.mktemp("prompts")
    write_table(folder / "train.csv", ["id", "prompt", "completion"], *(("7", *row) for row in rows[HELD_OUT:]))
    lines = (json.dumps({"completion": right, "prompt": prompt}) + "\n" for prompt, right in rows[:HELD_OUT])
    (folder / "held_out.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def tokenizer(rows: list[tuple[str, str]]) -> Tokenizer:
    return train_bpe((text for row in rows for text in row), 300)


FRESH = ("--preset", "gpt-nano", "--vocabulary-size", "300", "--max-length", "32")


def command(folder: Path, out: Path, *options: str, model: tuple[str, ...] = FRESH) -> list[str]:
    fixed = (
        f"--batch-size 16 --learning-rate 1e-2 --warmup-steps 10 --dropout 0 --steps {STEPS} --evaluate-every {EVERY}"
    )
    data = ["--data", str(folder / "train.csv"), "--validation-data", str(folder / "held_out.jsonl")]
    return ["train", "generate-text", *data, "--out", str(out), *model, *fixed.split(), *options]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generate") / "run"
    assert zoo_command(command(folder, out)) == 0
    return out


def read(path: Path, tokenizer: Tokenizer, *rows: Iterable[str]) -> Completions:
    table = open_table(write_table(path, *rows) if rows else path)
    return read_completions(table, find_columns(table, CompletionColumns()), tokenizer)


def held_out_source(folder: Path, tokenizer: Tokenizer, length: int = 32) -> CompletionSource:
    return CompletionSource(read(folder / "held_out.jsonl", tokenizer), tokenizer, length, "\n")


def by_hand(model: Any, rows: Iterable[tuple[str, str]], separator: str = "\n") -> float:
    """The mean loss of a token of separators, completions and ends of texts, in float64, row by row."""
    total, count = 0.0, 0
    for prompt, right in rows:
        given, said = (model.tokenizer.encode(text) for text in (prompt, right))
        ids = [*given, *model.tokenizer.encode(separator), *said, model.tokenizer.end_of_text]
        logits = np.asarray(model({"token_ids": np.array([ids], "int32")})["logits"][0], "float64")
        for place in range(len(given), len(ids)):
            before = logits[place - 1]
            total += np.log(np.exp(before - before.max()).sum()) + before.max() - before[ids[place]]
            count += 1
    return total / count


# --- the run


def test_a_run_learns_to_complete_prompts_it_never_saw(trained: Path, folder: Path) -> None:
    found = rows_of(trained)
    assert [row["step"] for row in found] == list(range(EVERY, STEPS + 1, EVERY))
    model = zoo.load(trained)
    fresh = zoo.create("gpt-nano", task="generate", vocabulary_size=model.config.vocabulary_size)
    fresh.tokenizer = model.tokenizer
    batches = Completion(held_out_source(folder, model.tokenizer), 8, 0).batches
    assert Completer(model).mean_loss(batches) < Completer(fresh).mean_loss(batches) / 2
    best = min(found, key=lambda row: row["validation_loss"])
    assert best["validation_exact_match"] > 0.9
    assert best["validation_perplexity"] == pytest.approx(np.exp(best["validation_loss"]))
    summary = (trained / "summary.md").read_text()
    assert f"| best step | {best['step']} of {STEPS} |" in summary
    assert "held-out prompts are not completed word for word: [completions](completions.md)" in summary
    facts = json.loads((trained / "recipe.json").read_text())["facts"]
    assert (facts["train_rows"], facts["validation_rows"]) == (120, HELD_OUT)


def test_the_loss_is_that_of_the_completions_alone(trained: Path, rows: list, folder: Path) -> None:
    model = zoo.load(trained)
    wanted = by_hand(model, rows[:HELD_OUT])
    best = min(rows_of(trained), key=lambda row: row["validation_loss"])
    assert best["validation_loss"] == pytest.approx(wanted, rel=1e-4)
    for batch_size in (1, 7):
        measure = Completion(held_out_source(folder, model.tokenizer), batch_size, 0)
        assert measure.judge(model) == (pytest.approx(wanted, rel=1e-4), [])


def test_what_was_said_is_what_the_model_says_to_each_prompt(trained: Path, rows: list) -> None:
    """One at a time, from the text of the prompt alone, as zoo generate does."""
    generator = Generator(zoo.load(trained))
    said = {prompt: generator.generate_text(prompt, 24).removeprefix("\n") for prompt, _ in rows[:HELD_OUT]}
    page = (trained / "completions.md").read_text().split("\n## ")
    shown = {}
    for entry in page[1:]:
        prompt, _, first, second, *_ = entry.splitlines()
        shown[prompt] = first.removeprefix("- it said: ")
        assert second == f"- right: {dict(rows)[prompt]}"
    assert shown == said
    right = [said[prompt] == text for prompt, text in rows[:HELD_OUT]]
    best = min(rows_of(trained), key=lambda row: row["validation_loss"])
    assert best["validation_exact_match"] == pytest.approx(np.mean(right))
    assert [shown[prompt] == dict(rows)[prompt] for prompt in shown] == sorted(right)  # the wrong ones first
    last = (trained / "samples.txt").read_text().split(f"--- step {STEPS}\n")[1]
    assert last == "\n\n".join(f"{prompt}\n{said[prompt]}" for prompt, _ in rows[:3]) + "\n"


@pytest.mark.full  # what was measured is compared with what is said in the quick tier
def test_the_model_that_is_left_generates_and_is_measured(
    trained: Path, rows: list, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, right = rows[HELD_OUT]  # of the training
    assert zoo_command(["generate", str(trained), "--prompt", prompt, "--temperature", "0"]) == 0
    assert capsys.readouterr().out == f"{prompt}\n{right}\n"
    data = str(folder / "held_out.jsonl")
    assert zoo_command(["eval", str(trained), "--data", data, "--batch-size", "7"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = min(rows_of(trained), key=lambda row: row["validation_loss"])
    for name in ("loss", "perplexity", "exact_match"):
        assert measured[name] == pytest.approx(best[f"validation_{name}"], rel=1e-4)
    assert measured["rows"] == HELD_OUT
    turn = ["--prompt-column", "completion", "--completion-column", "prompt"]
    assert zoo_command(["eval", str(trained), "--data", data, *turn, "--separator", "", "--completions", "0"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(measured) == {"loss", "perplexity", "rows"}
    turned = [(right, prompt) for prompt, right in rows[:HELD_OUT]]
    assert measured["loss"] == pytest.approx(by_hand(zoo.load(trained), turned, ""), rel=1e-4)
    text = tmp_path / "text.txt"
    text.write_text("say red cat\nrot katze\n")
    assert zoo_command(["eval", str(trained), "--data", str(text)]) == 0
    assert "bits_per_byte" in json.loads(capsys.readouterr().out.splitlines()[-1])


# To be run before a training: kills it when it asks for a batch in its middle, on however busy a machine.
KILLED = """
import os, signal
from recipes.data.grouping import GroupedBatches

fetch = GroupedBatches.batch

def fetch_or_die(self, step):
    if self.num_batches is None and step == 25:
        os.kill(os.getpid(), signal.SIGKILL)
    return fetch(self, step)

GroupedBatches.batch = fetch_or_die
"""


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_killed_and_started_again_it_ends_as_one_that_never_was(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = "--dropout 0.1 --steps 40 --evaluate-every 20 --save-every 4 --evaluation-completions 4"
    assert zoo_command(command(folder, whole, *options.split())) == 0
    process = start(command(folder, parts, *options.split()), before=KILLED)
    _, told = process.communicate()
    assert process.returncode == -signal.SIGKILL, told
    assert 0 < newest_step(parts) < 40
    assert zoo_command(command(folder, parts, *options.split())) == 0
    assert outcome(parts, 40) == outcome(whole, 40)


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_two_replicas_end_where_one_device_does(folder: Path, tmp_path: Path) -> None:
    """Half of the completions are one word, the others ten: a mean of means would be another number."""
    draw = random.Random(0)
    words = LANGUAGES[1][1]
    uneven = [(f"say {i}", " ".join(draw.choices(words, k=draw.choice((1, 10))))) for i in range(60)]
    write_table(tmp_path / "train.csv", ["prompt", "completion"], *uneven)
    (tmp_path / "held_out.jsonl").write_text((folder / "held_out.jsonl").read_text())
    short = "--clip-norm 0.1 --learning-rate 1e-3 --steps 6 --evaluate-every 3 --batch-size 8 --max-length 64"
    arguments = command(tmp_path, tmp_path, *short.split(), "--evaluation-completions", "0")
    place = arguments.index("--out")
    assert_two_replicas_equal_one([*arguments[:place], *arguments[place + 2 :]], tmp_path)
    assert "validation_exact_match" not in rows_of(tmp_path / "one")[0]
    assert not any((tmp_path / "one" / name).exists() for name in ("completions.md", "samples.txt"))


@pytest.mark.full  # adapters and their merging are in the quick tier by themselves
def test_lora_leaves_a_merged_model(
    trained: Path, rows: list, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taught another separator, by adapters alone."""
    options = ("--adapt", "lora", "--separator", " ", "--steps", "40", "--evaluate-every", "20")
    assert zoo_command(command(folder, tmp_path / "run", *options, model=("--from", str(trained)))) == 0
    model = zoo.load(tmp_path / "run")
    assert model.lora is None and not any(".lora." in name for name in model.named_weights())
    assert (tmp_path / "run" / "adapters" / "adapter.safetensors").is_file()
    before = zoo.load(trained)
    table = "backbone.token_embedding.table"
    np.testing.assert_array_equal(model.named_weights()[table], before.named_weights()[table])
    best = min(rows_of(tmp_path / "run"), key=lambda row: row["validation_loss"])
    assert best["validation_loss"] == pytest.approx(by_hand(model, rows[:HELD_OUT], " "), rel=1e-3)
    assert best["validation_loss"] < by_hand(before, rows[:HELD_OUT], " ") / 2
    # zoo eval knows the separator of a run.
    measured = figures(capsys, tmp_path / "run", "--data", folder / "held_out.jsonl", "--completions", 0)
    assert measured["loss"] == pytest.approx(best["validation_loss"], rel=1e-4)
    prompt, right = rows[HELD_OUT]
    assert Generator(model).generate_text(prompt, 24) == f" {right}"


# --- text


@pytest.mark.full  # gpt-pretrain does the same in the quick tier
def test_text_is_gone_on_with_as_gpt_pretrain_does(
    trained: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--steps 4 --evaluate-every 2 --batch-size 4 --learning-rate 1e-3"
    of_fine_tuning = "--no-xla --schedule linear --warmup-steps 50 --weight-decay 0.01 --beta-2 0.98"
    for recipe, more in (("generate-text", ""), ("gpt-pretrain", of_fine_tuning)):
        given = ["--data", str(text_file), "--from", str(trained), "--out", str(tmp_path / recipe)]
        assert zoo_command(["train", recipe, *given, *options.split(), *more.split()]) == 0
    assert "is text: going on with it as gpt-pretrain does" in capsys.readouterr().err
    last = "checkpoints/step-00000004/weights.safetensors"
    assert arrays(tmp_path / "generate-text" / last) == arrays(tmp_path / "gpt-pretrain" / last)
    assert json.loads((tmp_path / "generate-text" / "recipe.json").read_text())["recipe"] == "gpt-pretrain"


@pytest.mark.parametrize(
    ("name", "content", "asked", "wanted"),
    [
        ("a.txt", "prompt,completion\na,b\n", {}, True),
        ("a.csv", "prompt,completion,text\na,b,c\n", {}, False),
        ("a.csv", "Output,id,Instruction\na,b,c\n", {}, False),
        ("a.csv", "text,label\na,b\n", {}, True),
        ("a.csv", "text,label\na,b\n", {"prompt_column": "text"}, False),
        ("a.csv", "prompt,completion,body\na,b,c\n", {"text_column": "body"}, True),
        ("a.csv", "question,reply\na,b\n", {}, False),
        ("a.jsonl", '{"anything": "a"}\n', {}, True),
        ("a.json", '[{"text": "a"}]', {}, False),
        ("folder/a.csv", "prompt,completion\na,b\n", {}, False),
        ("folder/a.csv", "text\na\n", {}, True),
        ("folder/a.md", "a\n", {}, True),
        ("folder/deep/a.csv", "prompt,completion\na,b\n", {}, True),
    ],
)
def test_text_and_tables_are_told_apart(tmp_path: Path, name: str, content: str, asked: dict, wanted: bool) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text(content)
    text_column = asked.pop("text_column", None)
    path = tmp_path / Path(name).parts[0]
    assert is_text(path, CompletionColumns(**asked), text_column) is wanted


def test_a_folder_of_several_kinds_of_tables_is_text(tmp_path: Path) -> None:
    for name, content in (("a.csv", "prompt,completion\na,b\n"), ("b.json", "[]"), ("c.txt", "text")):
        (tmp_path / name).write_text(content)
    assert is_text(tmp_path, CompletionColumns())
    with pytest.raises(UserError, match="does not exist"):
        is_text(tmp_path / "nowhere", CompletionColumns())


# --- the table


@pytest.mark.parametrize(
    ("header", "wanted", "found"),
    [
        ("completion,id,Prompt", {}, ("Prompt", "completion", None)),
        ("instruction,input,output", {}, ("instruction", "output", "input")),
        ("question,answer", {}, ("question", "answer", None)),
        ("input,output", {}, ("input", "output", None)),
        ("target,source", {}, ("source", "target", None)),
        ("question,reply", {}, ("question", "reply", None)),
        ("message,answer", {}, ("message", "answer", None)),
        ("prompt,completion,better", {"completion_column": "better"}, ("prompt", "better", None)),
        ("a,answer,b", {"prompt_column": "b"}, ("b", "answer", None)),
        ("a,b,c", {"prompt_column": "b", "input_column": "c"}, ("b", "a", "c")),
        ("a,b", {"prompt_column": "b", "completion_column": "a"}, ("b", "a", None)),
    ],
)
def test_columns_are_found(tmp_path: Path, header: str, wanted: dict, found: tuple[str, str, str | None]) -> None:
    table = open_table(write_table(tmp_path / "a.csv", header.split(","), ["x"] * (header.count(",") + 1)))
    assert find_columns(table, CompletionColumns(**wanted)) == found


def test_what_is_not_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    table = open_table(write_table(tmp_path / "a.csv", ["instruction", "input", "output", "id"], ["x"] * 4))
    find_columns(table, CompletionColumns())
    assert "prompts from 'instruction' and 'input', completions from 'output'; not read: 'id'" in caplog.text


def test_what_an_instruction_is_about_follows_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    header = ["instruction", "input", "output"]
    table = open_table(write_table(tmp_path / "a.csv", header, ["say", "red cat", "rotte katt"], ["rest", "", "ok"]))
    data = read_completions(table, find_columns(table, CompletionColumns()), tokenizer)
    assert [data.texts(place) for place in (0, 1)] == [("say\nred cat", "rotte katt"), ("rest", "ok")]
    assert data.ids(0)[0].tolist() == tokenizer.encode("say\nred cat")


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (["a,b,c", "x,y,z"], (), "give --prompt-column, one of 'a', 'b', 'c'"),
        (["a,b,prompt", "x,y,z"], (), "give --completion-column, one of 'a', 'b'"),
        (["a,b", "x,y"], ("--prompt-column", "q"), "--prompt-column is 'q'"),
        (["prompt,completion", *["a,b"] * 90, *["a,"] * 10], (), "10 of 100 rows (10.0%) cannot be used: no compl"),
        (["prompt,completion", *["a,b"] * 90, *[" ,b"] * 10], (), "no prompt (10)"),
        (["prompt,completion", "a,b"], (), "1 rows cannot be shared out"),
        (["prompt,completion", "a,b", "c,d"], ("--separator", "x" * 40), "--separator has"),
        (["prompt,completion", "a,b", "c,d"], ("--separator", "<|endoftext|>"), "--separator holds <|endoftext|>"),
        (["prompt,completion", "a,b"], ("--evaluation-completions", "-1"), "--evaluation-completions is -1"),
        (["prompt,completion", "a,b"], ("--text-column", "a", "--prompt-column", "b"), "leave out either"),
        (["prompt,completion", "a,b"], ("--adapt", "lora"), "give one with --from"),
        (["prompt,completion", "a,b"], ("--from", "x", "--adapt", "frozen"), "use --adapt lora, or say with --freeze"),
        (["prompt,completion", "a,b"], ("--tokenizer", "wordpiece"), "has no token for the end of a text"),
        (["prompt,completion", "a,b"], ("--preset", "bert-nano"), "bert-nano is a bert model"),
        (["text", "a"], (), "is text, and no table with prompts and completions: give a model"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: list[str], options: tuple[str, ...], told: str
) -> None:
    (tmp_path / "a.csv").write_text("\n".join([*content, ""]))
    fixed = ["--max-length", "32", *(() if "--from" in options else ("--preset", "gpt-nano", "--tokenizer", "char"))]
    arguments = ["train", "generate-text", "--data", str(tmp_path / "a.csv"), "--out", str(tmp_path / "run")]
    assert zoo_command([*arguments, *fixed, *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: ")]
    assert len(lines) == 1 and told in lines[0], lines
    assert not (tmp_path / "run").exists()


def test_rows_are_read_as_they_stand(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = [
        {"prompt": "say red  cat ", "completion": " rot\nkatze"},
        {"prompt": "say 4", "completion": 4},
        {"prompt": "say red", "completion": "rot<|endoftext|>"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = read(tmp_path / "a.jsonl", tokenizer)
    texts = [data.texts(place) for place in range(3)]
    assert texts == [("say red  cat ", " rot\nkatze"), ("say 4", "4"), ("say red", "rot")]
    source = CompletionSource(data, tokenizer, 64, "\n")
    for place, (prompt, completion) in enumerate(texts):
        parts = [*map(tokenizer.encode, (prompt, "\n", completion))]
        assert source.row(place).tolist() == [*itertools.chain(*parts), tokenizer.end_of_text]


def test_training_sees_the_very_prompt_that_generation_sees(tmp_path: Path) -> None:
    """Also where a token would go across the seam, if both were encoded together."""
    tokenizer = train_bpe(["say redcat"] * 20, 300)
    assert tokenizer.encode("say redcat") != tokenizer.encode("say red") + tokenizer.encode("cat")
    data = read(tmp_path / "a.csv", tokenizer, ["prompt", "completion"], ["say red", "cat"])
    (inputs, labels, weights), width = (
        CompletionSource(data, tokenizer, 16, "").collate(0, np.array([0]), 12, np.random.default_rng(0)),
        len(tokenizer.encode("say red")),
    )
    seen = inputs["token_ids"][0, :width]

    model = zoo.create("gpt-nano", task="generate", vocabulary_size=tokenizer.vocabulary_size)
    model.tokenizer, given = tokenizer, []
    generator = Generator(model)
    run = generator._run
    generator._run = lambda ids, *rest: given.append(ids) or run(ids, *rest)  # type: ignore[method-assign]
    generator.generate_text("say red", 1)
    np.testing.assert_array_equal(given[0], [seen])
    assert weights["sequence"][0, : width - 1].sum() == 0 and weights["sequence"][0, width - 1] == 1
    assert labels["sequence"][0, width - 1] == tokenizer.encode("cat")[0]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_what_is_too_long_is_cut_as_promised(data: st.DataObject) -> None:
    """Against a loop that takes tokens away one by one."""
    draw = data.draw
    length = draw(st.integers(3, 20))
    separator = "|" * draw(st.integers(0, length - 2))
    counts = draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4))
    tokenizer = train_characters(["abcdefghijklmnopqrstuvwxyz|"])
    letters = "abcdefghijklmnopqrstuvwxyz" * 2
    rows = [(letters[:prompt], letters[::-1][:completion]) for prompt, completion in counts]

    class Fake:
        columns = ("prompt", "completion")

        def lengths(self, name: str) -> np.ndarray:
            return np.array([len(row[self.columns.index(name)]) for row in rows])

        def row(self, name: str, place: int) -> np.ndarray:
            return np.array(tokenizer.encode(rows[place][self.columns.index(name)]), np.int32)

    source = CompletionSource(Completions(Fake(), np.arange(len(rows))), tokenizer, length, separator)  # type: ignore[arg-type]
    end = tokenizer.end_of_text
    for place, (prompt, completion) in enumerate(rows):
        given, said = tokenizer.encode(prompt), [*tokenizer.encode(completion), end]
        between = tokenizer.encode(separator)
        room = length + 1 - len(between)
        fits = len(said) + 1 <= room
        while len(given) + len(said) > room:
            if len(given) > (1 if fits else room // 2):
                given = given[1:]
            else:
                said = said[:-1]
        assert source.row(place).tolist() == [*given, *between, *said]
        assert source.lengths(0)[place] == len(given) + len(between) + len(said) - 1 <= length
        inputs, labels, weights = source.collate(0, np.array([place]), length, np.random.default_rng(0))
        weighed = labels["sequence"][weights["sequence"] > 0]
        assert weighed.tolist() == [*between, *said]
        first = int(weights["sequence"][0].argmax())
        assert inputs["token_ids"][0, : first + 1].tolist() == given


def test_what_is_cut_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tokenizer = train_characters(["ab"])
    rows = [["a" * 3, "b" * 3]] * 17 + [["a" * 50, "b" * 3]] * 2 + [["a", "b" * 60]]
    data = read(tmp_path / "a.csv", tokenizer, ["prompt", "completion"], *rows)
    tell(data, data.select(np.arange(2)), CompletionSource(data, tokenizer, 16, "\n"))
    assert "training: 20 prompts with their completions" in caplog.text
    assert "held out: 2 prompts with their completions" in caplog.text
    assert "3 tokens a prompt and 4 a completion at the median, 63 both at most" in caplog.text
    assert "2 prompts are cut from the left and 1 completions at their ends, to fit in 16" in caplog.text


def test_no_label_of_a_prompt_moves_a_weight(trained: Path, rows: list, folder: Path) -> None:
    model = zoo.load(trained)
    model.keeps_sequence = True
    source = held_out_source(folder, model.tokenizer)
    inputs, labels, weights = source.collate(0, np.arange(6), 32, np.random.default_rng(0))
    assert 0 < weights["sequence"].sum() < weights["sequence"].size

    def learn(ids: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """The loss that is trained, and its gradients."""
        with tf.GradientTape() as tape:
            vectors = model(inputs, training=False)["sequence"]
            loss = next_token_loss(model)["sequence"](ids, vectors, sample_weight=weights["sequence"])
        slopes = tape.gradient(loss, model.trainable_weights)
        return float(loss), [tf.convert_to_tensor(each).numpy() for each in slopes]

    others = np.random.default_rng(1).integers(0, model.config.vocabulary_size, labels["sequence"].shape)
    weigh = weights["sequence"] > 0
    loss, plain = learn(labels["sequence"])
    assert loss == pytest.approx(by_hand(model, rows[:6]), rel=1e-4)
    for one, other in zip(plain, learn(np.where(weigh, labels["sequence"], others))[1], strict=True):
        np.testing.assert_array_equal(one, other)
    _, changed = learn(np.where(weigh, others, labels["sequence"]))
    assert not all(np.array_equal(one, other) for one, other in zip(plain, changed, strict=True))


def test_rows_with_the_same_prompt_stay_together(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [[f"say {i % 10}", f"{i}"] for i in range(40)]
    data = read(tmp_path / "a.csv", tokenizer, ["prompt", "completion"], *rows)
    train_data, held_out = split(data, 0.3, 5)
    prompts = [{each.texts(place)[0] for place in range(len(each))} for each in (train_data, held_out)]
    assert not prompts[0] & prompts[1] and len(prompts[1]) == 3
    assert len(train_data) + len(held_out) == 40


# --- the report


def test_figures_and_page_by_hand(tmp_path: Path) -> None:
    right, said = ["rot", "blau", "gruen"], [" rot\n", "blaue", ""]
    figures = completion_figures(0.5, right, said)
    assert figures == {"loss": 0.5, "perplexity": pytest.approx(1.6487213), "exact_match": pytest.approx(1 / 3)}
    assert completion_figures(1000.0, [], [])["perplexity"] < float("inf")
    told = write_completions(tmp_path, list(zip(["say *red*", "say\nblue", "say green"], right, strict=True)), said)
    assert told == [
        "2 of 3 held-out prompts are not completed word for word: [completions](completions.md), the wrong ones first."
    ]
    page = (tmp_path / "completions.md").read_text()
    assert page.index("## say blue") < page.index("## say green") < page.index("## say \\*red\\*")
    assert "- it said: blaue\n- right: blau\n" in page and "- it said: (nothing)\n- right: gruen\n" in page
    assert write_completions(tmp_path, [], []) == []


def test_prompts_of_a_sorted_table_are_taken_evenly(folder: Path, tokenizer: Tokenizer) -> None:
    source = held_out_source(folder, tokenizer)
    assert Completion(source, 8, 4).places == [0, 7, 15, 22]
    assert Completion(source, 8, 100).places == list(range(HELD_OUT))
    assert Completion(source, 8, 0).places == []

"""The recipe distill, for each task of a teacher, with tiny settings."""

import csv
import json
import math
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import zoo
from recipes.command import run as zoo_command
from recipes.data.grouping import GroupedBatches
from recipes.engine.student import Student, look_up_lesson
from recipes.reports.comparison import Comparison, median_seconds
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import arrays, newest_step, outcome
from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_wordpiece

NAMES = ("anna", "bert", "carl", "dora", "emil", "fred")
VERBS = {"good": ("likes", "loves", "praises", "enjoys"), "bad": ("hates", "dreads", "scorns", "avoids")}
THINGS = ("tea", "rain", "music", "snow", "bread", "wool")
STEPS = 48
SIZES: dict[str, Any] = {"width": 32, "depth": 4, "num_heads": 2, "max_length": 16}


def sentence(draw: random.Random, label: str) -> str:
    return f"{draw.choice(NAMES)} {draw.choice(VERBS[label])} {draw.choice(THINGS)}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences, and whether somebody is pleased."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        labels = [draw.choice(("good", "bad")) for _ in range(120)]
        csv.writer(file).writerows([["text", "label"], *([sentence(draw, label), label] for label in labels)])
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(1)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{sentence(draw, draw.choice(('good', 'bad')))}.\n" for _ in range(600)))
    return path


Teachers = Callable[[str], Path]


@pytest.fixture(scope="module")
def teachers(table: Path, text: Path, enliven: Any, tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """Gives the directory of a teacher for a task, which knows nothing, but says it firmly."""
    folder = tmp_path_factory.mktemp("teachers")

    def teacher(task: str) -> Path:
        if (folder / task).exists():
            return folder / task
        family = "gpt" if task == "generate" else "bert"
        train = train_bpe if family == "gpt" else train_wordpiece
        tokenizer = train([text.read_text()], 300)
        model = zoo.create(f"{family}-nano", task=task, **SIZES, vocabulary_size=tokenizer.vocabulary_size)
        enliven(model, seed=3)
        model.tokenizer = tokenizer
        if task == "classify":
            model.labels = ("good", "bad")
        zoo.save(model, folder / task)
        return folder / task

    return teacher


@pytest.fixture(scope="module")
def classifier(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained a teacher which knows the rule."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    options = "--preset bert-nano --depth 4 --vocabulary-size 300 --max-length 16 --batch-size 16 --learning-rate 3e-3"
    more = "--warmup-steps 5 --epochs 8 --evaluate-every 40 --validation-fraction 0.2"
    command = ["train", "classify-text", "--data", str(table), "--out", str(out), *options.split(), *more.split()]
    assert zoo_command(command) == 0
    return out


def command(teacher: Path, data: Path, out: Path | None, *options: str) -> list[str]:
    fixed = (
        f"--batch-size 16 --learning-rate 1e-2 --warmup-steps 4 --steps {STEPS} --evaluate-every 16 "
        "--validation-fraction 0.2 --evaluation-sequences 32"
    )
    where = [] if out is None else ["--out", str(out)]
    return ["train", "distill", "--teacher", str(teacher), "--data", str(data), *where, *fixed.split(), *options]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def distilled(classifier: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student is narrower than its teacher, and so begins with fresh weights."""
    out = tmp_path_factory.mktemp("distill") / "run"
    options = ["--width", "16", "--dropout", "0.1"]
    assert zoo_command(command(classifier, table, out, *options)) == 0
    return out


# --- a classifier


def test_a_student_learns_what_its_teacher_says(distilled: Path, classifier: Path) -> None:
    found = rows_of(distilled)
    assert [row["step"] for row in found] == [16, 32, 48]
    assert found[-1]["validation_loss"] < 0.5 * found[0]["validation_loss"]
    best = max(found, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert best["validation_accuracy"] > 0.9 and best["validation_agreement"] > 0.9
    assert {row["validation_teacher_accuracy"] for row in found} == {1.0}
    student, teacher = zoo.load(distilled), zoo.load(classifier)
    assert (student.task, student.config) == ("classify", teacher.config.replace(depth=2, width=16, num_heads=1))
    assert student.labels == teacher.labels and student.tokenizer.same_as(teacher.tokenizer)
    summary = (distilled / "summary.md").read_text()
    assert f"| parameters | {teacher.count_params():,} | {student.count_params():,} |" in summary
    assert f"| accuracy | 1.0000 | {best['validation_accuracy']:.4f} |" in summary
    assert re.search(r"\| ms for one input of 8 tokens \| \d+\.\d\d \| \d+\.\d\d \|", summary)
    assert f"Both say the same at {best['validation_agreement']:.1%} of the held-out places" in summary


def test_neither_model_nor_checkpoint_holds_the_teacher(distilled: Path) -> None:
    names = set(zoo.load(distilled).named_weights())
    checkpoint = distilled / "checkpoints" / f"step-{STEPS:08}"
    assert set(arrays(distilled / "model" / "model.safetensors")) == names
    assert set(arrays(checkpoint / "weights.safetensors")) == {*names, "hidden_map.kernel"}
    others = arrays(checkpoint / "optimizer.safetensors")
    # For each weight that is trained two averages, beside the number of updates; and a random state for each dropout,
    # of which there are two in a block, one on the embeddings, and one before the classifier.
    assert sum(name.startswith("optimizer.") for name in others) == 1 + 2 * (len(names) + 1)
    assert sum(name.startswith("random.") for name in others) == 2 * 2 + 1 + 1


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_stopped_and_started_again_it_ends_as_one_that_never_was(
    distilled: Path, classifier: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fetch = tmp_path / "run", GroupedBatches.batch
    arguments = command(classifier, table, out, "--width", "16", "--dropout", "0.1")

    def signal_and_fetch(self: Any, step: int) -> Any:
        if self.num_batches is None and step == 21:
            os.kill(os.getpid(), signal.SIGTERM)
        return fetch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(GroupedBatches, "batch", signal_and_fetch)
        with pytest.raises(SystemExit) as stopped:
            zoo_command(arguments)
        assert stopped.value.code == 75
    assert 0 < newest_step(out) < STEPS
    assert zoo_command(arguments) == 0
    assert outcome(out, STEPS) == outcome(distilled, STEPS)


def test_another_teacher_is_no_way_to_go_on(
    distilled: Path, classifier: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = tmp_path / "run", tmp_path / "teacher"
    shutil.copytree(distilled, out)
    shutil.copytree(classifier / "model", moved)
    options = ["--width", "16", "--dropout", "0.1"]
    assert zoo_command(command(moved, table, out, *options)) == 0
    model = zoo.load(moved)
    model.backbone.pooler.bias.assign_add(np.ones(32))
    zoo.save(model, moved, force=True)
    assert zoo_command(command(moved, table, out, *options, "--force")) == 2
    assert "the data is not what" in capsys.readouterr().err


# --- language models


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
@pytest.mark.parametrize(("task", "figure"), [("masked_lm", "masked_accuracy"), ("generate", "perplexity")])
def test_a_language_model_learns_from_text(
    teachers: Teachers, text: Path, tmp_path: Path, task: str, figure: str
) -> None:
    """With the teacher's blocks to begin with; the words of a teacher that knows nothing against those of the text."""
    options = ["--alpha", "0.2", "--beta", "0.3", "--max-length", "12"]
    assert zoo_command(command(teachers(task), text, tmp_path / "run", *options)) == 0
    found = rows_of(tmp_path / "run")
    assert found[-1]["validation_loss"] < 0.5 * found[0]["loss"]
    sign = 1 if figure == "perplexity" else -1
    best = min(found, key=lambda row: (sign * row[f"validation_{figure}"], row["validation_loss"]))
    assert sign * best[f"validation_{figure}"] < sign * best[f"validation_teacher_{figure}"]
    assert f"| best step | {best['step']} of {STEPS} |" in (tmp_path / "run" / "summary.md").read_text()
    student, teacher = zoo.load(tmp_path / "run"), zoo.load(teachers(task))
    assert (student.task, student.config) == (task, teacher.config.replace(depth=2))
    assert set(arrays(tmp_path / "run" / "checkpoints" / f"step-{STEPS:08}" / "weights.safetensors")) == set(
        student.named_weights()
    )


@pytest.mark.full  # its kin in test_classify_text and test_bert_pretrain are in the quick tier
def test_two_replicas_end_where_one_device_does(teachers: Teachers, table: Path, tmp_path: Path) -> None:
    options = "--preset bert-nano --dropout 0 --beta 1 --clip-norm 0.1 --steps 6 --evaluate-every 3"
    arguments = command(teachers("classify"), table, None, *options.split(), "--learning-rate", "1e-3")
    assert_two_replicas_equal_one(arguments, tmp_path, "validation_accuracy", "validation_agreement")


# --- the comparison


class Fixed:
    """Two held-out batches."""

    num_batches = 2

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def batch(self, step: int) -> Any:
        return self.batches[step]


@pytest.mark.parametrize(
    "task", ["classify", *(pytest.param(task, marks=pytest.mark.full) for task in ("masked_lm", "generate"))]
)
def test_both_are_measured_as_by_hand(teachers: Teachers, enliven: Any, task: str) -> None:
    teacher = zoo.load(teachers(task))
    student = enliven(zoo.load(teachers(task)), seed=5)
    rng, batches = np.random.default_rng(0), []
    for rows in (3, 2):
        inputs = {"token_ids": rng.integers(0, 40, (rows, 6)).astype("int32")}
        if task == "masked_lm":
            inputs["masked_positions"] = rng.integers(0, 6, (rows, 2)).astype("int32")
        shape = {"classify": (rows,), "masked_lm": (rows, 2), "generate": (rows, 6)}[task]
        labels = {"logits": rng.integers(0, 2 if task == "classify" else 40, shape).astype("int32")}
        weights = {"logits": rng.uniform(0.1, 1.0, shape).astype("float32")}
        batches.append((inputs, labels) if task == "generate" else (inputs, labels, weights))
    weight = agreement = 0.0
    right, entropy = {"": 0.0, "teacher_": 0.0}, {"": 0.0, "teacher_": 0.0}
    for inputs, labels, *rest in batches:
        logits = {name: model(inputs)["logits"].numpy() for name, model in (("", student), ("teacher_", teacher))}
        for place in np.ndindex(*labels["logits"].shape):
            own = float(rest[0]["logits"][place]) if rest else 1.0
            weight += own
            agreement += own * (logits[""][place].argmax() == logits["teacher_"][place].argmax())
            for name, each in logits.items():
                powers = np.exp(each[place].astype("float64"))
                right[name] += own * (each[place].argmax() == labels["logits"][place])
                entropy[name] -= own * math.log(powers[labels["logits"][place]] / powers.sum())
    figure = {"classify": "accuracy", "masked_lm": "masked_accuracy", "generate": "perplexity"}[task]
    wanted = {
        f"{name}{figure}": math.exp(entropy[name] / weight) if task == "generate" else right[name] / weight
        for name in right
    }
    found = Comparison(student, teacher, Fixed(*batches)).figures()  # type: ignore[arg-type]
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in wanted.items()} | {
        "agreement": pytest.approx(agreement / weight, rel=1e-5)
    }


def test_the_time_is_that_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clock that says how long each pass took; the first ones are not counted."""
    seconds = [9.0, 9.0, 9.0, *([1.0] * 15), *([2.0] * 15)]
    clock = iter(np.cumsum([each for pause in seconds for each in (100.0, pause)]).tolist())
    monkeypatch.setattr("recipes.reports.comparison.time.perf_counter", lambda: next(clock))
    measured = median_seconds(lambda inputs, training: {"logits": inputs["x"] + 1}, {"x": tf.constant([1.0])})
    assert measured == pytest.approx(1.5)


# --- teacher and student


@pytest.mark.parametrize(
    ("settings", "sizes", "begins_as_teacher"),
    [
        (Student(), {"depth": 2}, True),
        (Student(depth=3), {"depth": 3}, True),
        (Student(width=32), {"depth": 2}, True),
        (Student(width=48), {"depth": 2, "width": 48, "num_heads": 3}, False),
        (Student(depth=6, width=16), {"depth": 6, "width": 16, "num_heads": 1}, False),
        (Student(preset="bert-tiny"), {"depth": 2, "width": 128, "num_heads": 2}, False),
        (Student(preset="bert-tiny", depth=1, width=64), {"depth": 1, "width": 64, "num_heads": 1}, False),
        (Student(dropout=0.3), {"depth": 2, "dropout": 0.3, "attention_dropout": 0.3}, True),
    ],
)
def test_what_a_student_is(teachers: Teachers, settings: Student, sizes: dict, begins_as_teacher: bool) -> None:
    lesson = look_up_lesson(str(teachers("masked_lm")), settings)
    assert (lesson.task, lesson.student, lesson.begins_as_teacher) == ("masked_lm", None, begins_as_teacher)
    assert lesson.config == lesson.teacher_config.replace(**sizes)
    assert lesson.length == 16


def test_a_student_that_exists_goes_on(teachers: Teachers, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher = zoo.load(teachers("masked_lm"))
    sizes = {**SIZES, "depth": 1, "width": 16, "max_length": 12, "vocabulary_size": teacher.config.vocabulary_size}
    student = zoo.create("bert-nano", task="backbone", **sizes)
    student.tokenizer = teacher.tokenizer
    zoo.save(student, tmp_path / "student")
    settings = Student(source=str(tmp_path / "student"), dropout=0.2, max_length=14)
    lesson = look_up_lesson(str(teachers("masked_lm")), settings)
    assert "--max-length 14 is cut to the 12 tokens that both models read" in caplog.text
    assert lesson.length == 12
    made = lesson.make_student(lesson.load_teacher("float32"), "float32")
    assert made.config == student.config.replace(dropout=0.2, attention_dropout=0.2)
    for name, weight in student.named_weights().items():
        if "pooler" not in name:
            np.testing.assert_array_equal(made.named_weights()[name].numpy(), weight.numpy())


def test_a_model_of_both_objectives_teaches_one(teachers: Teachers, tmp_path: Path) -> None:
    teacher = zoo.load(teachers("masked_lm"), task="pretrain")
    zoo.save(teacher, tmp_path / "teacher")
    lesson = look_up_lesson(str(tmp_path / "teacher"), Student())
    assert lesson.task == "masked_lm"
    assert lesson.load_teacher("float32").output_names == ("logits",)


def save_other(directory: Path, family: str, task: str, tokenizer: Tokenizer, **sizes: Any) -> str:
    model = zoo.create(f"{family}-nano", task=task, **{**SIZES, "vocabulary_size": 300, **sizes})
    model.tokenizer = tokenizer
    zoo.save(model, directory)
    return str(directory)


def test_what_does_not_fit_is_refused(teachers: Teachers, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(teachers("masked_lm"))
    other = train_wordpiece(["something else entirely, and then more of the same"], 150)
    others = {
        "answerer": save_other(tmp_path / "answer", "bert", "answer", tokenizer),
        "other words": save_other(tmp_path / "words", "bert", "masked_lm", other),
        "gpt": str(teachers("generate")),
        "larger": save_other(tmp_path / "larger", "bert", "masked_lm", tokenizer, vocabulary_size=400),
    }
    zoo.save(zoo.create("clip-nano"), tmp_path / "clip")
    zoo.save(zoo.create("vit-nano", patch_size=16), tmp_path / "coarse")
    zoo.save(zoo.create("vit-nano"), tmp_path / "vit")
    cases = [
        ("answer", Student(), "answer is a bert model for answer"),
        ("clip", Student(), "clip is a clip model for contrast"),
        ("vit", Student(max_length=8), "--max-length is for models of text"),
        ("vit", Student(source=str(tmp_path / "coarse")), "is no vit model with patches of 8 pixels"),
        ("masked_lm", Student(depth=5), "--depth is 5, and the teacher has 4 blocks to begin with"),
        ("masked_lm", Student(width=20), "--width is 20, and must be a multiple of 16"),
        ("masked_lm", Student(preset="gpt-mini"), "--preset gpt-mini is a gpt model"),
        ("masked_lm", Student(source=others["gpt"]), "is no bert model with the teacher's tokenizer"),
        ("masked_lm", Student(source=others["other words"]), "is no bert model with the teacher's tokenizer"),
        ("masked_lm", Student(source=others["larger"]), "has a vocabulary_size of 400, and the teacher's is"),
    ]
    for teacher, settings, told in cases:
        directory = tmp_path / teacher if (tmp_path / teacher).exists() else teachers(teacher)
        with pytest.raises(UserError) as refused:
            look_up_lesson(str(directory), settings)
        assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--alpha", "1.5"], "--alpha is 1.5, and must be from 0 to 1"),
        (["--beta", "-1"], "--beta is -1.0, and must be 0 or more"),
        (["--temperature", "0"], "--temperature is 0.0, and must be above 0"),
        (["--mask-rate", "1"], "--mask-rate is 1.0, and must be between 0 and 1"),
        (["--evaluation-sequences", "0"], "--evaluation-sequences is 0, and must be at least 1"),
        (["--depth", "0"], "--depth is 0, and must be at least 1"),
        (["--from", "somewhere", "--width", "16"], "--from brings its own size: leave out --width, or --from"),
        (["--adapt", "lora"], "give one with --from"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    teachers: Teachers, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert zoo_command(command(teachers("classify"), table, tmp_path / "run", *options)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: ")]
    assert len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "run").exists()

"""The recipe gpt-pretrain, end to end with tiny settings."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from recipes.data.text import find_documents, open_corpus
from recipes.evaluation import evaluate_language_model
from recipes.gpt_pretrain import GPTOrigin, train_gpt
from tests.recipes.conftest import tiny


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_what_it_promises(trained_run):
    found = rows(trained_run)

    assert [row["step"] for row in found] == [100, 200, 300]
    recipe = json.loads((trained_run / "recipe.json").read_text())
    # The unigram entropy is what a model that sees no context can reach.
    assert found[-1]["validation_loss"] < 0.6 * recipe["facts"]["unigram_entropy"]
    assert found[-1]["loss"] < found[0]["loss"]
    assert (trained_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (trained_run / "samples.txt").read_text().count("--- step") == 3
    assert list((trained_run / "tensorboard").rglob("events.out.tfevents.*"))
    assert recipe["recipe"] == "gpt-pretrain"
    assert recipe["settings"]["training"]["steps"] == 300
    assert {"tensorflow", "keras"} <= recipe["versions"].keys()
    assert {path.name for path in (trained_run / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }


def test_the_kept_model_has_the_loss_that_was_recorded(trained_run, text_file):
    best = min(rows(trained_run), key=lambda row: row["validation_loss"])
    held_out = open_corpus(text_file).validation
    measured = evaluate_language_model(zoo.load(trained_run), held_out)

    # The evaluation during training leaves out windows that fill no batch: the two agree but for those.
    assert measured["loss"] == pytest.approx(best["validation_loss"], rel=0.03)
    assert measured["bytes"] == held_out[0].bytes


def test_evaluation_equals_a_loop_over_single_predictions(trained_run, tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("The model reads text.\nA token writes again, éclair 日本.\n" * 2, encoding="utf-8")
    model = zoo.load(trained_run)
    measured = evaluate_language_model(model, tuple(find_documents(path)), batch_size=2)

    ids = [*model.tokenizer.encode(path.read_text(encoding="utf-8")), model.tokenizer.end_of_text]
    length, total = model.config.max_length, 0.0
    for start in range(0, len(ids) - 1, length):
        window = np.array([ids[start : start + length]], "int32")
        logits = model({"token_ids": window})["logits"].numpy()[0].astype("float64")
        for i, target in enumerate(ids[start + 1 : start + length + 1]):
            total += np.log(np.exp(logits[i]).sum()) - logits[i, target]
    assert measured["tokens"] == len(ids) - 1
    assert measured["loss"] == pytest.approx(total / (len(ids) - 1), rel=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(total / path.stat().st_size / math.log(2), rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]), rel=1e-5)


@pytest.mark.full  # which model is the best is in the quick tier in test_engine
def test_the_best_model_is_kept_when_training_goes_on_to_do_harm(text_file, tmp_path, monkeypatch):
    # A schedule that first learns, then destroys.
    import recipes.engine.loop
    from recipes.engine.optimizer import make_optimizer

    class Harm:
        def __new__(cls, model, optimization, steps):
            import keras

            optimizer = make_optimizer(model, optimization, steps)
            steps = keras.optimizers.schedules.PiecewiseConstantDecay([20], [1e-2, 1.0])
            optimizer.learning_rate = steps
            return optimizer

    monkeypatch.setattr(recipes.engine.loop, "make_optimizer", Harm)
    out = tmp_path / "run"
    summary = train_gpt(tiny(text_file, out, steps=40, evaluate_every=20, sample_tokens=0))

    found = rows(out)
    assert found[1]["validation_loss"] > found[0]["validation_loss"]
    assert summary["best_step"] == 20
    measured = evaluate_language_model(zoo.load(out), open_corpus(text_file).validation)
    assert measured["loss"] == pytest.approx(found[0]["validation_loss"], rel=0.03)
    assert not (out / "samples.txt").exists()


@pytest.mark.full  # that a run is repeated bit for bit is in the quick tier in test_resume
def test_the_same_seed_gives_the_same_run_and_another_does_not(text_file, tmp_path):
    def weights(name, seed):
        settings = {"steps": 4, "evaluate_every": 4, "dropout": 0.1, "sample_tokens": 0}
        train_gpt(tiny(text_file, tmp_path / name, seed=seed, **settings))
        return (tmp_path / name / "model" / "model.safetensors").read_bytes()

    first = weights("a", 3)
    assert weights("b", 3) == first
    assert weights("c", 4) != first


@pytest.mark.full  # three trainings, of what the quick tier has one by one
def test_bpe_bfloat16_and_going_on_from_a_model(text_file, tmp_path):
    first = tiny(
        text_file,
        tmp_path / "bpe",
        tokenizer="bpe",
        vocabulary_size=300,
        precision="bfloat16",
        evaluate_every=30,
        steps=30,
        xla=True,
    )
    summary = train_gpt(first)
    model = zoo.load(tmp_path / "bpe")
    assert model.config.vocabulary_size == model.tokenizer.vocabulary_size == 300
    assert {weight.dtype for weight in model.weights} == {"float32"}

    second = tiny(
        text_file,
        tmp_path / "on",
        source=str(tmp_path / "bpe"),
        preset=GPTOrigin.preset,
        tokenizer=GPTOrigin.tokenizer,
        max_length=None,
        steps=5,
        evaluate_every=5,
    )
    assert train_gpt(second)["validation_loss"] < summary["validation_loss"] + 0.2
    assert zoo.load(tmp_path / "on").tokenizer.same_as(model.tokenizer)


@pytest.mark.full  # documents apart are in the quick tier at the backbone
def test_separate_documents_are_predicted_from_themselves_alone(tmp_path):
    """The validation loss is that of each document of each window alone, its separator before it."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(f"The model number {number} reads.\n" * (1 + number % 3))
    settings = {"steps": 6, "batch_size": 5, "sample_tokens": 0, "separate_documents": True, "dropout": 0.1}
    summary = train_gpt(tiny(folder, tmp_path / "run", evaluate_every=6, **settings))

    model = zoo.load(tmp_path / "run")
    tokenizer, length = model.tokenizer, 32
    ids: list[int] = []
    for document in open_corpus(folder).validation:
        ids += [*tokenizer.encode(document.path.read_text()), tokenizer.end_of_text]
    losses, borders = [], 0
    for start in range(0, len(ids) - length, length):
        window, targets = ids[start : start + length], ids[start + 1 : start + length + 1]
        firsts = [0, *(place for place in range(1, length) if window[place] == tokenizer.end_of_text)]
        borders += len(firsts) - 1
        for first, end in zip(firsts, [*firsts[1:], length], strict=True):
            logits = model({"token_ids": np.array([window[first:end]])})["logits"].numpy()[0].astype("float64")
            right = logits[np.arange(end - first), targets[first:end]]
            losses += list(np.log(np.exp(logits).sum(-1)) - right)
    per_batch = 5 * length
    assert borders > 5
    assert len(losses) >= per_batch and len(losses) % per_batch == 0  # full batches, so nothing is left out
    assert summary["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.full  # the loss itself is in the quick tier in test_next_token_loss
def test_a_loss_by_parts_makes_the_same_run(text_file, tmp_path):
    """From the logits of ten tokens at a time, of 256, and in two micro-batches."""
    options = {"steps": 4, "evaluate_every": 2, "learning_rate": 1e-3, "sample_tokens": 3, "accumulate": 2}
    train_gpt(tiny(text_file, tmp_path / "whole", **options))
    size = zoo.load(tmp_path / "whole").config.vocabulary_size
    train_gpt(tiny(text_file, tmp_path / "parts", logits_memory=10.5 * 4 * size / 1e6, **options))
    whole, parts = rows(tmp_path / "whole"), rows(tmp_path / "parts")
    for name in ("loss", "validation_loss"):
        assert [row[name] for row in parts] == pytest.approx([row[name] for row in whole], rel=1e-5)
    assert (tmp_path / "parts" / "samples.txt").read_text() == (tmp_path / "whole" / "samples.txt").read_text()


@pytest.mark.full  # three trainings; what an epoch holds is in the quick tier
def test_epochs_are_passes_over_the_windows(text_file, tmp_path):
    settings = tiny(text_file, tmp_path / "run", max_length=256, batch_size=64, epochs=1.5, evaluate_every=None)
    train_gpt(settings)
    tokens = json.loads((tmp_path / "run" / "recipe.json").read_text())["facts"]["train_tokens"]
    steps = math.ceil(1.5 * math.ceil((tokens - 256) // 256 / 64))
    assert rows(tmp_path / "run")[-1]["step"] == steps
    assert train_gpt(settings)["best_step"] == steps  # the same command finds it finished


MIRRORED = """
import sys
import tensorflow as tf
from pathlib import Path
from tests.recipes.conftest import tiny
from recipes.gpt_pretrain import train_gpt

devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
for strategy in ("one", "mirrored"):
    settings = tiny(
        Path(sys.argv[1]), Path(sys.argv[2]) / strategy, strategy=strategy, steps=6, evaluate_every=3, dropout=0.0,
        clip_norm=0.1, learning_rate=1e-3, sample_tokens=0
    )
    train_gpt(settings)
"""


@pytest.mark.full  # a process of its own; two replicas are in the quick tier with each part of a step
def test_two_replicas_end_where_one_device_does(text_file, tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MIRRORED, str(text_file), str(tmp_path)]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    assert "on 2 CPUs" in done.stderr
    one, two = rows(tmp_path / "one"), rows(tmp_path / "mirrored")
    for name in ("loss", "validation_loss"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-5)
    ours, theirs = (zoo.load(tmp_path / name).named_weights() for name in ("one", "mirrored"))
    for name, weight in ours.items():
        a, b = weight.numpy(), theirs[name].numpy()
        if name.endswith("qkv.bias"):  # the key's third has no true gradient: Adam makes full steps of its rounding
            a, b = (np.delete(each, np.s_[len(each) // 3 : 2 * len(each) // 3]) for each in (a, b))
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a) + 1e-7, name

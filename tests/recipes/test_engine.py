"""The engine from within: what a snapshot holds, which model is the best, and a job that is no language model's."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from recipes.data.batches import TrainingBatches, ValidationBatches
from recipes.data.dataset import make_dataset
from recipes.engine.checkpoint import Checkpoint, Store
from recipes.engine.directory import Run
from recipes.engine.job import Job
from recipes.engine.journal import Journal
from recipes.engine.loop import require_best, train
from recipes.engine.snapshot import restore, take_snapshot
from tests.recipes.conftest import tiny
from tests.recipes.resuming import arrays
from zoo.errors import UserError


@pytest.fixture(scope="module")
def model() -> Any:
    """One that has made a step, with AdamW."""
    keras.utils.set_random_seed(0)
    model = zoo.create("gpt-nano", task="generate", vocabulary_size=31, max_length=8)
    model.compile(keras.optimizers.AdamW(1e-3), {"logits": keras.losses.SparseCategoricalCrossentropy(True)})
    make_a_step(model)
    return model


def make_a_step(model: Any) -> None:
    batches = TrainingBatches(np.arange(30, dtype="uint16"), 8, 2, 0)
    model.fit(make_dataset(batches), steps_per_epoch=1, shuffle=False, verbose=0)


def test_a_snapshot_is_a_copy_and_brings_all_of_it_back(model: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints", 3)
    (tmp_path / "run").mkdir()
    journal = Journal(tmp_path / "run", None)
    journal.step = 1
    before = take_snapshot(model, journal.state())
    assert before.state.mid_interval
    kept = {name: array.copy() for part in (before.weights, before.others) for name, array in part.items()}
    make_a_step(model)
    store.save(before)
    store.wait()
    after = take_snapshot(model, journal.state())
    changed = {
        name for name, array in {**after.weights, **after.others}.items() if not np.array_equal(array, kept[name])
    }
    assert {"backbone.token_embedding.table", "optimizer.00000", "random.00000"} <= changed
    for part in (before.weights, before.others):
        for name, array in part.items():
            assert np.array_equal(array, kept[name]), name
    assert store.newest(lambda found: restore(model, found)) is not None
    again = take_snapshot(model, journal.state())
    for name in changed - {name for name in changed if name.startswith("metrics.")}:
        assert np.array_equal({**again.weights, **again.others}[name], kept[name]), name


def test_the_best_model_is_what_the_checkpoint_says(model: Any, tmp_path: Path) -> None:
    """A process that was killed left a later best, of which the run does not know."""
    run = tmp_path / "run"
    run.mkdir()
    store, journal, job = Store(run / "checkpoints", 3), Journal(run, None), poisoned(99)
    checkpoints: list[Checkpoint] = []
    for step, loss in ((1, 2.0), (2, 3.0)):
        journal.step = step
        row = {"step": step, "loss": 1.0, "validation_loss": loss}
        journal.add(row)
        if job.is_better(row, journal.best):
            zoo.save(model, run / "model", force=True)
            journal.keep_best(row)
        store.save(take_snapshot(model, journal.state()))
        store.wait()
        checkpoints.append(store.at(step))  # type: ignore[arg-type]
        make_a_step(model)
    first, second = (arrays(each.directory / "weights.safetensors") for each in checkpoints)
    assert first != second

    zoo.save(model, run / "model", force=True)
    restore(model, checkpoints[1])
    again = Journal(run, checkpoints[1].state)
    assert not again.best_is_there()
    require_best(model, model, again, store, checkpoints[1])
    assert arrays(run / "model" / "model.safetensors") == first
    assert {name: weight.numpy().tobytes() for name, weight in model.named_weights().items()} == second
    assert again.best_is_there()

    shutil.rmtree(run / "model")
    shutil.rmtree(checkpoints[0].directory)
    require_best(model, model, again, Store(run / "checkpoints", 3), checkpoints[1])
    assert again.best is None  # the next one is
    assert job.is_better({"step": 3, "loss": 1.0, "validation_loss": 9.0}, again.best)


@pytest.mark.parametrize("highest_is_best", [True, False])
def test_of_two_figures_alike_the_lower_loss_is_the_better(highest_is_best: bool) -> None:
    job = dataclasses.replace(poisoned(99), judged_by="validation_f1", highest_is_best=highest_is_best)

    def is_better(f1: float, loss: float) -> bool:
        best = {"validation_f1": 0.5, "validation_loss": 2.0}
        return job.is_better({"validation_f1": f1, "validation_loss": loss}, best)

    assert is_better(0.5, 1.9) and not is_better(0.5, 2.0) and not is_better(0.5, 2.1)
    assert is_better(0.6, 3.0) == highest_is_best and is_better(0.4, 3.0) != highest_is_best


def poisoned(first_bad: int) -> Job:
    """A run whose data weigh NaN from a batch on; counted in images."""
    batches = TrainingBatches(np.arange(300, dtype="uint16") % 31, 8, 2, 0)

    def data(first: int) -> tf.data.Dataset:
        def weigh(step: Any, batch: Any) -> Any:
            weight = tf.where(step >= first_bad, float("nan"), 1.0)
            return (*batch, {"logits": tf.fill([2, 8], weight)})

        return make_dataset(batches, first).enumerate(first).map(weigh)

    return Job(
        make_model=lambda dtype: zoo.create("gpt-nano", vocabulary_size=31, max_length=8, dtype=dtype),
        losses={"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        train_data=data,
        validation_data=lambda: make_dataset(ValidationBatches(np.arange(300, dtype="uint16") % 31, 8, 2, 4)),
        unit="images",
        units_per_step=2,
        figures=lambda loss: {"validation_twice": 2 * loss},
    )


def test_a_run_of_updates_that_are_not_finite_ends_it(tmp_path: Path, text_file: Path) -> None:
    settings = tiny(text_file, tmp_path / "run", steps=60, evaluate_every=20, save_every=1, batch_size=2)
    run = Run(settings.out, "test", settings, {"data": ""})
    with pytest.raises(UserError, match=r"not finite.*step-00000025 is the last good checkpoint") as stopped:
        train(poisoned(25), settings.training, run)
    assert "\n" not in str(stopped.value)
    assert run.store.steps() == [25, 24, 23, 20]
    good = run.store.newest()
    assert good is not None
    assert all(np.isfinite(array.astype("float32")).all() for _, array in good.read("weights.safetensors"))


def test_a_recipe_brings_its_own_unit_and_figures(tmp_path: Path, text_file: Path) -> None:
    settings = tiny(text_file, tmp_path / "run", steps=4, evaluate_every=2, batch_size=2, precision="float16")
    summary = train(poisoned(99), settings.training, Run(settings.out, "test", settings, {"data": ""}))
    rows = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert row["validation_twice"] == 2 * row["validation_loss"]
        assert row["skipped_updates"] == 0
        assert "images_per_second" in row
    assert summary["validation_twice"] == 2 * summary["validation_loss"]
    assert not (settings.out / "samples.txt").exists()
    kept = arrays(settings.out / "checkpoints" / "step-00000004" / "optimizer.safetensors")
    assert "step.loss_scale" in kept


def test_another_figure_tells_the_best_model_and_the_recipe_reports_it(tmp_path: Path, text_file: Path) -> None:
    """By the loss, the last one of these would be."""
    settings = tiny(text_file, tmp_path / "run", steps=6, evaluate_every=2, batch_size=2)
    reported: list[Any] = []

    def make_evaluation(model: Any) -> Any:
        scores = iter((0.25, 0.75, 0.5))
        return lambda: {"validation_score": next(scores)}

    def report(model: Any, run: Path) -> list[str]:
        reported.append({name: weight.numpy().tobytes() for name, weight in model.named_weights().items()})
        assert not (run / "summary.md").exists()
        (run / "page.txt").write_text("a page")
        return ["## Scores", "", "[a page](page.txt)"]

    job = dataclasses.replace(
        poisoned(99),
        make_evaluation=make_evaluation,
        judged_by="validation_score",
        highest_is_best=True,
        report=report,
    )
    run = Run(settings.out, "test", settings, {"data": "0123", "train_tokens": 1234, "kind": "a|b"})
    summary = train(job, settings.training, run)
    rows = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["validation_score"] for row in rows] == [0.25, 0.75, 0.5]
    assert rows[2]["validation_loss"] < rows[1]["validation_loss"]
    assert (summary["best_step"], summary["validation_score"]) == (4, 0.75)
    weights = {
        step: arrays(settings.out / "checkpoints" / f"step-{step:08}" / "weights.safetensors") for step in (4, 6)
    }
    assert weights[4] != weights[6]
    assert reported == [weights[4]]
    assert arrays(settings.out / "model" / "model.safetensors") == weights[4]

    page = (settings.out / "summary.md").read_text()
    lines = page.splitlines()
    assert lines[0] == "# test"
    for row in (
        "| best step | 4 of 6 |",
        f"| loss | {rows[1]['loss']:.4f} |",
        f"| validation loss | {rows[1]['validation_loss']:.4f} |",
        "| validation score | 0.7500 |",
        f"| seconds | {rows[2]['seconds']:,.0f} |",
        f"| images a second | {rows[2]['images_per_second']:,} |",
        "| train tokens | 1,234 |",
        "| kind | a\\|b |",
        "| batch_size | 2 |",
        "| preset | gpt-nano |",
        "| xla | False |",
        "## Scores",
    ):
        assert row in lines, row
    assert "0123" not in page  # a fingerprint tells a reader nothing
    assert not any(line.startswith("| seed |") for line in lines)  # as it is by default


def test_what_is_kept_may_be_a_part_of_what_is_trained(tmp_path: Path, text_file: Path) -> None:
    settings = tiny(text_file, tmp_path / "run", steps=2, evaluate_every=2, batch_size=2)
    part = zoo.create("gpt-nano", task="backbone", vocabulary_size=5, max_length=8)
    measured: list[Any] = []

    def make_evaluation(model: Any) -> Any:
        measured.append(model)
        return dict

    job = dataclasses.replace(poisoned(99), kept=lambda model: part, make_evaluation=make_evaluation)
    train(job, settings.training, Run(settings.out, "test", settings, {"data": ""}))
    assert measured == [part]
    kept = {name: weight.numpy().tobytes() for name, weight in part.named_weights().items()}
    assert arrays(settings.out / "model" / "model.safetensors") == kept

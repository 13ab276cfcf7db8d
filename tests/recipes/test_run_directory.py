"""What a run directory lets happen: go on, begin anew, or neither, and why."""

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.engine.checkpoint import Snapshot
from recipes.engine.directory import Run, require_run_directory
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.engine.state import RunState
from recipes.gpt_pretrain import GPTOrigin, GPTPretrain
from tests.recipes.conftest import make_settings
from zoo.errors import UserError

FACTS = {"data": "0123", "train_tokens": 7}


def run_in(out: Path, facts: dict[str, Any] = FACTS, recipe: str = "gpt-pretrain", **changes: Any) -> Run:
    return Run(out, recipe, make_settings(Path("a.txt"), out, **{"steps": 30, **changes}), facts)


def save(run: Run, step: int, mid_interval: bool = False) -> None:
    row = {"step": step, "loss": 1.0, "validation_loss": 1.0}
    state = RunState(step, 1.0, (row,), (), row, "", mid_interval)
    run.store.save(Snapshot(state, {"a": np.zeros(2)}, {"b": np.zeros(2)}))
    run.store.wait()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that was begun, and saved at step 20."""
    run = run_in(tmp_path / "run")
    assert not run.goes_on
    with run.opened():
        save(run, 20)
    return run.directory


def test_a_new_run_leaves_its_record(begun: Path) -> None:
    record = json.loads((begun / "recipe.json").read_text())
    assert record["recipe"] == "gpt-pretrain"
    assert record["settings"]["training"]["steps"] == 30
    assert record["facts"] == FACTS
    assert {"tensorflow", "keras"} <= record["versions"].keys()
    assert [path.name for path in begun.parent.iterdir()] == ["run"]


def test_the_same_command_goes_on(begun: Path) -> None:
    run = run_in(begun)
    require_run_directory(begun, restart=False)
    assert run.goes_on
    assert run.finished() is None
    with run.opened():
        assert run.store.steps() == [20]


FREE = {
    "evaluate_every": 7,
    "save_every": 3,
    "keep_last": 9,
    "strategy": "one",
    "cluster": "slurm",
    "xla": False,
    "sample_tokens": 0,
    "logits_memory": 1.0,
}
MATTER = {
    "steps": 40,
    "epochs": 2.0,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warmup_steps": 3,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "beta_2": 0.9,
    "optimizer": "lamb",
    "schedule": "linear",
    "decay_fraction": 0.2,
    "beta_1": 0.8,
    "epsilon": 1e-6,
    "layer_decay": 0.9,
    "freeze": ("*.block_0.*",),
    "ema": 0.9,
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "lora_dropout": 0.1,
    "lora_layers": ("*.attention.*",),
    "seed": 1,
    "precision": "bfloat16",
    "accumulate": 2,
    "preset": "gpt-nano",
    "width": 64,
    "depth": 3,
    "neighbour_blocks": 1,
    "tokenizer": "char",
    "vocabulary_size": 300,
    "max_length": 7,
    "dropout": 0.5,
    "validation_fraction": 0.5,
    "separate_documents": True,
}


@pytest.mark.parametrize("name", MATTER)
def test_a_setting_that_matters_is_named_and_refused(begun: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    option = f"--{name.replace('_', '-')}"
    told = re.escape(str(list(value) if isinstance(value := MATTER[name], tuple) else value))
    with pytest.raises(UserError, match=rf"{option} is {told}, and the run in .* has .*--force") as refused:
        _ = run_in(begun, **{name: MATTER[name]}).goes_on
    assert "\n" not in str(refused.value)
    with caplog.at_level(logging.WARNING, "zoo"):
        run = run_in(begun, force=True, **{name: MATTER[name]})
        assert run.goes_on
        assert not caplog.records
        with run.opened():
            run.take_over()
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == [option]
    with run.opened():
        pass
    assert run_in(begun, **{name: MATTER[name]}).goes_on  # it is the run's own now


def test_a_setting_that_does_not_matter_is_taken_over(begun: Path) -> None:
    run = run_in(begun, json=True, **FREE)
    assert run.goes_on
    with run.opened():
        run.take_over()
    assert json.loads((begun / "recipe.json").read_text())["settings"]["training"]["evaluate_every"] == 7


def test_every_setting_is_of_one_kind_or_the_other() -> None:
    """Whoever adds a setting decides whether the weights hang on it: it matters unless it is said not to."""
    known = {*FREE, *MATTER, "final_learning_rate"}
    kinds = (GPTPretrain, GPTOrigin, Training, Optimization)
    leaves = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    leaves -= {"origin", "training", "optimization"}
    free = GPTPretrain.free | Training.free | {"out", "json", "force", "restart"}
    assert free <= leaves
    assert leaves - free - known == {"source", "fresh", "adapt"}


def test_the_option_is_called_as_the_command_line_calls_it(begun: Path) -> None:
    with pytest.raises(UserError, match="--from is model"):
        _ = run_in(begun, source="model").goes_on


def test_other_data_are_refused_whatever_is_forced(begun: Path) -> None:
    for force in (False, True):
        with pytest.raises(UserError, match=r"the data is not what the run in .* was trained on"):
            _ = run_in(begun, facts={**FACTS, "data": "4567"}, force=force).goes_on
    assert run_in(begun, facts={**FACTS, "train_tokens": 8}).goes_on


def test_a_run_of_another_recipe_is_refused(begun: Path) -> None:
    with pytest.raises(UserError, match="holds a run of 'gpt-pretrain'"):
        _ = run_in(begun, recipe="bert-pretrain").goes_on


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "nul",
        '{"recipe": 1}',
        '{"recipe": "gpt-pretrain", "settings": [], "versions": {}, "facts": {"data": ""}}',
        '{"recipe": "gpt-pretrain", "settings": {}, "versions": 3, "facts": {"data": ""}}',
        '{"recipe": "gpt-pretrain", "settings": {}, "versions": {}, "facts": {}}',
        '{"recipe": "gpt-pretrain", "settings": {}, "versions": {}, "facts": {"data": ""}}',
        '{"recipe": "gpt-pretrain", "settings": {"colour": 1}, "versions": {}, "facts": {"data": ""}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused_with_the_reason(begun: Path, content: str) -> None:
    (begun / "recipe.json").write_text(content)
    with pytest.raises(UserError, match=r"recipe\.json") as refused:
        _ = run_in(begun).goes_on
    assert "\n" not in str(refused.value)


def test_other_versions_are_told(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = begun / "recipe.json"
    record = json.loads(path.read_text())
    record["versions"]["keras"] = "3.0.0"
    path.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING, "zoo"):
        run = run_in(begun)
        assert run.goes_on
        run.take_over()
    (told,) = caplog.records
    assert "begun with keras 3.0.0" in told.getMessage()


def test_a_finished_run_has_nothing_left(begun: Path) -> None:
    save(run_in(begun), 30)
    assert run_in(begun).finished() is None  # the page that is written last is still to be
    (begun / "summary.md").write_text("# gpt-pretrain\n")
    run = run_in(begun)
    found = run.finished()
    assert found is not None
    assert found.state.step == 30
    assert run_in(begun, steps=40, force=True).finished() is None
    with pytest.raises(UserError, match="is at step 30 already"):
        run_in(begun, steps=25, force=True).finished()


def test_a_new_beginning_throws_the_run_away(begun: Path) -> None:
    (begun / "samples.txt").write_text("old")
    run = run_in(begun, restart=True, steps=77)
    require_run_directory(begun, restart=True)
    assert not run.goes_on
    assert run.finished() is None
    with run.opened():
        assert [path.name for path in begun.iterdir()] == ["recipe.json"]
    assert run_in(begun, steps=77).goes_on
    with pytest.raises(UserError, match="is to be read"):
        require_run_directory(begun, restart=True, inputs=[begun / "input.txt"])


def test_what_is_no_run_is_neither_gone_on_with_nor_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for restart in (False, True):
        with pytest.raises(UserError, match=r"not empty, and holds no run \(it has no recipe\.json\)"):
            require_run_directory(tmp_path, restart)
    with pytest.raises(UserError, match="is a file"):
        require_run_directory(tmp_path / "thesis.txt", restart=True)
    require_run_directory(tmp_path / "nothing", restart=True)


def test_what_killed_processes_left_is_swept(begun: Path) -> None:
    ended = 2**22 + 1
    left = [
        begun / f".model.partial-{ended}",
        begun / "checkpoints" / f".step-00000030.partial-{ended}",
        begun.parent / f".run.partial-{ended}",
    ]
    for path in left:
        path.mkdir()
    (begun.parent / f".other.partial-{ended}").mkdir()
    with run_in(begun).opened():
        assert not any(path.exists() for path in left)
    assert (begun.parent / f".other.partial-{ended}").is_dir()


def test_two_processes_do_not_train_in_one_directory(begun: Path) -> None:
    program = """
import sys
from pathlib import Path
from tests.recipes.test_run_directory import run_in
with run_in(Path(sys.argv[1])).opened():
    print("open", flush=True)
    sys.stdin.read()
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(begun)],
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        for restart in (False, True):
            with pytest.raises(UserError, match="another process trains in"), run_in(begun, restart=restart).opened():
                pytest.fail("the block must not run")
        other.communicate("")
    with run_in(begun).opened():
        pass

"""Checkpoints are there whole or not at all, and what is not whole is never read."""

import dataclasses
import hashlib
import json
import logging
import random
import shutil
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from recipes.engine import checkpoint as checkpoints
from recipes.engine.checkpoint import OPTIMIZER, WEIGHTS, BrokenCheckpointError, Snapshot, Store
from recipes.engine.state import RunState
from zoo.errors import UserError

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def snapshot(step: int, losses: dict[int, float] | None = None, best: int | None = None) -> Snapshot:
    """What a run that was evaluated at some steps saves at another; `best` is the step of the best, the one with the
    lowest loss where None."""
    rows = tuple({"step": each, "loss": 1.0, "validation_loss": loss} for each, loss in (losses or {}).items())
    by_step = {row["step"]: row for row in rows}
    lowest = min(rows, key=lambda row: row["validation_loss"]) if rows else None
    state = RunState(step, step / 8, rows, ((1, "é\n"),), by_step[best] if best else lowest, "", True)
    rng = np.random.default_rng(step)
    weights = {"a.kernel": rng.normal(size=(3, 5)).astype("float32"), "a.scale": np.array(2.5, "float16")}
    others = {
        "optimizer.00000": np.array(step, "int64"),
        "optimizer.00001": rng.normal(size=7).astype(ml_dtypes.bfloat16),
        "random.00000": np.array([1, 2**32 - 1], "uint32"),
    }
    return Snapshot(state, weights, others)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two checkpoints, of steps 10 and 20."""
    store = Store(tmp_path / "checkpoints", keep_last=3)
    for step in (10, 20):
        store.save(snapshot(step))
    store.wait()
    return store


def newest(store: Store) -> int:
    found = Store(store.directory, 3).newest()
    assert found is not None
    return found.state.step


def test_everything_comes_back_as_it_was(store: Store) -> None:
    wanted = snapshot(20)
    found = store.newest()
    assert found is not None
    assert found.state == wanted.state
    for file, arrays in ((WEIGHTS, wanted.weights), (OPTIMIZER, wanted.others)):
        back = dict(found.read(file))
        assert back.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
            assert back[name].tobytes() == array.tobytes()


def test_the_manifest_tells_what_any_tool_can_check(store: Store) -> None:
    directory = store.path(20)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert {path.name for path in directory.iterdir()} == set(FILES)
    for name in FILES[:3]:
        content = (directory / name).read_bytes()
        assert manifest["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "cut short", "longer", "flipped"])
def test_a_damaged_file_leads_to_the_one_before_aloud(
    store: Store, file: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.path(20) / file
    content = path.read_bytes()
    draw = random.Random(file)
    damaged = {
        "missing": [None],
        "empty": [b""],
        "cut short": [content[:-1], content[: len(content) // 2]],
        "longer": [content + b"\n"],
        "flipped": [
            content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
            for place in (range(len(content)) if file == "manifest.json" else draw.sample(range(len(content)), 40))
        ],
    }[how]
    for each in damaged:
        if each is None:
            path.unlink()
        else:
            path.write_bytes(each)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "zoo"):
            assert newest(store) == 10
        (record,) = caplog.records
        assert str(store.path(20)) in record.getMessage()
        assert file in record.getMessage()
        assert "\n" not in record.getMessage()


def forge(directory: Path, name: str, content: bytes) -> None:
    """Replace a file and make the manifest fit it."""
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        {"colour": 1},
        {"step": 21},
        {"step": "20"},
        {"step": True},
        {"seconds": 1},
        {"rows": [{"step": 1}]},
        {"rows": [[]]},
        {"rows": [{"step": 1, "validation_loss": "low"}]},
        {"rows": None},
        {"samples": [[1]]},
        {"samples": {}},
        {"best": 3},
        {"best_weights": None},
        {"mid_interval": 1},
    ],
    ids=str,
)
def test_a_state_that_says_what_cannot_be_is_not_believed(store: Store, change: dict) -> None:
    text = (store.path(20) / "state.json").read_text()
    forge(store.path(20), "state.json", text.encode())
    assert newest(store) == 20
    forge(store.path(20), "state.json", json.dumps({**json.loads(text), **change}).encode())
    assert newest(store) == 10


@pytest.mark.parametrize("content", [b"", b"[]", b"nul", b'{"step": 20}', b"\xff\xfe", b"[" * 100_000], ids=repr)
def test_a_state_that_is_none_is_not_believed(store: Store, content: bytes) -> None:
    forge(store.path(20), "state.json", content)
    assert newest(store) == 10


def test_arrays_that_do_not_fit_lead_to_the_one_before(store: Store) -> None:
    good = snapshot(0)
    wanted = {name: (array.shape, str(array.dtype)) for name, array in good.weights.items()}
    for change in ({"a.kernel": ((5, 3), "float32")}, {"a.scale": ((), "float32")}, {"b": ((), "float32")}):
        with pytest.raises(UserError, match=r"step-00000020/weights\.safetensors: .*--restart"):
            Store(store.directory, 3).newest(lambda found, kinds={**wanted, **change}: found.require(WEIGHTS, kinds))
    del wanted["a.scale"]
    with pytest.raises(UserError, match="unexpected"):
        store.newest(lambda found: found.require(WEIGHTS, wanted))

    def only_the_first(found: checkpoints.Checkpoint) -> None:
        if found.state.step > 10:
            raise BrokenCheckpointError("something")

    assert store.newest(only_the_first).state.step == 10  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"], ids=["none", "no", "huge"]
)
def test_what_is_no_safetensors_file_does_not_fit(store: Store, content: bytes) -> None:
    forge(store.path(20), WEIGHTS, content)
    found = store.at(20)
    assert found is not None
    with pytest.raises(BrokenCheckpointError, match=WEIGHTS):
        found.require(WEIGHTS, {})


def test_none_that_is_intact_is_refused_and_none_at_all_is_not(store: Store) -> None:
    for step in store.steps():
        (store.path(step) / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"step-00000020/state\.json has 2 bytes.*--restart") as refused:
        Store(store.directory, 3).newest()
    assert "\n" not in str(refused.value)
    shutil.rmtree(store.directory)
    assert Store(store.directory, 3).newest() is None


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints", keep_last=2)
    losses: dict[int, float] = {}
    expected = {10: [10], 20: [20, 10], 30: [30, 20], 40: [40, 30, 20], 50: [50, 40, 20], 60: [60, 50]}
    for step, loss in {10: 5.0, 20: 3.0, 30: 4.0, 40: 3.5, 50: 3.0, 60: 2.0}.items():
        losses[step] = loss
        store.save(snapshot(step, losses))
        store.wait()
        assert store.steps() == expected[step]
    store.save(snapshot(65, losses))  # not evaluated
    store.wait()
    assert store.steps() == [65, 60]
    assert [path for path in store.directory.iterdir() if path.name.startswith(".")] == []


def test_the_best_by_another_figure_is_kept(tmp_path: Path) -> None:
    """Its loss is not the lowest, but its accuracy was the highest: a run that goes on may need it for `model/`."""
    store = Store(tmp_path / "checkpoints", keep_last=1)
    losses = {10: 3.0, 20: 2.0, 30: 4.0, 40: 5.0}
    for step in losses:
        store.save(snapshot(step, {each: loss for each, loss in losses.items() if each <= step}, best=10))
        store.wait()
    assert store.steps() == [40, 20, 10]


def test_broken_ones_of_later_steps_give_way(tmp_path: Path) -> None:
    """After a fall back to 20 the newest is 30, and never counted out by what could not be used."""
    store = Store(tmp_path / "checkpoints", keep_last=1)
    for step in (20, 40, 50):
        store.path(step).mkdir(parents=True)
    store.save(snapshot(30))
    store.wait()
    assert store.steps() == [30]


def test_saving_goes_on_beside_the_training_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, began, write = threading.Event(), [], checkpoints.write_tensors

    def slow(tensors: object, path: Path, framework: str) -> None:
        began.append(path)
        assert release.wait(10)
        write(tensors, path, framework)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "write_tensors", slow)
    store = Store(tmp_path / "checkpoints", keep_last=3)
    store.save(snapshot(10))  # comes back although nothing can be written
    assert store.steps() == []
    threading.Timer(0.1, release.set).start()
    store.save(snapshot(20))
    assert store.steps()[-1:] == [10]  # which was waited for
    store.wait()
    assert store.steps() == [20, 10]
    assert len(began) == 4


def test_what_goes_wrong_in_a_save_is_heard_of(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    store = Store(tmp_path / "checkpoints", keep_last=3)
    store.save(snapshot(10))
    with pytest.raises(OSError, match="checkpoints"):
        store.save(snapshot(20))
    store.wait()


def test_who_does_not_write_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints", keep_last=3)
    store.writes = False
    store.save(snapshot(10))
    store.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_state_comes_back_as_it_was() -> None:
    state = snapshot(20, {10: 1.5, 20: 1.25}).state
    assert RunState.from_json(state.to_json()) == state
    nothing = dataclasses.replace(state, best=None, rows=(), samples=())
    assert RunState.from_json(nothing.to_json()) == nothing

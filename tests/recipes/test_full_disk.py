"""Where the disk is full: one line that says what to do, and nothing half written."""

import subprocess
from pathlib import Path

import pytest

from recipes.command import run
from recipes.data.shards import open_shards
from tests.recipes.resuming import command, start

# No file grows beyond so many bytes, which ends a write as a full disk does.
LIMIT = (
    "import resource; limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
)


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    path = tmp_path / "long.txt"
    path.write_text("It was the best of times, it was the worst of times.\n" * 20_000)
    return path


def one_line(process: subprocess.Popen[str]) -> str:
    """What a process says that ends with the exit code of a mistake."""
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2, told
    (line,) = [line for line in told.splitlines() if line.startswith("zoo: ")]
    assert "Traceback" not in told
    return line


def test_of_the_cache(long_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, out = tmp_path / "cache", tmp_path / "run"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    told = one_line(start(command(long_text, out), LIMIT + "limit(50_000)"))
    assert told == f"zoo: the cache {cache} cannot be written (File too large): make room there, or set ZOO_CACHE"
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert not out.exists()


def test_of_shards_which_go_on_where_there_is_room(long_text: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    arguments = ["prepare", "--data", str(long_text), "--out", str(out), "--tokenizer", "char", "--shards", "3"]
    for limit in (3_000, 50_000):  # its plan cannot be written, or its first shard
        told = one_line(start(arguments, LIMIT + f"limit({limit})"))
        assert told.startswith(f"zoo: {out} cannot be written (File too large): make room there, and give the same")
        assert [path.name for path in tmp_path.glob(".*")] == []
        assert not out.exists() or {path.suffix for path in out.iterdir()} == {".json"}
        assert not out.exists() or [path.name for path in out.glob("train*")] == []
    assert run(arguments) == 0
    assert open_shards(out).train.bytes == int(long_text.stat().st_size * 0.9)


@pytest.mark.full  # a full disk is in the quick tier in test_interruption
def test_of_a_run_which_goes_on_where_there_is_room(text_file: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "run", {"steps": 8, "save_every": 2}
    when = """
from recipes.engine.checkpoint import Store
save = Store.save
def save_later(self, snapshot):
    limit(100_000 if snapshot.state.step >= 4 else resource.RLIM_INFINITY)
    save(self, snapshot)
Store.save = save_later
"""
    told = one_line(start(command(text_file, out, **short), LIMIT + when))
    step = out / "checkpoints" / "step-00000002"
    assert (
        f"zoo: {out} cannot be written (File too large): make room there; the same command goes on from {step}" in told
    )
    assert [path.name for path in step.parent.iterdir()] == ["step-00000002"]
    assert run(command(text_file, out, **short)) == 0
    assert not list(out.rglob(".*"))

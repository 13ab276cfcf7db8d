"""`zoo.files`: a file or a directory appears whole or not at all."""

import os
from pathlib import Path

import pytest

from zoo import files
from zoo.errors import UserError
from zoo.files import remove_remains, require_free, whole_directory, whole_file, write_text


def content(directory: Path) -> dict[str, bytes]:
    """Everything below a directory, hidden files included."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def test_a_file_is_replaced_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == tmp_path  # a rename across file systems is no rename
    assert content(tmp_path) == {"a.txt": b"new"}


@pytest.mark.parametrize("interruption", [OSError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(interruption), whole_file(path) as partial:
        partial.write_text("ne")
        raise interruption
    assert content(tmp_path) == {"a.txt": b"old"}


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "naïve 漢 \N{GRINNING FACE}\n")
    assert (tmp_path / "a.txt").read_bytes() == "naïve 漢 \N{GRINNING FACE}\n".encode()


def test_what_is_written_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with whole_directory(tmp_path / "out") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "x").write_text("x")
        (partial / "y").write_text("y")
    with whole_file(tmp_path / "z") as partial:
        partial.write_text("z")
    whole = tmp_path / f".out.partial-{os.getpid()}"
    # The names in a directory are flushed as its content is, and the rename itself last.
    assert set(flushed[:4]) == {whole, whole / "deep", whole / "deep" / "x", whole / "y"}
    assert flushed[4:] == [tmp_path, partial, tmp_path]


def test_a_directory_appears_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "out"
    with whole_directory(path) as partial:
        (partial / "x").write_text("1")
        assert not path.exists()
    assert content(tmp_path) == {"parent/out/x": b"1"}


@pytest.mark.parametrize("interruption", [OSError, KeyboardInterrupt])
def test_an_interrupted_directory_does_not_appear(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), whole_directory(tmp_path / "out") as partial:
        (partial / "x").write_text("1")
        raise interruption
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_empty_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"out is not empty: .*--force"), whole_directory(path):
        pytest.fail("the block must not run")
    assert content(tmp_path) == {"out/mine": b"mine"}


def test_force_replaces_the_whole_directory(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    with whole_directory(path, force=True) as partial:
        (partial / "x").write_text("1")
        assert content(path) == {"mine": b"mine"}
    assert content(tmp_path) == {"out/x": b"1"}


@pytest.mark.parametrize("interruption", [OSError, KeyboardInterrupt])
def test_interrupted_force_leaves_the_old_directory(tmp_path: Path, interruption: type[BaseException]) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(interruption), whole_directory(path, force=True) as partial:
        (partial / "x").write_text("1")
        raise interruption
    assert content(tmp_path) == {"out/mine": b"mine"}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_rename_leaves_the_old_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # as where the system has none
    rename, calls = Path.rename, 0

    def fail_once(source: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(KeyboardInterrupt), whole_directory(path, force=True) as partial:
        (partial / "x").write_text("1")
    assert calls >= failing
    assert content(tmp_path) == {"out/mine": b"mine"}


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(UserError, match="not empty"), whole_directory(path) as partial:
        (partial / "x").write_text("1")
        path.mkdir()
        (path / "theirs").write_text("theirs")
    assert content(tmp_path) == {"out/theirs": b"theirs"}


def test_what_a_killed_process_left_is_not_taken_over(tmp_path: Path) -> None:
    left = tmp_path / f".out.partial-{os.getpid()}"
    left.mkdir()
    (left / "stale").write_text("stale")
    with whole_directory(tmp_path / "out") as partial:
        (partial / "x").write_text("1")
    assert content(tmp_path) == {"out/x": b"1"}


def test_the_current_directory_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with whole_directory(Path()) as partial:
        (partial / "x").write_text("1")
    assert content(tmp_path) == {"here/x": b"1"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "mine").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with whole_directory(tmp_path / "out", force=True) as partial:
        (partial / "x").write_text("1")
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "disk") == {"x": b"1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_a_free_name_is_one_that_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    require_free(tmp_path / "missing")
    require_free(tmp_path / "empty")
    for force in (False, True):
        with pytest.raises(UserError, match="file is a file"):
            require_free(tmp_path / "file", force)
    with pytest.raises(UserError, match="not empty"):
        require_free(tmp_path)
    require_free(tmp_path, force=True)


def test_a_directory_is_replaced_in_one_stroke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment is there neither the old nor the new: a kill finds one of them."""
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine").write_text("mine")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("two renames leave a gap between them"))
    with whole_directory(path, force=True) as partial:
        (partial / "x").write_text("1")
    assert content(tmp_path) == {"out/x": b"1"}


def test_two_paths_exchange_or_stay(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    assert files._exchange(tmp_path / "one", tmp_path / "other")
    assert content(tmp_path) == {"one/other": b"other", "other/one": b"one"}
    assert not files._exchange(tmp_path / "one", tmp_path / "nothing")
    assert content(tmp_path) == {"one/other": b"other", "other/one": b"one"}


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended, runs = 2**22 + 1, os.getppid()  # the first is more than Linux ever gives a process
    for name in (f".a.partial-{ended}", f".a.replaced-{ended}", f".b.partial-{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / f".c.partial-{ended}").write_text("c")
    kept = {f".a.partial-{runs}", ".hidden", "a.partial-1", ".a.partial-x"}
    for name in kept:
        (tmp_path / name).write_text("kept")
    remove_remains(tmp_path, "a")
    assert {path.name for path in tmp_path.iterdir()} == kept | {f".b.partial-{os.getpid()}", f".c.partial-{ended}"}
    remove_remains(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept

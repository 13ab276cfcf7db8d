"""Examples in flat files: what comes back, what is counted, what is made anew, and that nothing is held whole."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data import examples
from recipes.data.examples import Example, Examples, build_examples, in_chunks
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table, open_table
from zoo.errors import UserError


def table_of(path: Path, lines: str) -> Table:
    path.write_text(f"text\n{lines}", encoding="utf-8")
    return open_table(path)


def letters(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
    """The code of each character, how many there are, and the text; a row with "bad" in it cannot be used."""
    for row in rows:
        if "bad" in row["text"]:
            problems.add(problems.where, "bad")
        else:
            yield {"codes": list(map(ord, row["text"])), "count": [len(row["text"])], "text": row["text"]}


content = st.text(
    st.characters(exclude_characters="\0\r\n\",'", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1
)


@settings(deadline=None, database=None, max_examples=30)
@given(st.lists(content, min_size=1, max_size=8))
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("examples")
    table = table_of(folder / "a.csv", "".join(f'"{text}"\n' for text in texts))
    for _ in range(2):  # made, and then found
        found = build_examples(table, {"a": 1}, letters, lambda: {"rows": len(texts)}, folder / "cache")
        assert len(found) == len(texts) and found.facts == {"rows": len(texts)}
        assert found.columns == {"codes": "int32", "count": "int32", "text": "uint8"}
        assert [found.text("text", i) for i in range(len(found))] == texts
        assert [found.row("codes", i).tolist() for i in range(len(found))] == [list(map(ord, text)) for text in texts]
        assert found.lengths("codes").tolist() == found.flat("count").tolist() == list(map(len, texts))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., tuple[Examples, int]]:
    """Builds examples of two rows; they, and how many rows were encoded for it."""

    def build(lines: str = "one\ntwo\n", request: Any = None, name: str = "a.csv") -> tuple[Examples, int]:
        encoded = 0

        def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
            nonlocal encoded
            for example in letters(rows, problems):
                encoded += 1
                yield example

        path = tmp_path / name
        table = table_of(path, lines) if not path.exists() or path.read_text() != f"text\n{lines}" else open_table(path)
        return build_examples(table, {"request": request}, encode, cache_root=tmp_path / "cache"), encoded

    return build


def test_they_are_made_once_for_each_file_and_request(build: Any, tmp_path: Path) -> None:
    first, encoded = build()
    assert encoded == 2
    again, encoded = build()
    assert encoded == 0 and again.fingerprint == first.fingerprint
    assert build(request=[1])[1] == 2
    changed, encoded = build("one\ntwp\n")
    assert encoded == 2 and changed.fingerprint != first.fingerprint
    status = (tmp_path / "a.csv").stat()
    os.utime(tmp_path / "a.csv", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert build("one\ntwp\n")[1] == 2
    moved, encoded = build(name="b.csv")
    assert encoded == 2 and moved.fingerprint == first.fingerprint  # it is of what was read, not of where


@pytest.mark.parametrize("what", ["a byte less", "a byte more", "no meta", "a file less", "another format"])
def test_what_is_not_whole_is_made_again(build: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    directory = build()[0].directory
    if what == "a byte less":
        (directory / "codes.bin").write_bytes((directory / "codes.bin").read_bytes()[:-1])
    elif what == "a byte more":
        (directory / "codes.bin").write_bytes((directory / "codes.bin").read_bytes() + b"\0")
    elif what == "no meta":
        (directory / "examples.json").write_text("{")
    elif what == "a file less":
        (directory / "text.ends").unlink()
    else:
        meta = (directory / "examples.json").read_text()
        (directory / "examples.json").write_text(meta.replace('"format": 2', '"format": 1'))
    found, encoded = build()
    assert encoded == 2 and found.text("text", 1) == "two"


def test_too_many_bad_rows_leave_nothing(build: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        UserError, match=r"1 of 10 rows \(10.0%\) cannot be used: bad \(1\), for example .*a.csv:5: bad"
    ):
        build("one\n" * 3 + "bad\n" + "one\n" * 6)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    with pytest.raises(UserError, match="has no row that can be used"):
        build_examples(
            open_table(tmp_path / "a.csv"), {}, lambda rows, _: iter(list(rows)[:0]), cache_root=tmp_path / "b"
        )
    found, encoded = build("one\n" * 30 + "bad\n")
    assert len(found) == encoded == 30
    assert "left out: 1 of 31 rows" in caplog.text


def test_a_column_of_one_number_is_told_from_others(build: Any) -> None:
    found, _ = build("one\ntwo\n")
    with pytest.raises(ValueError, match="codes has not one number a row"):
        found.flat("codes")
    assert found.flat("count").tolist() == [3, 3]


def test_an_empty_column_is_none_to_be_mapped(tmp_path: Path) -> None:
    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        yield from ({"nothing": [], "text": ""} for _ in rows)

    found = build_examples(table_of(tmp_path / "a.csv", "a\nb\n"), {}, encode, cache_root=tmp_path / "cache")
    assert found.lengths("nothing").tolist() == [0, 0]
    assert (found.row("nothing", 1).tolist(), found.text("text", 0)) == ([], "")


def test_a_large_table_is_never_held_whole(tmp_path: Path) -> None:
    table = table_of(tmp_path / "a.csv", "x" * 1000 + "\n" + ("y" * 1000 + "\n") * 8000)
    tracemalloc.start()
    try:
        found = build_examples(table, {}, letters, cache_root=tmp_path / "cache")
        assert int(found.lengths("codes").sum()) == 8_001_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6  # 32 MB of numbers were written


def test_chunks_hold_so_many_rows_or_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(examples, "CHARACTERS_AT_ONCE", 10)
    texts = ["a", "b", "c", "d", "e" * 99, "f", "g" * 9, "h"]
    chunks = list(in_chunks(iter(texts), len))
    assert chunks == [texts[:3], texts[3:5], texts[5:7], texts[7:]]
    assert list(in_chunks(iter([]), len)) == []


def test_the_fingerprint_is_of_every_number_its_place_and_the_facts(tmp_path: Path) -> None:
    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        yield from ({"codes": list(map(ord, row["text"]))} for row in rows)

    prints = set()
    for number, lines in enumerate(("one\ntwo\n", "two\none\n", "onet\nwo\n", "one\n", "onf\ntwo\n", "one\ntwo\n")):
        table = table_of(tmp_path / f"{number}.csv", lines)
        prints.add(build_examples(table, {}, encode, lambda: {"last": number == 5}, tmp_path / "cache").fingerprint)  # noqa: B023
    assert len(prints) == 6

"""Reading text: what is found, what is refused and why, how it is split, and that nothing is read whole."""

import csv
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from recipes.data import documents as documents_module
from recipes.data.documents import Document, Reading, TextDocument, read_documents
from recipes.data.inspection import FoundFile
from recipes.data.text import Corpus, find_documents, first_text, open_corpus
from zoo.errors import UserError


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def content(documents: tuple[Document, ...]) -> str:
    return "".join("".join(document.chunks(Reading())) for document in documents)


def names(documents: tuple[Document, ...]) -> list[str]:
    return [document.name for document in documents]


def assert_refused(path: Path, *words: str, **options: object) -> None:
    with pytest.raises(UserError) as error:
        open_corpus(path, **options)  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_folder_is_searched_for_text_files(tmp_path: Path) -> None:
    for name in ("b.txt", "A.TXT", "sub/c.md", "sub/deeper/d.rst", "e.text"):
        put(tmp_path / name, f"text of {name}")
    for name in ("f.py", ".hidden.txt", ".git/g.txt", "sub/.h/i.txt", "j", "k.txt~"):
        put(tmp_path / name, "not to be read")
    (tmp_path / "folder.txt").mkdir()
    corpus = open_corpus(tmp_path, validation_fraction=0.5)
    found = [*corpus.train, *corpus.validation]
    assert sorted(document.name for document in found) == ["A.TXT", "b.txt", "e.text", "sub/c.md", "sub/deeper/d.rst"]
    assert all(content((document,)) == f"text of {document.name}" for document in found)
    for documents in (corpus.train, corpus.validation):
        assert names(documents) == sorted(names(documents))


def test_a_hidden_folder_may_be_named_and_a_single_file_may_be_called_anything(tmp_path: Path) -> None:
    put(tmp_path / ".cache" / "a.txt", "one")
    put(tmp_path / ".cache" / "b.txt", "two")
    assert len(open_corpus(tmp_path / ".cache").train) == 1
    corpus = open_corpus(put(tmp_path / "README", "0123456789"))
    assert content(corpus.train) == "012345678"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["is empty"]),
        (b"\xef\xbb\xbf", ["no text"]),
        (b" \n\t\r\n", ["no text"]),
        (b"some text\x00and more", ["binary", "NUL"]),
        (bytes(range(1, 256)) * 100, ["binary or not in UTF-8"]),
        ("Это русский текст в старой кодировке.".encode("koi8-r"), ["not in UTF-8", "convert"]),
        ("Plain text".encode("utf-16"), ["UTF-16", "iconv"]),
        ("Plain text".encode("utf-16-le"), ["UTF-16", "iconv"]),
        ("Plain text".encode("utf-16-be"), ["UTF-16", "iconv"]),
        ("日本語".encode("utf-16"), ["UTF-16", "iconv"]),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, words: list[str]) -> None:
    path = put(tmp_path / "data.txt", data)
    assert_refused(path, str(path), *words)
    assert_refused(tmp_path, "no usable text in 1 files", *words)
    # Among good ones it is left out, aloud.
    put(tmp_path / "good.txt", "good")
    put(tmp_path / "better.txt", "better")
    assert len(open_corpus(tmp_path).train) == 1


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        put(tmp_path / f"bad{number}.txt", b"\x00\x00")
    put(tmp_path / "a.txt", "good")
    with caplog.at_level(logging.WARNING, "zoo"):
        open_corpus(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        *(f"left out: {tmp_path}/bad{n}.txt is binary, not text (it contains NUL bytes)" for n in range(3)),
        "left out: 3 more files like these",
    ]


def test_missing_paths_and_folders_without_text_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "nothing", "does not exist")
    assert_refused(tmp_path, str(tmp_path), "no text files", ".txt")
    put(tmp_path / "picture.png", b"\x89PNG")
    assert_refused(tmp_path, "no text files")
    os.mkfifo(tmp_path / "pipe.txt")
    assert_refused(tmp_path / "pipe.txt", "not a regular file")


def test_latin1_is_read_with_replacements(tmp_path: Path) -> None:
    text = "Le cœur a ses raisons que la raison ne connaît point; été, forêt, garçon".replace("œ", "oe")
    put(tmp_path / "a.txt", text.encode("latin-1"))
    corpus = open_corpus(tmp_path / "a.txt")
    assert "for\ufffdt" in content(corpus.train) + content(corpus.validation)


def whole(path: Path) -> TextDocument:
    size = path.stat().st_size
    return TextDocument(FoundFile(path, size, 0), path.name, 0, size)


@settings(max_examples=200, deadline=None, database=None)
@given(data=st.binary(max_size=60) | st.text(max_size=30).map(str.encode), chunk=st.integers(1, 7))
@example(data=b"\xef\xbb\xbfafter a mark", chunk=5)
@example(data=b"inside\xef\xbb\xbfstays", chunk=5)
def test_chunks_are_the_text_whatever_their_size(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk: int
) -> None:
    path = put(tmp_path_factory.mktemp("data") / "a.txt", data)
    reading = Reading()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "CHUNK_BYTES", chunk)
        text = "".join(whole(path).chunks(reading))
    assert text == data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    assert reading.bytes == len(data.removeprefix(b"\xef\xbb\xbf"))
    ignored = data.removeprefix(b"\xef\xbb\xbf").decode(errors="ignore").count("\ufffd")
    assert reading.replaced.total() == text.count("\ufffd") - ignored


def test_replacements_are_reported_in_one_line_with_count_and_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading()
    for number in range(1, 6):
        path = put(tmp_path / f"{number}.txt", b"a\xffb \xef\xbf\xbd \xff\xff" + b"\xe2\x82" * number)
        list(whole(path).chunks(reading))
    with caplog.at_level(logging.WARNING, "zoo"):
        reading.warn()
        Reading().warn()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"30 invalid UTF-8 sequences replaced by U+FFFD: {tmp_path}/5.txt (8), {tmp_path}/4.txt (7), "
        f"{tmp_path}/3.txt (6) and 2 more files"
    )


def test_one_document_is_split_by_position_where_nanogpt_splits(tmp_path: Path) -> None:
    data = "".join(chr(32 + n * n % 90) for n in range(1003))
    corpus = open_corpus(put(tmp_path / "a.txt", data))
    # https://github.com/karpathy/nanoGPT/blob/master/data/shakespeare_char/prepare.py
    n = len(data)
    assert (content(corpus.train), content(corpus.validation)) == (data[: int(n * 0.9)], data[int(n * 0.9) :])
    assert not any(document.part["closed"] for document in (*corpus.train, *corpus.validation))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_the_cut_is_not_inside_a_character(tmp_path: Path, fraction: float) -> None:
    for shift in range(4):
        data = "x" * shift + "😀" * 25
        corpus = open_corpus(put(tmp_path / "a.txt", data), validation_fraction=fraction)
        train, validation = content(corpus.train), content(corpus.validation)
        assert train + validation == data
        wanted = len(data.encode()) * (1 - fraction)
        assert wanted - 1 < len(train.encode()) < wanted + 4


def split_names(corpus: Corpus) -> tuple[list[str], list[str]]:
    return names(corpus.train), names(corpus.validation)


def test_several_documents_are_split_by_document(tmp_path: Path) -> None:
    for number in range(100):
        put(tmp_path / "one" / f"{number:02}.txt", "x" * (50 + number))
    corpus = open_corpus(tmp_path / "one", validation_fraction=0.2)
    train, validation = split_names(corpus)
    assert sorted(train + validation) == [f"{number:02}.txt" for number in range(100)]
    share = sum(document.bytes for document in corpus.validation) / sum(50 + number for number in range(100))
    assert 0.19 < share <= 0.2
    assert all(document.part["closed"] for document in (*corpus.train, *corpus.validation))
    assert validation != sorted(train + validation)[: len(validation)]
    assert validation != sorted(train + validation)[-len(validation) :]
    # Names alone decide: another folder, other times, another order of creation.
    for number in reversed(range(100)):
        put(tmp_path / "two" / f"{number:02}.txt", "y" * (50 + number))
    assert split_names(open_corpus(tmp_path / "two", validation_fraction=0.2)) == (train, validation)


def test_one_document_at_least_is_on_each_side_and_not_the_largest(tmp_path: Path) -> None:
    put(tmp_path / "large.txt", "x" * 1000)
    put(tmp_path / "small.txt", "x" * 300)
    for fraction in (0.01, 0.1, 0.25):
        assert split_names(open_corpus(tmp_path, validation_fraction=fraction)) == (["large.txt"], ["small.txt"])
    train, validation = split_names(open_corpus(tmp_path, validation_fraction=0.999))
    assert len(train) == len(validation) == 1


def test_validation_data_of_its_own(tmp_path: Path) -> None:
    train, validation = put(tmp_path / "t" / "a.txt", "train"), put(tmp_path / "v" / "b.txt", "validation")
    corpus = open_corpus(train, validation_path=validation.parent)
    assert (content(corpus.train), content(corpus.validation)) == ("train", "validation")
    assert corpus.train[0].part["closed"]
    assert_refused(tmp_path, "b.txt", "both", validation_path=validation)
    assert_refused(train, "does not exist", validation_path=tmp_path / "missing")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_that_are_none_are_refused(tmp_path: Path, fraction: float) -> None:
    assert_refused(put(tmp_path / "a.txt", "text"), "between 0 and 1", validation_fraction=fraction)


# --- tables: each row is a text

ROWS = ["first", "second, with a comma", "third\nof two lines", 'fourth "quoted"', "fünfter 日本語 😀"]


def table(path: Path, texts: list[str], column: str = "text") -> Path:
    """A table with these texts, in the format that its suffix says, and another column before them."""
    rows = [{"number": number, column: text} for number, text in enumerate(texts)]
    if path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
        return path
    if path.suffix in (".csv", ".tsv"):
        written = io.StringIO(newline="")
        writer = csv.DictWriter(written, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        return put(path, written.getvalue())
    return put(path, "".join(json.dumps(row, ensure_ascii=number % 2 > 0) + "\n" for number, row in enumerate(rows)))


def texts(documents: Iterable[Document]) -> list[str]:
    """Each text by itself."""
    found = "".join("".join(document.chunks(Reading(), "\0")) for document in documents)
    assert found.endswith("\0") or not found
    return found.split("\0")[:-1]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "csv", "tsv", "parquet", "JSONL"])
def test_each_row_of_a_table_is_a_text(tmp_path: Path, suffix: str) -> None:
    path = table(tmp_path / f"a.{suffix}", ROWS)
    reading = Reading()
    (document,) = find_documents(path)
    assert "".join(document.chunks(reading)) == "".join(ROWS)
    assert reading.bytes == len("".join(ROWS).encode())
    assert reading.done == document.bytes == path.stat().st_size
    assert (reading.problems.seen, reading.problems.unusable) == (5, 0)
    # The last part of the rows is held out where it stands alone.
    for fraction, train in ((0.1, 4), (0.2, 4), (0.4, 3), (0.7, 1), (0.9, 0)):
        corpus = open_corpus(path, validation_fraction=fraction)
        assert (texts(corpus.train), texts(corpus.validation)) == (ROWS[:train], ROWS[train:])
    assert first_text(path, characters=9) == "first\nsec"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_parts_of_a_table_are_its_rows_once(tmp_path: Path, suffix: str) -> None:
    rows = [f"row {number}\nof the table" for number in range(23)]
    path = table(tmp_path / f"a.{suffix}", rows)
    (document,) = find_documents(path)
    for places in ([], [10], [0, 50, 50, 200], [1, 2, 3, document.bytes]):
        parts = document.cut(places)
        assert len(parts) == len(places) + 1
        assert texts(parts) == rows
    halves = document.cut([document.bytes // 2])
    assert [len(texts([half])) for half in halves] == [11, 12]
    assert sum(half.bytes for half in halves) == pytest.approx(document.bytes, abs=1)
    assert texts(halves[1].cut([halves[1].bytes // 4 + 2])[:1]) == rows[11:14]
    train, _ = document.split(0.5)
    assert texts(train.cut([train.bytes // 2])) == rows[:11]


def test_tables_and_texts_stand_together_each_whole(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "a text")
    table(tmp_path / "b.jsonl", ROWS)
    table(tmp_path / "sub" / "c.parquet", ["one", "two"])
    table(tmp_path / "d.csv", ["three"] * 9, column="Body")
    put(tmp_path / "e.json", '[{"text": "not to be read"}]')
    assert [document.name for document in find_documents(tmp_path)] == ["a.txt", "b.jsonl", "d.csv", "sub/c.parquet"]
    everything = sorted(["a text", *ROWS, "one", "two", *["three"] * 9])
    for fraction in (0.05, 0.3, 0.9):
        corpus = open_corpus(tmp_path, validation_fraction=fraction)
        assert len(corpus.train) + len(corpus.validation) == 4
        assert sorted(texts(corpus.train) + texts(corpus.validation)) == everything
        assert corpus.train
        assert corpus.validation


def test_the_column_is_guessed_or_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(9):
        put(tmp_path / "many" / f"{number}.jsonl", '{"title": "no", "content": "yes"}\n' * 3)
    with caplog.at_level(logging.INFO, "zoo"):
        assert set(texts(find_documents(tmp_path / "many"))) == {"yes"}
    assert [record.getMessage() for record in caplog.records] == [
        "text column: 'content' (columns: 'title', 'content')"
    ]
    assert set(texts(open_corpus(tmp_path / "many", text_column="title").train)) == {"no"}
    unclear = put(tmp_path / "unclear.csv", "first,second\n1,2\n")
    assert_refused(unclear, str(unclear), "--text-column", "'first', 'second'")
    assert_refused(unclear, "--text-column is 'third'", text_column="third")
    assert texts(open_corpus(unclear, validation_fraction=0.5, text_column="first").validation) == ["1"]
    assert_refused(put(tmp_path / "a.txt", "text"), "--text-column", "no table", text_column="text")
    # Among others it is left out, aloud.
    put(tmp_path / "mixed" / "metadata.csv", "first,second\n1,2\n")
    assert_refused(tmp_path / "mixed", "no usable text in 1 files", "metadata.csv", "--text-column")
    put(tmp_path / "mixed" / "a.txt", "text")
    caplog.clear()
    assert texts(find_documents(tmp_path / "mixed")) == ["text"]
    assert "left out: " in caplog.text
    assert "metadata.csv does not show which column is the text" in caplog.text


def test_lists_of_objects_are_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_refused(put(tmp_path / "a.json", '[{"text": "one"}]'), "write it as .jsonl")
    put(tmp_path / "folder" / "b.json", '[{"text": "one"}]')
    put(tmp_path / "folder" / "README.md", "what it is")
    assert texts(find_documents(tmp_path / "folder")) == ["what it is"]
    assert "left out: " in caplog.text and "b.json is no text" in caplog.text


def test_rows_without_text_are_problems(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ['{"text": "good"}', '{"text": " "}', '{"text": 3}', '{"text": null}', '{"text"', '{"text": "good"}']
    path = put(tmp_path / "a.jsonl", "\n".join([*rows, ""]))
    reading = Reading()
    (document,) = find_documents(path)
    assert list(document.chunks(reading, "|")) == ["good", "|", "good", "|"]
    assert (reading.problems.seen, reading.problems.reasons) == (6, {"no text": 3, "invalid JSON": 1})
    reading.warn()
    assert "left out: 4 of 6 rows (66.7%)" in caplog.text
    assert f"{path}:2: no text" in caplog.text
    # A part sees its own rows alone.
    reading = Reading()
    assert list(document.cut([document.bytes // 2 + 1])[1].chunks(reading)) == ["good"]
    assert (reading.problems.seen, reading.problems.unusable) == (3, 2)


def test_parts_count_what_a_reader_counts(tmp_path: Path) -> None:
    """Empty lines are no rows, and corrupt rows are some; a problem is told with its place in the whole table."""
    lines = "".join(
        f'{{"text": "{number}"}}\n\n' + "  \n" * (number % 3) + "{\n" * (number % 5 == 2) for number in range(20)
    )
    records = "".join(f'"{number}\n"\n\n' + '1,"2"\n' * (number % 5 == 2) for number in range(20))
    put(tmp_path / "a.jsonl", lines)
    put(tmp_path / "a.csv", "text\n\n" + records)
    table(tmp_path / "a.parquet", [str(number) if number % 6 else " " for number in range(24)])
    for suffix, count in (("jsonl", 24), ("csv", 24), ("parquet", 24)):
        (document,) = find_documents(tmp_path / f"a.{suffix}")
        train, held_out = document.split(0.75)
        assert train.part["rows"] == [0, count // 4]
        assert texts([train]) + texts([held_out]) == texts([document])
        whole, first, second = Reading(), Reading(), Reading()
        for each, reading in ((document, whole), (train, first), (held_out, second)):
            list(each.chunks(reading))
        assert first.problems.reasons + second.problems.reasons == whole.problems.reasons
        assert first.problems.seen + second.problems.seen == whole.problems.seen == count
        assert [*first.problems.examples, *second.problems.examples][:3] == whole.problems.examples
        assert second.problems.examples[0].startswith(f"{document.path}:")


# --- several paths


def test_several_paths_are_read_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "one" / "a.txt", "a")
    put(tmp_path / "one" / "b.txt", "b")
    single = put(tmp_path / "c", "c")
    rows = table(tmp_path / "d.jsonl", ["d"])
    put(tmp_path / "other" / "a.txt", "e")
    paths = [tmp_path / "other", rows, single, tmp_path / "one"]
    found = find_documents(paths)
    assert texts(found) == ["e", "d", "c", "a", "b"]
    assert [document.name for document in found] == ["other/a.txt", "d.jsonl", "c", "one/a.txt", "one/b.txt"]
    corpus = open_corpus(paths, validation_fraction=0.3)
    assert sorted(texts(corpus.train) + texts(corpus.validation)) == ["a", "b", "c", "d", "e"]
    # Nothing is read twice, else it could be on both sides.
    assert texts(find_documents([*paths, tmp_path / "one" / "b.txt"])) == ["e", "d", "c", "a", "b"]
    assert f"{tmp_path}/one/b.txt is the same file as {tmp_path}/one/b.txt, which is read already" in caplog.text
    (tmp_path / "link.txt").symlink_to(single)
    assert texts(find_documents([single, tmp_path / "link.txt"])) == ["c"]
    missing = [tmp_path / "one", tmp_path / "nowhere"]
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_documents(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no text files"):
        find_documents([single, tmp_path / "empty"])
    with pytest.raises(UserError, match="no data is given"):
        find_documents([])


def test_a_link_to_a_table_is_read_as_the_table(tmp_path: Path) -> None:
    """As a hub's cache has them: by a name without a suffix."""
    blob = table(tmp_path / "a.jsonl", ROWS).rename(tmp_path / "0123456789abcdef")
    (tmp_path / "train.jsonl").symlink_to(blob)
    (tmp_path / "again.jsonl").symlink_to(blob)
    corpus = open_corpus(tmp_path / "train.jsonl", validation_fraction=0.4)
    assert texts(corpus.train) == ROWS[:3]
    assert texts(find_documents(tmp_path)) == ROWS


def test_what_was_prepared_is_not_read_as_text(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.txt", "text")
    put(tmp_path / "data" / "shards" / "plan.json", "{}")
    put(tmp_path / "data" / "shards" / "vocab.txt", "[PAD]")
    assert names(tuple(find_documents(tmp_path / "data"))) == ["a.txt"]
    assert_refused(tmp_path / "data" / "shards", "was prepared for training already")


# --- what changes while it is read


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("longer", "was changed since"),
        ("shorter", "was changed since"),
        ("as long", "was changed since"),
        ("gone", "is not any more"),
        ("unreadable", "cannot be read: Permission denied"),
    ],
)
def test_a_file_that_changes_is_told_of(
    tmp_path: Path, name: str, how: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / name, "some text " * 200_000) if name == "a.txt" else table(tmp_path / name, ["text"] * 3000)
    before = path.read_bytes()
    stream = read_documents(find_documents(path), Reading(), "|")
    if how not in ("gone", "unreadable"):  # else it could be read to its end
        next(stream)
    if how == "gone":
        path.unlink()
    elif how == "unreadable":

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr(parquet, "ParquetFile", refuse)
    else:
        path.write_bytes({"longer": before + b"x", "shorter": before[:-9], "as long": before}[how])
        os.utime(path, ns=(0, 1))
    with pytest.raises(UserError) as error:
        list(stream)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert words in message or (name == "a.parquet" and how == "unreadable" and "Permission denied" in message)


@pytest.mark.parametrize("name", ["large.txt", "large.jsonl", "large.csv"])
def test_a_large_file_is_never_read_whole(tmp_path: Path, name: str) -> None:
    """200 MB without a newline, or 60 MB of long rows, opened, split and read in a process that may not have so much
    memory."""
    path = tmp_path / name
    before, after = {".txt": (b"", b""), ".csv": (b"", b"\n"), ".jsonl": (b'{"text": "', b'"}\n')}[path.suffix]
    count = 200 if path.suffix == ".txt" else 60
    with path.open("wb") as file:
        file.write(b"text\n" if path.suffix == ".csv" else b"")
        for _ in range(count):
            file.write(before + b"abcdefgh" * 2**17 + after)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from recipes.data.text import Reading, open_corpus\n"
        # Not `ru_maxrss`: a process inherits that from the one that started it.
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "corpus = open_corpus(Path(sys.argv[1]))\n"
        "parts = (*corpus.train, *corpus.validation)\n"
        "characters = sum(len(chunk) for part in parts for chunk in part.chunks(Reading()))\n"
        "print(characters, peak() - before)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, path], cwd=root, capture_output=True, text=True, check=True)
    characters, kilobytes = map(int, done.stdout.split())
    assert characters == count * 2**20
    assert kilobytes < 20_000

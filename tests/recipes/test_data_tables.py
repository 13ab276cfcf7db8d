"""Labelled data as rows: each format against its reference, what is refused and why, and that nothing is held whole."""

import contextlib
import csv
import io
import json
import logging
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from recipes.data import formats, lines
from recipes.data.problems import INVALID_UTF8, Problems
from recipes.data.tables import Row, Table, choose_column, open_table
from tests.recipes.refusing import assert_refused
from zoo.errors import UserError

Put = Callable[[str, str | bytes], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file below `tmp_path`."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def read(path: Path) -> list[Row]:
    """All rows of a table that has no problems."""
    problems = Problems()
    rows = list(open_table(path).rows(problems))
    assert (problems.seen, problems.unusable) == (len(rows), 0), problems
    return rows


def read_with_problems(path: Path) -> tuple[list[Row], Problems]:
    problems = Problems()
    return list(open_table(path).rows(problems)), problems


# --- CSV


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("a,b\r\n1,2\r\n3,\r\n", [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]),
        ("a,b\r1,2\r3,4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ("\ufeffa,b\n\ufeff1,2", [{"a": "\ufeff1", "b": "2"}]),
        ('\ufeff"a",b\n\n1,2\n\n', [{"a": "1", "b": "2"}]),
        ('a,"b\nc"\n"one\ntwo","x, ""y"""\n', [{"a": "one\ntwo", "b\nc": 'x, "y"'}]),
        ('a\n"first\r\n\r\nlast"\n""\n', [{"a": "first\r\n\r\nlast"}, {"a": ""}]),
        ('a,b\n5" wide, x\n', [{"a": '5" wide', "b": " x"}]),
        ("ä,日本\nné,\u2028\x85\x1c\n", [{"ä": "né", "日本": "\u2028\x85\x1c"}]),
    ],
)
def test_csv(put: Put, content: str, rows: list[Row]) -> None:
    path = put("data.CSV", content)
    assert list(csv.DictReader(io.StringIO(content.removeprefix("\ufeff"), newline=""))) == rows
    assert read(path) == rows
    assert open_table(path).columns == tuple(rows[0])


def test_comments_in_conll_are_no_sentences(put: Put) -> None:
    multiconer = "# id 5239-d\tdomain=en\nAda _ _ B-PER\n# _ _ O\n\n# id 77\tdomain=en\nruns _ _ O\n"
    assert [row["tokens"] for row in read(put("a.conll", multiconer))] == [["Ada", "#"], ["runs"]]
    universal = "# sent_id = 1\n# text = Ada #\nAda\tB-PER\n#\tO\n\n# newdoc\n# text = runs\nruns\tO\n"
    assert [row["tokens"] for row in read(put("b.conll", universal))] == [["Ada", "#"], ["runs"]]


def test_tsv(put: Put) -> None:
    assert read(put("a.tsv", 'a\tb\n1, 2\t"x\ty"\n')) == [{"a": "1, 2", "b": "x\ty"}]
    # Quotes of the text, which open in one line and close in another, as in a dialogue that is split by sentence.
    lines = ['"Hello.\ta', "How are you?\tb", '"Well."\ta', 'He said: "No\tb', '" yes " she said\ta']
    texts = ['"Hello.', "How are you?", "Well.", 'He said: "No', '" yes " she said']
    assert [row["text"] for row in read(put("b.tsv", "\n".join(["text\tlabel", *lines, ""])))] == texts
    # A text of several lines, as spreadsheets quote it.
    several = 'text\tlabel\n"one\ntwo ""three"""\ta\nfour\tb\n'
    assert [row["text"] for row in read(put("c.tsv", several))] == ['one\ntwo "three"', "four"]


def test_quotes_in_tsv_that_never_close_cost_what_they_took(put: Put) -> None:
    problems = Problems()
    table = open_table(put("a.tsv", 'text\tlabel\ngood\ta\n"open\nmore\tb\tc\n'))
    assert list(table.rows(problems)) == [{"text": "good", "label": "a"}]
    assert problems.seen == 3 and problems.reasons == {"quotes that do not match": 2}


def test_columns_without_a_name_are_passed_over(put: Put) -> None:
    assert read(put("a.csv", "v1,v2,,\nham,hello,,\n")) == [{"v1": "ham", "v2": "hello"}]


@pytest.mark.parametrize(
    ("name", "header", "what"), [("a.csv", "a;b", "semicolons"), ("a.csv", "a\tb", "tabs"), ("a.tsv", "a,b", "commas")]
)
def test_another_delimiter_is_told(put: Put, name: str, header: str, what: str) -> None:
    with pytest.raises(UserError, match=f"has {what} between its columns"):
        open_table(put(name, f"{header}\n1\n"))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=150, deadline=None, database=None)
@given(rows=st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[TEXT] * n), min_size=1, max_size=6)))
@example(rows=[("",), ("\r",), ("\n",), ('"',)])
def test_any_text_survives_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    header = [f"column {number}" for number in range(len(rows[0]))]
    folder = tmp_path_factory.mktemp("table")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([header, *rows])
        # A tab and a line's end in one text make lines that look like rows.
        if delimiter == "," or not any("\t" in text for row in rows for text in row):
            assert read(folder / name) == [dict(zip(header, row, strict=True)) for row in rows]


def test_long_fields_are_read_whatever_the_limit_was(put: Put) -> None:
    limit = csv.field_size_limit(1000)
    try:
        assert read(put("a.csv", f"a\n{'x' * 200_000}\n")) == [{"a": "x" * 200_000}]
    finally:
        csv.field_size_limit(limit)


def test_corrupt_csv_rows_are_passed_over_and_placed(put: Put) -> None:
    content = 'a,b\n1,2\n1\n"two\nlines",x\n1,2,3\n"quoted" no,2\né,\0\n3,4\n'
    # The NUL is far enough behind that the file is not taken for binary.
    path = put("a.csv", content.replace("3,4\n", "3,4\n" * 20_000).replace("1,2\n", "1,2\n" * 20_000, 1))
    rows, problems = read_with_problems(path)
    assert rows == [{"a": "1", "b": "2"}] * 20_000 + [{"a": "two\nlines", "b": "x"}] + [{"a": "3", "b": "4"}] * 20_000
    assert problems.seen == 40_005
    assert problems.examples == [
        f"{path}:20002: 1 fields instead of 2",
        f"{path}:20005: 3 fields instead of 2",
        f"{path}:20006: quotes that do not match (',' expected after '\"')",
    ]
    assert problems.reasons["NUL bytes"] == 1
    assert problems.unusable == 4


def test_a_quote_that_is_never_closed_costs_all_rows_that_it_takes(put: Put) -> None:
    path = put("a.csv", "a,b\n" + "1,2\n" * 90 + '"1,2\n' + "1,2\n" * 9)
    rows, problems = read_with_problems(path)
    assert (len(rows), problems.seen, problems.unusable) == (90, 100, 10)
    assert problems.examples == [f"{path}:92: quotes that do not match (unexpected end of data)"]


# --- JSON Lines and JSON

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


@settings(max_examples=150, deadline=None, database=None)
@given(objects=st.lists(st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=6), escaped=st.booleans())
def test_any_objects_survive_json(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]], escaped: bool
) -> None:
    objects = [{"id": number, **each} for number, each in enumerate(objects)]
    folder = tmp_path_factory.mktemp("table")
    written = [json.dumps(each, ensure_ascii=escaped) for each in objects]
    (folder / "a.jsonl").write_text("\n\n".join(written), encoding="utf-8", newline="\r\n")
    (folder / "a.json").write_text(f"[{','.join(written)}]", encoding="utf-8-sig")
    rows = [{key: value for key, value in each.items() if value is not None} for each in objects]
    for name in ("a.jsonl", "a.json"):
        assert read(folder / name) == rows
        assert set(open_table(folder / name).columns) == set().union(*rows)


def test_columns_of_json_lines_are_those_of_the_first_100_good_rows(put: Put) -> None:
    path = put("a.ndjson", '{"a": 1}\nnot json\n' + '{"a": 1}\n' * 98 + '{"b": 1, "n": null}\n{"c": 1}\n')
    assert open_table(path).columns == ("a", "b")
    rows, problems = read_with_problems(path)
    assert rows[-2:] == [{"b": 1}, {"c": 1}]
    assert (problems.seen, problems.unusable) == (102, 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'a': 1}", "invalid JSON"),
        (b'{"a": 1', "invalid JSON"),
        (b'{"a": 1}{"a": 2}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid JSON"),
        (b'["a"]', "not an object"),
        (b'"a"', "not an object"),
        (b'{"a": "caf\xe9"}', INVALID_UTF8),
        (b'{"a": "\xed\xa0\x80"}', INVALID_UTF8),
        (b'{"a": ["\\uD83D"]}', "half of a surrogate pair"),
        (b'{"a": 1, "\\udc00": 2}', "half of a surrogate pair"),
    ],
)
def test_corrupt_json_lines(put: Put, line: bytes, reason: str) -> None:
    good = '{"a": "é \\ud83d\\ude00"}\n'.encode()
    path = put("a.jsonl", good * 30 + line + b"\n" + good)
    rows, problems = read_with_problems(path)
    assert rows == [{"a": "é 😀"}] * 31
    assert problems.examples == [f"{path}:31: {reason}"]
    assert problems.seen == 32


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "A",
            "paragraphs": [
                {
                    "context": "Water boils at 100 °C.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "When does water boil?",
                            "answers": [{"text": "100 °C", "answer_start": 15}, {"text": "100", "answer_start": 15}],
                        },
                        {
                            "id": "q2",
                            "question": "When does it freeze?",
                            "is_impossible": True,
                            "answers": [{"text": "100 °C", "answer_start": 15}],
                        },
                    ],
                },
                {"context": "None.", "qas": []},
            ],
        },
        {"paragraphs": [{"context": "Ice.", "qas": [{"id": "q3", "question": "What?"}]}]},
    ],
}


def test_squad(put: Put) -> None:
    path = put("train-v2.0.json", json.dumps(SQUAD))
    assert open_table(path).columns == ("id", "question", "context", "answers")
    context = "Water boils at 100 °C."
    answers = [{"text": "100 °C", "start": 15}, {"text": "100", "start": 15}]
    assert read(path) == [
        {"id": "q1", "question": "When does water boil?", "context": context, "answers": answers},
        {"id": "q2", "question": "When does it freeze?", "context": context, "answers": []},
        {"id": "q3", "question": "What?", "context": "Ice."},
    ]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"title": "no paragraphs"}, "not in SQuAD's layout"),
        ("no article", "not in SQuAD's layout"),
        ({"paragraphs": [{"context": "no questions", "qas": {}}]}, "not in SQuAD's layout"),
        ({"paragraphs": ["no paragraph"]}, "not in SQuAD's layout"),
        ({"paragraphs": [{"context": "", "qas": ["no question"]}]}, "not in SQuAD's layout"),
        ({"paragraphs": [{"context": "", "qas": [{"answers": [{"text": "x"}]}]}]}, "an answer without text or"),
        ({"paragraphs": [{"context": "", "qas": [{"answers": 3}]}]}, "an answer without text or"),
        ({"paragraphs": [{"context": "\ud83d", "qas": [{"id": "1"}]}]}, "half of a surrogate pair"),
    ],
)
def test_corrupt_squad(put: Put, broken: Any, reason: str) -> None:
    path = put("a.json", json.dumps({"data": [*SQUAD["data"], broken]}))
    rows, problems = read_with_problems(path)
    assert (len(rows), problems.seen, problems.unusable) == (3, 4, 1)
    assert problems.examples[0].startswith(f"{path}:4: {reason}")


def test_corrupt_rows_of_a_json_list(put: Put) -> None:
    path = put("a.json", b'[{"a": "caf\xe9"}, {"a": "caf\xc3\xa9"}, "text", {"a": "\\ud83d"}]')
    rows, problems = read_with_problems(path)
    assert rows == [{"a": "café"}]
    reasons = [INVALID_UTF8, "not an object", "half of a surrogate pair"]
    assert problems.examples == [f"{path}:{n}: {reason}" for n, reason in zip((1, 3, 4), reasons, strict=True)]
    assert problems.is_utf8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}\n{"a": 2}\n', ["not valid JSON", "Extra data", ".jsonl"]),
        ('[{"a": 1}', ["not valid JSON", "line 1 column 10"]),
        ("[" * 100_000, ["not valid JSON", "recursion"]),
        ('{"a": 1}', ["neither a list of objects nor SQuAD's layout"]),
        ("[]", ["no rows"]),
        ('{"data": []}', ["no rows"]),
        ('[{"a": null}, {}]', ["no columns"]),
        ('["a", "b"]', ["2 of 2 rows (100.0%)", "not an object"]),
    ],
)
def test_json_that_is_no_table_is_refused(put: Put, content: str, words: list[str]) -> None:
    path = put("a.json", content)
    assert_refused(lambda: open_table(path), str(path), *words)


def test_json_that_is_too_large_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGEST_DOCUMENT", 2**20)
    path = put("a.json", json.dumps([{"a": "x" * (2**20 - 11)}]))
    assert path.stat().st_size == 2**20
    assert len(read(path)) == 1
    path.write_bytes(path.read_bytes() + b"\n")
    assert_refused(lambda: open_table(path), str(path), "more than 1 MB", ".jsonl")


# --- CoNLL


def test_conll(put: Put) -> None:
    content = (
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n-DOCSTART- -X- -X- O\n"
        "New\u00a0York NNP B-NP B-LOC\r\n \t\nlast NN I-NP O"
    )
    rows = [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["New\u00a0York"], "tags": ["B-LOC"]},
        {"tokens": ["last"], "tags": ["O"]},
    ]
    for suffix in ("conll", "bio", "iob", "IOB2"):
        path = put(f"a.{suffix}", content)
        assert read(path) == rows
        assert open_table(path).columns == ("tokens", "tags")


def test_conll_with_tabs(put: Put) -> None:
    path = put("a.conll", "\ufeff@paul\tO\nEmpire State\tB-location\n\t\n日本\tB-location \n\u00a0\tO\n")
    rows, problems = read_with_problems(path)
    assert rows == [
        {"tokens": ["@paul", "Empire State"], "tags": ["O", "B-location"]},
        {"tokens": ["日本", "\u00a0"], "tags": ["B-location", "O"]},
    ]
    assert (problems.unusable, problems.where) == (0, f"{path}:4")


def test_a_sentence_with_a_corrupt_line_is_passed_over(put: Put) -> None:
    sentences = ["a O\nb O", "a O\nb\nc O", "a O\nb X O", "caf\xe9 O\nb\nc O", "z O"]
    path = put("a.conll", "\n\n".join(sentences).encode("latin-1"))
    rows, problems = read_with_problems(path)
    assert [row["tokens"] for row in rows] == [["a", "b"], ["z"]]
    assert problems.seen == 5
    assert problems.examples == [
        f"{path}:5: a line without a tag",
        f"{path}:9: 3 columns instead of 2",
        f"{path}:11: {INVALID_UTF8}",
    ]


# --- Parquet


def test_parquet(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "text": [f"né {number}" for number in range(1000)],
        "label": pyarrow.array(["a", "b"] * 500).dictionary_encode(),
        "tokens": [["x", "y"][: number % 3] for number in range(1000)],
        "score": [None] * 999 + [0.5],
        "ids": pyarrow.array([[1, 2]] * 1000, pyarrow.list_(pyarrow.int32(), 2)),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", row_group_size=300)
    expected = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    for row in expected[:-1]:
        del row["score"]
    assert open_table(tmp_path / "a.parquet").columns == tuple(columns)
    assert read(tmp_path / "a.parquet") == expected
    assert expected[-1] == {"text": "né 999", "label": "b", "tokens": [], "score": 0.5, "ids": [1, 2]}


def test_classes_that_parquet_names_are_given_by_name(tmp_path: Path) -> None:
    """As `datasets` writes them: numbers, and their names beside the schema."""
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
        "ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    columns = {"text": ["a", "b", "c"], "label": [1, 0, -1], "ner_tags": [[0, 1], [], [1]]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        {"text": "a", "label": "good", "ner_tags": ["O", "B-PER"]},
        {"text": "b", "label": "bad", "ner_tags": []},
        {"text": "c", "ner_tags": ["B-PER"]},
    ]
    for broken in (
        "{",
        "[]",
        '{"info": {"features": {"label": 1}}}',
        '{"info": {"features": {"label": {"names": [1]}}}}',
    ):
        table = pyarrow.table({"label": [1]}).replace_schema_metadata({"huggingface": broken})
        parquet.write_table(table, tmp_path / "b.parquet")
        assert read(tmp_path / "b.parquet") == [{"label": 1}]


def test_corrupt_parquet_rows(tmp_path: Path) -> None:
    binary = pyarrow.array([b"good"] * 400 + [b"caf\xe9"] + [b"good"] * 2)
    text = pyarrow.Array.from_buffers(pyarrow.string(), len(binary), binary.buffers())
    times = pyarrow.array([0] * 402 + [1], pyarrow.timestamp("ns"))
    days = pyarrow.array([2**31 - 1] + [0] * 402, pyarrow.date32())
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": text, "time": times, "day": days}), path)
    rows, problems = read_with_problems(path)
    assert [row["text"] for row in rows] == ["good"] * 400
    assert problems.examples == [
        f"{path}:1: a value that Python has not",
        f"{path}:401: a string that is not UTF-8",
        f"{path}:403: a value that Python has not",
    ]
    assert problems.seen == 403


def test_parquet_that_is_damaged_is_refused(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("a.parquet", b"no parquet" * 10)
    assert_refused(lambda: open_table(path), str(path), "not a whole Parquet file")
    parquet.write_table(pyarrow.table({"a": [f"{n * 7919 % 10007}" for n in range(50_000)]}), path)
    content = bytearray(path.read_bytes())
    put("a.parquet", bytes(content[:-100]))
    assert_refused(lambda: open_table(path), "not a whole Parquet file")
    content[len(content) // 3 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 3)
    put("a.parquet", bytes(content))
    assert_refused(lambda: list(open_table(path).rows(Problems())), "not a whole Parquet file")
    parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.string())}), path)
    assert_refused(lambda: open_table(path), "holds no rows")
    parquet.write_table(pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"]), path)
    assert_refused(lambda: open_table(path), "2 columns are called 'a'", "rename")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert_refused(lambda: open_table(path), "pyarrow", "pip install")


# --- what is refused at once


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", ["is empty"]),
        ("a.parquet", b"", ["not a whole Parquet file", "0 bytes"]),
        ("a.csv", b"\n\n", ["only white space"]),
        ("a.csv", b"text,label\n", ["holds no rows"]),
        ("a.csv", b"text,label\r\n\r\n", ["holds no rows"]),
        ("a.csv", b"text,label,text\n1,2,3\n", ["2 columns are called 'text'", "rename"]),
        ("a.csv", b'"text,label\n1,2\n', ["header cannot be read", "quotes"]),
        ("a.csv", b"caf\xe9,label\n1,2\n", ["header cannot be read", INVALID_UTF8]),
        ("a.csv", b"a,b\n1\n", ["1 of 1 rows (100.0%)", ":2: 1 fields instead of 2"]),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), ["UTF-16", "iconv"]),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16-le"), ["UTF-16", "iconv"]),
        ("a.conll", b"word O\n\0\n", ["binary", "NUL"]),
        ("a.csv", bytes(range(1, 256)) * 100, ["binary or not in UTF-8"]),
        ("a.json", b"PK\x03\x04\x00\x00", ["binary", "NUL"]),
        ("a.jsonl", b"{}\n{}\n", ["no columns"]),
        ("a.jsonl", b"a: 1\nb: 2\n", ["2 of 2 rows", "a.jsonl:1: invalid JSON", "a.jsonl:2: invalid JSON"]),
        ("a.jsonl", '{"a": "café"}\n'.encode("latin-1"), [INVALID_UTF8, "another encoding", "iconv"]),
        ("a.conll", b"-DOCSTART- -X- O\n\n", ["holds no rows"]),
        ("a.conll", b"a\nb\n\nc\n", ["2 of 2 rows", "a.conll:1: a line without a tag", "a.conll:4:"]),
        ("a.txt", b"text", ["no table, by its suffix", ".csv", ".jsonl"]),
        ("a", b"text", ["no table, by its suffix"]),
        ("a.csv.gz", b"text", ["no table, by its suffix"]),
    ],
)
def test_what_is_no_table_is_refused(put: Put, name: str, content: bytes, words: list[str]) -> None:
    path = put(name, content)
    assert_refused(lambda: open_table(path), str(path), *words)


def test_what_is_missing_or_no_file_is_refused(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(lambda: open_table(tmp_path / "a.csv"), "a.csv does not exist", ".csv")
    os.mkfifo(tmp_path / "a.csv")
    assert_refused(lambda: open_table(tmp_path / "a.csv"), "a.csv is not a regular file")
    (tmp_path / "texts" / "label").mkdir(parents=True)
    os.mkfifo(tmp_path / "texts" / "label" / "a.txt")
    assert_refused(lambda: open_table(tmp_path / "texts"), "a.txt is not a regular file")
    (tmp_path / "loop").symlink_to("loop")
    assert_refused(lambda: open_table(tmp_path / "loop"), "loop cannot be read")
    path = put("b.csv", "a,b\n1,2\n")

    def refuse(*_: object, **__: object) -> None:  # permissions do not stop the root that tests may run as
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(lambda: open_table(path), "b.csv cannot be read: Permission denied")
    monkeypatch.setattr(Path, "stat", refuse)
    assert_refused(lambda: open_table(path), "b.csv cannot be read: Permission denied")


# --- folders


def test_a_folder_of_files_is_read_in_the_order_of_names(put: Put, tmp_path: Path) -> None:
    put("2.csv", "b,a\nx,3\n")
    put("1.csv", "a,b\n1,x\n2,x\n")
    put("3.CSV", "a,b\n4,x\n")
    for name in (".4.csv", ".git/5.csv", "README.md", "picture.png", "sub/6.csv", "7.csv~"):
        put(name, "not to be read")
    (tmp_path / "folder.csv").mkdir()
    assert [row["a"] for row in read(tmp_path)] == ["1", "2", "3", "4"]
    table = open_table(tmp_path)
    assert table.columns == ("a", "b")
    assert [(file.path.name, file.size) for file in table.files] == [("1.csv", 12), ("2.csv", 8), ("3.CSV", 8)]
    assert all(file.modified == file.path.stat().st_mtime_ns for file in table.files)


def test_what_is_null_in_one_file_may_stand_in_another(put: Put, tmp_path: Path) -> None:
    put("1.jsonl", '{"text": "one", "note": null}\n')
    put("2.jsonl", '{"text": "two", "note": "three"}\n')
    assert open_table(tmp_path).columns == ("text", "note")
    assert read(tmp_path) == [{"text": "one"}, {"text": "two", "note": "three"}]


def test_files_that_do_not_belong_together_are_refused(put: Put, tmp_path: Path) -> None:
    first, second = put("1.csv", "a,b\n1,2\n"), put("2.csv", "a,c\n1,2\n")
    assert_refused(lambda: open_table(tmp_path), str(first), str(second), "same columns", "'b', 'c'")
    second.unlink()
    second = put("2.tsv", "a\tb\n1\t2\n")
    assert_refused(lambda: open_table(tmp_path), str(first), str(second), "different formats")
    second.unlink()
    put("2.csv", "")
    assert_refused(lambda: open_table(tmp_path), "2.csv is empty")
    (tmp_path / "2.csv").unlink()
    (tmp_path / "2.csv").symlink_to("nowhere")
    assert_refused(lambda: open_table(tmp_path), "2.csv cannot be read")


def test_jsonl_and_ndjson_are_one_format(put: Put, tmp_path: Path) -> None:
    put("1.jsonl", '{"a": 1}')
    put("2.ndjson", '{"a": 2}')
    assert read(tmp_path) == [{"a": 1}, {"a": 2}]


def test_a_folder_of_labels(put: Put, tmp_path: Path) -> None:
    for name in ("pos/10.txt", "pos/2.TXT", "neg/1.txt"):
        put(f"train/{name}", f"\ufefftext of\r\n{name}")
    put("train/pos/bad.txt", b"caf\xe9")
    put("train/neg/empty.txt", "")
    for name in ("urls.txt", "labels.feat", ".hidden/1.txt", "pos/.hidden.txt", "pos/1.md", "neg/.cache/1.txt"):
        put(f"train/{name}", "not to be read")
    table = open_table(tmp_path / "train")
    assert table.columns == ("text", "label")
    rows, problems = read_with_problems(tmp_path / "train")
    assert rows == [
        {"text": "text of\r\nneg/1.txt", "label": "neg"},
        {"text": "", "label": "neg"},
        {"text": "text of\r\npos/10.txt", "label": "pos"},
        {"text": "text of\r\npos/2.TXT", "label": "pos"},
    ]
    assert problems.seen == 5
    assert problems.examples == [f"{tmp_path}/train/pos/bad.txt: {INVALID_UTF8}"]
    # The folder above would take "train" for a label.
    assert_refused(lambda: open_table(tmp_path), "too deep", "label/name.txt")


def test_a_text_that_is_too_long_is_passed_over(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGEST_LINE", 1000)
    put("a/1.txt", "x" * 1000)
    path = put("a/2.txt", "x" * 1001)
    rows, problems = read_with_problems(tmp_path)
    assert rows == [{"text": "x" * 1000, "label": "a"}]
    assert problems.examples == [f"{path}: more than 16 MB"]


def test_a_folder_without_a_table_is_refused(put: Put, tmp_path: Path) -> None:
    assert_refused(lambda: open_table(tmp_path), str(tmp_path), "no table", ".csv", "label/name.txt")
    for name in ("a.txt", ".a.csv", "sub/a.csv", "sub/.b.txt"):
        put(name, "text")
    assert_refused(lambda: open_table(tmp_path), str(tmp_path), "no table")


# --- problems


def see(problems: Problems, good: int, bad: int, reason: str = "odd") -> None:
    for number in range(good + bad):
        problems.see(Path("a.csv"), number + 2)
        if number >= good:
            problems.add(problems.where, reason)


@pytest.mark.parametrize(("good", "bad"), [(95, 5), (19, 1), (57, 3), (20, 0), (0, 0), (665, 35)])
def test_one_in_twenty_may_be_left_out_aloud(caplog: pytest.LogCaptureFixture, good: int, bad: int) -> None:
    problems = Problems()
    see(problems, good, bad)
    problems.require_few()
    with caplog.at_level(logging.WARNING, "zoo"):
        problems.warn()
    assert len(caplog.records) == (bad > 0)
    assert all(f"left out: {bad} of {good + bad} rows (5.0%)" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("good", "bad"), [(94, 6), (18, 1), (113, 6), (0, 1)])
def test_more_is_refused(good: int, bad: int) -> None:
    problems = Problems()
    see(problems, good, bad)
    assert_refused(problems.require_few, f"{bad} of {good + bad} rows", "5%")


def test_the_message_names_count_share_reasons_and_three_examples() -> None:
    problems = Problems()
    see(problems, 30, 2, "empty text")
    problems.see(Path("b.csv"), 7)
    problems.add(problems.where, "answer not in its context")
    problems.see(Path("b.csv"), 8)
    problems.add(problems.where, "empty text")
    assert problems.reasons == {"empty text": 3, "answer not in its context": 1}
    with pytest.raises(UserError) as error:
        problems.require_few()
    assert str(error.value) == (
        "4 of 34 rows (11.8%) cannot be used: empty text (3), answer not in its context (1), for example "
        "a.csv:32: empty text, a.csv:33: empty text, b.csv:7: answer not in its context; "
        "correct the data, since no more than 5% may be left out"
    )


def test_reading_stops_where_it_is_hopeless(put: Put) -> None:
    path = put("a.jsonl", '{"a": 1}\n' * 600 + "no\n" * 5000)
    problems = Problems()
    assert_refused(lambda: list(open_table(path).rows(problems)), "601 of 1,201 rows (50.0%)", "invalid JSON")
    problems = Problems()
    with pytest.raises(UserError, match="1,001 of 1,001 rows"):  # a recipe's own complaints count as well
        see(problems, 0, 5000)


def test_another_encoding_is_told_from_mixed_ones(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    latin = "text,label\n" + "plain,x\n" * 50 + "café,x\n"
    _, problems = read_with_problems(put("a.csv", latin.encode("latin-1")))
    _, mixed = read_with_problems(put("b.csv", latin.encode() + "été,y\n".encode("latin-1")))
    with caplog.at_level(logging.WARNING, "zoo"):
        problems.warn()
        mixed.warn()
    one, other = (record.getMessage() for record in caplog.records)
    assert "another encoding than UTF-8" in one
    assert "iconv -f LATIN1 -t UTF-8" in one
    assert "mixed" in other
    assert "iconv" not in other


# --- files that change


def read_some(table: Table) -> Iterator[Row]:
    rows = table.rows(Problems())
    next(rows)
    return rows


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.conll"])
def test_a_file_that_changes_or_vanishes_is_noticed(put: Put, name: str) -> None:
    line = {"a.csv": "a,b\n", "a.jsonl": '{"a": 1}\n', "a.conll": "a b\n\n"}[name]
    path = put(name, line * 5000)
    table = open_table(path)
    assert len(list(table.rows(Problems()))) >= 4999  # as often as asked for
    rows = read_some(table)
    with path.open("a") as file:
        file.write(line)
    assert_refused(lambda: list(rows), str(path), "changed since it was opened")
    assert_refused(lambda: next(table.rows(Problems())), str(path), "changed since it was opened")

    table = open_table(path)
    rows = read_some(table)
    path.unlink()
    later = (next(rows) for _ in range(1001))  # not only at the end
    assert_refused(lambda: list(later), str(path), "not any more")
    assert_refused(lambda: next(table.rows(Problems())), str(path), "not any more")


def test_the_time_of_a_change_is_enough_and_so_is_one_of_several_files(put: Put, tmp_path: Path) -> None:
    put("1.csv", "a,b\n1,2\n")
    path = put("2.csv", "a,b\n1,2\n")
    rows = read_some(open_table(tmp_path))
    status = path.stat()
    put("2.csv", "a,b\n3,4\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert_refused(lambda: list(rows), str(path), "changed since it was opened")
    rows = read_some(open_table(path))
    path.unlink()
    assert_refused(lambda: list(rows), str(path), "not any more")


def test_a_change_is_told_rather_than_the_damage_that_it_did(put: Put) -> None:
    path = put("a.csv", "a,b\n1,2\n")
    table = open_table(path)
    put("a.csv", 'a,"b\n')
    assert_refused(lambda: list(table.rows(Problems())), str(path), "changed since it was opened")


# --- memory


def peak_of(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.conll"])
def test_a_line_that_is_too_long_is_not_held(put: Put, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LARGEST_LINE", 2**21)
    good = {"a.jsonl": '{"a": 1}\n', "a.csv": "a,b\n", "a.conll": "a O\n\n"}[name]
    path = put(name, good * 20_000 + "x" * 20_000_000 + "\n\n" + good)
    problems = Problems()
    table = open_table(path)
    count = 0

    def read_all() -> None:
        nonlocal count
        count = sum(1 for _ in table.rows(problems))

    assert peak_of(read_all) < 8_000_000
    assert count == (20_000 if name == "a.csv" else 20_001)
    assert problems.reasons == {lines.TOO_LONG: 1}


def test_sixteen_megabytes_are_read_and_more_are_not_held(put: Put) -> None:
    wide = '{"a": "' + "x" * (2**24 - 10) + '"}\n'
    assert len(wide) == 2**24
    path = put("a.jsonl", '{"a": "x"}\n' + wide + wide.replace("xx", "xxx", 1) + "y" * 60_000_000)
    problems = Problems()
    rows = open_table(path).rows(problems)
    assert len(next(rows)["a"]) == 1
    assert len(next(rows)["a"]) == 2**24 - 10
    assert peak_of(lambda: list(rows)) < 20_000_000
    assert problems.examples == [f"{path}:{number}: more than 16 MB" for number in (3, 4)]


@pytest.mark.parametrize(
    ("name", "good", "start", "line"),
    [("a.csv", "1,2\n", '1,"', "1,2\n"), ("a.csv", "1,2\n", '"', '","\n'), ("a.conll", "a O\n\n", "", "a O\n")],
)
def test_a_row_of_many_lines_is_not_held(
    put: Put, name: str, good: str, start: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LARGEST_LINE", 2**16)
    table = open_table(put(name, good * 1000 + start + line * 300_000))
    problems = Problems()

    def read_all() -> None:
        with contextlib.suppress(UserError):  # the rows of CSV that are lost are counted, and are too many
            for _ in table.rows(problems):
                pass

    assert peak_of(read_all) < 1_500_000
    (reason,) = problems.reasons
    assert lines.TOO_LONG in reason


# --- columns


@pytest.fixture
def table(put: Put) -> Table:
    return open_table(put("a.csv", "id,Sentence,text,label\n1,2,3,4\n"))


def test_a_column_that_is_asked_for(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "zoo"):
        assert choose_column(table, "text", "id", ["text"]) == "id"
    assert not caplog.records
    columns = "'id', 'Sentence', 'text', 'label'"
    assert_refused(
        lambda: choose_column(table, "text", "txt", []), "--text-column is 'txt'", columns, "did you mean 'text'?"
    )
    with pytest.raises(UserError) as error:
        choose_column(table, "text", "Zebra", [])
    assert str(error.value).endswith(f"{table.path} has the columns {columns}")


def test_a_column_that_is_guessed(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "zoo"):
        assert choose_column(table, "text", None, ["comment", "sentence", "text"]) == "Sentence"
        assert choose_column(table, "text", None, ["SENTENCE", "TEXT"], taken=["Sentence"]) == "text"
        assert choose_column(table, "label", None, ["class"], taken=["Sentence", "text", "id"]) == "label"
    columns = "(columns: 'id', 'Sentence', 'text', 'label')"
    assert [record.getMessage() for record in caplog.records] == [
        f"text column: 'Sentence' {columns}",
        f"text column: 'text' {columns}",
        f"label column: 'label' {columns}",
    ]


def test_a_column_that_cannot_be_guessed(table: Table, put: Put) -> None:
    assert_refused(
        lambda: choose_column(table, "label", None, ["class", "text"], taken=["text"]),
        "which column is the label",
        "--label-column",
        "'id', 'Sentence', 'label'",
    )
    assert_refused(lambda: choose_column(table, "label", None, ["text"], taken=table.columns), "--label-column")
    names = ",".join(f'"{number}\nx"' for number in range(1000))
    wide = open_table(put("wide.csv", f"{names}\n{names}\n"))
    assert_refused(lambda: choose_column(wide, "text", None, []), r"'0\nx'", r"'19\nx' and 980 more")
    assert_refused(lambda: choose_column(wide, "text", "9\nx9", []), "and 980 more", "did you mean")

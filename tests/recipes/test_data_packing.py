"""Packing: the ids are those of each whole document, and the cache is right whatever happens to it."""

import json
import logging
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data import packing, tokens
from recipes.data.packing import TokenizerTraining, pack
from recipes.data.text import open_corpus
from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe

ROOT = Path(__file__).parents[2]
CHARACTERS = TokenizerTraining("char")
TEXTS = {
    "a.txt": "It was the best of times,\n\nit was  the worst of times.\n" * 40,
    "b.txt": "  leading, trailing  \n\n",
    "c.txt": "no newline at all 日本語 😀 <|endoftext|> and on" * 9,
    "d.md": "\ufeffwith a mark\r\nof byte order " * 60,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(text.encode())
    return tmp_path / "data"


def built(cache: Path) -> list[int]:
    """What tells one making of the cache from another."""
    return sorted(path.stat().st_ino for path in cache.rglob("train.bin"))


@pytest.mark.parametrize("training", [CHARACTERS, TokenizerTraining("bpe", 300)], ids=["char", "bpe"])
def test_each_document_is_encoded_as_a_whole_with_end_of_text_behind(
    folder: Path, tmp_path: Path, training: TokenizerTraining
) -> None:
    corpus = open_corpus(folder, validation_fraction=0.3)
    packed = pack(corpus, training, tmp_path / "cache")
    for split, documents in (("train", corpus.train), ("validation", corpus.validation)):
        expected: list[int] = []
        for document in documents:
            text = TEXTS[document.name].removeprefix("\ufeff")
            expected += [*packed.tokenizer.encode(text), packed.tokenizer.end_of_text]
        assert packed.tokens(split).tolist() == expected
        assert getattr(packed, split).tokens == len(expected)
        texts = [TEXTS[document.name].removeprefix("\ufeff") for document in documents]
        assert getattr(packed, split).bytes == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("training", [CHARACTERS, TokenizerTraining("wordpiece", 200)], ids=["char", "wordpiece"])
def test_each_row_of_a_table_is_encoded_as_a_document(
    folder: Path, tmp_path: Path, training: TokenizerTraining
) -> None:
    rows = [f"row {number}: it was\n the best of times " * (number % 3 + 1) for number in range(50)]
    lines = [json.dumps({"id": number, "body": text}) for number, text in enumerate(rows)]
    lines.insert(7, "{")
    (folder / "rows.jsonl").write_text("\n".join(lines))

    def encoded(texts: list[str]) -> list[int]:
        return [number for text in texts for number in (*packed.tokenizer.encode(text), packed.tokenizer.separator_id)]

    # By itself it is split by its rows, of which the corrupt one is the eighth,
    packed = pack(open_corpus(folder / "rows.jsonl", validation_fraction=0.2), training, tmp_path / "cache")
    for split, part in (("train", rows[:39]), ("validation", rows[39:])):
        assert packed.tokens(split).tolist() == encoded(part)
        assert getattr(packed, split).bytes == sum(map(len, part))
    # and among others it is one of them.
    corpus = open_corpus(folder, validation_fraction=0.3)
    packed = pack(corpus, training, tmp_path / "cache")
    everything = {**{name: [text.removeprefix("\ufeff")] for name, text in TEXTS.items()}, "rows.jsonl": rows}
    for split, documents in (("train", corpus.train), ("validation", corpus.validation)):
        texts = [text for document in documents for text in everything[document.name]]
        assert packed.tokens(split).tolist() == encoded(texts)
        assert getattr(packed, split).bytes == len("".join(texts).encode())


def test_other_columns_and_other_rows_have_other_keys(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.csv", tmp_path / "cache"
    path.write_text("text,title\n" + "one,two\n" * 9)
    keys = {
        pack(open_corpus(path), CHARACTERS, cache).directory,
        pack(open_corpus(path, text_column="title"), CHARACTERS, cache).directory,
        pack(open_corpus(path, validation_fraction=0.3), CHARACTERS, cache).directory,
    }
    assert len(keys) == 3


def test_few_rows_are_left_out_aloud_and_many_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{\n" * 5 + '{"text": "good"}\n' * 95)
    with caplog.at_level(logging.WARNING, "zoo"):
        pack(open_corpus(path), CHARACTERS, tmp_path / "cache")
    (record,) = caplog.records
    assert "left out: 5 of 100 rows (5.0%) cannot be used: invalid JSON (5)" in record.getMessage()
    path.write_text("{\n" * 6 + '{"text": "good"}\n' * 94)
    with pytest.raises(UserError, match=r"6 of 100 rows \(6.0%\) cannot be used.*correct the data"):
        pack(open_corpus(path), CHARACTERS, tmp_path / "other")
    assert [each.suffix for each in (tmp_path / "other").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["b.txt", "b.jsonl"])
@pytest.mark.parametrize("when", ["while a vocabulary is trained", "before the ids are written", "while they are"])
def test_a_file_that_changes_meanwhile_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("some text " * 120_000)
    victim = tmp_path / "data" / name
    victim.write_text("more of it\n" * 10 if name == "b.txt" else '{"text": "more of it"}\n' * 10)
    (tmp_path / "held_out.txt").write_text("held out")
    corpus = open_corpus(tmp_path / "data", tmp_path / "held_out.txt")
    read, write, encode = packing.read_documents, packing.write_tokens, tokens.encode_stream

    def read_and_change(*arguments: Any) -> Iterator[str]:
        for place, chunk in enumerate(read(*arguments)):
            if place == 1:
                victim.unlink(missing_ok=True)
            yield chunk

    def change_and_write(*arguments: Any) -> object:
        victim.write_bytes(victim.read_bytes() + b"\n")
        return write(*arguments)

    def encode_and_change(*arguments: Any) -> Iterator[np.ndarray]:
        for ids in encode(*arguments):
            victim.write_bytes(victim.read_bytes()[:-10])
            yield ids

    if when == "while a vocabulary is trained":
        monkeypatch.setattr(packing, "read_documents", read_and_change)
    elif when == "before the ids are written":
        monkeypatch.setattr(packing, "write_tokens", change_and_write)
    else:
        monkeypatch.setattr(tokens, "encode_stream", encode_and_change)
    for training in (TokenizerTraining("bpe", 300), TokenizerTraining("wordpiece", 200), CHARACTERS):
        with pytest.raises(UserError, match=rf"{name} was (changed since|there and is not any more)") as error:
            pack(corpus, training, tmp_path / "cache")
        assert "\n" not in str(error.value)
        assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_the_parts_of_one_document_have_no_end_of_text(folder: Path, tmp_path: Path) -> None:
    packed = pack(open_corpus(folder / "a.txt"), CHARACTERS, tmp_path / "cache")
    text = TEXTS["a.txt"]
    cut = int(len(text) * 0.9)
    assert packed.tokens("train").tolist() == packed.tokenizer.encode(text[:cut])
    assert packed.tokens("validation").tolist() == packed.tokenizer.encode(text[cut:])


def test_the_vocabulary_is_trained_on_the_training_text_only(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("only these letters", encoding="utf-8")
    (tmp_path / "validation.txt").write_text("Zebra", encoding="utf-8")
    packed = pack(open_corpus(tmp_path / "train.txt", tmp_path / "validation.txt"), CHARACTERS, tmp_path / "cache")
    assert packed.tokenizer.vocabulary_size == 256 + len(set("only these letters")) + 1
    assert packed.tokens("validation")[0] == ord("Z")  # as a byte


def test_a_given_tokenizer_is_used_and_kept(folder: Path, tmp_path: Path) -> None:
    tokenizer = train_bpe(["something else entirely " * 9], 270)
    packed = pack(open_corpus(folder), tokenizer, tmp_path / "cache")
    assert packed.tokenizer.same_as(tokenizer)
    assert Tokenizer.load(packed.directory).same_as(tokenizer)


def test_entropy_and_counts(folder: Path, tmp_path: Path) -> None:
    packed = pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    ids = [*packed.tokens("train").tolist(), *packed.tokens("validation").tolist()]
    shares = [count / len(ids) for count in Counter(ids).values()]
    assert packed.unigram_entropy == pytest.approx(-sum(share * math.log(share) for share in shares), rel=1e-12)
    meta = json.loads((packed.directory / "meta.json").read_text())
    assert meta["train"] == {"tokens": packed.train.tokens, "bytes": packed.train.bytes}


def test_the_facts_tell_every_id_and_what_it_stands_for(folder: Path, tmp_path: Path) -> None:
    packed = pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    facts = packed.facts
    assert (facts["train_tokens"], facts["validation_tokens"]) == (packed.train.tokens, packed.validation.tokens)
    assert facts["unigram_entropy"] == packed.unigram_entropy
    assert json.loads(json.dumps(facts)) == facts
    fingerprints = {facts["data"]}
    (folder / "a.txt").write_text(TEXTS["a.txt"].replace("best", "tseb"), encoding="utf-8")  # as many ids
    for corpus, tokenizer in (
        (open_corpus(folder), CHARACTERS),
        (open_corpus(folder, validation_fraction=0.8), CHARACTERS),
        (open_corpus(folder), TokenizerTraining("bpe", 300)),
    ):
        fingerprints.add(pack(corpus, tokenizer, tmp_path / "cache").facts["data"])
    assert len(fingerprints) == 4
    os.utime(folder / "a.txt", ns=(0, 1))  # other files, the same text
    assert pack(open_corpus(folder), CHARACTERS, tmp_path / "cache").facts["data"] in fingerprints


def test_files_are_small_endian_and_as_narrow_as_the_vocabulary_allows(tmp_path: Path) -> None:
    few, many = "abc" * 9, "".join(map(chr, [*range(0x4E00, 0xA000), *range(0x20000, 0x2F000)]))
    for text, dtype in ((few, "<u2"), (many, "<u4")):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        packed = pack(open_corpus(tmp_path / "a.txt"), CHARACTERS, tmp_path / "cache")
        assert packed.tokens("train").dtype == np.dtype(dtype)
        ids = np.frombuffer((packed.directory / "train.bin").read_bytes(), dtype)
        assert text.startswith(packed.tokenizer.decode(ids.tolist()))
        assert len(ids) == packed.train.tokens


def test_the_second_time_the_cache_is_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")

    def fail(*_: object) -> None:
        raise AssertionError("it was built again")

    monkeypatch.setattr(packing, "_build", fail)
    second = pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    assert second.directory == first.directory
    assert second.tokenizer.same_as(first.tokenizer)
    assert (second.train, second.validation) == (first.train, first.validation)
    assert (second.unigram_entropy, second.replaced) == (first.unigram_entropy, first.replaced)


def test_whatever_changes_the_ids_changes_the_key(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    keys = [
        pack(open_corpus(folder), CHARACTERS, cache).directory,
        pack(open_corpus(folder, validation_fraction=0.8), CHARACTERS, cache).directory,
        pack(open_corpus(folder / "a.txt"), CHARACTERS, cache).directory,
        pack(open_corpus(folder / "a.txt", validation_fraction=0.2), CHARACTERS, cache).directory,
        pack(open_corpus(folder), TokenizerTraining("bpe", 300), cache).directory,
        pack(open_corpus(folder), TokenizerTraining("bpe", 301), cache).directory,
        pack(open_corpus(folder), train_bpe(["a"], 257), cache).directory,
    ]
    path = folder / "a.txt"
    path.write_text(TEXTS["a.txt"].replace("best", "tseb"), encoding="utf-8")  # of the same size
    os.utime(path, ns=(0, 1))
    keys.append(pack(open_corpus(folder), CHARACTERS, cache).directory)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.txt").write_text("x" * len(TEXTS["a.txt"]))
    os.utime(tmp_path / "copy" / "a.txt", ns=(0, 1))
    keys += [pack(open_corpus(place / "a.txt"), CHARACTERS, cache).directory for place in (folder, tmp_path / "copy")]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "meta.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut short", "missing", "overwritten"])
def test_a_damaged_cache_is_made_again_aloud(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    first = pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    good = {path.name: path.read_bytes() for path in first.directory.iterdir()}
    path = first.directory / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(good[name][:-9] if damage == "cut short" else b"{}")
    # A process that was killed while it made this cache would leave this behind.
    (tmp_path / "cache" / f".{first.directory.name}.partial-1").mkdir()
    with caplog.at_level(logging.WARNING, "zoo"):
        pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{first.directory} is not whole")
    assert {path.name: path.read_bytes() for path in first.directory.iterdir()} == good
    assert not list((tmp_path / "cache").glob(".*"))


def test_invalid_utf8_is_counted_and_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 au lait. " * 50)
    with caplog.at_level(logging.WARNING, "zoo"):
        packed = pack(open_corpus(tmp_path / "a.txt"), CHARACTERS, tmp_path / "cache")
    assert packed.replaced == 50
    assert [record.getMessage() for record in caplog.records] == [
        f"50 invalid UTF-8 sequences replaced by U+FFFD: {tmp_path / 'a.txt'} (50)"
    ]


def test_a_text_of_one_character_has_an_empty_split(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    packed = pack(open_corpus(tmp_path / "a.txt"), CHARACTERS, tmp_path / "cache")
    assert packed.tokens("train").shape == (0,)


def test_a_cache_that_cannot_be_written_is_the_users_to_move(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written.*ZOO_CACHE"):
        pack(open_corpus(folder), CHARACTERS, tmp_path / "file" / "cache")


def test_the_default_cache_follows_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "elsewhere"))
    assert pack(open_corpus(folder), CHARACTERS).directory.parent == tmp_path / "elsewhere"
    monkeypatch.delenv("ZOO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert pack(open_corpus(folder), CHARACTERS).directory.parent == tmp_path / "home" / ".cache" / "tf-model-zoo"


def test_an_interrupted_packing_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "entropy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_processes_that_race_make_one_good_cache(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number} of some text\n" for number in range(60_000)))
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from recipes.data.packing import TokenizerTraining, pack\n"
        "from recipes.data.text import open_corpus\n"
        "sys.stdin.read()\n"
        "packed = pack(open_corpus(Path(sys.argv[1])), TokenizerTraining('bpe', 400), Path(sys.argv[2]))\n"
        "print(packed.directory, (packed.directory / 'train.bin').stat().st_ino, packed.tokens('train').sum())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.txt"), str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    racers = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for racer in racers:
        racer.stdin.close()  # go
        racer.stdin = None
    said = {racer.communicate(timeout=60) for racer in racers}
    ((output, errors),) = said
    assert errors == ""
    directory, inode, total = output.split()
    packed = pack(open_corpus(tmp_path / "a.txt"), TokenizerTraining("bpe", 400), tmp_path / "cache")
    assert (str(packed.directory), packed.tokens("train").sum()) == (directory, int(total))
    assert built(tmp_path / "cache") == [int(inode)]


def test_a_long_line_is_packed_in_bounded_memory(tmp_path: Path) -> None:
    """6 MB without white space; encoded at once they take 850 MB."""
    (tmp_path / "a.txt").write_bytes(b"abcdef" * 2**20)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from recipes.data.packing import TokenizerTraining, pack\n"
        "from recipes.data.text import open_corpus\n"
        # Not `ru_maxrss`: a process inherits that from the one that started it.
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "packed = pack(open_corpus(Path(sys.argv[1])), TokenizerTraining('char'), Path(sys.argv[2]))\n"
        "print(packed.train.tokens, peak() - before)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.txt"), str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tokens, kilobytes = map(int, done.stdout.split())
    assert tokens == int(6 * 2**20 * 0.9)
    assert kilobytes < 250_000


def test_progress_is_logged(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PROGRESS_SECONDS", -1.0)
    with caplog.at_level(logging.INFO, "zoo"):
        pack(open_corpus(folder), CHARACTERS, tmp_path / "cache")
    assert "tokenizing: 0 of 0 MB, 0 s left" in caplog.text


def test_of_a_large_corpus_a_part_trains_the_vocabulary(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every part of it has its say."""
    for number in range(40):
        (folder / f"long{number}.txt").write_text(f"word{number} " * 10_000)
    corpus = open_corpus(folder)
    total = sum(document.bytes for document in corpus.train)
    seen: list[str] = []

    def train(texts: object, size: int) -> Tokenizer:
        seen.extend(texts)  # type: ignore[call-overload]
        return train_bpe(["x"], 257)

    monkeypatch.setattr(packing, "train_bpe", train)
    monkeypatch.setattr(packing, "VOCABULARY_TEXT_BYTES", total // 4)
    pack(corpus, TokenizerTraining("bpe", 300), tmp_path / "cache")
    assert 0.2 < sum(map(len, seen)) / total < 0.3
    assert len({text.split()[0] for text in seen}) > 10

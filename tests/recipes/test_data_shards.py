"""Shards: the ids of the whole text however it is cut, byte for byte the same however their making was ended."""

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes.data import documents as documents_module
from recipes.data import plan as plan_module
from recipes.data import preparation
from recipes.data.batches import TrainingBatches, ValidationBatches
from recipes.data.documents import Document, Reading, TextDocument, read_documents
from recipes.data.inspection import find_file
from recipes.data.packing import TokenizerTraining, pack
from recipes.data.plan import plan_shards, spread
from recipes.data.preparation import Share, prepare
from recipes.data.sequences import FullSequences, SegmentPairs
from recipes.data.shards import open_shards, write_counts
from recipes.data.text import find_documents, open_corpus
from recipes.data.tokens import JoinedTokens, find_token, map_tokens
from tests.recipes.refusing import assert_refused
from tests.recipes.resuming import kill, start, wait_until
from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_characters, train_wordpiece

WORDS = (
    "it",
    "was",
    "the",
    "best",
    "of",
    "times",
    "worst",
    "日本語",
    "😀",
    "naïve",
    "<|endoftext|>",
    "[SEP]",
    "don't",
    "1859",
)
SPACES = (" ", " ", " ", "  ", "　  ", "\n", "\n\n", "\r\n", "\t", " ", "　", " \n", ".\n")
KINDS = ("bpe", "wordpiece", "char")


def make_text(seed: int, words: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(WORDS) + draw.choice(SPACES) for _ in range(words))


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    text = make_text(0, 4000)
    return {"bpe": train_bpe([text], 400), "wordpiece": train_wordpiece([text], 200), "char": train_characters([text])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts of very different sizes, and a table."""
    directory = tmp_path / "data"
    directory.mkdir()
    for number, words in enumerate((3000, 40, 700, 20, 9000, 300)):
        (directory / f"{number}.txt").write_text(make_text(number, words), encoding="utf-8", newline="")
    (directory / "mark.txt").write_bytes(b"\xef\xbb\xbf of byte order, and caf\xe9 \xff\xfe invalid " * 40)
    rows = [{"text": make_text(100 + number, 30), "other": number} for number in range(200)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def ids_of(directory: Path, split: str) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.glob(f"{split}-*.bin")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_the_ids_are_those_that_pack_gives(
    folder: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer], kind: str, count: int
) -> None:
    corpus, tokenizer = open_corpus(folder, validation_fraction=0.2), tokenizers[kind]
    packed = pack(corpus, tokenizer, tmp_path / "cache")
    told = prepare(corpus, tokenizer, tmp_path / "shards", count)
    shards = open_shards(tmp_path / "shards")
    for split in ("train", "validation"):
        assert ids_of(shards.directory, split) == (packed.directory / f"{split}.bin").read_bytes()
        assert np.array_equal(shards.tokens(split)[:], packed.tokens(split))
        assert getattr(shards, split) == getattr(packed, split)
    assert shards.facts == packed.facts
    assert len(list(shards.directory.glob("train-*.bin"))) == count
    assert told.tokens == packed.train.tokens + packed.validation.tokens
    assert told.bytes == packed.train.bytes + packed.validation.bytes
    assert (told.missing, told.written) == (0, told.shards)
    # Document by document, against the tokenizer itself.
    wanted: Counter[tuple[int, ...]] = Counter()
    for document in find_documents(folder):
        for text in "".join(document.chunks(Reading(), "\0")).removesuffix("\0").split("\0"):
            ids = tokenizer.encode(text + tokenizer.separator)  # which may stand in the text too
            ends = [place + 1 for place, number in enumerate(ids) if number == tokenizer.separator_id]
            wanted.update(tuple(ids[begin:end]) for begin, end in zip([0, *ends], ends, strict=False))
    found: Counter[tuple[int, ...]] = Counter()
    for split in ("train", "validation"):
        tokens = shards.tokens(split)[:].tolist()
        ends = [place + 1 for place, number in enumerate(tokens) if number == tokenizer.separator_id]
        assert ends[-1] == len(tokens)
        found.update(tuple(tokens[begin:end]) for begin, end in zip([0, *ends], ends, strict=False))
    assert found == wanted


@pytest.mark.parametrize("name", ["4.txt", "rows.jsonl"])
def test_a_single_file_is_cut_and_spread(
    folder: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer], name: str
) -> None:
    corpus = open_corpus(folder / name, validation_fraction=0.25)
    packed = pack(corpus, tokenizers["bpe"], tmp_path / "cache")
    prepare(corpus, tokenizers["bpe"], tmp_path / "shards", 8)
    shards = open_shards(tmp_path / "shards")
    assert shards.facts["data"] == packed.facts["data"]
    sizes = [path.stat().st_size for path in shards.directory.glob("train-*.bin")]
    assert max(sizes) < 1.3 * min(sizes)
    assert len(list(shards.directory.glob("validation-*.bin"))) == 3  # about as large


text_pieces = st.lists(st.sampled_from([*WORDS, *SPACES, "a", ".", "\x85", " ", "\x1c"]), max_size=40)
broken_pieces = st.lists(
    st.sampled_from([b"a", b" ", b"\n", b"\xe3\x80", b"\x80", b"\xff", "　é".encode()]), max_size=30
)


@settings(max_examples=300, deadline=None, database=None)
@given(
    data=text_pieces.map(lambda pieces: "".join(pieces).encode()) | broken_pieces.map(b"".join),
    places=st.lists(st.integers(0, 200), max_size=4),
    chunk=st.sampled_from([5, 9, 1000]),
)
@example(data="a　  b".encode(), places=[3], chunk=9)  # a white space that ends in what might be a letter's byte
@example(data=b"\xef\xbb\xbf a b", places=[0, 1, 2, 3], chunk=9)
def test_the_parts_of_a_text_have_its_very_ids(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizers: dict[str, Tokenizer],
    data: bytes,
    places: list[int],
    chunk: int,
) -> None:
    path = tmp_path_factory.mktemp("data") / "a.txt"
    path.write_bytes(data)
    document = TextDocument(find_file(path), "a.txt", 0, len(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "CHUNK_BYTES", chunk)
        parts = document.cut(sorted(min(place, len(data)) for place in places))
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert (parts[0].start, parts[-1].end, len(parts)) == (0, len(data), len(places) + 1)
    for tokenizer in tokenizers.values():
        whole, cut = (
            ["".join(read_documents([each], Reading(), tokenizer.separator)) for each in each_of]
            for each_of in ([document], parts)
        )
        assert "".join(cut) == whole[0]
        assert [number for each in cut for number in tokenizer.encode(each)] == tokenizer.encode(whole[0])


class Sized(Document):
    """A document of so many bytes that is cut exactly."""

    def __init__(self, name: str, begin: int, end: int) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "places", range(begin, end))

    bytes = property(lambda self: len(self.places))  # type: ignore[assignment]
    part = property(lambda self: {})  # type: ignore[assignment]
    chunks = split = None  # type: ignore[assignment]

    def cut(self, places: Sequence[int]) -> list["Sized"]:  # type: ignore[override]
        begin, end = self.places.start, self.places.stop
        edges = [begin, *(begin + place for place in places), end]
        return [Sized(self.name, one, other) for one, other in pairwise(edges)]


@settings(max_examples=300, deadline=None, database=None)
@given(sizes=st.lists(st.integers(1, 500) | st.integers(1, 20), min_size=1, max_size=30), count=st.integers(1, 20))
def test_documents_are_shared_out_in_their_order_and_evenly(sizes: list[int], count: int) -> None:
    documents = [Sized(str(number), 0, size) for number, size in enumerate(sizes)]
    shares = spread(documents, count)
    everything = [(each.name, place) for share in shares for each in share for place in each.places]  # type: ignore[attr-defined]
    assert everything == [(each.name, place) for each in documents for place in each.places]  # type: ignore[attr-defined]
    even = sum(sizes) / count
    for share in shares:  # half of a document that is not cut may be too much or too little at either end
        assert abs(sum(each.bytes for each in share) - even) <= even / 8 + 2


def test_small_documents_stay_whole_and_large_ones_do_not(folder: Path) -> None:
    shards = [each for each in plan_shards(open_corpus(folder, validation_fraction=0.05), 4) if each.split == "train"]
    counts = Counter(each.name for shard in shards for each in shard.documents)
    assert counts["4.txt"] > 1
    assert all(counts[name] == 1 for name in ("1.txt", "3.txt") if name in counts)


# --- the making of them


def make_corpus(directory: Path) -> Path:
    directory.mkdir()
    for number, words in enumerate((120_000, 9_000, 40_000, 500)):
        (directory / f"{number}.txt").write_text(make_text(number, words), encoding="utf-8", newline="")
    return directory


def prepare_command(data: Path, out: Path, *options: str, shards: int = 5) -> list[str]:
    return ["prepare", "--data", str(data), "--out", str(out), "--shards", str(shards), *options]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus, and what is made of it without interruption."""
    directory = tmp_path_factory.mktemp("made")
    corpus = open_corpus(make_corpus(directory / "data"))
    prepare(corpus, TokenizerTraining("bpe", 300), directory / "shards", 5)
    return directory / "data", directory / "shards"


# In smaller batches than it does by itself, and slowly, so that there is something to kill.
SLOWLY = """
import time
from recipes.data import tokens
from zoo.text import stream
stream.BATCH_CHARACTERS = 2**14
encode = tokens.encode_stream
def encode_slowly(*arguments):
    for ids in encode(*arguments):
        time.sleep(0.02)
        yield ids
tokens.encode_stream = encode_slowly
"""


def test_killed_at_any_moment_and_started_again_it_makes_the_same(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = made
    out, draw, killed = tmp_path / "shards", random.Random(time.time_ns()), 0
    arguments = prepare_command(data, out, "--tokenizer", "bpe", "--vocabulary-size", "300")

    def is_writing() -> bool:  # something that was not there
        return bool(set(tmp_path.rglob("*")) - before)

    for _ in range(7):
        before = set(tmp_path.rglob("*"))
        process = start(arguments, SLOWLY)
        wait_until(process, is_writing)
        time.sleep(draw.random() * 0.4)
        code, told = kill(process)
        assert code in (0, -9), told
        killed += code == -9
        for path in out.glob("[!.]*"):
            assert path.read_bytes() == (whole / path.name).read_bytes()  # or it is not there yet
    process = start(arguments)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert killed > 1
    assert contents(out) == contents(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_what_is_there_is_not_made_again(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = made
    corpus, request = open_corpus(data), TokenizerTraining("bpe", 300)
    out, left_behind = tmp_path / "shards", tmp_path / ".shards.partial-99999999"
    left_behind.mkdir()  # by a process of this machine that was killed; or of another one, which just begins
    prepare(corpus, Tokenizer.load(whole), tmp_path / "shards", 5, Share(1, 5))
    assert left_behind.is_dir()
    shutil.rmtree(out)
    prepare(corpus, request, out, 5)
    assert not left_behind.exists()
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "train-00001-of-00005.json").unlink()
    cut_short = out / "train-00003-of-00005.bin"
    cut_short.write_bytes(cut_short.read_bytes()[:-2])
    told = prepare(corpus, request, out, 5)
    assert (told.written, told.missing) == (2, 0)
    changed = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {f"train-0000{number}-of-00005.{suffix}" for number in (1, 3) for suffix in ("bin", "json")}
    assert contents(out) == contents(whole)
    assert prepare(corpus, request, out, 5).written == 0


def test_machines_that_share_the_work_make_the_same_set(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = made
    (tmp_path / "empty").mkdir()  # as a job might make it beforehand
    for out in (tmp_path / "shards", tmp_path / "empty"):
        one, other = (
            start(prepare_command(data, out, "--tokenizer", str(whole), "--shard", f"{number}/2")) for number in (1, 2)
        )
        told = [process.communicate(timeout=120)[1] for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0), told
        together, alone = contents(out), contents(whole)
        for each in (together, alone):  # the one says that the tokenizer was given, the other how it was trained
            plan = json.loads(each["plan.json"])
            each["plan.json"] = json.dumps({**plan, "request": None}).encode()
        assert together == alone


def test_a_share_needs_a_tokenizer(made: tuple[Path, Path], tmp_path: Path) -> None:
    data, whole = made
    corpus, request, out = open_corpus(data), TokenizerTraining("bpe", 300), tmp_path / "shards"
    with pytest.raises(UserError, match=r"--shard needs a tokenizer.*without --shard.*--tokenizer DIR"):
        prepare(corpus, request, out, 5, Share(1, 2))
    assert not out.exists()
    prepare(corpus, request, out, 5)
    for path in out.glob("train-*.bin"):
        path.unlink()
    assert prepare(corpus, request, out, 5, Share(2, 3)).missing == 3  # shards 1 and 4 of 0 to 4 are this share's
    assert prepare(corpus, request, out, 5, Share(1, 3)).missing == 1
    assert prepare(corpus, request, out, 5, Share(3, 3)).missing == 0
    assert contents(out) == contents(whole)


# --- what is refused


def test_other_data_another_tokenizer_and_other_shards_are_refused(
    folder: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"

    def again(**changes: object) -> object:
        options = {"corpus": open_corpus(folder), "request": tokenizers["bpe"], "out": out, "count": 3}
        return prepare(**{**options, **changes})  # type: ignore[arg-type]

    again()
    good = contents(out)
    assert_refused(lambda: again(request=tokenizers["char"]), str(out), "another tokenizer", "--force")
    assert_refused(lambda: again(request=TokenizerTraining("bpe", 400)), "another tokenizer")
    assert_refused(lambda: again(count=4), "prepared as 3 shards, not 4", "--force")
    assert_refused(lambda: again(corpus=open_corpus(folder, validation_fraction=0.3)), "other data")
    times = (folder / "0.txt").stat()
    os.utime(folder / "0.txt", ns=(0, times.st_mtime_ns + 1))  # edited, to the same size
    assert_refused(lambda: again(), "other data", "changed", "--force")
    os.utime(folder / "0.txt", ns=(0, times.st_mtime_ns))
    again()
    (folder / "new.txt").write_text("one more")
    assert_refused(lambda: again(), "other data", "changed", "--force")
    assert contents(out) == good
    again(force=True)
    assert contents(out) != good
    good = contents(out)
    again(force=True)  # and not begun anew for nothing
    assert contents(out) == good
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    monkeypatch.setattr(preparation, "train_on", None)  # that would be work for nothing
    assert_refused(lambda: again(out=tmp_path / "thesis", request=TokenizerTraining("bpe", 400)), "not empty")
    assert_refused(lambda: again(out=tmp_path / "thesis", force=True), "no plan.json")


def test_a_set_that_is_not_whole_is_refused(folder: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    out = tmp_path / "shards"
    prepare(open_corpus(folder), tokenizers["bpe"], out, 6)
    good = contents(out)

    def damaged(name: str, content: bytes | None) -> None:
        if content is None:
            (out / name).unlink()
        else:
            (out / name).write_bytes(content)

    for name, content in (
        ("train-00002-of-00006.bin", None),
        ("train-00002-of-00006.json", None),
        ("train-00002-of-00006.bin", good["train-00002-of-00006.bin"][:-2]),
        ("train-00002-of-00006.json", b"{"),
        ("train-00002-of-00006.json", b"[]"),
        ("train-00002-of-00006.json", good["train-00001-of-00006.json"]),
        ("train-00002-of-00006.json", good["train-00002-of-00006.json"].replace(b'"plan": "', b'"plan": "0')),
    ):
        damaged(name, content)
        assert_refused(lambda: open_shards(out), str(out), "train-00002-of-00006 of 7 shards are missing", "prepare")
        (out / name).write_bytes(good[name])
    for number in range(5):
        damaged(f"train-0000{number}-of-00006.bin", None)
    assert_refused(
        lambda: open_shards(out), "train-00000-of-00006, train-00001-of-00006, train-00002-of-00006 and 2 more"
    )
    for name, content in (
        ("plan.json", b"{}"),
        ("plan.json", b"{"),
        ("plan.json", good["plan.json"].replace(b'"4.txt"', b'"5.txt"')),
        ("plan.json", good["plan.json"].replace(b'"format": 1', b'"format": 2')),
        ("tokenizer.json", b"{}"),
    ):
        damaged(name, content)
        assert_refused(lambda: open_shards(out), name.removesuffix(".json"))
        (out / name).write_bytes(good[name])
    tokenizers["char"].save(out)
    assert_refused(lambda: open_shards(out), "not the one that its text was prepared with")


def test_damage_to_the_plan_is_made_good_by_force(
    folder: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    corpus, out = open_corpus(folder), tmp_path / "shards"
    prepare(corpus, tokenizers["bpe"], out, 3)
    good = contents(out)
    (out / "plan.json").write_text("{")
    assert_refused(lambda: prepare(corpus, tokenizers["bpe"], out, 3), "plan.json")
    prepare(corpus, tokenizers["bpe"], out, 3, force=True)
    assert contents(out) == good


@pytest.mark.parametrize(("how", "word"), [("changed", "was changed since"), ("vanished", "is not any more")])
def test_a_file_that_changes_meanwhile_costs_only_its_shard(
    folder: Path, tmp_path: Path, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch, how: str, word: str
) -> None:
    corpus, out = open_corpus(folder), tmp_path / "shards"
    victim = plan_shards(corpus, 3)[1].documents[-1].path

    def write(*arguments: Any) -> None:
        write_counts(*arguments)
        if how == "changed":
            victim.write_bytes(victim.read_bytes() + b"more")
        else:
            victim.unlink()

    monkeypatch.setattr(preparation, "write_counts", write)
    assert_refused(lambda: prepare(corpus, tokenizers["bpe"], out, 3), str(victim), word)
    assert [path.name for path in sorted(out.glob("[.]*"))] == []
    assert {path.name[:11] for path in out.glob("train*")} == {"train-00000"}
    assert_refused(lambda: open_shards(out), "train-00001-of-00003")
    assert_refused(lambda: prepare(corpus, tokenizers["bpe"], out, 3), str(victim), word)


def test_few_rows_that_cannot_be_used_are_left_out_and_many_refused(
    tmp_path: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    def write(bad: int) -> Path:
        path = tmp_path / f"{bad}.jsonl"
        path.write_text("".join("{\n" if number < bad else f'{{"text": "row {number}"}}\n' for number in range(100)))
        return path

    corpus = open_corpus(write(4))  # all of them in the first shard: a third of its rows
    prepare(corpus, tokenizers["bpe"], tmp_path / "few", 8)
    assert open_shards(tmp_path / "few").facts["data"] == pack(corpus, tokenizers["bpe"], tmp_path).facts["data"]
    corpus = open_corpus(write(6))
    assert_refused(lambda: prepare(corpus, tokenizers["bpe"], tmp_path / "many", 8), "6 of 100 rows", "5%")
    assert_refused(lambda: open_shards(tmp_path / "many"), "6 of 100 rows", "5%")


def test_many_rows_that_cannot_be_used_are_refused_before_all_is_read(
    tmp_path: Path, tokenizers: dict[str, Tokenizer]
) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "shards"
    path.write_text('{"text": "good"}\n' * 500 + ('{"text": "good"}\n' * 9 + "{\n") * 200)
    assert_refused(lambda: prepare(open_corpus(path), tokenizers["bpe"], out, 10), "of 1,125 rows", "correct the data")
    assert len(list(out.glob("*.bin"))) == 4


def test_where_there_is_less_text_than_shards_some_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    prepare(open_corpus(tmp_path / "a.txt"), TokenizerTraining("char"), tmp_path / "shards", 5)
    shards = open_shards(tmp_path / "shards")
    assert (len(shards.tokens("train")), len(shards.tokens("validation"))) == (1, 1)
    assert (
        shards.facts["data"] == pack(open_corpus(tmp_path / "a.txt"), TokenizerTraining("char"), tmp_path).facts["data"]
    )


# --- read as one sequence


def in_parts(array: np.ndarray, cuts: Sequence[int]) -> JoinedTokens:
    return JoinedTokens(np.split(array, sorted(cut % (len(array) + 1) for cut in cuts)))


@settings(max_examples=200, deadline=None, database=None)
@given(
    size=st.integers(0, 50),
    cuts=st.lists(st.integers(0, 50), max_size=6),
    slices=st.lists(st.slices(60).filter(lambda each: each.step in (None, 1)), max_size=10),
)
def test_joined_tokens_are_sliced_as_an_array(size: int, cuts: list[int], slices: list[slice]) -> None:
    array = np.arange(size, dtype=np.uint16) * 3 % 7
    joined = in_parts(array, cuts)
    assert len(joined) == size
    for each in slices:
        assert np.array_equal(joined[each], array[each])
        assert joined[each].dtype == np.uint16
    assert [int(joined[place]) for place in range(size)] == array.tolist()
    assert np.array_equal(find_token(joined, 3), np.flatnonzero(array == 3))


def test_a_slice_within_a_part_is_a_view() -> None:
    parts = np.split(np.arange(100), [40])
    assert np.shares_memory(JoinedTokens(parts)[10:40], parts[0])
    assert np.shares_memory(JoinedTokens(parts)[40:50], parts[1])
    assert not np.shares_memory(JoinedTokens(parts)[10:41], parts[0])


@settings(max_examples=60, deadline=None, database=None)
@given(cuts=st.lists(st.integers(0, 600), max_size=6), length=st.integers(1, 40), step=st.integers(0, 60))
def test_batches_of_shards_are_those_of_the_text(cuts: list[int], length: int, step: int) -> None:
    array = np.random.default_rng(0).integers(0, 300, 600).astype(np.uint16)
    joined = in_parts(array, cuts)
    for one, other in (
        (TrainingBatches(array, length, 5, 7), TrainingBatches(joined, length, 5, 7)),
        (ValidationBatches(array, length, 5, 11), ValidationBatches(joined, length, 5, 11)),
    ):
        assert one.num_batches == other.num_batches
        batch, same = (each.batch(step % (each.num_batches or 10**9)) for each in (one, other))
        assert np.array_equal(batch[0]["token_ids"], same[0]["token_ids"])
        assert np.array_equal(batch[1]["logits"], same[1]["logits"])


@settings(max_examples=30, deadline=None, database=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_sequences_of_shards_are_those_of_the_text(tokenizers: dict[str, Tokenizer], cuts: list[int]) -> None:
    tokenizer = tokenizers["wordpiece"]
    array = np.array(tokenizer.encode("".join(make_text(seed, 60) + "[SEP]" for seed in range(9))), np.uint16)
    for make in (FullSequences, SegmentPairs):
        one, other = (make(tokens, tokenizer, 24, 3) for tokens in (array, in_parts(array, cuts)))
        assert np.array_equal(one.lengths(1), other.lengths(1))
        for row in range(one.count):
            (ids, *rest), (same, *others) = one.take(1, row), other.take(1, row)
            assert np.array_equal(ids, same)
            assert rest == others


def test_shards_are_mapped_and_not_read(tmp_path: Path) -> None:
    np.arange(1000, dtype="<u2").tofile(tmp_path / "a.bin")
    np.arange(500, dtype="<u2").tofile(tmp_path / "b.bin")
    tokens = map_tokens([(tmp_path / "a.bin", 1000), (tmp_path / "b.bin", 500)], np.dtype("<u2"))
    with (tmp_path / "b.bin").open("r+b") as file:
        file.write(b"\x07\x00")
    assert tokens[1000] == 7  # what is written behind its back is seen


def test_a_plan_is_the_same_wherever_the_data_lies(folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "moved")
    first = plan_module.make_plan(plan_shards(open_corpus(moved), 4), "t", None)
    second = plan_module.make_plan(plan_shards(open_corpus(moved.rename(folder)), 4), "t", None)
    assert first.fingerprint == second.fingerprint
    assert first.names()[:2] == [("train", "train-00000-of-00004"), ("train", "train-00001-of-00004")]

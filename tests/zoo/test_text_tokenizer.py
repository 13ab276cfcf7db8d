"""Both kinds of tokenizer: every string comes back, BPE gives GPT-2's ids, streams give the ids of the whole."""

import argparse
import json
import logging
import random
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoo.text import END_OF_TEXT, Tokenizer, cut_pieces, encode_stream, train_bpe, train_characters

PROSE = Path(argparse.__file__).read_text(encoding="utf-8")
BPE = train_bpe([PROSE], 900)
CHARACTERS = train_characters([PROSE])
BOTH = pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "char"])

# As in GPT-2's `encoder.py`: https://github.com/openai/gpt-2/blob/master/src/encoder.py
GPT2_PATTERN = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

STRINGS = [
    "",
    " ",
    "   ",
    "\n",
    "\x00",
    "a\x00b",
    "Hello, world!",
    "I'll say it's John's; they've, we'd: WE'LL ''s '",
    "  two  spaces   three ",
    "a\nb\n\nc\n\n\n d\t\te",
    "\r\n crlf\r\n",
    "tab\tand\x0bvt\x0cff \x1c\x1d\x1e\x1f \x7f\x80\x85\x9f",
    "12345 3.14 1,000 ²³ ½ Ⅷ a1b2",
    "naïve café Ünïcödé ſ ǅ ﬁ ﬀ ʼn’s “quoted”",
    "e\u0301 \u0301\u0301 combining, and stacked Z\u0351\u036b\u0343",
    "日本語のテキスト。 한국어 ไทย नमस्ते",
    "مرحبا بالعالم \u202eשלום\u202c",
    "😀😃 👨‍👩‍👧 🏳️‍🌈 \U0001f3fd",
    "\u200b\u200d\ufeff\u180e\u2060x",
    "\u00a0nbsp\u2003em\u3000ideographic\u2028ls\u2029ps",
    "\ue000\U000f0000 private",
    "\ufffe\uffff\U0010ffff\ufdd0 non-characters, \ufffd",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|> <|endof",
    "<0x41><0xE2> Ġ Ċ Ā",
    "x" * 300,
    "def f(x):\n    return {'a': [1, 2]}  # _under_score--dash__\n",
]


@BOTH
@pytest.mark.parametrize("text", STRINGS)
def test_any_string_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= number < tokenizer.vocabulary_size for number in ids)


@BOTH
@settings(max_examples=200, deadline=None, database=None)
@given(text=st.text(max_size=200))
def test_random_unicode_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(np.array(tokenizer.encode(text), np.int32)) == text


def gpt2_ids(text: str) -> list[int]:
    """The published algorithm, written out: split, bytes as characters, merge the best pair while there is one."""
    vocabulary = BPE.specification.vocabulary
    ranks = {pair: rank for rank, pair in enumerate(BPE.specification.merges)}
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    alphabet = {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    ids = []
    for word in GPT2_PATTERN.findall(text):
        parts = [alphabet[byte] for byte in word.encode()]
        while ranked := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
            pair = tuple(parts[min(ranked)[1] :][:2])
            merged: list[str] = []
            while parts:
                both = tuple(parts[:2]) == pair
                merged.append("".join(parts[:2]) if both else parts[0])
                del parts[: 2 if both else 1]
            parts = merged
        ids += [vocabulary[part] for part in parts]
    return ids


# Unassigned code points are left out: the two libraries may know different versions of Unicode.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=100).filter(
    lambda text: END_OF_TEXT not in text
)
WORDY = st.text(st.sampled_from(" \n\t\r'setvlmrd.,1A\u00a0\u3000é日"), max_size=100)


@settings(max_examples=300, deadline=None, database=None)
@given(text=ASSIGNED | WORDY)
@example(text=PROSE[:5000])
@example(text="".join(STRINGS).replace(END_OF_TEXT, ""))
def test_bpe_gives_the_ids_of_gpt2s_algorithm(text: str) -> None:
    assert BPE.encode(text) == gpt2_ids(text)


@BOTH
def test_a_special_token_written_out_becomes_its_id(tokenizer: Tokenizer) -> None:
    before, after = tokenizer.encode("one"), tokenizer.encode(" two")
    assert tokenizer.encode(f"one{END_OF_TEXT} two") == [*before, tokenizer.end_of_text, *after]
    assert tokenizer.end_of_text == tokenizer.vocabulary_size - 1


@BOTH
def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zoo"):
        assert tokenizer.decode(tokenizer.encode("a\ud800b\udcffc\ud83d")) == "a\ufffdb\ufffdc\ufffd"
        assert len(caplog.records) == 1
        # A pair of them, as some programs pass on what lies above U+FFFF, is a character.
        assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"


@BOTH
def test_decoding_an_id_outside_the_vocabulary_is_an_error(tokenizer: Tokenizer) -> None:
    for number in (tokenizer.vocabulary_size, -1):
        with pytest.raises(ValueError, match=f"token id {number} is not in the vocabulary"):
            tokenizer.decode([0, number])


@BOTH
def test_bytes_that_are_no_character_decode_to_replacement_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("é€")[:-1] + tokenizer.encode("é")) == "é\ufffdé"


def in_chunks(text: str, seed: int) -> list[str]:
    cuts = sorted(random.Random(seed).choices(range(len(text) + 1), k=5))
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


@BOTH
@settings(max_examples=300, deadline=None, database=None)
@given(
    text=st.text(st.sampled_from(" \n\t\r'setvl.1\u00a0\u3000\x1cé日"), max_size=100).map(
        lambda text: text.replace("t.", END_OF_TEXT)
    ),
    characters=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_pieces_give_the_ids_of_the_whole(tokenizer: Tokenizer, text: str, characters: int, seed: int) -> None:
    pieces = list(cut_pieces(in_chunks(text, seed), characters, longest=10**6))
    assert "".join(pieces) == text
    assert list(chain.from_iterable(tokenizer.encode_batch(pieces))) == tokenizer.encode(text)


def test_pieces_are_as_long_as_asked() -> None:
    lengths = [len(piece) for piece in cut_pieces([PROSE], characters=1000)]
    assert sum(lengths) == len(PROSE)
    assert max(lengths) < 1100
    assert min(lengths[:-1]) >= 1000


@BOTH
@pytest.mark.parametrize("stretch", ["x" * 5000, " " * 5000, "<|endoftext|>" * 400, "日本" * 2500])
def test_a_stretch_without_a_place_to_cut_is_cut_in_time(tokenizer: Tokenizer, stretch: str) -> None:
    """Where nothing bounds a word, memory is bounded all the same; special tokens stay in one piece."""
    longest = 64
    pieces = list(cut_pieces(in_chunks(stretch, 1), characters=16, longest=longest))
    assert max(map(len, pieces)) <= longest + len(END_OF_TEXT)
    ids = list(chain.from_iterable(tokenizer.encode_batch(pieces)))
    assert tokenizer.decode(ids) == stretch
    assert ids.count(tokenizer.end_of_text) == stretch.count(END_OF_TEXT)


@BOTH
def test_a_stream_gives_the_ids_of_the_whole(tokenizer: Tokenizer) -> None:
    text = PROSE * 8  # more than one batch
    arrays = list(encode_stream(tokenizer, in_chunks(text, 2)))
    assert len(arrays) > 1
    assert np.concatenate(arrays).tolist() == tokenizer.encode(text)


@BOTH
def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert not Tokenizer.is_saved_in(tmp_path)
    tokenizer.save(tmp_path / "new")
    assert Tokenizer.is_saved_in(tmp_path / "new")
    loaded = Tokenizer.load(tmp_path / "new")
    assert loaded.same_as(tokenizer)
    assert (loaded.kind, loaded.vocabulary_size) == (tokenizer.kind, tokenizer.vocabulary_size)
    assert loaded.encode_batch(STRINGS) == tokenizer.encode_batch(STRINGS)
    assert not loaded.same_as(train_bpe([PROSE], 300))
    assert not loaded.same_as(train_characters(["abc"]))


def test_gpt2s_two_files_are_enough(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert Tokenizer.load(tmp_path).same_as(BPE)
    assert json.loads((tmp_path / "vocab.json").read_text())["<|endoftext|>"] == BPE.end_of_text
    first, second = (tmp_path / "merges.txt").read_text().split("\n")[:2]
    assert first.startswith("#version")
    assert tuple(second.split(" ")) == BPE.specification.merges[0]


def test_characters_are_not_written_as_files_that_mean_bpe(tmp_path: Path) -> None:
    CHARACTERS.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]

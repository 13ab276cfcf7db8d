"""Vocabularies trained from text: what is in them, that they repeat, and that training streams."""

import argparse
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import regex

from zoo.errors import UserError
from zoo.text import END_OF_TEXT, Tokenizer, cut_pieces, train_bpe, train_characters, train_clip, train_wordpiece

PROSE = Path(argparse.__file__).read_text(encoding="utf-8")
# The order of bytes in the vocab.json that OpenAI published.
GPT2_ORDER = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]


def test_bpe_has_all_bytes_then_merges_then_end_of_text() -> None:
    tokenizer = train_bpe([PROSE], 500)
    assert tokenizer.vocabulary_size == 500
    assert [tokenizer.encode(chr(byte))[-1] for byte in range(128)] == [GPT2_ORDER.index(byte) for byte in range(128)]
    assert tokenizer.encode("\u00ff") == [GPT2_ORDER.index(0xC3), GPT2_ORDER.index(0xBF)]
    assert len(tokenizer.specification.merges) == 500 - 257
    assert tokenizer.specification.vocabulary[END_OF_TEXT] == 499


def test_clip_has_bytes_then_last_bytes_then_merges_of_lower_case(tmp_path: Path) -> None:
    tokenizer = train_clip([PROSE, "PROSE prose Prose", END_OF_TEXT * 9], 700)
    vocabulary = tokenizer.specification.vocabulary
    assert (tokenizer.kind, tokenizer.vocabulary_size) == ("clip", 700)
    assert [tokenizer.encode(chr(byte)) for byte in (*range(33, 65), *range(91, 127))] == [
        [256 + GPT2_ORDER.index(byte)] for byte in (*range(33, 65), *range(91, 127))
    ]
    assert tokenizer.encode("\u00ff") == [GPT2_ORDER.index(0xC3), 256 + GPT2_ORDER.index(0xBF)]
    assert len(tokenizer.specification.merges) == 700 - 514
    assert [vocabulary[token] for token in ("<|startoftext|>", END_OF_TEXT)] == [698, 699]
    assert tokenizer.prepare(["The  end"], max_length=9)["token_ids"][0].tolist() == [
        698,
        *tokenizer.encode("the end"),
        699,
    ]
    assert not any(character.isupper() for merge in tokenizer.specification.merges for character in "".join(merge))
    assert tokenizer.decode(tokenizer.encode("Some  argument,\n THE help")) == "some argument , the help"
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).same_as(tokenizer)
    assert train_clip([PROSE, "PROSE prose Prose", END_OF_TEXT * 9], 700).same_as(tokenizer)


def merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def test_merges_are_those_of_the_textbook_algorithm() -> None:
    """Sennrich et al., 2016, algorithm 1, up to the first merge for which two pairs are equally frequent."""
    words = Counter(regex.findall(r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", PROSE.replace("'", "")))
    parts = {tuple(word.replace(" ", "Ġ").replace("\n", "Ċ")): count for word, count in words.items()}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in parts.items():
            for pair in pairwise(word):
                pairs[pair] += count
        (best, count), (_, next_count) = pairs.most_common(2)
        if count == next_count:
            break
        merges.append(best)
        parts = {merged(word, best): count for word, count in parts.items()}
    assert len(merges) > 20
    assert list(train_bpe([PROSE.replace("'", "")], 600).specification.merges)[: len(merges)] == merges


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="256 is too small: it needs 257 or more"):
        train_bpe([PROSE], 256)
    assert train_bpe([PROSE], 257).specification.merges == ()
    with pytest.raises(UserError, match="513 is too small: it needs 514 or more"):
        train_clip([PROSE], 513)
    assert train_clip([PROSE], 514).specification.merges == ()


def test_a_text_too_short_for_the_vocabulary_gives_a_smaller_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zoo"):
        tokenizer = train_bpe(["hello hello"], 1000)
    assert 257 < tokenizer.vocabulary_size < 270
    assert f"for {tokenizer.vocabulary_size} tokens, not 1000" in caplog.text


def test_characters_seen_are_tokens_and_others_bytes() -> None:
    tokenizer = train_characters(["hello\n", "héllo 😀", END_OF_TEXT])
    assert tokenizer.vocabulary_size == 256 + len(set("hello\né 😀")) + 1
    assert tokenizer.encode("\n") == [256]
    assert len(tokenizer.encode("hé 😀")) == 4
    assert tokenizer.encode("€") == list("€".encode())
    assert "|" not in tokenizer.specification.vocabulary


def test_wordpiece_has_special_tokens_then_characters_then_longer_pieces() -> None:
    tokenizer = train_wordpiece([PROSE, "É " * 9], 500)
    tokens = sorted(tokenizer.specification.vocabulary, key=tokenizer.specification.vocabulary.__getitem__)
    assert tokenizer.vocabulary_size == len(tokens) == 500
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Counter(regex.findall(r"[\w--_]+|[^\w\s]|_", PROSE.lower(), flags=regex.V1))
    starts = {word[0] for word in words} | {character for word in words for character in word if len(word) > 1}
    within = {character for word in words if len(word) > 1 for character in word}
    characters = [*sorted(starts), *(f"##{character}" for character in sorted(within))]
    assert tokens[5 : 5 + len(characters)] == characters
    assert all(len(token.removeprefix("##")) > 1 for token in tokens[5 + len(characters) :])
    assert tokenizer.encode("É e") == tokenizer.encode("e e")


def test_wordpiece_learns_the_most_frequent_pairs() -> None:
    """Of frequent words made of few characters, whole words are learned, and of others parts."""
    tokenizer = train_wordpiece(["lowest newest widest lowest newest unseen " * 50, "abcdefghijklmnopqrstuvwxyz"], 128)
    assert tokenizer.vocabulary_size < 128
    for word in ("lowest", "newest", "widest", "unseen"):
        assert len(tokenizer.encode(word)) == 1
    assert len(tokenizer.encode("widener")) > 2
    assert tokenizer.decode(tokenizer.encode("slowest newts")) == "slowest newts"
    assert tokenizer.encode("9") == [tokenizer.special_ids["unk"]]


def test_wordpiece_keeps_case_where_told() -> None:
    tokenizer = train_wordpiece([PROSE], 600, lowercase=False)
    assert not tokenizer.specification.normalization.lowercase
    assert not tokenizer.specification.normalization.strip_accents
    assert tokenizer.encode("The") != tokenizer.encode("the")


def test_wordpiece_keeps_half_of_the_vocabulary_for_longer_pieces() -> None:
    """Of thousands of different characters the rarest are left out."""
    rare = "".join(map(chr, range(0x4E00, 0x5200)))
    tokenizer = train_wordpiece(["the cat sat on the mat " * 100, "中文" * 40, rare], 300)
    characters = [t for t in tokenizer.specification.vocabulary if len(t.removeprefix("##")) == 1]
    assert len(characters) == 150
    assert tokenizer.special_ids["unk"] not in tokenizer.encode("中文 cat")
    assert tokenizer.encode(rare).count(tokenizer.special_ids["unk"]) > 800


def test_wordpiece_learns_nothing_from_words_that_are_unknown_anyway() -> None:
    tokenizer = train_wordpiece(["lowest newest " * 50, f"{'ab' * 51} " * 50], 128)
    assert not {"a", "##b", "ab"} & set(tokenizer.specification.vocabulary)


def test_wordpiece_does_not_learn_special_tokens_from_text() -> None:
    tokenizer = train_wordpiece([PROSE, "[MASK] [SEP]" * 1000], 400)
    assert not {"mask", "##sk", "sep"} & set(tokenizer.specification.vocabulary)
    assert len(tokenizer.encode("[MASK]")) == 1


def test_too_small_a_wordpiece_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="127 is too small: it needs 128 or more"):
        train_wordpiece([PROSE], 127)


def test_training_reads_one_text_at_a_time() -> None:
    """An iterator that could not be held in memory is not: at no time are more than a few hundred texts alive."""
    alive = most = 0

    class Text(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def texts() -> Iterator[str]:
        nonlocal alive, most
        for number in range(3000):
            alive += 1
            most = max(most, alive)
            yield Text(f"text number {number}")

    train_characters(texts())
    assert most <= 3
    train_bpe(texts(), 300)
    assert most <= 3
    train_wordpiece(texts(), 300)
    assert most <= 3


def test_an_endless_word_is_not_learned_as_a_whole() -> None:
    """Or every merge is slow: 4 MB of genome in one line take 18 s with a bound, and over 480 s without."""
    tokenizer = train_bpe(cut_pieces(["ab" * 2**17]), 300)
    assert max(map(len, tokenizer.specification.vocabulary)) == 256
    assert len(tokenizer.encode("ab" * 512)) == 4


def test_an_error_in_the_source_of_texts_is_passed_on() -> None:
    def texts() -> Iterator[str]:
        yield "good"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        train_bpe(texts(), 300)


def test_the_same_texts_give_the_same_tokenizer_in_another_process() -> None:
    program = (
        "import argparse, pathlib\n"
        "from zoo.text import *\n"
        "text = pathlib.Path(argparse.__file__).read_text(encoding='utf-8')\n"
        "print(train_bpe(cut_pieces([text], 1000), 600).fingerprint, train_characters([text]).fingerprint)\n"
        "print(train_wordpiece(cut_pieces([text], 1000), 600).fingerprint)\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("1", "1"), ("2", "3"))
    }
    here = f"{train_bpe([PROSE], 600).fingerprint} {train_characters([PROSE]).fingerprint}\n"
    assert seen == {f"{here}{train_wordpiece([PROSE], 600).fingerprint}\n"}

"""Model inputs from texts: what is cut, what a token stands for, and which requests are refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_characters
from zoo.text.inputs import truncate

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
BERT = Tokenizer.load(GOLDEN / "bert-uncased")
BPE = train_bpe(["low lower lowest, new newer newest " * 3], 280)
CHARACTERS = train_characters(["abc"])


@settings(deadline=None, database=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_longest_first_takes_one_token_after_another(first: int, second: int, room: int) -> None:
    """The way the strategy is described: while there are too many, drop the last token of the longer text."""
    kept = [first, second]
    while sum(kept) > room:
        longer = kept[0] > kept[1] if kept[0] != kept[1] else first > second
        kept[0 if longer else 1] -= 1
    got = truncate(first, second, room, "longest_first")
    assert sum(got) == sum(kept) == min(first + second, room)
    # Of two that end up alike, either may keep the odd token.
    assert sorted(got) == sorted(kept)
    assert got[0] <= first and got[1] <= second


@settings(deadline=None, database=None)
@given(st.integers(0, 40), st.integers(0, 60))
def test_one_text_is_cut_to_the_room(length: int, room: int) -> None:
    assert truncate(length, None, room, "longest_first") == (min(length, room), 0)


def test_only_one_text_is_cut_and_not_to_nothing() -> None:
    assert truncate(9, 4, 8, "only_first") == (4, 4)
    assert truncate(9, 4, 10, "only_second") == (9, 1)
    assert truncate(9, 4, 13, "none") == (9, 4)
    for truncation in ("only_second", "none"):
        with pytest.raises(ValueError, match="13 tokens, and there is room for 9"):
            truncate(9, 4, 9, truncation)


def test_offsets_find_each_token_in_its_text() -> None:
    """Enough to mark an answer in a text, or the words that tokens are part of."""
    texts, pairs = ["Who sat on the MAT?"], ["The cats, naïve & 日本 sat  unhappily."]
    inputs = BERT.prepare(texts, pairs, max_length=64, padding="max_length", offsets=True)
    tokens = {number: token for token, number in BERT.specification.vocabulary.items()}
    found = []
    for number, (start, end), source in zip(
        inputs["token_ids"][0], inputs["offsets"][0], inputs["sequence_ids"][0], strict=True
    ):
        if source >= 0:
            found.append((tokens[number].removeprefix("##"), (texts[0], pairs[0])[source][start:end]))
        else:
            assert tokens[number] in ("[CLS]", "[SEP]", "[PAD]")
            assert (start, end) == (0, 0)
    assert ("mat", "MAT") in found
    assert ("日", "日") in found
    assert all(token == text.lower() or (token, text) == ("i", "ï") for token, text in found)
    assert inputs["sequence_ids"][0].tolist().count(1) == sum(inputs["segment_ids"][0]) - 1  # the token at the end
    assert inputs["padding_mask"][0].tolist() == [1] * (len(found) + 3) + [0] * (64 - len(found) - 3)


def test_special_tokens_can_be_left_out() -> None:
    inputs = BERT.prepare(["a cat"], ["the mat"], max_length=9, special_tokens=False)
    assert inputs["token_ids"].tolist() == [BERT.encode("a cat") + BERT.encode("the mat")]
    assert inputs["segment_ids"].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "char"])
def test_gpts_kinds_put_in_nothing_and_pad_with_the_end_of_text(tokenizer: Tokenizer) -> None:
    inputs = tokenizer.prepare(["ab", "", "cab"], max_length=100)
    assert inputs.keys() == {"token_ids", "padding_mask"}
    ids = tokenizer.encode_batch(["ab", "", "cab"])
    assert inputs["padding_mask"].sum(axis=1).tolist() == [len(row) for row in ids]
    for row, array in zip(ids, inputs["token_ids"].tolist(), strict=True):
        assert array == row + [tokenizer.end_of_text] * (len(array) - len(row))


def test_lone_surrogates_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zoo"):
        inputs = BERT.prepare(["a \udc80 cat"], max_length=9, offsets=True)
    assert "lone surrogates" in caplog.text
    assert inputs["offsets"][0].tolist() == [[0, 0], [0, 1], [4, 7], [0, 0]]  # BERT drops U+FFFD


@pytest.mark.parametrize("padding", ["longest", "max_length"])
@pytest.mark.parametrize("pairs", [None, []])
def test_no_texts_make_empty_arrays(padding: str, pairs: list[str] | None) -> None:
    inputs = BERT.prepare([], pairs, max_length=8, padding=padding, offsets=True)
    width = 8 if padding == "max_length" else 0
    assert {key: array.shape for key, array in inputs.items()} == {
        **dict.fromkeys(["token_ids", "padding_mask", "segment_ids", "sequence_ids"], (0, width)),
        "offsets": (0, width, 2),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"texts": "one string"}, "list of strings"),
        ({"pairs": "one string"}, "list of strings"),
        ({"pairs": []}, "1 texts and 0 pairs"),
        ({"max_length": 1}, "max_length is 1, and the special tokens alone are 2"),
        ({"max_length": 2, "pairs": ["x"]}, "the special tokens alone are 3"),
        ({"max_length": 0, "special_tokens": False}, "max_length is 0"),
        ({"truncation": "only_second"}, "there are no pairs"),
        ({"truncation": "first"}, "must be one of longest_first, only_first, only_second, none"),
        ({"padding": True}, "must be one of longest, max_length"),
        ({"truncation": "none", "max_length": 4}, "text 0 has 4 tokens"),
        ({"truncation": "only_second", "pairs": ["a cat"], "max_length": 7}, "text 0 has 6 tokens"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        BERT.prepare(**{"texts": ["the cat the mat"], "max_length": 9, **arguments})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_only_two_kinds_have_an_end_of_text() -> None:
    with pytest.raises(UserError, match="a wordpiece tokenizer has no token for the end of a text"):
        _ = BERT.end_of_text
    clip = Tokenizer.load(GOLDEN / "clip")
    assert clip.end_of_text == clip.special_ids["end"]


def test_decoding_an_id_outside_the_vocabulary_is_an_error() -> None:
    for number in (BERT.vocabulary_size, -1):
        with pytest.raises(ValueError, match=f"token id {number} is not in the vocabulary"):
            BERT.decode(np.array([0, number]))

"""Which tokens are masked, by what they are replaced, and that words stay whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.masking import Masking
from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_wordpiece
from zoo.text.specification import Specification

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "b", "c", "d", "e", "f", "g", "h", "##a", "##b", "##c", "##d")
TOKENIZER = Tokenizer(
    Specification(
        "wordpiece",
        {token: number for number, token in enumerate((*SPECIAL, *WORDS, "##"))},
        special_tokens=SPECIAL,
    )
)
PAD, UNK, CLS, SEP, MASK = range(5)
quick = settings(max_examples=100, deadline=None)


def batch(draw: np.random.Generator, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of random lengths, each `[CLS] words [SEP]` and padding."""
    ids = draw.integers(5, TOKENIZER.vocabulary_size, (rows, width)).astype("int32")
    lengths = draw.integers(3, width + 1, rows)
    places = np.arange(width)
    ids[:, 0] = CLS
    ids[np.arange(rows), lengths - 1] = SEP
    real = (places < lengths[:, None]).astype("int32")
    return np.where(real > 0, ids, PAD).astype("int32"), real


@quick
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    width=st.integers(3, 40),
    rate=st.floats(0.05, 0.6),
    whole=st.booleans(),
)
def test_what_is_masked_can_be_put_back(seed: int, rows: int, width: int, rate: float, whole: bool) -> None:
    draw = np.random.default_rng(seed)
    ids, real = batch(draw, rows, width)
    masking = Masking(TOKENIZER, rate, whole)
    masked = masking.mask(ids, real, draw)
    assert masked.positions.shape == masked.labels.shape == masked.weights.shape == (rows, masking.count(width))
    back = masked.token_ids.copy()
    for row in range(rows):
        chosen = masked.positions[row][masked.weights[row] > 0]
        assert len(set(chosen)) == len(chosen) >= 1
        assert not set(ids[row, chosen]) & set(range(5))  # never a special token, never padding
        open_ = int(((ids[row] >= 5) & (real[row] > 0)).sum())
        wanted = max(1, min(round(rate * open_), masking.count(width)))
        assert len(chosen) <= wanted if whole else len(chosen) == wanted
        # A repetition repeats a place with its label, and counts for nothing.
        assert set(masked.positions[row]) == set(chosen)
        assert np.array_equal(masked.labels[row], ids[row, masked.positions[row]])
        back[row, chosen] = masked.labels[row][masked.weights[row] > 0]
    assert np.array_equal(back, ids)
    assert np.array_equal(masking.mask(ids, real, np.random.default_rng(5)).token_ids.shape, ids.shape)


@quick
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(8, 40), rate=st.floats(0.2, 0.6))
def test_words_are_masked_whole_unless_one_is_too_long(seed: int, width: int, rate: float) -> None:
    draw = np.random.default_rng(seed)
    ids, real = batch(draw, 4, width)
    masked = Masking(TOKENIZER, rate, whole_words=True).mask(ids, real, draw)
    continues = TOKENIZER.continues_word
    for row in range(4):
        chosen = set(masked.positions[row][masked.weights[row] > 0].tolist())
        words: list[list[int]] = []
        for place in np.flatnonzero((ids[row] >= 5) & (real[row] > 0)):
            if continues[ids[row, place]] and place > 1:
                words[-1].append(int(place))
            else:
                words.append([int(place)])
        cut = [word for word in words if set(word) & chosen and not set(word) <= chosen]
        # Only a first word that is longer than all there is room for is cut, and then it stands alone.
        assert not cut or (len(cut) == 1 and chosen <= set(cut[0]))


def test_of_the_chosen_80_percent_are_masked_10_random_and_10_kept() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 13, (400, 128)).astype("int32")
    masked = Masking(TOKENIZER, 0.15).mask(ids, np.ones_like(ids), draw)
    assert masked.weights.sum(axis=1).tolist() == [19.0] * 400  # of 128, 15 % is 19.2
    shown = np.take_along_axis(masked.token_ids, masked.positions, 1)[masked.weights > 0]
    labels = masked.labels[masked.weights > 0]
    n = len(shown)
    share = {"masked": np.mean(shown == MASK), "kept": np.mean(shown == labels)}
    # Of the random ones, one in thirteen is the token itself.
    for name, expected in (("masked", 0.8), ("kept", 0.1 + 0.1 / 13)):
        assert abs(share[name] - expected) < 4 * (expected * (1 - expected) / n) ** 0.5, name
    random = shown[(shown != MASK) & (shown != labels)]
    assert set(random.tolist()) == set(range(5, TOKENIZER.vocabulary_size))
    counts = np.bincount(masked.positions[masked.weights > 0], minlength=128)
    assert counts.min() > 30 and counts.max() < 95  # of 59.4 on average: every place alike


def test_the_same_draw_masks_the_same_and_another_another() -> None:
    ids, real = batch(np.random.default_rng(1), 6, 30)
    masking = Masking(TOKENIZER)
    first, again, other = (masking.mask(ids, real, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.token_ids, again.token_ids)
    assert not np.array_equal(first.positions, other.positions)


def test_a_row_of_special_tokens_has_nothing_to_predict() -> None:
    ids = np.array([[CLS, SEP, PAD, PAD]], "int32")
    masked = Masking(TOKENIZER).mask(ids, np.array([[1, 1, 0, 0]]), np.random.default_rng(0))
    assert masked.weights.sum() == 0
    assert np.array_equal(masked.token_ids, ids)


def test_continuations_are_told_by_their_spelling() -> None:
    tokenizer = train_wordpiece(["hug hugs hugging pug pugs bun buns"] * 20, 128)
    continues = tokenizer.continues_word
    for token, number in tokenizer.specification.vocabulary.items():
        assert continues[number] == (token.startswith("##") and token != "##")


def test_what_cannot_be_masked_is_refused() -> None:
    with pytest.raises(UserError, match="a bpe tokenizer has no mask token"):
        Masking(train_bpe(["ab ab"], 257))
    with pytest.raises(UserError, match="rate is 1"):
        Masking(TOKENIZER, 1.0)

"""Windows over long contexts: what is cut, which answer is the best, and where an answer lies, each by brute force."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import UserError
from zoo.text import Tokenizer
from zoo.text.windows import Span, best_spans, locate

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
BERT = Tokenizer.load(GOLDEN / "bert-uncased")
QUESTION = "Who sat on the mat?"

# Words of several tokens, of one, of characters that are a token each, and ones whose tokens are other characters.
words = st.sampled_from(
    ["the", "cat", "unhappily", "Wombat's", "naïve", "E\u0301a", "日本", "3.5", "한국", "(mat)", "☃"]
)
spaces = st.sampled_from([" ", "  ", "\n", " \u200b "])
texts = st.lists(st.tuples(words, spaces), max_size=40).map(lambda pairs: "".join(itertools.chain(*pairs)))
lengths = {"max_length": st.integers(4, 60), "stride": st.integers(1, 70), "max_question": st.integers(1, 12)}


def tokens_of(inputs: dict[str, np.ndarray], row: int, number: int) -> list[tuple[int, int, int]]:
    """Of the question (0) or the context (1) in a row: id, first character and one past the last."""
    places = inputs["sequence_ids"][row] == number
    ids, offsets = (inputs[name][row, places].tolist() for name in ("token_ids", "offsets"))
    return [(number, *span) for number, span in zip(ids, offsets, strict=True)]


def whole(text: str) -> list[tuple[int, int, int]]:
    """The same, of all tokens of a text."""
    return tokens_of(BERT.prepare([text], max_length=10_000, special_tokens=False, offsets=True), 0, 0)


def parts_of_run_squad(count: int, room: int, stride: int) -> list[range]:
    """https://github.com/google-research/bert/blob/master/run_squad.py, `convert_examples_to_features`."""
    parts, start = [], 0
    while not parts or parts[-1].stop < count:
        parts.append(range(start, min(start + room, count)))
        start += stride
    return parts


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.fixed_dictionaries(lengths))
def test_windows_hold_all_of_a_context_and_overlap(pairs: list[tuple[str, str]], settings: dict[str, int]) -> None:
    questions, contexts = zip(*pairs, strict=True)
    inputs = BERT.prepare_windows(questions, contexts, **settings)
    assert inputs.keys() == BERT.prepare(["a"], ["b"], max_length=9, offsets=True).keys() | {"pair"}
    assert all(value.dtype == np.int32 for value in inputs.values())
    assert inputs["pair"].tolist() == sorted(inputs["pair"]) and set(inputs["pair"]) == set(range(len(pairs)))
    room = settings["max_length"] - 3
    cls, sep, pad = (BERT.special_ids[role] for role in ("cls", "sep", "pad"))
    for number, (question, context) in enumerate(pairs):
        rows = np.flatnonzero(inputs["pair"] == number)
        tokens, asked = whole(context), whole(question)
        kept = tokens_of(inputs, rows[0], 0)
        left = room - len(kept)
        assert kept == asked[: len(kept)]
        if len(kept) < len(asked):  # only where the rest is taken up by the context
            assert len(kept) == max(min(room // 2, settings["max_question"]), room - len(tokens))
        step = max(1, min(settings["stride"], left // 2))
        windows = [tokens_of(inputs, row, 1) for row in rows]
        assert windows == [[tokens[i] for i in places] for places in parts_of_run_squad(len(tokens), left, step)]
        assert {token for window in windows for token in window} == set(tokens)
        for before, after in itertools.pairwise(windows):
            assert before[step:] == after[: left - step] and len(before) == left
        for row, window in zip(rows, windows, strict=True):
            ids = [cls, *(token[0] for token in kept), sep, *(token[0] for token in window), sep]
            padding = [pad] * (inputs["token_ids"].shape[1] - len(ids))
            assert inputs["token_ids"][row].tolist() == ids + padding
            assert inputs["padding_mask"][row].tolist() == [1] * len(ids) + [0] * len(padding)
            segments = [0] * (len(kept) + 2) + [1] * (len(window) + 1)
            assert inputs["segment_ids"][row].tolist() == segments + [0] * len(padding)
            assert not inputs["offsets"][row, inputs["sequence_ids"][row] == -1].any()


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(texts, texts), max_size=4), st.sampled_from(["longest", "max_length"]))
def test_pairs_that_fit_are_what_prepare_makes_of_them(pairs: list[tuple[str, str]], padding: str) -> None:
    questions, contexts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    longest = max((len(whole(question)) + len(whole(context)) + 3 for question, context in pairs), default=4)
    length = max(longest, 4)
    inputs = BERT.prepare_windows(questions, contexts, max_length=length, stride=1, max_question=1, padding=padding)
    expected = BERT.prepare(questions, contexts, max_length=length, padding=padding, offsets=True)
    assert inputs.pop("pair").tolist() == list(range(len(pairs)))
    assert inputs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(inputs[name], value, err_msg=name)


def test_the_settings_are_those_of_run_squad_unless_others_are_given() -> None:
    inputs = BERT.prepare_windows(["the cat " * 50], ["the mat " * 500], max_length=384)
    assert [len(tokens_of(inputs, 0, number)) for number in (0, 1)] == [64, 384 - 3 - 64]
    assert tokens_of(inputs, 0, 1)[128:] == tokens_of(inputs, 1, 1)[:-128]
    assert len(inputs["pair"]) == 1 + math.ceil((1000 - 317) / 128)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"questions": "one string"}, "list of strings"),
        ({"contexts": "one string"}, "list of strings"),
        ({"contexts": []}, "1 texts and 0 pairs"),
        ({"max_length": 3}, "max_length is 3, and a window has 4 tokens or more"),
        ({"stride": 0}, "stride is 0, and must be 1 or more"),
        ({"max_question": 0}, "max_question is 0"),
        ({"padding": True}, "must be one of longest, max_length"),
    ],
)
def test_what_cannot_be_cut_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        BERT.prepare_windows(**{"questions": ["the cat"], "contexts": ["the mat"], "max_length": 9, **arguments})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_other_kinds_of_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match="a clip tokenizer reads no questions"):
        Tokenizer.load(GOLDEN / "clip").prepare_windows(["a"], ["b"], max_length=9)


# --- the best answer


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def best_by_force(
    inputs: dict[str, np.ndarray], starts: np.ndarray, ends: np.ndarray, number: int, longest: int, null: bool
) -> Span:
    """Every allowed pair of tokens of every window is tried."""
    rows = [row for row, pair in enumerate(inputs["pair"]) if pair == number]
    places = [(row, i) for row in rows for i in np.flatnonzero(inputs["sequence_ids"][row] == 1)]
    nothing = min(rows, key=lambda row: starts[row, 0] + ends[row, 0])
    known = places + [(nothing, 0)] * null
    from_, to = (dict(zip(known, softmax([logits[each] for each in known]), strict=True)) for logits in (starts, ends))
    pairs = itertools.product(places, places)
    allowed = [(first, last) for first, last in pairs if first[0] == last[0] and 0 <= last[1] - first[1] < longest]
    first, last = max(allowed, key=lambda span: starts[span[0]] + ends[span[1]])
    if null and starts[nothing, 0] + ends[nothing, 0] > starts[first] + ends[last]:
        return Span(0, 0, from_[nothing, 0] * to[nothing, 0])
    return Span(inputs["offsets"][first][0], inputs["offsets"][last][1], from_[first] * to[last])


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("longest", [1, 4, 30, 100])
def test_the_best_span_of_all_windows_wins(longest: int, null: bool) -> None:
    rng = np.random.default_rng(longest)
    contexts = ["the cat sat. " * 9, "A mat!", "unhappily the wombat sat on it " * 3]
    inputs = BERT.prepare_windows([QUESTION] * 3, contexts, max_length=24, stride=5)
    rows = np.bincount(inputs["pair"])
    assert rows[1] == 1 < min(rows[0], rows[2])
    found = []
    for _ in range(30):
        starts, ends = rng.normal(size=(2, *inputs["token_ids"].shape)).astype("float32") * 3
        # The question, and what is put in, are no answers, however likely.
        for logits in (starts, ends):
            logits[inputs["sequence_ids"] != 1] += 20
            logits[:, 0] -= 20 - rng.normal(2, 3)
        spans = best_spans(inputs, starts, ends, longest, null)
        for number, span in enumerate(spans):
            expected = best_by_force(inputs, starts, ends, number, longest, null)
            assert (span.start, span.end) == (expected.start, expected.end)
            assert span.score == pytest.approx(expected.score, rel=1e-5)
        found += spans
    assert null == any(span.end == 0 for span in found)
    assert any(span.end > 0 for span in found)


def test_the_window_that_denies_an_answer_least_counts() -> None:
    inputs = BERT.prepare_windows([QUESTION], ["the cat sat. " * 3], max_length=18, stride=6)
    starts, ends = np.zeros((2, *inputs["token_ids"].shape), "float32")
    starts[:, 0] = ends[:, 0] = 9  # most windows hold no answer, and rightly say so
    starts[1, 0], ends[1, 0] = 4, 4.5
    at = np.flatnonzero(inputs["sequence_ids"][1] == 1)[2]
    starts[1, at] = 8
    for height, answered in ((0.25, False), (0.5, True), (0.75, True)):  # of two alike the answer is given
        ends[1, at] = height
        (span,) = best_spans(inputs, starts, ends, null=True)
        assert (span.end > 0) == answered
        assert best_spans(inputs, starts, ends)[0].end > 0


def test_an_empty_context_has_no_answer() -> None:
    inputs = BERT.prepare_windows([QUESTION, QUESTION], ["", "the cat"], max_length=24)
    logits = np.ones(inputs["token_ids"].shape, "float32")
    for null in (False, True):
        assert best_spans(inputs, logits, logits, null=null)[0] == Span(0, 0, 0.0)
    span = best_spans(inputs, logits, logits)[1]
    assert (span.start, span.end, span.score) == (0, 3, pytest.approx(1 / 4))
    no_rows = {name: value[:0] for name, value in inputs.items()}
    assert best_spans(no_rows, logits[:0], logits[:0]) == []


# --- where an answer lies


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(words, spaces), min_size=1, max_size=30), st.data())
def test_the_tokens_of_whole_words_are_those_words(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    context = "".join(itertools.chain(*pairs))
    bounds = list(itertools.accumulate((len(word) + len(space) for word, space in pairs), initial=0))
    first = data.draw(st.integers(0, len(pairs) - 1))
    last = data.draw(st.integers(first, len(pairs) - 1))
    start, end = bounds[first], bounds[last] + len(pairs[last][0])
    inputs = BERT.prepare_windows([QUESTION], [context], max_length=data.draw(st.integers(12, 40)), stride=5)
    for row in range(len(inputs["pair"])):
        offsets, sequence_ids = inputs["offsets"][row], inputs["sequence_ids"][row]
        inside = [i for i in range(len(sequence_ids)) if sequence_ids[i] == 1]
        located = locate(start, end, offsets, sequence_ids)
        if start < offsets[inside[0], 0] or end > offsets[inside[-1], 1]:
            assert located is None
        else:
            assert located is not None
            assert sequence_ids[list(located)].tolist() == [1, 1]
            assert (offsets[located[0], 0], offsets[located[1], 1]) == (start, end)


@settings(deadline=None, database=None)
@given(texts.filter(str.strip), st.integers(12, 40), st.data())
def test_any_part_of_a_context_is_covered(context: str, max_length: int, data: st.DataObject) -> None:
    """Those that begin or end within a token, or where there is none, are no answers that a tokenizer can give."""
    inputs = BERT.prepare_windows([QUESTION], [context], max_length=max_length, stride=5)
    start = data.draw(st.integers(0, len(context)))
    end = data.draw(st.integers(start, len(context)))
    for offsets, sequence_ids in zip(inputs["offsets"], inputs["sequence_ids"], strict=True):
        spans = {i: range(*offsets[i]) for i in range(len(offsets)) if sequence_ids[i] == 1}
        sharing = [i for i, span in spans.items() if set(span) & set(range(start, end))]
        held = range(min(span.start for span in spans.values()), max(span.stop for span in spans.values()))
        inside = held.start <= start and end <= held.stop
        assert locate(start, end, offsets, sequence_ids) == ((sharing[0], sharing[-1]) if sharing and inside else None)


def test_a_window_without_a_context_holds_no_answer() -> None:
    inputs = BERT.prepare_windows([QUESTION], [""], max_length=24)
    assert locate(0, 3, inputs["offsets"][0], inputs["sequence_ids"][0]) is None

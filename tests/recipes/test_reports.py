"""What pages show: entities scored as CoNLL-2003 does it and marked, and answers beside the right ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.questions import Answer, Question
from recipes.reports import answering, tagging
from recipes.reports.answering import answer_figures, write_answering
from recipes.reports.classification import classification_figures, write_classification
from recipes.reports.markdown import LONGEST_TEXT, escape, shorten
from recipes.reports.tagging import Score, mark, score_entities, write_tagging
from zoo.text.entities import Entity, join_labels
from zoo.text.windows import Span

# --- entities


def of(*labels: str) -> list[list[Entity]]:
    """Sentences of words of two letters."""
    return [join_labels(each.split(), [(3 * i, 3 * i + 2) for i in range(len(each.split()))]) for each in labels]


@pytest.mark.parametrize(
    ("right", "said", "counts"),
    [
        # By hand: how many are right, of how many that are said, of how many that there are.
        (["B-PER I-PER O B-LOC"], ["B-PER I-PER O B-LOC"], (2, 2, 2)),
        (["B-PER I-PER O B-LOC"], ["B-PER O O B-LOC"], (1, 2, 2)),  # too short
        (["B-PER I-PER O B-LOC"], ["B-PER I-PER I-PER B-LOC"], (1, 2, 2)),  # too long
        (["B-PER I-PER O B-LOC"], ["B-LOC I-LOC O B-LOC"], (1, 2, 2)),  # of another type
        (["B-PER I-PER O B-LOC"], ["B-PER B-PER O O"], (0, 2, 2)),  # one taken for two
        (["B-PER B-PER O O"], ["B-PER I-PER O O"], (0, 1, 2)),  # two taken for one
        (["B-PER I-PER I-PER"], ["O B-PER I-PER"], (0, 1, 1)),
        (["B-PER B-LOC"], ["B-LOC B-LOC"], (1, 2, 2)),
        (["O O", "B-PER O"], ["B-PER O", "O B-PER"], (0, 2, 1)),  # in other sentences
        (["O O"], ["O O"], (0, 0, 0)),
        (["B-PER"], ["O"], (0, 0, 1)),
    ],
)
def test_scores_counted_by_hand(right: list[str], said: list[str], counts: tuple[int, int, int]) -> None:
    correct, found, there = counts
    score = score_entities(of(*right), of(*said)).overall
    assert (score.correct, score.said, score.there) == counts
    assert score.precision == (correct / found if found else 0.0)
    assert score.recall == (correct / there if there else 0.0)
    both = score.precision + score.recall
    assert score.f1 == pytest.approx(2 * score.precision * score.recall / both if both else 0.0)


kinds = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@settings(deadline=None, database=None)
@given(st.lists(st.lists(st.tuples(kinds, kinds), max_size=8), min_size=1, max_size=5))
def test_scores_are_those_of_sets(sentences: list[list[tuple[str, str]]]) -> None:
    """`conlleval`: what both have, first word, last word and type alike."""
    right, said = (
        [join_labels([pair[side] for pair in each], [(i, i + 1) for i in range(len(each))]) for each in sentences]
        for side in (0, 1)
    )
    scores = score_entities(right, said)
    for name, score in {None: scores.overall, **scores.of_types}.items():
        there, found = (
            {(i, each) for i, row in enumerate(rows) for each in row if name in (None, each.label)}
            for rows in (right, said)
        )
        assert (score.correct, score.said, score.there) == (len(there & found), len(found), len(there))
    assert set(scores.of_types) == {each.label for row in (*right, *said) for each in row}
    figures = scores.figures
    assert figures["entity_f1"] == scores.overall.f1
    assert (figures["entity_precision"], figures["entity_recall"]) == (scores.overall.precision, scores.overall.recall)


def test_entities_are_marked_where_they_stand() -> None:
    text = "Ada met Bob in New York City on *Sunday* again"
    parts = {"Ada": "PER", "Bob": "PER", "New York City": "LOC", "New York": "LOC", "City": "X_Y", "*Sunday*": "DAY"}
    ada, bob, city, new, york, sunday = (
        Entity(text.index(part), text.index(part) + len(part), label) for part, label in parts.items()
    )
    marked = mark(text, [ada, bob, city], [ada, new, york, sunday])
    assert marked == (
        r"**Ada** \[PER\] met *Bob* \[PER\] in *New York City* \[LOC\] (~~New York~~ \[LOC\]) (~~City~~ \[X\_Y\]) on "
        r"~~\*Sunday\*~~ \[DAY\] again"
    )
    assert mark(text, [], []) == escape(text)
    other = Entity(ada.start, ada.end, "LOC")
    assert mark("Ada-Bob", [ada], [Entity(3, 7, "X")]) == r"*Ada* \[PER\] ~~-Bob~~ \[X\]"
    assert mark("Ada", [ada], [other]) == r"*Ada* \[PER\] (~~Ada~~ \[LOC\])"


def test_long_stretches_without_an_entity_are_left_out() -> None:
    text = "Ada " + "left " * 200 + "Bob"
    marked = mark(text, [Entity(0, 3, "PER"), Entity(len(text) - 3, len(text), "PER")], [])
    assert marked.startswith(r"*Ada* \[PER\] left") and marked.endswith(r"left *Bob* \[PER\]")
    assert " … " in marked and len(marked) < tagging.LONGEST_GAP + 60


def test_the_worst_sentences_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["aa bb cc", "dd ee ff", "gg hh ii", "jj kk ll"]
    right = of("B-PER O O", "B-PER O B-LOC", "O O O", "O B-LOC O")
    said = of("B-PER O O", "O B-LOC O", "O O O", "B-LOC O O")
    lines = write_tagging(tmp_path, right, said, texts.__getitem__)
    page = (tmp_path / "tagged.md").read_text()
    assert [line[:5] for line in page.splitlines() if line[:2] in ("1.", "2.", "3.", "4.")] == [
        "1. *d",
        "2. ~~",
        "3. **",
    ]
    assert "| all | 0.3333 | 0.2500 | 0.2857 | 1 | 3 | 4 |" in lines
    assert "| LOC | 0.0000 | 0.0000 | 0.0000 | 0 | 2 | 2 |" in lines
    assert "| PER | 1.0000 | 0.5000 | 0.6667 | 1 | 1 | 2 |" in lines
    assert all(line in page for line in lines[:5])
    assert "**right** [TYPE], *missed* [TYPE], ~~wrong~~ [TYPE]" in page
    assert "[Sentences with the most mistakes](tagged.md)" in lines[-1]
    monkeypatch.setattr(tagging, "MOST_SENTENCES", 1)
    write_tagging(tmp_path, right, said, texts.__getitem__)
    assert "The 1 sentences" in (tmp_path / "tagged.md").read_text()
    assert Score(0, 0, 0).f1 == 0.0


# --- answers

CONTEXT = "Ada met Charles in London. " + "They spoke. " * 40 + "He left <soon>."
QUESTIONS = [
    Question("Where?", CONTEXT, (Answer("London", 19), Answer("in London", 16))),
    Question("Who left?", CONTEXT, (Answer("He", len(CONTEXT) - 15),)),
    Question("Why?", CONTEXT, ()),
    Question("Who met Charles?", CONTEXT, (Answer("Ada", 0),)),
]


def test_figures_of_answers_counted_by_hand() -> None:
    said = [Span(16, 25, 0.9), Span(0, 3, 0.5), Span(0, 0, 0.4), Span(0, 7, 0.1)]
    assert answer_figures(QUESTIONS, said) == {
        "exact_match": pytest.approx(2 / 4),
        "f1": pytest.approx((1 + 0 + 1 + 2 * (1 / 2) / (3 / 2)) / 4),
    }
    assert answer_figures(QUESTIONS[2:3], [Span(0, 3, 0.5)]) == {"exact_match": 0.0, "f1": 0.0}


def test_the_worst_answers_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [Span(16, 25, 0.9), Span(0, 3, 0.5), Span(0, 3, 0.8), Span(0, 7, 0.1)]
    (line,) = write_answering(tmp_path, QUESTIONS, said)
    assert line == "3 of 4 held-out answers are not quite right: [the worst](answers.md)."
    page = (tmp_path / "answers.md").read_text()
    assert [each[3:] for each in page.splitlines() if each.startswith("## ")] == [
        "Why?",
        "Who left?",
        "Who met Charles?",
        "Where?",
    ]
    why, who = (page[page.index(f"## {each}") :].splitlines()[:5] for each in ("Why?", "Who left?"))
    assert why[2:4] == ["- it said: Ada (F1 0.00, probability 0.80)", "- right: (no answer)"]
    assert who[2:4] == ["- it said: Ada (F1 0.00, probability 0.50)", "- right: He"]
    shown = [each for each in page.splitlines() if each.startswith("> ")]
    assert shown[0].startswith("> **Ada** met Charles in London. They spoke.") and shown[0].endswith("…")
    assert shown[1].startswith("> …") and shown[1].endswith("They spoke. **He** left &lt;soon>.")
    assert all(len(each) < 2 * answering.AROUND + 60 for each in shown)
    assert "- right: London; in London" in page
    monkeypatch.setattr(answering, "MOST_QUESTIONS", 1)
    write_answering(tmp_path, QUESTIONS, said)
    assert (tmp_path / "answers.md").read_text().count("## ") == 1


# --- classes


def test_the_mistakes_that_a_classifier_was_surest_of_come_first(tmp_path: Path) -> None:
    targets = np.array([0, 0, 1, 1, 2])
    rows = [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.3, 0.7, 0.0]]
    probabilities = np.array(rows, np.float32)
    # Class 0 is said twice, once rightly, of two that there are; 1 three times, once rightly, of two; 2 never.
    macro = (2 / 4 + 2 / 5 + 0.0) / 3
    assert classification_figures(targets, probabilities) == {
        "accuracy": pytest.approx(2 / 5),
        "macro_f1": pytest.approx(macro),
    }
    texts = ["a", "b | c", "d\ne", "f", "<g>"]
    lines = write_classification(tmp_path, targets, probabilities, ("x", "y", "z"), texts.__getitem__)
    page = (tmp_path / "mistakes.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| 0.")] == [
        "| 0.80 | x | y | d e |",
        "| 0.70 | y | z | &lt;g> |",
        "| 0.60 | y | x | b \\| c |",
    ]
    assert lines[-1] == "3 of 5 held-out rows are wrong: [the surest mistakes](mistakes.md)."
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    write_classification(tmp_path, np.array([0, 1]), probabilities, ("$a_$", "price_$10_$20"), ["a", "b"].__getitem__)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_texts_are_no_markup() -> None:
    assert (
        escape("a *b*\n_c_ `d` [e](f) ~g~ \\ | <h> # &") == r"a \*b\* \_c\_ \`d\` \[e\](f) \~g\~ \\ \| &lt;h> \# &amp;"
    )
    assert shorten("a" * LONGEST_TEXT) == "a" * LONGEST_TEXT
    assert shorten("a" * 999) == "a" * (LONGEST_TEXT - 1) + "…"

"""The measures of SQuAD, on cases worked out by hand from their definition, and on what the official script gives."""

import json
from pathlib import Path

import pytest

from recipes.answers import exact_match, f1

GOLDEN = Path(__file__).parents[1] / "golden" / "answers.json"


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Broncos"], 1, 1),
        ("the  Denver\tBRONCOS!", ["Denver Broncos"], 1, 1),
        ("Broncos Denver", ["Denver Broncos"], 0, 1),  # the order of words is not measured
        ("Denver", ["Denver Broncos"], 0, 2 / 3),  # precision 1, recall 1/2
        ("the team of Denver Broncos", ["Broncos"], 0, 2 / 5),  # precision 1/4, recall 1
        ("Denver Denver Denver", ["Denver Denver Broncos"], 0, 2 / 3),  # a word counts as often as both have it
        ("Broncos of Denver", ["Carolina Panthers", "Denver", "Denver Broncos"], 0, 4 / 5),  # the best answer's
        ("Carolina", ["Denver"], 0, 0),
        # What is taken away, and what is not.
        ("U.S.A.", ["USA"], 1, 1),
        ("well-known", ["wellknown"], 1, 1),
        ("well-known", ["well known"], 0, 0),
        ("an apple", ["apple"], 1, 1),
        ("another apple", ["apple"], 0, 2 / 3),
        ("a.", ["the"], 1, 1),  # both are nothing
        ("a-b", ["b"], 0, 0),  # "ab": the article was none
        ("“Denver”", ["Denver"], 0, 0),  # these marks are no punctuation of ASCII
        ("É", ["é"], 1, 1),
        ("Denver\u00a0Broncos", ["denver broncos"], 1, 1),
        # Questions without an answer.
        ("", [], 1, 1),
        ("", [""], 1, 1),
        ("The", [], 1, 1),
        ("Denver", [], 0, 0),
        ("", ["Denver"], 0, 0),
        ("", ["the", "Denver"], 0, 0),  # an answer of nothing is none, where there is another
        ("the", ["the", "Denver"], 0, 0),
    ],
)
def test_the_measures_are_those_of_squad(prediction: str, answers: list[str], exact: float, overlap: float) -> None:
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap, rel=1e-12, abs=0)


def test_they_score_random_strings_as_the_official_script_does() -> None:
    cases = json.loads(GOLDEN.read_text())
    for prediction, answers, exact, overlap in cases:
        assert exact_match(prediction, answers) == exact, (prediction, answers)
        assert f1(prediction, answers) == pytest.approx(overlap, rel=1e-12, abs=0), (prediction, answers)
    # All kinds of outcome are among them.
    assert sum(exact == 1 for _, _, exact, _ in cases) > 20
    assert sum(0 < overlap < 1 for *_, overlap in cases) > 20
    assert sum(overlap == 0 for *_, overlap in cases) > 20

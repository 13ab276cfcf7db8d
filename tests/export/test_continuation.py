"""What artefacts write after prompts is held to what the model writes, by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from export.continuation import FILE, UNDECIDED, Continuation
from export.metrics import Metric
from zoo.errors import UserError

DECIDED = Continuation([[1], [2]], [[3, 4, 5], [6, 7, 8]], [[0.1] * 3] * 2, [[1.0, 2.0, 3.0]] * 2)


def found(*rows: list[int], more: float = 0.0) -> list[dict[str, Any]]:
    answer = {"smallest_gap": 0.3, "losses": [1.0 + more, 2.0, 3.0], "milliseconds": [9.0, 1.0, 3.0]}
    return [{"ids": row, **answer} for row in rows]


def test_another_token_fails_where_the_choice_was_no_close_one() -> None:
    failures: list[str] = []
    figures = DECIDED.judge(found([3, 4, 5], [6, 7, 8]), "float32", failures)
    assert failures == []
    assert figures == {"continued": 1.0, "smallest_gap": 0.3, "token_ms": 2.0, "metrics": []}
    assert DECIDED.judge(found([3, 4, 5], [6, 9, 8]), "float32", failures)["continued"] == 5 / 6
    assert failures == ["continues prompts otherwise than the Keras model: 5 of 6 tokens are the same"]


def test_a_close_choice_excuses_itself_alone() -> None:
    gaps = [[0.1] * 3, [0.1, UNDECIDED / 2, 0.1]]
    close = Continuation(DECIDED.prompts, DECIDED.tokens, gaps, DECIDED.losses)
    failures: list[str] = []
    close.judge(found([3, 4, 5], [6, 9, 8]), "float32", failures)
    assert failures == []
    close.judge(found([3, 4, 5], [6, 9, 9]), "float32", failures)
    close.judge(found([9, 4, 5], [6, 7, 8]), "float32", failures)
    assert len(failures) == 2


def test_the_same_tokens_are_to_be_as_probable() -> None:
    failures: list[str] = []
    DECIDED.judge(found([3, 4, 5], [6, 7, 8], more=1.5e-4), "float32", failures)
    assert failures == []
    DECIDED.judge(found([3, 4, 5], [6, 7, 8], more=3e-4), "float32", failures)
    assert failures == ["finds what continues a prompt less or more probable, by 3.0e-04 nats"]


def test_fewer_bits_are_judged_by_their_perplexity_over_the_models_tokens() -> None:
    failures: list[str] = []
    (metric,) = DECIDED.judge(found([9, 9, 9], [9, 9, 9], more=0.12), "int8", failures)["metrics"]
    assert metric == Metric("perplexity of continuations", pytest.approx(math.exp(2)), pytest.approx(math.exp(2.04)), 6)
    assert failures == []  # a factor of 1.04
    DECIDED.judge(found([3, 4, 5], [6, 7, 8], more=0.3), "int8", failures)
    assert [line.partition(",")[0] for line in failures] == [
        "perplexity of continuations grew from 7.389 to 8.166"  # e^2 and e^2.1
    ]


@pytest.mark.parametrize("ids", [[3, 4], [3, 4, 5, 6]])
def test_answers_of_another_length_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="tokens for"):
        DECIDED.judge(found(ids, ids), "float32", [])


WHOLE: dict[str, Any] = {"prompts": [[1, 2]], "tokens": [[3]], "gaps": [[0.25]], "losses": [[1.5]]}


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Continuation.load(tmp_path) is None
    whole = Continuation(**WHOLE)
    whole.save(tmp_path)
    assert Continuation.load(tmp_path) == whole


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompts": [[]]},
        {"prompts": []},
        {"tokens": []},
        {"tokens": [[]], "gaps": [[]], "losses": [[]]},
        {"tokens": [[3], [4]]},
        {"tokens": [[3, 4]]},
        {"prompts": [[1], [2]], "tokens": [[3], [4, 5]], "gaps": [[1], [1, 1]], "losses": [[1], [1, 1]]},
        {"tokens": 3},
        {"gaps": "wide"},
        {"losses": [[float("nan")]]},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(WHOLE | wrong))
    with pytest.raises(UserError, match=f"{FILE} cannot be read"):
        Continuation.load(tmp_path)

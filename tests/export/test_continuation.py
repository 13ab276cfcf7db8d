"""What artefacts write after prompts is held to what the model writes, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from export.continuation import FILE, UNDECIDED, Continuation
from zoo.errors import UserError


def found(*rows: list[int]) -> list[dict[str, Any]]:
    return [{"ids": row, "smallest_gap": 0.5 - 0.1 * len(rows), "milliseconds": [9.0, 1.0, 3.0]} for row in rows]


def test_another_token_fails_where_no_choice_was_a_close_one() -> None:
    decided = Continuation([[1], [2]], [[3, 4, 5], [6, 7, 8]], smallest_gap=0.1)
    failures: list[str] = []
    figures = decided.judge(found([3, 4, 5], [6, 7, 8]), "float32", failures)
    assert failures == [] and figures == {"continued": 1.0, "smallest_gap": 0.3, "token_ms": 2.0}
    assert decided.judge(found([3, 4, 5], [6, 9, 8]), "float32", failures)["continued"] == 5 / 6
    assert failures == ["continues prompts otherwise than the Keras model: 5 of 6 tokens are the same"]
    other: list[str] = []
    decided.judge(found([3, 4, 5], [6, 9, 8]), "int8", other)  # which the metric of the task judges
    Continuation(decided.prompts, decided.tokens, UNDECIDED / 2).judge(found([3, 4, 5], [6, 9, 8]), "float32", other)
    assert other == []


def test_it_is_read_as_it_was_written_or_refused(tmp_path: Path) -> None:
    assert Continuation.load(tmp_path) is None
    whole = Continuation([[1, 2]], [[3]], 0.25)
    whole.save(tmp_path)
    assert Continuation.load(tmp_path) == whole
    for wrong in ({"prompts": [[]]}, {"prompts": []}, {"tokens": [[3], [4]]}, {"smallest_gap": "wide"}, {"tokens": 3}):
        (tmp_path / FILE).write_text(json.dumps({"prompts": [[1]], "tokens": [[3]], "smallest_gap": 0.1} | wrong))
        with pytest.raises(UserError, match=f"{FILE} cannot be read"):
            Continuation.load(tmp_path)

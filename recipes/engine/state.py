"""What a run knows of itself at a step, besides arrays: what it has measured, and the best it has found."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunState:
    """A point of a run, as `state.json` of a checkpoint has it.

    Attributes:
        step: updates done. The data goes on from here: batch `step` of the stream is the next.
        seconds: that the run has taken.
        rows: one for each evaluation, as in `metrics.jsonl`.
        samples: the step and the text of each sample, as in `samples.txt`.
        best: the row of the best evaluation; None before the first evaluation.
        best_weights: the SHA-256 of the weights file of `model/`, which holds the best; empty before.
        mid_interval: there were updates since the last evaluation: the checkpoint holds the metrics' state.
    """

    step: int
    seconds: float
    rows: tuple[Row, ...]
    samples: tuple[tuple[int, str], ...]
    best: Row | None
    best_weights: str
    mid_interval: bool

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is anything else.
        """
        try:
            values = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"it must have the fields {', '.join(sorted(names))}, and no other")
        rows, samples, best = (values[name] for name in ("rows", "samples", "best"))
        if not (
            type(values["step"]) is int
            and values["step"] >= 0
            and type(values["seconds"]) is float
            and isinstance(rows, list)
            and all(_is_row(row) for row in rows)
            and isinstance(samples, list)
            and all(_is_sample(sample) for sample in samples)
            and (best is None or _is_row(best))
            and type(values["best_weights"]) is str
            and type(values["mid_interval"]) is bool
        ):
            raise ValueError("a field has a value of the wrong type")
        return cls(**{**values, "rows": tuple(rows), "samples": tuple((step, text) for step, text in samples)})


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(type(value) in (int, float) for value in row.values())
        and type(row.get("step")) is int
        and "validation_loss" in row
    )


def _is_sample(sample: Any) -> bool:
    return isinstance(sample, list) and [type(each) for each in sample] == [int, str]


def summarize(run: Path, state: RunState, unit: str) -> dict[str, Any]:
    """What there is to tell of a run at its end: the best step and what it was measured at, the time, the speed."""
    assert state.best is not None  # every run ends with an evaluation
    measured = {name: value for name, value in state.best.items() if name.startswith("validation_")}
    last = state.rows[-1]
    speed = f"{unit}_per_second"
    return {
        "run": str(run),
        "best_step": state.best["step"],
        **measured,
        "seconds": last["seconds"],
        speed: last[speed],
    }

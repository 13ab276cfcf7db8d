"""What the journeys of all families share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.report import Report
from recipes.engine.settings import Training

ARTEFACTS = ("saved_model", "tflite", "onnx")


@dataclasses.dataclass(frozen=True)
class Journey:
    """Where a journey goes, and how far.

    Attributes:
        out: directory to make.
        steps: updates of the (first) training; None for as many as it takes to be worth looking at.
        prompt: what a continuation begins with.
        force: replace the demo that is in `out`.
    """

    out: Path
    steps: int | None
    prompt: str
    force: bool

    def training(self, usual: Training) -> Training:
        """Of so many updates."""
        if self.steps is None:
            return usual
        return dataclasses.replace(usual, steps=self.steps, evaluate_every=max(1, min(usual.interval, self.steps)))


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What a journey came to.

    Attributes:
        passed: every artefact computes what was trained.
        result: all figures, as JSON's values.
        shown: what a person is to see, in this order: lines, or whatever `rich` can print.
    """

    passed: bool
    result: dict[str, Any]
    shown: list[Any]


def artefact_figures(report: Report) -> dict[str, Any]:
    """Size, error and latency by artefact."""
    return {a.name: {"bytes": a.bytes, "max_error": a.max_error, "p50_ms": a.latency_p50_ms} for a in report.artefacts}


def classify_everywhere(
    model: Any, bundle: Path, inputs: dict[str, Any], labels: Sequence[str]
) -> tuple[dict[str, float], bool]:
    """The accuracy of a Keras model and of every artefact made of it, by name, and whether all give the same answers.

    Args:
        model: a classifier.
        bundle: that was exported from it.
        inputs: of the model, by name.
        labels: the right class of each row.
    """
    import numpy as np
    from keras import ops

    from export.signatures import SERVING
    from export.verify import run_artefact

    answers = {"keras": ops.convert_to_numpy(model(inputs, training=False)["logits"]).argmax(axis=1)}
    for artefact in ARTEFACTS:
        answers[artefact] = run_artefact(bundle, artefact, SERVING, inputs)["logits"].argmax(axis=1)
    return judge(answers, np.array([model.labels.index(label) for label in labels]))


def judge(answers: dict[str, Any], right: Any) -> tuple[dict[str, float], bool]:
    """The accuracy of each set of answers, by name, and whether all sets are the same.

    Args:
        answers: (rows,) whole numbers each.
        right: (rows,) whole numbers.
    """
    accuracies = {name: float((answer == right).mean()) for name, answer in answers.items()}
    return accuracies, all((answer == answers["keras"]).all() for answer in answers.values())

"""How near an artefact is to the model that it was made of: errors, and for quantised ones the metric of the task."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.reference import Case, Tensors

TOLERANCE = 1e-4  # largest absolute error of a float32 artefact


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an artefact of one precision may lose.

    Attributes:
        error: the largest absolute error of any output; None for no limit.
        agreement: the smallest part of real rows at which both have the same largest entry, or the same span.
        cosine: the smallest mean cosine of vectors with the model's.
        accuracy: the most that the accuracy may fall, where the right answers are known.
        perplexity: the most that the perplexity may grow, as a factor.
    """

    error: float | None
    agreement: float
    cosine: float
    accuracy: float
    perplexity: float


PRECISIONS = {
    "float32": Limits(error=TOLERANCE, agreement=0.0, cosine=0.0, accuracy=1.0, perplexity=float("inf")),
    "float16": Limits(error=None, agreement=0.99, cosine=0.9999, accuracy=0.005, perplexity=1.01),
    "int8": Limits(error=None, agreement=0.95, cosine=0.99, accuracy=0.01, perplexity=1.05),
    "int8_full": Limits(error=None, agreement=0.90, cosine=0.98, accuracy=0.01, perplexity=1.05),
    "int4": Limits(error=None, agreement=0.80, cosine=0.95, accuracy=0.05, perplexity=1.3),
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of a quantised artefact, beside that of the model.

    Attributes:
        name: "accuracy", "perplexity", "agreement" or "cosine", of which output where there are several.
        model: the model's, 1 for what is measured by the model itself.
        artefact: the artefact's.
        count: rows that it was taken over.
    """

    name: str
    model: float
    artefact: float
    count: int

    def failure(self, limits: Limits) -> str | None:
        """One line, where it is out of its limits."""
        kind = self.name.split()[0]
        lost = {
            "accuracy": self.model - self.artefact > limits.accuracy + 1e-9,
            "perplexity": self.artefact > self.model * limits.perplexity,
            "agreement": self.artefact < limits.agreement,
            "cosine": self.artefact < limits.cosine,
        }[kind]
        if not lost:
            return None
        if kind == "accuracy":
            return f"{self.name} fell from {self.model:.4f} to {self.artefact:.4f}, by more than {limits.accuracy:g}"
        if kind == "perplexity":
            return f"{self.name} grew from {self.model:.3f} to {self.artefact:.3f}, by more than {limits.perplexity:g}"
        least = limits.agreement if kind == "agreement" else limits.cosine
        return f"{self.name} with the Keras model is {self.artefact:.4f}, less than {least:g}"


def failures_of(metrics: Sequence[Metric], limits: Limits) -> list[str]:
    """One line for each that is out of its limits. Where it is known what is right, how often an artefact chooses as
    the model does is told, and decides nothing: of answers that are as good as each other it may take another."""
    known = any(metric.name.startswith(("accuracy", "perplexity")) for metric in metrics)
    lines = (metric.failure(limits) for metric in metrics if not (known and metric.name.startswith("agreement")))
    return [line for line in lines if line is not None]


def judge(cases: Sequence[Case], outputs: dict[str, Tensors]) -> list[Metric]:
    """The metrics of the task over real inputs.

    Args:
        cases: real inputs with the model's outputs, and where they are known with what is right.
        outputs: what the artefact gave, by case; those of the shapes that the cases have.

    Logits are judged by their largest entry: against what is right, where that is known (for tokens of a text also by
    the perplexity), and against the model's. An answer is judged by its two ends, both of which are to be right, and
    vectors by their cosine.
    """
    found: dict[str, list[Any]] = {}

    def add(name: str, model: np.ndarray, artefact: np.ndarray) -> None:
        sums = found.setdefault(name, [0.0, 0.0, 0])
        sums[0] += float(model.sum())
        sums[1] += float(artefact.sum())
        sums[2] += artefact.size

    for case in cases:
        given = outputs[case.name]
        for name, expected in case.outputs.items():
            value, real = given[name].astype("float64"), case.real(name)
            kind = KINDS.get(name)
            if kind == "logits":
                target = case.targets.get(name)
                if target is not None:
                    known = real & (target >= 0)
                    truth = np.where(known, target, 0)
                    if case.metric == "accuracy":
                        add("accuracy", (expected.argmax(-1) == truth)[known], (value.argmax(-1) == truth)[known])
                    if case.metric == "perplexity":
                        add("perplexity", _losses(expected, truth)[known], _losses(value, truth)[known])
                same = (expected.argmax(-1) == value.argmax(-1))[real]
                add("agreement", np.ones_like(same), same)
            elif kind == "vectors":
                cosine = _cosines(expected, value)[real]
                add(f"cosine of {name}", np.ones_like(cosine), cosine)
        if "start" in case.outputs and "end" in case.outputs:
            start, end = (case.targets.get(f"{name}_logits") for name in ("start", "end"))
            if start is not None and end is not None:
                known = (start >= 0) & (end >= 0)
                ours, its = ((each["start"] == start) & (each["end"] == end) for each in (case.outputs, given))
                add("accuracy of the answer", ours[known], its[known])
            same = (given["start"] == case.outputs["start"]) & (given["end"] == case.outputs["end"])
            add("agreement of the answer", np.ones_like(same), same)
    metrics = []
    for name, (model, artefact, count) in found.items():
        if not count:  # of these rows, nothing was known
            continue
        ours, its = model / count, artefact / count
        if name == "perplexity":
            ours, its = float(np.exp(ours)), float(np.exp(its))
        metrics.append(Metric(name, ours, its, count))
    return metrics


KINDS = {
    "logits": "logits",
    "sequence": "vectors",
    "pooled": "vectors",
    "embedding": "vectors",
    "image_embedding": "vectors",
    "text_embedding": "vectors",
}


def _losses(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Cross-entropy in nats, (...,), of logits (..., classes)."""
    logits = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
    right = np.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    return np.log(np.exp(logits).sum(axis=-1)) - right


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / np.maximum(lengths, 1e-12)


def compare(
    cases: Sequence[Case], outputs: dict[str, Tensors], limit: float | None, failures: list[str]
) -> dict[str, Any]:
    """The errors over all cases; adds to `failures`. A padded position counts as any other: what the model computes
    there is as well defined. Only its top token means nothing.

    Args:
        cases, outputs: as for `judge`.
        limit: the largest absolute error that passes; None for any.
        failures: what is wrong, one line each.

    Returns:
        `max_error`, `mean_error`, and `top_agreement` where there are logits; nothing where nothing could be compared.
    """
    worst, total, count, exact, agreed, ranked = 0.0, 0.0, 0, 0, 0, 0
    problems: dict[str, list[str]] = {}
    for case in cases:
        for name, expected in case.outputs.items():
            value = outputs.get(case.name, {}).get(name)
            if value is None:
                problems.setdefault(f"{name} is missing", []).append(case.name)
            elif value.shape != expected.shape or _type_of(value) != _type_of(expected):
                where = f"{case.name}, {value.dtype} {value.shape}"
                problems.setdefault(f"{name} has a wrong shape or type", []).append(where)
            elif expected.dtype.kind != "f":  # a place, or a name
                exact += expected.size
                if limit is not None and not np.array_equal(value, expected):
                    problems.setdefault(f"{name} is another", []).append(case.name)
            elif not np.isfinite(value).all():
                problems.setdefault(f"{name} has NaN or infinite values", []).append(case.name)
            elif expected.size:
                error = np.abs(value.astype("float64") - expected)
                worst, total, count = max(worst, float(error.max())), total + float(error.sum()), count + error.size
                if KINDS.get(name) == "logits":
                    same = (value.argmax(-1) == expected.argmax(-1))[case.real(name)]
                    agreed, ranked = agreed + int(same.sum()), ranked + same.size
    for problem, places in problems.items():
        failures.append(f"{problem} in {len(places)} of {len(cases)} cases ({places[0]})")
    if not (count or exact or problems):
        failures.append("there is nothing to compare it with")
    if limit is not None and worst > limit:
        failures.append(f"differs from the Keras model by {worst:.1e}, more than {limit:g}")
    if not count:
        return {}
    agreement = {"top_agreement": agreed / ranked} if ranked else {}
    return {"max_error": worst, "mean_error": total / count, **agreement}


def _type_of(value: np.ndarray) -> str:
    return "S" if value.dtype.kind == "S" else value.dtype.name  # whatever the longest string is

"""Errors and metrics, by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from export.metrics import PRECISIONS, TOLERANCE, Metric, compare, failures_of, judge
from export.reference import Case


def test_comparison_of_outputs() -> None:
    mask = np.array([[1, 1, 0]], "int32")
    expected = np.array([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]], "float32")
    case = Case("c", "f", "shapes", {"padding_mask": mask}, {"logits": expected})

    def compared(value: np.ndarray) -> tuple[dict[str, float], list[str]]:
        failures: list[str] = []
        return compare([case], {"c": {"logits": value}}, TOLERANCE, failures), failures

    assert compared(expected) == ({"max_error": 0.0, "mean_error": 0.0, "top_agreement": 1.0}, [])
    padding = expected.copy()
    padding[0, 2] = [0.00009, 1.0]
    figures, failures = compared(padding)
    assert figures["max_error"] == pytest.approx(9e-5) and figures["mean_error"] == pytest.approx(1.5e-5)
    assert figures["top_agreement"] == 1.0 and not failures
    padding[0, 2] = [1.0, 0.0]  # a padded position counts, though not for the top token
    assert compared(padding)[0]["top_agreement"] == 1.0
    assert compared(padding)[1] == ["differs from the Keras model by 1.0e+00, more than 0.0001"]
    flipped = expected.copy()
    flipped[0, 0] = [1.0, 0.0]
    assert compared(flipped)[0]["top_agreement"] == 0.5
    for wrong, message in [
        (expected[:, :2], "logits has a wrong shape or type in 1 of 1 cases (c, float32 (1, 2, 2))"),
        (expected.astype("float64"), "logits has a wrong shape or type in 1 of 1 cases (c, float64 (1, 3, 2))"),
        (np.where(expected == 1, np.inf, expected), "logits has NaN or infinite values in 1 of 1 cases (c)"),
    ]:
        assert compared(wrong) == ({}, [message])


def test_places_and_names_are_the_same_or_wrong() -> None:
    outputs = {"start": np.array([1, 2], "int32"), "label": np.array([b"a", b"bcd"])}
    case = Case("c", "f", "shapes", {}, outputs)

    def failures(limit: float | None, **changed: np.ndarray) -> list[str]:
        found: list[str] = []
        compare([case], {"c": {**outputs, **changed}}, limit, found)
        return found

    assert failures(TOLERANCE) == []
    other = np.array([1, 3], "int32")
    assert failures(TOLERANCE, start=other) == ["start is another in 1 of 1 cases (c)"]
    assert failures(None, start=other) == []  # of a quantised file, the metric says how often
    assert failures(TOLERANCE, label=np.array([b"a", b"bc"])) == ["label is another in 1 of 1 cases (c)"]
    (wrong,) = failures(None, start=other.astype("int64"))
    assert wrong.startswith("start has a wrong shape or type")


def test_metrics_by_hand() -> None:
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0]], "float32")
    given = np.array([[2.0, 1.0, 0.0], [4.0, 3.0, 1.0], [1.0, 0.0, 5.0]], "float32")  # the second turned round
    right = {"logits": np.array([0, 1, -1], "int32")}  # of the third nothing is known
    case = Case("c", "f", "real", {}, {"logits": logits}, targets=right, metric="accuracy")
    accuracy, agreement = judge([case], {"c": {"logits": given}})
    assert accuracy == Metric("accuracy", 1.0, 0.5, 2)
    assert agreement == Metric("agreement", 1.0, pytest.approx(2 / 3), 3)

    text = Case("c", "f", "real", {}, {"logits": logits}, targets=right, metric="perplexity")
    perplexity = judge([text], {"c": {"logits": given}})[0]

    def loss(row: np.ndarray, target: int) -> float:
        return float(np.log(np.exp(row).sum()) - row[target])

    assert perplexity.model == pytest.approx(np.exp((loss(logits[0], 0) + loss(logits[1], 1)) / 2))
    assert perplexity.artefact == pytest.approx(np.exp((loss(given[0], 0) + loss(given[1], 1)) / 2))

    vectors = Case("c", "f", "real", {}, {"embedding": np.array([[1.0, 0.0], [0.0, 2.0]], "float32")})
    (cosine,) = judge([vectors], {"c": {"embedding": np.array([[1.0, 0.0], [1.0, 1.0]], "float32")}})
    assert (cosine.name, cosine.count) == ("cosine of embedding", 2)
    assert cosine.artefact == pytest.approx((1 + 0.5**0.5) / 2)

    answer = {"start": np.array([1, 2], "int32"), "end": np.array([3, 4], "int32")}
    (same,) = judge([Case("c", "f", "real", {}, answer)], {"c": {**answer, "end": np.array([3, 5], "int32")}})
    assert same == Metric("agreement of the answer", 1.0, 0.5, 2)
    right = {"start_logits": np.array([1, 2], "int32"), "end_logits": np.array([3, -1], "int32")}  # one is not known
    known = Case("c", "f", "real", {}, answer, targets=right, metric="accuracy")
    accuracy, _ = judge([known], {"c": {**answer, "end": np.array([4, 4], "int32")}})
    assert accuracy == Metric("accuracy of the answer", 1.0, 0.0, 1)


# As docs/export.md has them: what accuracy may fall by, perplexity grow to, agreement and cosine be at least.
LIMITS = {
    "float16": (0.005, 1.01, 0.99, 0.9999),
    "int8": (0.01, 1.05, 0.95, 0.99),
    "int8_full": (0.01, 1.05, 0.90, 0.98),
    "int4": (0.05, 1.3, 0.80, 0.95),
}


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "float32"])
def test_limits_of_a_precision(precision: str) -> None:
    accuracy, perplexity, agreement, cosine = LIMITS[precision]
    limits, little = PRECISIONS[precision], 1e-5
    for metric in [
        Metric("accuracy", 0.93, 0.93 - accuracy, 500),
        Metric("perplexity", 20.0, 20.0 * perplexity, 500),
        Metric("agreement", 1.0, agreement, 500),
        Metric("cosine of embedding", 1.0, cosine, 5),
    ]:
        assert metric.failure(limits) is None
    fallen, grown = 0.93 - accuracy - little, 20.0 * (perplexity + little)
    for metric, failure in [
        (
            Metric("accuracy", 0.93, fallen, 500),
            f"accuracy fell from 0.9300 to {fallen:.4f}, by more than {accuracy}",
        ),
        (
            Metric("perplexity", 20.0, grown, 500),
            f"perplexity grew from 20.000 to {grown:.3f}, by more than {perplexity}",
        ),
        (
            Metric("agreement", 1.0, agreement - little, 500),
            f"agreement with the Keras model is {agreement - little:.4f}, less than {agreement:g}",
        ),
        (
            Metric("cosine of embedding", 1.0, cosine - little, 5),
            f"cosine of embedding with the Keras model is {cosine - little:.4f}, less than {cosine:g}",
        ),
    ]:
        assert metric.failure(limits) == failure


def test_the_limits_are_those_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    for precision, (accuracy, perplexity, agreement, cosine) in LIMITS.items():
        name = precision.replace("float", "fp")
        row = rf"\| {name}\b[^|]*\| {accuracy} \| {perplexity} x \| {agreement:.2f} \| {cosine} \|\n"
        assert len(re.findall(row, text)) == 1, precision


def test_agreement_decides_where_nothing_else_is_known() -> None:
    apart = Metric("agreement", 1.0, 0.5, 100)
    assert failures_of([apart], PRECISIONS["int8"]) == ["agreement with the Keras model is 0.5000, less than 0.95"]
    assert failures_of([Metric("perplexity", 20.0, 20.1, 100), apart], PRECISIONS["int8"]) == []
    (fallen,) = failures_of([Metric("accuracy", 0.9, 0.8, 100), apart], PRECISIONS["int8"])
    assert fallen.startswith("accuracy fell")

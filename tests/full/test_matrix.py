"""Every family, task and format, trained, exported in float32 and int8 and verified: what the table in README.md is
made of."""

import os
from pathlib import Path

import pytest

from export.artefacts import Plan
from export.bundle import export_bundle
from export.report import Report
from tests.full.trained import HELD_OUT, make

pytestmark = pytest.mark.full

SUPPORTED = [
    *(("bert", task) for task in ("backbone", "masked_lm", "classify", "tag", "answer", "embed")),
    *(("gpt", task) for task in ("generate", "classify", "embed")),
    *(("vit", task) for task in ("classify", "embed")),
    ("clip", "contrast"),
]
README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- support: written by tests/full/test_matrix.py -->\n", "<!-- end of support -->\n"
COLUMNS = {
    "SavedModel": ("saved_model", "float32"),
    "SavedModel of strings": ("saved_model_text", "float32"),
    "TFLite": ("tflite", "float32"),
    "TFLite int8": ("tflite", "int8"),
    "ONNX": ("onnx", "float32"),
    "ONNX int8": ("onnx", "int8"),
}
reports: dict[tuple[str, str], Report] = {}


@pytest.mark.parametrize(("family", "task"), SUPPORTED)
def test_trained_models_in_float32_and_int8(family: str, task: str, tmp_path: Path) -> None:
    trained = make(family, task)
    plan = Plan(precisions=("float32", "int8"))
    report = export_bundle(
        trained.model,
        tmp_path / "bundle",
        plan=plan,
        texts=trained.texts,
        images=trained.images,
        examples=trained.examples,
    )
    assert report.passed, report.failure_lines()
    for artefact in report.artefacts:
        quantised = artefact.precision != "float32"
        assert bool(artefact.metrics) == quantised
        for metric in artefact.metrics:
            if metric.name == "accuracy":
                assert metric.model >= 0.9 and metric.count >= HELD_OUT, metric
            print(f"{family} {task}, {artefact.name}: {metric.name} {metric.model:.4f} to {metric.artefact:.4f}")
        assert all(1 <= parts <= 6 for parts in artefact.partitions.values()), artefact.partitions
        if artefact.name.startswith("tflite"):
            assert artefact.partitions and not any(name.startswith("CUSTOM") for name in artefact.operators)
    reports[family, task] = report


def test_the_table_in_the_readme_is_what_was_verified() -> None:
    """Run with ZOO_WRITE_README=1 it is written anew."""
    if set(reports) != set(SUPPORTED):
        pytest.skip("not all of the matrix was run here, or not all of it passed")
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = before + BEGIN + support_table() + END + after
    if os.environ.get("ZOO_WRITE_README"):
        README.write_text(written, encoding="utf-8")
    assert README.read_text(encoding="utf-8") == written


def support_table() -> str:
    lines = [
        f"| family | task | {' | '.join(COLUMNS)} | int8 is judged by |",
        f"| --- | --- | {' | '.join(':---:' for _ in COLUMNS)} | --- |",
    ]
    for (family, task), report in reports.items():
        kinds = {(kind, a.precision) for a in report.artefacts for kind in (a.name, a.name.partition("_")[0])}
        marks = ["yes" if column in kinds else "-" for column in COLUMNS.values()]
        judged = dict.fromkeys(metric.name.split()[0] for a in report.artefacts for metric in a.metrics)
        lines.append(f"| {family} | {task} | {' | '.join(marks)} | {', '.join(judged)} |")
    return "\n".join(lines) + "\n"

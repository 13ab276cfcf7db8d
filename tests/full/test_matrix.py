"""Every family, task and format: exported and verified, with configurations off the beaten track in float32, and
trained in float32 and int8, which the table in README.md is made of."""

import os
from pathlib import Path

import pytest

import zoo
from export.artefacts import USUAL, Plan
from export.bundle import export_bundle
from export.report import Report
from tests.full.trained import HELD_OUT, make
from zoo.bert import BERTConfig
from zoo.image import Preprocessing
from zoo.text import train_bpe

pytestmark = pytest.mark.full

TEXT = "The model reads a text, token by token, and says which comes next. Ünïcode, 日本語 and numbers 12,345 too.\n"
BERT = {"width": 30, "num_heads": 5, "depth": 3, "mlp_width": 47, "activation": "gelu_tanh", "num_segments": 3}
BERT_TEXT = {**BERT, "vocabulary_size": 512, "max_length": 24, "pooler": False}
VIT = {"image_size": (24, 40), "width": 30, "num_heads": 3, "mlp_width": 50, "epsilon": 1e-5, "num_classes": 7}
CASES = [
    *(("bert-nano", task, BERT) for task in ("backbone", "masked_lm", "classify", "tag", "answer", "embed")),
    (
        "gpt-nano",
        "generate",
        {"width": 30, "num_heads": 5, "depth": 3, "mlp_width": 47, "activation": "gelu", "max_length": 40},
    ),
    *(
        (
            "gpt-nano",
            task,
            {"num_heads": 1, "depth": 1, "activation": "quick_gelu", "epsilon": 1e-3, "max_length": 130},
        )
        for task in ("generate", "classify", "embed")
    ),
    ("vit-nano", "classify", VIT),
    ("vit-nano", "embed", {**VIT, "pooling": "mean", "normalize": True}),
    ("clip-nano", "contrast", {"end_token": None, "vision": VIT, "text": {"num_heads": 3, "activation": "gelu"}}),
    ("clip-nano", "contrast", {"end_token": None, "text_pooling": "last", "loss": "sigmoid"}),
    ("clip-nano", "contrast", {"text": BERTConfig(**BERT_TEXT), "text_pooling": "first"}),
]


@pytest.mark.parametrize(
    ("preset", "task", "config"), CASES, ids=[f"{preset}-{task}-{i}" for i, (preset, task, _) in enumerate(CASES)]
)
def test_every_format_computes_what_the_model_does(preset, task, config, tmp_path, enliven):
    model = enliven(zoo.create(preset, task=task, **config))
    if preset == "gpt-nano":
        model.tokenizer = train_bpe([TEXT * 5], 300)
    if task == "classify":
        model.labels = tuple(f"class {number}" for number in range(model.config.num_classes))

    report = export_bundle(model, tmp_path / "bundle", texts=[TEXT * 20])

    assert report.passed, report.failure_lines()
    assert {artefact.path.partition("/")[0].rpartition(".")[2] for artefact in report.artefacts} == set(USUAL)
    for artefact in report.artefacts:
        if artefact.name != "saved_model_text":  # which may answer in text alone
            assert artefact.max_error is not None
            assert artefact.max_error < 1e-4
    # What a client needs to make its inputs, and to read the outputs.
    bundle = tmp_path / "bundle"
    assert (bundle / "tokenizer").is_dir() == (model.tokenizer is not None)
    labels = bundle / "labels.txt"
    assert (labels.read_text().splitlines() if labels.is_file() else None) == (model.labels and list(model.labels))
    assert Preprocessing.is_saved_in(bundle) == (preset in ("vit-nano", "clip-nano"))
    if Preprocessing.is_saved_in(bundle):
        assert Preprocessing.load(bundle) == model.preprocessing


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
            assert artefact.partitions and "CUSTOM" not in artefact.operators
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

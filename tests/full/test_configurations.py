"""Configurations off the beaten track, exported in every format and verified in float32."""

import pytest

import zoo
from export.artefacts import USUAL
from export.bundle import export_bundle
from zoo.bert import BERTConfig
from zoo.image import Preprocessing
from zoo.text import train_bpe

pytestmark = pytest.mark.full

TEXT = "The model reads a text, token by token, and says which comes next. Ünïcode, 日本語 and numbers 12,345 too.\n"
BERT = {"width": 30, "num_heads": 5, "depth": 3, "mlp_width": 47, "activation": "gelu_tanh", "num_segments": 3}
BERT_TEXT = {**BERT, "vocabulary_size": 512, "max_length": 24, "pooler": False}
VIT = {"image_size": (24, 40), "width": 30, "num_heads": 3, "mlp_width": 50, "epsilon": 1e-5, "num_classes": 7}
CASES = [
    *(
        ("bert-nano", task, BERT)
        for task in ("backbone", "pretrain", "masked_lm", "classify", "tag", "answer", "embed")
    ),
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

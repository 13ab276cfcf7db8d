"""Every family, task and format: exported and verified, with configurations off the beaten track."""

import pytest

import zoo
from export.bundle import FORMATS, export_bundle
from zoo.registry import FAMILIES
from zoo.text import train_bpe

pytestmark = pytest.mark.full

TEXT = "The model reads a text, token by token, and says which comes next. Ünïcode, 日本語 and numbers 12,345 too.\n"
CONFIGS = {
    "gpt": [
        {"width": 30, "num_heads": 5, "depth": 3, "mlp_width": 47, "activation": "gelu", "max_length": 40},
        {"width": 32, "num_heads": 1, "depth": 1, "activation": "quick_gelu", "epsilon": 1e-3, "max_length": 130},
    ]
}
PRESET = {"gpt": "gpt-nano"}
CASES = [
    pytest.param(family.name, task, config, id=f"{family.name}-{task}-{i}")
    for family in FAMILIES.values()
    for task in family.tasks
    for i, config in enumerate(CONFIGS[family.name])
]


@pytest.mark.parametrize(("family", "task", "config"), CASES)
def test_every_format_computes_what_the_model_does(family, task, config, tmp_path, enliven):
    tokenizer = train_bpe([TEXT * 5], 300)
    model = zoo.create(PRESET[family], task=task, vocabulary_size=tokenizer.vocabulary_size, **config)
    enliven(model)
    model.tokenizer = tokenizer

    report = export_bundle(model, tmp_path / "bundle", texts=[TEXT * 20])

    assert report.passed, report.failure_lines()
    assert {artefact.name for artefact in report.artefacts} == set(FORMATS)
    for artefact in report.artefacts:
        assert artefact.max_error is not None
        assert artefact.max_error < 1e-4

"""One small model, exported once: what the tests of this folder share."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import zoo
from export import verify
from export.bundle import export_bundle
from export.report import Report
from zoo.model import ZooModel
from zoo.text import train_bpe

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Models are measured in the format's own runtime; every number here was measured there.",
]


def make_model(seed: int) -> ZooModel:
    """A `gpt-nano` with weights far larger than fresh ones, so that its logits differ and errors show."""
    tokenizer = train_bpe(TEXTS, vocabulary_size=280)
    model = zoo.create("gpt-nano", vocabulary_size=tokenizer.vocabulary_size)
    model.tokenizer = tokenizer
    rng = np.random.default_rng(seed)
    for name, weight in model.named_weights().items():
        mean = 1.0 if name.endswith("gamma") else 0.0
        weight.assign(rng.normal(mean, 0.2, weight.shape))
    return model


@pytest.fixture(autouse=True)
def short_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "LATENCY_SECONDS", 0.01)


@pytest.fixture(scope="session")
def model() -> ZooModel:
    return make_model(seed=0)


@pytest.fixture(scope="session")
def exported(model: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A bundle of all formats, not to be changed, and the report that `export_bundle` returned."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return out, export_bundle(model, out, texts=TEXTS)


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, Report]) -> Path:
    return exported[0]


@pytest.fixture
def copy_with(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the bundle, keeping only the artefacts that are named: each costs seconds to run."""

    def copy(*artefacts: str) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(bundle, target)
        content = json.loads((target / "bundle.json").read_text())
        content["artefacts"] = {name: content["artefacts"][name] for name in artefacts}
        (target / "bundle.json").write_text(json.dumps(content))
        return target

    return copy

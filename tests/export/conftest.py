"""One small model, exported once for all processes of a suite: what the tests of this folder share."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zoo
from export.artefacts import Plan
from export.bundle import export_bundle
from export.report import Report
from zoo.model import ZooModel
from zoo.text import train_bpe


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [
        "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
        "Models are measured in the format's own runtime; every number here was measured there.",
    ]


@pytest.fixture(scope="session")
def model(enliven: Callable[..., ZooModel], texts: list[str]) -> ZooModel:
    tokenizer = train_bpe(texts, vocabulary_size=280)
    model = enliven(zoo.create("gpt-nano", vocabulary_size=tokenizer.vocabulary_size))
    model.tokenizer = tokenizer
    return model


@contextlib.contextmanager
def _shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A path that all processes of a suite share, while none of the others is here: the first one makes what is to be
    there, and the others wait and find it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or its process ends
        yield folder / name


@pytest.fixture(scope="session")
def exported(model: ZooModel, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A bundle of all formats in float32 and int8, not to be changed, and its report."""
    with _shared(tmp_path_factory, "exported") as out:
        if not out.exists():
            export_bundle(model, out, plan=Plan(precisions=("float32", "int8")), texts=texts)
    return out, Report.read(out)


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, Report]) -> Path:
    return exported[0]


@pytest.fixture(scope="session")
def other(model: ZooModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A bundle of another model, in ONNX only, made as if its weights were too large for one file; and the lines of
    progress of its making."""
    with _shared(tmp_path_factory, "other") as out:
        told = out.with_suffix(".txt")
        if not out.exists():
            lines: list[str] = []
            weight = model.named_weights()["backbone.final_norm.beta"]
            kept = weight.numpy()
            weight.assign(kept + 0.01)
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("export.onnx.EXTERNAL_ABOVE", 1000)
                    export_bundle(model, out, plan=Plan(("onnx",)), progress=lines.append)
            finally:
                weight.assign(kept)
            told.write_text("\n".join(lines))
    return out, told.read_text().splitlines()


@pytest.fixture
def copy_with(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the bundle, keeping only the artefacts that are named: each costs seconds to run."""

    def copy(*artefacts: str) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(bundle, target)
        content = json.loads((target / "bundle.json").read_text())
        for name in content["artefacts"].keys() - set(artefacts):
            for file in content["artefacts"].pop(name)["files"]:
                (target / file).unlink()
        (target / "bundle.json").write_text(json.dumps(content))
        return target

    return copy

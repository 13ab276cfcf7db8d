"""A text, and one trained run on it, for every test that only looks."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from recipes.gpt_pretrain import GPTPretrain, train_gpt

WORDS = (
    "the",
    "a",
    "model",
    "layer",
    "token",
    "learns",
    "reads",
    "writes",
    "text",
    "slowly",
    "again",
    "éclair",
    "日本",
)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Packed text goes to a folder of this session, not to the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """Sixty thousand characters of sentences that a tiny model can learn something of."""
    draw = random.Random(0)
    sentences = (" ".join(draw.choices(WORDS, k=draw.randint(3, 8))).capitalize() + ".\n" for _ in range(1600))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(sentences), encoding="utf-8")
    return path


def assemble(kind: type, **settings: Any) -> Any:
    """The settings of a recipe from the fields of all their parts, as the command line has them."""
    parts = {}
    for field in dataclasses.fields(kind):
        default = field.default_factory() if callable(field.default_factory) else None
        if dataclasses.is_dataclass(default):
            parts[field.name] = _change(default, settings)
    return kind(**parts, **settings)


def _change(default: Any, settings: dict[str, Any]) -> Any:
    """A part with the settings that are its own, which are taken out, and with those of its own parts."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _change(value, settings)
        elif field.name in settings:
            changes[field.name] = settings.pop(field.name)
    return dataclasses.replace(default, **changes)


def make_settings(data: Path, out: Path, **settings) -> GPTPretrain:
    """Settings of gpt-pretrain."""
    return assemble(GPTPretrain, data=(data,), out=out, **settings)


def tiny(data: Path, out: Path, **changes) -> GPTPretrain:
    """Settings that train in seconds; compiling by XLA would take longer than the training."""
    settings = {
        "steps": 300,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 10,
        "evaluate_every": 100,
        "xla": False,
        "preset": "gpt-nano",
        "tokenizer": "char",
        "max_length": 32,
        "sample_tokens": 12,
    }
    return make_settings(data, out, **{**settings, **changes})


@pytest.fixture(scope="session")
def trained_run(text_file, tmp_path_factory) -> Path:
    """The run directory of a tiny training on characters."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train_gpt(tiny(text_file, out))
    return out

"""A text, and one trained run on it, for every test that only looks."""

import random
from pathlib import Path

import pytest

from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.gpt_pretrain import GPTOrigin, GPTPretrain, train_gpt

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


def make_settings(data: Path, out: Path, **settings) -> GPTPretrain:
    """Settings of gpt-pretrain from the fields of all their parts, as the command line has them."""

    def take(kind: type) -> dict:
        return {name: settings.pop(name) for name in list(settings) if name in kind.__dataclass_fields__}

    optimization = Optimization(**take(Optimization))
    training = Training(optimization=optimization, **take(Training))
    return GPTPretrain(data=data, out=out, origin=GPTOrigin(**take(GPTOrigin)), training=training, **settings)


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

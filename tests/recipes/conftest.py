"""A text, and one trained run on it, for every test that only looks."""

import random
from pathlib import Path

import pytest

from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
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


FIELDS = Optimization.__dataclass_fields__


def make_training(**settings) -> Training:
    """Training and its optimization, from the fields of both."""
    optimization = Optimization(**{name: settings.pop(name) for name in list(settings) if name in FIELDS})
    return Training(optimization=optimization, **settings)


def tiny(data: Path, out: Path, **changes) -> GPTPretrain:
    """Settings that train in seconds; compiling by XLA would take longer than the training."""
    training = {
        "steps": 300,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 10,
        "evaluate_every": 100,
        "xla": False,
    }
    training |= {
        name: changes.pop(name) for name in list(changes) if name in {**FIELDS, **Training.__dataclass_fields__}
    }
    settings = {"preset": "gpt-nano", "tokenizer": "char", "max_length": 32, "sample_tokens": 12}
    return GPTPretrain(data=data, out=out, training=make_training(**training), **{**settings, **changes})


@pytest.fixture(scope="session")
def trained_run(text_file, tmp_path_factory) -> Path:
    """The run directory of a tiny training on characters."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train_gpt(tiny(text_file, out))
    return out

"""Hundreds of damaged model directories: each ends in one clear line, or loads as it says, and never in a crash, a hang
or a large allocation."""

import json
import random
import resource
import shutil

import pytest

import zoo
from tests.zoo.fuzzing import CHECKPOINTS, FILES, Builder, count_refusals, damage
from zoo import presets
from zoo.text import train_characters

pytestmark = pytest.mark.full


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("file", FILES)
def test_hugging_faces_layout(checkpoint, file, tmp_path, monkeypatch):
    refused, grown = count_refusals(checkpoint, file, 200, tmp_path / "model", monkeypatch)
    assert refused > 60
    assert grown < 200e6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "model"
    tokenizer = train_characters(["abc\n"])
    model = zoo.create("gpt-nano", vocabulary_size=tokenizer.vocabulary_size, width=8, num_heads=2, max_length=8)
    model.tokenizer = tokenizer
    zoo.save(model, directory)
    return directory


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_zoos_own_layout(whole, tmp_path, name, monkeypatch):
    monkeypatch.setattr(presets, "build", Builder())
    draw = random.Random(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(200):
        directory = tmp_path / "model"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(whole, directory)
        (directory / name).write_bytes(damage((whole / name).read_bytes(), draw))
        try:
            model = zoo.load(directory)
        except zoo.UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(directory) in str(error)
        else:
            assert model.config.to_dict() == json.loads((directory / "config.json").read_text())["config"]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert refused > 100
    assert grown < 200e6

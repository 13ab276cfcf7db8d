"""Hundreds of damaged model directories: each ends in one clear line, never in a crash or a large allocation."""

import json
import random
import resource
import shutil

import pytest

import zoo
from zoo.text import train_characters

pytestmark = pytest.mark.full

FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "model"
    tokenizer = train_characters(["abc\n"])
    model = zoo.create("gpt-nano", vocabulary_size=tokenizer.vocabulary_size, width=8, num_heads=2, max_length=8)
    model.tokenizer = tokenizer
    zoo.save(model, directory)
    return directory


def damage(content: bytes, draw: random.Random) -> bytes:
    kind = draw.choice(("cut", "flip", "insert", "repeat", "number"))
    place = draw.randrange(min(len(content), 4000))  # the headers and the JSON are what can mislead
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if kind == "insert":
        return content[:place] + draw.randbytes(draw.randrange(1, 9)) + content[place:]
    if kind == "repeat":
        return content[:place] + content[max(0, place - 40) : place] + content[place:]
    digits = [i for i, byte in enumerate(content[:4000]) if chr(byte).isdigit()]
    at = draw.choice(digits)
    return content[:at] + b"9" * draw.randrange(1, 13) + content[at + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_or_loads_as_it_says(whole, tmp_path, name):
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
    assert grown < 500e6

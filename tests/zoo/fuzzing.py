"""Damaged model directories, and what must become of them: a clear refusal, or a model as the files say."""

import dataclasses
import json
import random
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.golden import copy_checkpoint
from zoo import presets
from zoo.directory import read_saved
from zoo.errors import UserError

# The golden checkpoint of each family, the smallest it has, and where its table of positions is kept.
CHECKPOINTS = {
    "bert-tag": ("bert.embeddings.position_embeddings.weight", "backbone.position_embedding.table"),
    "gpt-classify": ("transformer.wpe.weight", "backbone.position_embedding.table"),
    "vit-classify": ("vit.embeddings.position_embeddings", "backbone.position_embedding.table"),
    "clip-contrast-highest": (
        "text_model.embeddings.position_embedding.weight",
        "text.position_embedding.table",
    ),
}
FILES = ("config.json", "model.safetensors", "model.safetensors.index.json")
LONGEST = 20.0  # seconds that one load may take; it takes a hundredth, and the machine may be busy


def damage(content: bytes, draw: random.Random) -> bytes:
    """Cut the content, or change a little of it, mostly near its beginning: headers and JSON are what can mislead."""
    kind = draw.choice(("cut", "flip", "flip", "insert", "repeat", "number", "swap"))
    place = draw.randrange(min(len(content), 4000) if draw.random() < 0.8 else len(content))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if kind == "insert":
        return content[:place] + draw.randbytes(draw.randrange(1, 9)) + content[place:]
    if kind == "repeat":
        return content[:place] + content[max(0, place - 40) : place] + content[place:]
    digits = [i for i, byte in enumerate(content[:4000]) if chr(byte).isdigit()]
    if kind == "number":
        at = draw.choice(digits)
        return content[:at] + b"9" * draw.randrange(1, 13) + content[at + 1 :]
    value = draw.choice((b"null", b"[]", b"{}", b"-1", b"1e999", b'"x"', b"true", b"0.5", b"[[]]", b"NaN"))
    at = draw.choice([i for i, byte in enumerate(content[:4000]) if byte == ord(":")] or digits)
    end = min((i for i in (content.find(mark, at) for mark in (b",", b"}", b"\n")) if i > 0), default=len(content))
    return content[: at + 1] + value + content[end:]


def write_whole(checkpoint: str, directory: Path, sharded: bool) -> Path:
    """A golden checkpoint to damage."""
    copy_checkpoint(checkpoint, directory)
    if sharded:
        tensors = safetensors.numpy.load_file(directory / "model.safetensors")
        (directory / "model.safetensors").unlink()
        places = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
        for file in set(places.values()):
            part = {name: tensors[name] for name, place in places.items() if place == file}
            safetensors.numpy.save_file(part, directory / file)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


class Builder:
    """Builds models as `zoo.load` does, and keeps them: a damaged setting that changes no shape, such as a rate of
    dropout, gets the model that is there, since building is what takes time."""

    def __init__(self) -> None:
        self.original = presets.build
        self.models: dict[tuple[str, str, str], Any] = {}

    def __call__(self, family: Any, config: Any, task: str, dtype: str) -> Any:
        key = (family.name, str(_shapes(config)), task)
        if key not in self.models:
            self.models[key] = self.original(family, config, task, dtype)
        self.models[key].config = config
        return self.models[key]


def _shapes(config: Any) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: _shapes(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if not isinstance(value, (float, str))
    }


def count_refusals(
    checkpoint: str, file: str, times: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Damage one file of a checkpoint so many times, each differently, and load it.

    Returns:
        How often it was refused, and by how many bytes this process has grown.
    """
    monkeypatch.setattr(presets, "build", Builder())
    whole = write_whole(checkpoint, directory, sharded=file == FILES[2])
    content = (whole / file).read_bytes()
    zoo.load(whole)  # what loading takes anyway
    draw, refused = random.Random(f"{checkpoint} {file}"), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(times):
        (whole / file).write_bytes(damage(content, draw))
        began = time.monotonic()
        try:
            model = zoo.load(whole)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
            assert str(directory) in str(error)
        else:
            assert_is_as_it_says(model, whole, checkpoint)
        assert time.monotonic() - began < LONGEST
    shutil.rmtree(whole)
    return refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def assert_is_as_it_says(model: Any, directory: Path, checkpoint: str) -> None:
    """The files, read by others than us, say what the model is."""
    record = json.loads((directory / "config.json").read_text())
    widths = {"gpt2": "n_embd", "clip": "projection_dim"}
    width = getattr(model.config, "projection_width", None) or model.config.width
    assert width == record[widths.get(model.family, "n_embd" if model.family == "gpt" else "hidden_size")]
    assert model.config == read_saved(directory).config
    theirs, ours = CHECKPOINTS[checkpoint]
    index = directory / "model.safetensors.index.json"
    file = json.loads(index.read_text())["weight_map"][theirs] if index.exists() else "model.safetensors"
    stored = safetensors.numpy.load_file(directory / file)[theirs]
    table = model.named_weights()[ours].numpy()
    np.testing.assert_array_equal(table, stored.reshape(table.shape).astype("float32"))

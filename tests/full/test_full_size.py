"""The published sizes: made, run, saved, loaded, within the memory that they should need; and GPT-2 generating."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.generation import Generator

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = {"gpt2": 124_439_808, "bert-base": 109_482_240, "vit-b16": 86_567_656, "clip-b32": 151_277_313}
MOST = 2.5  # times the weights, above what the imports take

# A life in a process of its own. Its own peak is `VmHWM`: what `getrusage` gives begins with the parent's.
LIFE = """
import gc, json, sys
import numpy as np
import keras, tensorflow as tf
import zoo
from zoo.model import Axis

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6

def draw(model):
    rng, inputs = np.random.default_rng(0), {}
    for spec in model.input_specs:
        shape = [{"batch": 2, "tokens": 16}[size.name] if isinstance(size, Axis) else size for size in spec.shape]
        if spec.dtype == "float32":
            inputs[spec.name] = rng.normal(size=shape).astype("float32")
        elif spec.name == "padding_mask":
            inputs[spec.name] = np.ones(shape, "int32")
        else:
            inputs[spec.name] = rng.integers(0, spec.highest, shape, dtype="int32")
    return inputs

preset, directory, layout = sys.argv[1:]
tf.matmul(tf.ones((8, 8)), tf.ones((8, 8))).numpy()
peaks = {"imports": peak()}
model = zoo.create(preset)
parameters = model.count_params()
peaks["created"] = peak()
inputs = draw(model)
before = {name: value.numpy() for name, value in model(inputs).items()}
peaks["run"] = peak()
zoo.save(model, directory, layout=layout)
peaks["saved"] = peak()
del model
gc.collect()  # a Keras model refers to itself
model = zoo.load(directory)
peaks["loaded"] = peak()
after = {name: value.numpy() for name, value in model(inputs).items()}
peaks["run again"] = peak()
same = list(before) == list(after) and all(np.array_equal(before[name], after[name]) for name in before)
finite = all(np.isfinite(value).all() and np.abs(value).max() > 0 for value in after.values())
print(json.dumps({"parameters": parameters, "same": same, "finite": finite, "peaks": peaks}))
"""


@pytest.mark.parametrize("layout", ["zoo", "hf"])
@pytest.mark.parametrize("preset", PARAMETERS)
def test_a_published_size_lives_within_its_memory(preset: str, layout: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIFE, preset, str(tmp_path / preset), layout]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    weights = PARAMETERS[preset] * 4 / 1e6
    baseline = found["peaks"].pop("imports")
    grown = {stage: (peak - baseline) / weights for stage, peak in found["peaks"].items()}
    figures = ", ".join(f"{stage} {ratio:.2f}" for stage, ratio in grown.items())
    print(f"{preset}, {layout}: {weights:.0f} MB; peak above the imports' {baseline:.0f} MB, in weights: {figures}")
    assert found["parameters"] == PARAMETERS[preset]
    assert found["same"] and found["finite"]
    assert max(grown.values()) <= MOST, figures


def test_gpt2_is_generated_with(tmp_path: Path) -> None:
    model = zoo.create("gpt2")
    ids = np.arange(0, 50257, 1571, dtype="int32")[None]
    cached = Generator(model).generate([ids[0].tolist()], 8)[0]
    tokens = ids[0].tolist()
    for _ in range(8):
        tokens.append(int(np.argmax(model({"token_ids": np.array([tokens], "int32")})["logits"][0, -1])))
    assert cached == tokens[len(ids[0]) :]

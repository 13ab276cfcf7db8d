"""The layers and all families on Keras's JAX backend: the same weights and inputs give what they give on TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.peers

SCRIPT = """
import sys
import numpy as np
import keras
from keras import ops
import zoo
from zoo.layers import (
    FeedForward, MultiHeadAttention, PatchEmbedding, PositionEmbedding, SegmentEmbedding, TokenEmbedding,
    TokenPooling, TransformerStack, empty_cache,
)
from zoo.registry import FAMILIES

assert keras.backend.backend() == sys.argv[1]
random = np.random.default_rng(0)
x = random.normal(size=(2, 7, 24)).astype("float32")
context = random.normal(size=(2, 5, 24)).astype("float32")
mask = np.array([[1] * 7, [0, 0, 1, 1, 1, 0, 0]], "int32")
ids = random.integers(0, 11, size=(2, 7)).astype("int32")
images = random.normal(size=(2, 12, 8, 3)).astype("float32")
results = {}


def keep(name, layer, *args, **options):
    # Initial weights differ between backends: they are drawn here instead.
    layer(*args, **options)
    for weight in layer.weights:
        weight.assign(random.normal(scale=0.3, size=weight.shape))
    for i, value in enumerate(keras.tree.flatten(layer(*args, **options))):
        results[f"{name}/{i}"] = ops.convert_to_numpy(value)


keep("self", MultiHeadAttention(24, 3), x, padding_mask=mask, return_weights=True)
keep("cross", MultiHeadAttention(24, 3, cross=True), x, context=context, return_weights=True)
attention = MultiHeadAttention(24, 3, causal=True)
keep("cached", attention, x[:, :4], cache=empty_cache(2, 3, 9, 8), cache_index=3)
for activation in ("gelu", "gelu_tanh", "quick_gelu", "relu"):
    keep(activation, FeedForward(24, 40, activation), x)
for norm in ("pre", "post"):
    stack = TransformerStack(2, width=24, num_heads=3, mlp_width=40, norm=norm, cross_attention=True)
    keep(norm, stack, x, padding_mask=mask, context=context, return_weights=True)
keep("tokens", TokenEmbedding(11, 24), ids)
keep("positions", PositionEmbedding(9, 24), ids % 9)
keep("segments", SegmentEmbedding(2, 24), ids % 2)
keep("patches", PatchEmbedding(4, 24), images)
for strategy in ("first", "last", "mean"):
    keep(strategy, TokenPooling(strategy), x, padding_mask=mask)
keep("at", TokenPooling("at"), x, index=np.array([1, 4], "int32"))
for family in FAMILIES.values():
    for task in family.tasks:
        model = zoo.create(f"{family.name}-nano", task=task)
        inputs = {}
        for spec in model.input_specs:
            sizes = {"batch": 2, "tokens": 7, "masked": 3}
            shape = tuple(size if isinstance(size, int) else sizes[size.name] for size in spec.shape)
            if spec.dtype == "float32":
                inputs[spec.name] = random.normal(size=shape).astype("float32")
            else:
                inputs[spec.name] = random.integers(0, min(spec.highest or 6, 6) + 1, size=shape).astype("int32")
        if "padding_mask" in inputs:
            inputs["padding_mask"] = mask
        keep(f"{family.name} {task}", model, inputs, return_weights=True)
np.savez(sys.argv[2], **results)
"""


def run_on(backend: str, directory: Path) -> dict[str, np.ndarray]:
    output = directory / f"{backend}.npz"
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SCRIPT, backend, str(output)], env=environment, check=True)
    with np.load(output) as arrays:
        return dict(arrays)


def test_layers_and_families_are_the_same_on_jax(tmp_path):
    ours, theirs = run_on("tensorflow", tmp_path), run_on("jax", tmp_path)

    assert ours.keys() == theirs.keys()
    assert len(ours) > 80
    assert {name.split(" ")[0] for name in ours if " " in name} == {"bert", "gpt", "vit", "clip"}
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=2e-5 * max(1.0, np.abs(value).max()), err_msg=name)

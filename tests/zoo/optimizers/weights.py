"""Weights as a model of the zoo names them, without the model, and gradients for them."""

import contextlib

import keras
import numpy as np

SHAPES = {
    "backbone.token_embedding.table": (7, 4),
    "backbone.patch_embedding.class_token": (1, 1, 4),
    "backbone.transformer.block_0.attention.qkv.kernel": (4, 12),
    "backbone.transformer.block_0.attention.qkv.bias": (12,),
    "backbone.transformer.block_0.feed_forward.up.kernel": (4, 6),
    "backbone.transformer.block_0.feed_forward.down.kernel": (6, 4),
    "backbone.transformer.block_0.attention_norm.gamma": (4,),
    "classifier.kernel": (4, 3),
}
MATRICES = [name for name in SHAPES if name.endswith(("table", "kernel"))]


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def gradients(steps: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def make_weights(values: dict[str, np.ndarray]) -> list[keras.Variable]:
    """A float32 variable for each value, whose path is its name within a model."""
    weights = []
    for name, value in values.items():
        with contextlib.ExitStack() as scopes:
            for part in ["model", *name.split(".")[:-1]]:
                scopes.enter_context(keras.name_scope(part))
            weights.append(keras.Variable(value.astype("float32"), name=name.rpartition(".")[2]))
    return weights

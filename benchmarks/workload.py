"""What the benchmarks train: a small model of each family, and random batches for it (TensorFlow only)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import zoo

BATCH, LENGTH, VOCABULARY = 16, 128, 8192
SIZES: dict[str, Any] = {"width": 256, "depth": 4, "num_heads": 4}


def make_model(family: str) -> Any:
    """A model of about the size of `bert-mini`, for the family's own objective."""
    text = {"vocabulary_size": VOCABULARY, "max_length": LENGTH, **SIZES}
    if family in ("gpt", "bert"):
        return zoo.create(f"{family}-nano", task="pretrain", **text)
    image = {"image_size": (96, 96), "patch_size": 8, **SIZES}
    if family == "vit":
        return zoo.create("vit-nano", task="pretrain", **image)
    return zoo.create("clip-nano")


def make_losses(family: str) -> Any:
    """What to give to `compile`; None where the model brings its loss along."""
    if family == "clip":
        return None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"logits": loss, "next_sentence": loss} if family == "bert" else {"logits": loss}


def make_batches(family: str, count: int = 4) -> tf.data.Dataset:
    """Random batches, kept in memory."""
    rng = np.random.default_rng(0)
    rows = BATCH * count
    ids = rng.integers(0, VOCABULARY, (rows, LENGTH)).astype("int32")
    mask = np.ones_like(ids)
    data: Any
    if family == "gpt":
        data = {"token_ids": ids, "padding_mask": mask}, {"logits": np.roll(ids, -1, 1)}
    elif family == "bert":
        inputs = {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}
        inputs["masked_positions"] = rng.integers(0, LENGTH, (rows, 20)).astype("int32")
        labels = {"logits": rng.integers(0, VOCABULARY, (rows, 20)), "next_sentence": rng.integers(0, 2, rows)}
        data = inputs, labels
    elif family == "vit":
        data = {"images": rng.normal(size=(rows, 96, 96, 3)).astype("float32")}, {"logits": rng.integers(0, 10, rows)}
    else:
        config = make_model("clip").config
        size, length = config.vision.image_size, config.text.max_length
        ids = rng.integers(1, config.text.vocabulary_size, (rows, length)).astype("int32")
        images = rng.normal(size=(rows, *size, 3)).astype("float32")
        data = ({"images": images, "token_ids": ids, "padding_mask": np.ones_like(ids)},)
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH, drop_remainder=True).cache().prefetch(2)

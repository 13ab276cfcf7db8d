"""One small training for each family and objective, the same wherever it runs: what every test of the distributed step
trains.

Rows of a batch weigh differently, and the second half of each batch far less than the first, so that a mean over the
replicas of their means is another number than the mean over the batch. Two micro-batches differ as well.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import zoo
from zoo.clip.model import CLIPDualEncoder
from zoo.objectives import Distillation, MaskedPatches, PairContrast
from zoo.registry import FAMILIES as FAMILY_TABLE

BATCH, STEPS, LENGTH, RATE = 8, 5, 12, 0.01
WIDTH = 16
SMALL: dict[str, Any] = {"width": WIDTH, "depth": 1, "num_heads": 2}
WITHOUT_DROPOUT: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0}
CLIP_NORM = 0.05  # below the norm of every gradient here: a test checks that

Arrays = dict[str, np.ndarray]
Result = tuple[Arrays, dict[str, list[float]]]


def token_loss() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def make_adamw() -> Any:
    return keras.optimizers.AdamW(RATE, weight_decay=0.1, epsilon=1e-8, global_clipnorm=CLIP_NORM)


def make_sgd() -> Any:
    return keras.optimizers.SGD(1.0, global_clipnorm=CLIP_NORM)


def _vocabulary() -> dict[str, Any]:
    return {"vocabulary_size": 37, "max_length": 16, **SMALL, **WITHOUT_DROPOUT}


def _text(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and their mask: two to four tokens in the second half of a batch, up to twelve in the first."""
    ids = rng.integers(1, 36, (rows, LENGTH)).astype("int32")
    full = np.arange(rows) % BATCH < BATCH // 2
    lengths = np.where(full, rng.integers(8, LENGTH + 1, rows), rng.integers(2, 5, rows))
    mask = (np.arange(LENGTH) < lengths[:, None]).astype("int32")
    return ids * mask, mask


def _gpt(rng: np.random.Generator, rows: int) -> tuple:
    ids, mask = _text(rng, rows)
    return {"token_ids": ids, "padding_mask": mask}, {"logits": np.roll(ids, -1, 1)}, {"logits": mask.astype("float32")}


def _bert(rng: np.random.Generator, rows: int) -> tuple:
    ids, mask = _text(rng, rows)
    positions = rng.integers(0, 4, (rows, 3)).astype("int32")
    weights = (positions < mask.sum(1, keepdims=True)).astype("float32") * rng.integers(0, 2, (rows, 3))
    inputs = {
        "token_ids": ids,
        "padding_mask": mask,
        "segment_ids": rng.integers(0, 2, ids.shape).astype("int32"),
        "masked_positions": positions,
    }
    labels = {
        "logits": rng.integers(0, 37, (rows, 3)).astype("int32"),
        "next_sentence": rng.integers(0, 2, rows).astype("int32"),
    }
    return inputs, labels, {"logits": weights.astype("float32"), "next_sentence": np.ones(rows, "float32")}


def _vit(rng: np.random.Generator, rows: int) -> tuple:
    labels = rng.integers(0, 10, rows).astype("int32")
    weights = np.where(np.arange(rows) % BATCH < BATCH // 2, 1.0, 0.1).astype("float32")
    return {"images": rng.normal(size=(rows, 8, 8, 3)).astype("float32")}, {"logits": labels}, {"logits": weights}


def _clip(rng: np.random.Generator, rows: int) -> tuple:
    ids, mask = _text(rng, rows)
    ids[np.arange(rows), mask.sum(1) - 1] = 36  # the end of a text, where it is read
    images = rng.normal(size=(rows, 8, 8, 3)).astype("float32")
    return ({"images": images, "token_ids": ids, "padding_mask": mask},)


def _labelled_clip(rng: np.random.Generator, rows: int) -> tuple:
    """Of few different images and texts, so that many are no negatives, on either half of a batch."""
    return *_clip(rng, rows), {"pairs": rng.integers(0, 9, (rows, 2)).astype("int32")}


def _make_clip(**changes: Any) -> Any:
    vision = {"image_size": [8, 8], "patch_size": 4, **SMALL}
    text = {"vocabulary_size": 37, "max_length": 16, **SMALL}
    config = FAMILY_TABLE["clip"].presets["clip-nano"].to_dict()
    config["vision"].update(vision)
    config["text"].update(text)
    for tower in ("vision", "text"):
        for name in ("dropout", "attention_dropout"):
            config[tower][name] = 0.0
    model = CLIPDualEncoder({**config, "end_token": 36, **changes})
    model.build()
    return model


def _pairs(rng: np.random.Generator, rows: int) -> tuple:
    """Pairs with few different texts, so that many are no negatives, on either half of a batch."""
    (ids, mask), (pair_ids, pair_mask) = _text(rng, rows), _text(rng, rows)
    inputs = {"token_ids": ids, "padding_mask": mask, "pair_token_ids": pair_ids, "pair_padding_mask": pair_mask}
    weights = np.where(np.arange(rows) % BATCH < BATCH // 2, 1.0, 0.1).astype("float32")
    return inputs, {"texts": rng.integers(0, 9, (rows, 2)).astype("int32")}, weights


def _make_pairs(**changes: Any) -> Any:
    return PairContrast(zoo.create("gpt-nano", task="embed", **{**_vocabulary(), **changes}))


def _make_distillation(**changes: Any) -> Any:
    """A teacher of another width, with the same weights each time."""
    student = zoo.create("gpt-nano", task="generate", **{**_vocabulary(), **changes})
    teacher = zoo.create("gpt-nano", task="generate", **{**_vocabulary(), "width": 24})
    rng = np.random.default_rng(7)
    for weight in teacher.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.3)
    return Distillation(student, teacher, alpha=0.6, beta=0.5)


def _patches(rng: np.random.Generator, rows: int) -> tuple:
    """Images of which three of four patches are masked."""
    images, _, weights = _vit(rng, rows)
    patches = np.stack([rng.permutation(4) for _ in range(rows)]).astype("int32")
    return {**images, "kept_patches": patches[:, :1], "masked_patches": patches[:, 1:]}, {}, weights["logits"]


def _make_patches(**changes: Any) -> Any:
    sizes = {"image_size": (8, 8), "patch_size": 4, "pooler": False, **SMALL, **WITHOUT_DROPOUT, **changes}
    return MaskedPatches(zoo.create("vit-nano", task="backbone", **sizes), WIDTH, 1, 2)


FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., tuple], dict[str, Any] | None]] = {
    "gpt": (
        lambda **changes: zoo.create("gpt-nano", task="pretrain", **{**_vocabulary(), **changes}),
        _gpt,
        {"logits": token_loss},
    ),
    "bert": (
        lambda **changes: zoo.create("bert-nano", task="pretrain", **{**_vocabulary(), **changes}),
        _bert,
        {"logits": token_loss, "next_sentence": token_loss},
    ),
    "vit": (
        lambda **changes: zoo.create(
            "vit-nano",
            task="pretrain",
            **{"image_size": (8, 8), "patch_size": 4, **SMALL, **WITHOUT_DROPOUT, **changes},
        ),
        _vit,
        {"logits": token_loss},
    ),
    "clip": (_make_clip, _clip, None),
    "clip-sigmoid": (lambda **changes: _make_clip(loss="sigmoid", **changes), _labelled_clip, None),
    "pairs": (_make_pairs, _pairs, None),
    "distillation": (_make_distillation, _gpt, {"logits": token_loss}),
    "masked-patches": (_make_patches, _patches, None),
}


def make_data(family: str, rows: int = BATCH * STEPS) -> tf.data.Dataset:
    """Batches of the family's training, always the same."""
    data = FAMILIES[family][1](np.random.default_rng(3), rows)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH).with_options(options)


def make_start(family: str) -> list[np.ndarray]:
    """The weights that training starts from: far enough from zero that all matter."""
    rng = np.random.default_rng(5)
    start = []
    for weight in FAMILIES[family][0]().weights:
        value = rng.normal(size=weight.shape).astype("float32")
        scale = 0.3 if weight.path.endswith(("bias", "beta", "table")) else np.prod(weight.shape[:-1]) ** -0.5
        start.append(1.0 + 0.1 * value if weight.path.endswith("gamma") else value * np.float32(scale))
        if weight.path.endswith("log_scale"):
            start[-1] = np.float32(2.0)
    return start


def train(
    family: str,
    strategy: tf.distribute.Strategy,
    make_optimizer: Callable[[], Any] = make_adamw,
    data: tf.data.Dataset | None = None,
    step: Any = None,
    changes: dict[str, Any] | None = None,
    start: list[np.ndarray] | None = None,
    **compiled: Any,
) -> Result:
    """The weights by name after one epoch of `fit` from the start, and the history.

    Args:
        family: a key of `FAMILIES`.
        strategy: where.
        make_optimizer: makes the optimizer.
        data: the batches; those of `make_data` where None.
        step: another class to take `compile`, `train_step` and `test_step` from: stock Keras.
        changes: to the configuration.
        start: the first weights; those of `make_start` where None.
        **compiled: for `compile`.
    """
    make, _, losses = FAMILIES[family]
    with strategy.scope():
        model = make(**(changes or {}))
        if step is not None:
            model.__class__ = _with_step_of(type(model), step)
        loss = {name: make_loss() for name, make_loss in losses.items()} if losses else None
        model.compile(make_optimizer(), loss=loss, **{"jit_compile": False, **compiled})
    model.set_weights(make_start(family) if start is None else start)
    history = model.fit(make_data(family) if data is None else data, shuffle=False, verbose=0).history
    return {weight.path.split("/", 1)[1]: weight.numpy() for weight in model.weights}, history


def _with_step_of(model_class: type, step: Any) -> type:
    names = ("compile", "fit", "train_step", "test_step", "make_train_function", "_maybe_symbolic_build")
    return type("Stock", (model_class,), {name: getattr(step, name) for name in names})


def distances(result: Result, expected: Result, with_key_bias: bool = False) -> dict[str, float]:
    """By weight: the norm of the difference over the norm of the weight.

    The bias of the keys is left out: its true gradient is zero, and Adam takes whatever rounding leaves for one.
    """
    found = {}
    for name, wanted in expected[0].items():
        actual = result[0][name]
        if not with_key_bias and name.endswith("qkv/bias"):
            query_and_value = np.r_[0:WIDTH, 2 * WIDTH : 3 * WIDTH]
            actual, wanted = actual[query_and_value], wanted[query_and_value]
        found[name] = float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))
    return found


def assert_equal(result: Result, expected: Result) -> None:
    """As the training contract says: weights to 1e-5 of their norm, the bias of the keys to 1e-2 of the learning rate,
    and the loss to 1e-5."""
    off = distances(result, expected)
    assert max(off.values()) <= 1e-5, {name: value for name, value in off.items() if value > 1e-5}
    for name, wanted in expected[0].items():
        if name.endswith("qkv/bias"):
            keys = np.s_[WIDTH : 2 * WIDTH]
            assert np.abs(result[0][name][keys] - wanted[keys]).max() <= 1e-2 * RATE
    assert result[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(result[1][name], values, rtol=1e-5)

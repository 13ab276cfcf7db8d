"""`zoo.vit`: the same numbers as the paper's equations in NumPy, other image sizes, and what is pooled."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo import reference
from tests.zoo.reference import assert_close, inside, weights_of
from tests.zoo.test_layers import resize
from zoo.errors import UserError
from zoo.model import Axis, TensorSpec
from zoo.vit import ViTConfig
from zoo.vit.model import ViTBackbone, ViTClassifier, ViTEmbedder, interpolate_positions

# Two rows of three patches, and a column of pixels that fill none.
SMALL = ViTConfig(
    image_size=(8, 13),
    channels=2,
    patch_size=4,
    width=12,
    depth=2,
    num_heads=3,
    mlp_width=20,
    epsilon=1e-3,
    num_classes=5,
)


def images(height: int = 8, width: int = 13, batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).normal(size=(batch, height, width, 2)).astype("float32")}


@pytest.fixture(scope="module")
def classifier(enliven) -> ViTClassifier:
    """A model with lively weights that no test changes."""
    model = ViTClassifier(SMALL)
    model.build()
    return enliven(model)


def encode(
    given: np.ndarray, weights: reference.Weights, positions: np.ndarray, norm: bool = False, bias: bool = True
) -> np.ndarray:
    """Dosovitskiy et al. 2021, equations 1 to 4: images to (batch, 1 + patches, width)."""
    batch, height, width, _ = given.shape
    kernel = weights["patch_embedding/projection/kernel"].reshape(-1, 12)
    patches = [
        given[:, row : row + 4, column : column + 4].reshape(batch, -1) @ kernel
        for row in range(0, height - 3, 4)
        for column in range(0, width - 3, 4)
    ]
    x = np.stack(patches, axis=1) + (weights["patch_embedding/projection/bias"] if bias else 0.0)
    x = np.concatenate([np.tile(weights["patch_embedding/class_token"], (batch, 1, 1)), x], axis=1) + positions
    if norm:
        x = reference.layer_norm(x, inside(weights, "embedding_norm"), 1e-3)
    for i in range(2):
        x = reference.block(x, inside(weights, f"transformer/block_{i}"), 3, "pre", "gelu", 1e-3)
    return reference.layer_norm(x, inside(weights, "final_norm"), 1e-3)


def test_the_classifier_equals_the_definition(classifier) -> None:
    weights = weights_of(classifier)
    backbone = inside(weights, "backbone")
    hidden = encode(images()["images"], backbone, backbone["position_embedding/table"])
    assert hidden.shape == (2, 7, 12)
    assert_close(classifier.backbone(images())["sequence"], hidden)
    assert_close(classifier(images())["logits"], reference.dense(hidden[:, 0], weights, "classifier"))


def test_the_backbone_of_clip_s_kind_equals_the_definition(enliven) -> None:
    """A norm after the embeddings, and no bias in them; and a pooler, which CLIP has not."""
    model = ViTBackbone(SMALL.replace(embedding_norm=True, patch_bias=False))
    model.build()
    weights = weights_of(enliven(model))
    hidden = encode(images()["images"], weights, weights["position_embedding/table"], norm=True, bias=False)
    outputs = model(images())
    assert_close(outputs["sequence"], hidden)
    assert_close(outputs["pooled"], np.tanh(reference.dense(hidden[:, 0], weights, "pooler")))
    without = ViTBackbone(SMALL.replace(pooler=False))
    without.build()
    assert without.output_names == tuple(without(images())) == ("sequence",)


def test_pixels_that_fill_no_patch_are_left_out(classifier) -> None:
    changed = images()
    changed["images"][:, :, 12:] += 9.0
    np.testing.assert_array_equal(classifier(changed)["logits"], classifier(images())["logits"])


@pytest.mark.parametrize(("height", "width"), [(16, 20), (4, 24), (12, 8)])
def test_another_image_size_interpolates_the_positions(classifier, height: int, width: int) -> None:
    given = images(height, width)
    weights = inside(weights_of(classifier), "backbone")
    table = weights["position_embedding/table"]
    grid = resize(table[1:].reshape(2, 3, 12), height // 4, width // 4).reshape(-1, 12)
    hidden = encode(given["images"], weights, np.concatenate([table[:1], grid]))
    assert_close(classifier.backbone(given)["sequence"], hidden)


def test_a_model_is_loaded_for_another_image_size(classifier, tmp_path: Path) -> None:
    zoo.save(classifier, tmp_path / "model")
    larger = zoo.load(tmp_path / "model", image_size=(16, 20))
    assert larger.config.image_size == (16, 20) and larger.config.grid == (4, 5)
    given = images(16, 20)
    assert_close(larger(given)["logits"], classifier(given)["logits"])
    graph = tf.function(larger, input_signature=[{"images": tf.TensorSpec((None, 16, 20, 2))}])
    assert_close(graph({"images": tf.constant(given["images"])})["logits"], classifier(given)["logits"])
    same = zoo.load(tmp_path / "model", image_size=(9, 12))  # as many patches
    np.testing.assert_array_equal(
        same.backbone.position_embedding.table.numpy(), classifier.backbone.position_embedding.table.numpy()
    )
    for task in ("backbone", "embed"):
        with pytest.raises(UserError, match=r"projection\.kernel is \(4, 4, 2, 12\) and must be \(2, 2, 2, 12\)"):
            zoo.load(tmp_path / "model", task=task, patch_size=2)


def test_a_table_of_another_grid_is_no_table_to_interpolate() -> None:
    table = np.arange(14.0).reshape(7, 2).astype("float32")
    assert interpolate_positions(table, (2, 3), (2, 3)) is table
    assert interpolate_positions(table, (2, 3), (4, 4)).dtype == np.float32
    np.testing.assert_array_equal(interpolate_positions(table, (2, 3), (4, 4))[0], table[0])
    for wrong in (table[:6], table[0], table[None]):
        with pytest.raises(ValueError, match=r"is not one of 2 x 3 patches and a class token"):
            interpolate_positions(wrong, (2, 3), (4, 4))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_embeddings_are_pooled_as_configured(enliven, pooling: str, normalize: bool) -> None:
    model = ViTEmbedder(SMALL.replace(pooling=pooling, normalize=normalize))
    model.build()
    weights = inside(weights_of(enliven(model)), "backbone")
    hidden = encode(images()["images"], weights, weights["position_embedding/table"])
    expected = hidden[:, 0] if pooling == "first" else hidden[:, 1:].mean(1)
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    assert_close(model(images())["embedding"], expected)


def test_inputs_are_stated_once(classifier) -> None:
    assert classifier.input_specs == (TensorSpec("images", "float32", (Axis("batch"), 8, 13, 2)),)


def test_the_config_reaches_every_layer() -> None:
    config = SMALL.replace(
        mlp_width=24, activation="relu", dropout=0.2, attention_dropout=0.3, epsilon=0.125, stddev=0.5
    )
    model = ViTBackbone(config)
    model.build()
    assert model.dropout.rate == 0.2 and model.final_norm.epsilon == 0.125
    for block in model.transformer.blocks:
        assert block.norm == "pre" and not block.attention.causal
        assert block.dropout.rate == 0.2 and block.attention.dropout.rate == 0.3
        assert block.feed_forward.up.units == 24
        assert block.attention_norm.epsilon == block.feed_forward_norm.epsilon == 0.125
        np.testing.assert_array_equal(block.feed_forward.activation(np.array([-1.0, 2.0], "float32")), [0.0, 2.0])
    for name, weight in model.named_weights().items():
        if name.endswith(("kernel", "table")):
            assert weight.numpy().std() == pytest.approx(0.5, rel=0.25), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 30, "num_heads": 4}, "width is 30, and must be a multiple of num_heads 4"),
        ({"image_size": 15}, r"image_size is \(15, 15\), and must be at least patch_size 16"),
        ({"image_size": (224, 8)}, r"image_size is \(224, 8\), and must be at least patch_size 16"),
        ({"image_size": (224, 224, 3)}, r"image_size is \(224, 224, 3\), and must be 2 values"),
        ({"image_size": (224, 0)}, "image_size is 0, and must be int >= 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^ViTConfig: {message}"):
        ViTConfig(**fields)

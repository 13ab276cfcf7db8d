"""Which weights decay, at what rate each learns, and which are frozen, on models of the zoo."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo.optimizers.weights import make_weights
from zoo.optimizers import AdamW, Muon, freeze, is_decayed, layer_factors
from zoo.optimizers.rules import weight_name


@pytest.fixture(scope="module")
def bert() -> Any:
    return zoo.create("bert-nano", task="classify", num_classes=3)


@pytest.fixture(scope="module")
def clip() -> Any:
    return zoo.create("clip-nano")


@pytest.fixture
def thawed(bert: Any) -> Any:
    """BERT, whose weights can all be trained again afterwards."""
    yield bert
    for weight in bert.weights:
        weight.trainable = True


def test_an_optimizer_knows_a_weight_by_its_name_in_the_model(bert: Any) -> None:
    for name, weight in bert.named_weights().items():
        assert weight_name(weight) == name


def test_matrices_and_tables_decay(bert: Any, clip: Any) -> None:
    for model in (bert, clip):
        decayed = {name for name, weight in model.named_weights().items() if is_decayed(weight)}
        assert decayed == {name for name in model.named_weights() if name.endswith(("kernel", "table"))}


def test_rates_fall_layer_by_layer(bert: Any) -> None:
    factors = layer_factors(bert, 0.5)
    assert set(factors) == set(bert.named_weights())
    for name, factor in factors.items():
        if "embedding" in name:
            assert factor == 0.5**3, name
        elif "block_0" in name:
            assert factor == 0.5**2, name
        elif "block_1" in name:
            assert factor == 0.5, name
        else:
            assert factor == 1.0, name
    assert {name.split(".")[1] for name in factors if factors[name] == 0.125} == {
        "token_embedding",
        "position_embedding",
        "segment_embedding",
        "embedding_norm",
    }


def test_each_tower_has_its_own_depths() -> None:
    towers = {"vision": 3, "text": 1}
    names = ["similarity.log_scale", "image_projection.kernel"]
    for tower, depth in towers.items():
        names += [f"{tower}.transformer.block_{i}.attention.qkv.kernel" for i in range(depth)]
        names += [f"{tower}.position_embedding.table", f"{tower}.final_norm.gamma"]
    weights = make_weights({name: np.ones((2, 2)) for name in names})

    class Towers:
        name, trainable_weights = "towers", weights[1:]

        def __init__(self) -> None:
            self.weights = weights

    factors = layer_factors(Towers(), 0.5)
    assert factors.pop("image_projection.kernel") == 1.0
    assert factors == {
        "vision.transformer.block_0.attention.qkv.kernel": 0.125,
        "vision.transformer.block_1.attention.qkv.kernel": 0.25,
        "vision.transformer.block_2.attention.qkv.kernel": 0.5,
        "vision.position_embedding.table": 0.0625,
        "vision.final_norm.gamma": 1.0,
        "text.transformer.block_0.attention.qkv.kernel": 0.5,
        "text.position_embedding.table": 0.25,
        "text.final_norm.gamma": 1.0,
    }


def test_clips_towers_are_found(clip: Any) -> None:
    factors = layer_factors(clip, 0.5)
    assert {name for name, factor in factors.items() if factor == 0.125} == {
        name for name in clip.named_weights() if "_embedding." in name or ".embedding_norm." in name
    }
    assert factors["text_projection.kernel"] == factors["similarity.log_scale"] == 1.0


def test_a_model_without_layers_has_no_rates_by_layer() -> None:
    model = keras.Sequential([keras.layers.Dense(2, name="only")], name="plain")
    with pytest.raises(zoo.UserError, match="plain has no transformer blocks"):
        layer_factors(model, 0.5)


def test_a_factor_for_no_weight_is_refused(bert: Any) -> None:
    optimizer = AdamW(0.1, factors={"backbone.pooler.kernal": 0.5})
    with pytest.raises(ValueError, match=r"'backbone\.pooler\.kernal'.*did you mean 'backbone\.pooler\.kernel'"):
        optimizer.build(bert.trainable_weights)


def test_frozen_weights_stay(thawed: Any) -> None:
    frozen = freeze(thawed, ["backbone.*_embedding.*", "*.block_0.*"])
    assert len(frozen) == 3 + 12
    before = {name: weight.numpy() for name, weight in thawed.named_weights().items()}
    optimizer = Muon(0.1, weight_decay=0.5)
    optimizer.build(thawed.trainable_weights)
    assert not any("block_0" in variable.path for variable in optimizer.variables)
    optimizer.apply([tf.ones(weight.shape) for weight in thawed.trainable_weights])
    moved = {name for name, weight in thawed.named_weights().items() if np.any(weight.numpy() != before[name])}
    assert moved == set(before) - set(frozen)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("backbone.token_embeding.*", r"'backbone\.token_embeding\.\*'.*did you mean 'backbone\.token_embedding\.\*'"),
        ("backbone.transformer.block0.*", r"did you mean .*'backbone\.transformer\.block_\*\.\*'"),
        ("*", "all weights of .* are frozen"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(thawed: Any, pattern: str, told: str) -> None:
    with pytest.raises(zoo.UserError, match=told):
        freeze(thawed, [pattern])
    assert all(weight.trainable for weight in thawed.weights)

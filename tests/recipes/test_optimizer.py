"""`recipes.engine.optimizer`: the settings, and the optimizer made of them."""

from typing import Any

import keras
import numpy as np
import pytest

import zoo
from recipes.engine.optimizer import Optimization, make_optimizer
from zoo.optimizers import LAMB, AdamW, Muon


@pytest.fixture(scope="module")
def gpt() -> Any:
    return zoo.create("gpt-nano", vocabulary_size=23, max_length=8)


@pytest.fixture
def thawed(gpt: Any) -> Any:
    """GPT, whose weights can all be trained again afterwards."""
    yield gpt
    for weight in gpt.weights:
        weight.trainable = True


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", AdamW), ("lamb", LAMB), ("muon", Muon), ("sgd", keras.optimizers.SGD)]
)
def test_every_setting_reaches_the_optimizer(gpt: Any, name: str, kind: type) -> None:
    settings = Optimization(
        optimizer=name,  # type: ignore[arg-type]
        learning_rate=0.02,
        schedule="wsd",
        warmup_steps=3,
        final_learning_rate=0.25,
        decay_fraction=0.5,
        weight_decay=0.3,
        beta_1=0.8,
        beta_2=0.9,
        epsilon=1e-4,
        clip_norm=0.7,
        layer_decay=1.0 if name == "sgd" else 0.5,
        ema=0.6,
    )
    optimizer = make_optimizer(gpt, settings, 20)
    assert type(optimizer) is kind
    config = optimizer.get_config()
    wanted = {"weight_decay": 0.3, "global_clipnorm": 0.7, "use_ema": True, "ema_momentum": 0.6}
    if name == "sgd":
        wanted["momentum"] = 0.8
    else:
        wanted |= {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4}
        assert config["factors"]["backbone.token_embedding.table"] == 0.5**3
    assert {key: config[key] for key in wanted} == wanted
    rates = [float(optimizer._learning_rate(step)) / 0.02 for step in (0, 3, 10, 15, 20)]
    np.testing.assert_allclose(rates, [0.25, 1.0, 1.0, 0.625, 0.25], rtol=1e-5)


def test_nothing_is_clipped_averaged_or_slowed_unless_asked_for(gpt: Any) -> None:
    config = make_optimizer(gpt, Optimization(clip_norm=0.0), 20).get_config()
    assert config["global_clipnorm"] is None and config["use_ema"] is False and config["factors"] == {}


def test_a_run_shorter_than_its_warmup_reaches_the_peak_at_its_end(gpt: Any) -> None:
    optimizer = make_optimizer(gpt, Optimization(learning_rate=0.1, warmup_steps=100), 4)
    rates = [float(optimizer._learning_rate(step)) for step in range(4)]
    np.testing.assert_allclose(rates, [0.025, 0.05, 0.075, 0.1], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon", "sgd"])
def test_matrices_alone_decay(gpt: Any, name: str) -> None:
    settings = Optimization(
        optimizer=name,  # type: ignore[arg-type]
        schedule="constant",
        warmup_steps=0,
        learning_rate=0.5,
        weight_decay=0.5,
    )
    optimizer = make_optimizer(gpt, settings, 20)
    for weight in gpt.trainable_weights:
        weight.assign(np.ones(weight.shape))
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in gpt.trainable_weights], gpt.trainable_weights)
    for weight, value in gpt.named_weights().items():
        wanted = 1.0
        if weight.endswith(("kernel", "table")):
            wanted = 0.5 if name == "lamb" else 0.75  # LAMB makes a step as long as the weight of whatever is there
        np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-6, err_msg=weight)


def test_what_is_frozen_is_left_out(thawed: Any) -> None:
    optimizer = make_optimizer(thawed, Optimization(freeze=("*.block_0.*", "*_embedding.table"), layer_decay=0.5), 20)
    optimizer.build(thawed.trainable_weights)
    assert len(thawed.trainable_weights) == 12 + 2
    assert set(optimizer.get_config()["factors"]) == {
        name for name, weight in thawed.named_weights().items() if weight.trainable
    }
    with pytest.raises(zoo.UserError, match=r"'\*\.block_7\.\*' is to be frozen"):
        make_optimizer(thawed, Optimization(freeze=("*.block_7.*",)), 20)


def test_a_part_is_trained_where_asked_for(thawed: Any) -> None:
    """Adapters and the head, or the head alone."""
    with pytest.raises(zoo.UserError, match="all weights of gpt are frozen"):
        make_optimizer(thawed, Optimization(adapt="frozen"), 20)  # its logits come from the embedding: it has no head

    classifier = zoo.create("bert-nano", task="classify", vocabulary_size=23, max_length=8, num_classes=3)
    before = {name: weight.numpy() for name, weight in classifier.named_weights().items()}
    optimizer = make_optimizer(classifier, Optimization(adapt="frozen", warmup_steps=0), 20)
    classifier.compile(optimizer, {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    ids = np.arange(16).reshape(2, 8)
    classifier.fit({"token_ids": ids}, {"logits": np.array([0, 2])}, verbose=0)
    changed = {name for name, weight in classifier.named_weights().items() if (weight.numpy() != before[name]).any()}
    head = {"classifier.kernel", "classifier.bias", "backbone.pooler.kernel", "backbone.pooler.bias"}
    assert changed == head

    adapted = zoo.create("bert-nano", task="classify", vocabulary_size=23, max_length=8, num_classes=3)
    make_optimizer(adapted, Optimization(adapt="lora", lora_rank=2, lora_layers=("*.attention.qkv",)), 20)
    trained = {name for name, weight in adapted.named_weights().items() if weight.trainable}
    assert adapted.lora.rank == 2
    assert trained - head == {
        f"backbone.transformer.block_{block}.attention.qkv.lora.{part}"
        for block in range(adapted.config.depth)
        for part in "ab"
    }


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"learning_rate": 0.0}, "--learning-rate is 0.0, and must be above 0"),
        ({"epsilon": float("inf")}, "--epsilon is inf"),
        ({"warmup_steps": -1}, "--warmup-steps is -1, and must be 0 or more"),
        ({"clip_norm": float("nan")}, "--clip-norm is nan"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        ({"final_learning_rate": 1.5}, "--final-learning-rate is 1.5, and must be from 0 to 1"),
        ({"beta_1": 1.0}, "--beta-1 is 1.0"),
        ({"beta_2": -0.1}, "--beta-2 is -0.1"),
        ({"ema": 1.0}, "--ema is 1.0, and must be from 0 to below 1"),
        ({"decay_fraction": 0.0}, "--decay-fraction is 0.0, and must be above 0, and 1 at most"),
        ({"layer_decay": 1.1}, "--layer-decay is 1.1"),
        ({"lora_rank": 0}, "--lora-rank is 0, and must be at least 1"),
        ({"layer_decay": 0.8, "optimizer": "sgd"}, "--layer-decay is 0.8, and must be 1 with --optimizer sgd"),
    ],
)
def test_what_cannot_be_is_refused(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(zoo.UserError) as caught:
        Optimization(**setting)
    assert told in str(caught.value)

"""`zoo.bert`: the same numbers as the paper's equations in NumPy, masked positions, segments, poolers and heads."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo import reference
from tests.zoo.reference import assert_close, inside, weights_of
from zoo.bert import BERTConfig
from zoo.bert.model import (
    BERTAnswerer,
    BERTBackbone,
    BERTClassifier,
    BERTEmbedder,
    BERTMaskedLM,
    BERTPretraining,
    BERTTagger,
)
from zoo.errors import UserError
from zoo.registry import FAMILIES

SMALL = BERTConfig(
    vocabulary_size=31,
    max_length=12,
    num_segments=3,
    width=12,
    depth=2,
    num_heads=3,
    mlp_width=20,
    dropout=0.0,
    attention_dropout=0.0,
    epsilon=1e-3,
    num_classes=4,
)


def draw(batch: int = 2, length: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Texts of which all but the first are padded."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, length), "int32")
    mask[1:, length - 2 :] = 0
    return {
        "token_ids": rng.integers(0, 31, (batch, length), dtype="int32"),
        "padding_mask": mask,
        "segment_ids": rng.integers(0, 3, (batch, length), dtype="int32"),
    }


@pytest.fixture(scope="module")
def pretraining(enliven) -> BERTPretraining:
    """A model with lively weights that no test changes."""
    model = BERTPretraining(SMALL)
    model.build()
    return enliven(model)


@pytest.fixture(scope="module")
def hidden(pretraining) -> np.ndarray:
    """What the backbone should make of `draw()`: (batch, tokens, width), from the definition."""
    inputs, weights = draw(), inside(weights_of(pretraining), "backbone")
    x = weights["token_embedding/table"][inputs["token_ids"]]
    x = x + weights["position_embedding/table"][:7] + weights["segment_embedding/table"][inputs["segment_ids"]]
    x = reference.layer_norm(x, inside(weights, "embedding_norm"), 1e-3)
    for i in range(2):
        block = inside(weights, f"transformer/block_{i}")
        x = reference.block(x, block, 3, "post", "gelu", 1e-3, padding_mask=inputs["padding_mask"])
    return x


def test_the_backbone_equals_the_definition(pretraining, hidden) -> None:
    outputs = pretraining.backbone(draw())
    real = draw()["padding_mask"][..., None]
    assert_close(outputs["sequence"] * real, hidden * real)
    pooled = np.tanh(reference.dense(hidden[:, 0], weights_of(pretraining), "backbone/pooler"))
    assert_close(outputs["pooled"], pooled)


def test_both_pretraining_heads_equal_the_definition(pretraining, hidden) -> None:
    weights = weights_of(pretraining)
    h = reference.each(reference.ACTIVATIONS["gelu"], reference.dense(hidden, weights, "masked_lm/transform"))
    h = reference.layer_norm(h, inside(weights, "masked_lm/norm"), 1e-3)
    logits = h @ weights["backbone/token_embedding/table"].T + weights["masked_lm/bias"]
    positions = np.array([[3, 0, 3], [4, 1, 2]], "int32")
    outputs = pretraining({**draw(), "masked_positions": positions})
    assert_close(outputs["logits"], np.stack([logits[0, [3, 0, 3]], logits[1, [4, 1, 2]]]))
    pooled = np.tanh(reference.dense(hidden[:, 0], weights, "backbone/pooler"))
    assert_close(outputs["next_sentence"], reference.dense(pooled, weights, "next_sentence"))
    real = draw()["padding_mask"][..., None]
    assert_close(pretraining(draw())["logits"] * real, logits * real)


def test_the_head_s_activation_is_the_configured_one(pretraining, hidden) -> None:
    model = BERTMaskedLM(SMALL.replace(activation="relu"))
    model.build()
    head = model.masked_lm
    head.transform.set_weights(pretraining.masked_lm.transform.get_weights())
    h = np.maximum(reference.dense(hidden, weights_of(pretraining), "masked_lm/transform"), 0)
    unit = {"gamma": np.ones(12), "beta": np.zeros(12)}
    assert_close(head(hidden.astype("float32")), reference.layer_norm(h, unit, 1e-3))


def test_only_masked_positions_are_projected_to_the_vocabulary(pretraining) -> None:
    """The product with the table, the dearest one, has as many rows as there are masked tokens."""
    inputs = {name: tf.constant(value) for name, value in draw().items()}
    inputs["masked_positions"] = tf.constant([[1], [4]])
    graph = tf.function(pretraining).get_concrete_function(inputs).graph
    products = [each for each in graph.get_operations() if each.type == "MatMul" and each.outputs[0].shape[-1] == 31]
    assert [each.outputs[0].shape.as_list() for each in products] == [[2, 31]]


def test_a_position_repeated_with_weight_zero_adds_nothing(pretraining) -> None:
    positions, labels = np.array([[3, 5], [4, 4]], "int32"), np.array([[7, 8], [9, 30]], "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    logits = pretraining({**draw(), "masked_positions": positions})["logits"]
    log_shares = np.log(tf.nn.softmax(logits))
    expected = -(log_shares[0, 0, 7] + log_shares[0, 1, 8] + log_shares[1, 0, 9])
    weighted = loss(labels, logits, sample_weight=np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert float(weighted) == pytest.approx(expected, rel=1e-5)


def test_segments_are_the_first_where_none_are_given(pretraining) -> None:
    inputs = draw()
    zeros = pretraining({**inputs, "segment_ids": np.zeros_like(inputs["segment_ids"])})
    ones = pretraining({**inputs, "segment_ids": np.ones_like(inputs["segment_ids"])})
    del inputs["segment_ids"]
    np.testing.assert_array_equal(pretraining(inputs)["logits"], zeros["logits"])
    assert np.abs(zeros["logits"] - ones["logits"]).max() > 1e-2


def test_positions_can_be_given(pretraining) -> None:
    """Text packed or padded on the left stands elsewhere and counts from 0 all the same."""
    inputs = draw(1)
    shifted = {name: np.concatenate([value[:, :2], value], axis=1) for name, value in inputs.items()}
    shifted["padding_mask"][:, :2] = 0
    positions = np.array([[0, 0, *range(7)]], "int32")
    assert_close(pretraining({**shifted, "positions": positions})["logits"][:, 2:], pretraining(inputs)["logits"])
    assert np.abs(pretraining(shifted)["logits"][:, 2:] - pretraining(inputs)["logits"]).max() > 1e-2


def test_every_token_sees_every_other(pretraining) -> None:
    inputs = draw(1)
    before = pretraining(inputs)["logits"].numpy()
    for position in (0, 3, 6):
        changed = {**inputs, "token_ids": inputs["token_ids"].copy()}
        changed["token_ids"][0, position] = (changed["token_ids"][0, position] + 1) % 31
        assert (np.abs(pretraining(changed)["logits"] - before).max(axis=-1) > 1e-4).all()


# --- heads


def build(kind: type, config: BERTConfig, pretraining: BERTPretraining, enliven) -> BERTBackbone:
    """A task's model, with lively weights and the backbone of `pretraining`."""
    model = kind(config)
    model.build()
    enliven(model, seed=5)
    ours, theirs = model.named_weights(), pretraining.named_weights()
    for name in ours.keys() & theirs.keys():
        ours[name].assign(theirs[name])
    return model


def test_the_heads_of_tasks_equal_their_definitions(enliven, pretraining, hidden) -> None:
    real = draw()["padding_mask"]
    tagger = build(BERTTagger, SMALL, pretraining, enliven)
    logits = reference.dense(hidden, weights_of(tagger), "classifier")
    assert_close(tagger(draw())["logits"] * real[..., None], logits * real[..., None])

    answerer = build(BERTAnswerer, SMALL, pretraining, enliven)
    logits = reference.dense(hidden, weights_of(answerer), "span")
    assert_close(answerer(draw())["start_logits"] * real, logits[..., 0] * real)
    assert_close(answerer(draw())["end_logits"] * real, logits[..., 1] * real)

    classifier = build(BERTClassifier, SMALL, pretraining, enliven)
    pooled = np.tanh(reference.dense(hidden[:, 0], weights_of(pretraining), "backbone/pooler"))
    assert_close(classifier(draw())["logits"], reference.dense(pooled, weights_of(classifier), "classifier"))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_embeddings_are_pooled_as_configured(enliven, pretraining, hidden, pooling: str, normalize: bool) -> None:
    model = build(BERTEmbedder, SMALL.replace(pooling=pooling, normalize=normalize), pretraining, enliven)
    expected = hidden[:, 0] if pooling == "first" else np.stack([hidden[0].mean(0), hidden[1, :5].mean(0)])
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    assert_close(model(draw())["embedding"], expected)


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("task", FAMILIES["bert"].tasks)
def test_the_tasks_that_have_a_pooler(task: str, pooler: bool) -> None:
    config = SMALL.replace(pooler=pooler, depth=1)
    model = FAMILIES["bert"].model_class(task)(config)
    model.build()
    expected = {"pretrain": True, "classify": True, "backbone": pooler, "embed": pooler}.get(task, False)
    assert ("backbone.pooler.kernel" in model.named_weights()) == expected
    assert model.count_params() == config.count_parameters(task)
    if task == "backbone":
        assert model.output_names == tuple(model(draw())) == (("sequence", "pooled") if pooler else ("sequence",))


# --- the configuration


def test_the_config_reaches_every_layer() -> None:
    config = SMALL.replace(
        mlp_width=24, activation="relu", dropout=0.2, attention_dropout=0.3, epsilon=0.125, stddev=0.5
    )
    model = BERTClassifier(config)
    model.build()
    backbone = model.backbone
    assert backbone.dropout.rate == model.dropout.rate == 0.2 and backbone.embedding_norm.epsilon == 0.125
    assert BERTClassifier(config.replace(classifier_dropout=0.0)).dropout.rate == 0.0
    assert BERTTagger(config.replace(classifier_dropout=0.7)).dropout.rate == 0.7
    for block in backbone.transformer.blocks:
        assert block.norm == "post" and not block.attention.causal
        assert block.dropout.rate == 0.2 and block.attention.dropout.rate == 0.3
        assert block.feed_forward.up.units == 24
        assert block.attention_norm.epsilon == block.feed_forward_norm.epsilon == 0.125
        np.testing.assert_array_equal(block.feed_forward.activation(np.array([-1.0, 2.0], "float32")), [0.0, 2.0])
    for name, weight in model.named_weights().items():
        if name.endswith(("kernel", "table")) and "classifier" not in name:
            assert weight.numpy().std() == pytest.approx(0.5, rel=0.25), name
        elif not name.endswith(("kernel", "table")):
            np.testing.assert_array_equal(weight.numpy(), 1.0 if name.endswith("gamma") else 0.0)


def test_dropout_acts_in_training_only(enliven) -> None:
    for field in ("dropout", "attention_dropout", "classifier_dropout"):
        model = BERTTagger(
            SMALL.replace(depth=1, **{field: 0.5}, **({"classifier_dropout": 0.0} if field == "dropout" else {}))
        )
        model.build()
        enliven(model)
        logits = model(draw())["logits"]
        np.testing.assert_array_equal(model(draw(), training=False)["logits"], logits)
        assert np.abs(model(draw(), training=True)["logits"] - logits).max() > 1e-2, field


def test_heads_share_the_width_evenly() -> None:
    with pytest.raises(UserError, match=r"^BERTConfig: width is 30, and must be a multiple of num_heads 4$"):
        BERTConfig(width=30, num_heads=4)
    assert BERTConfig(width=24, num_heads=2).inner_width == 96
    assert BERTConfig(width=24, num_heads=2, mlp_width=50).inner_width == 50


def test_a_class_does_its_own_tasks_only() -> None:
    with pytest.raises(ValueError, match="BERTTagger is for tag, not for 'classify'"):
        BERTTagger(SMALL, task="classify")

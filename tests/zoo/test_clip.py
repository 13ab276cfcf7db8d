"""`zoo.clip`: towers, both end-token rules, the clamped temperature, and both losses against loops from the papers."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests.zoo import reference
from tests.zoo.reference import assert_close, inside, weights_of
from zoo.bert import BERTConfig
from zoo.clip import CLIPConfig
from zoo.clip.model import CLIPDualEncoder
from zoo.contrast import ContrastiveLoss
from zoo.errors import UserError

SMALL = CLIPConfig().replace(
    vision={"image_size": (8, 12), "patch_size": 4, "width": 12, "depth": 1, "num_heads": 3},
    text={"vocabulary_size": 40, "max_length": 9, "width": 10, "depth": 2, "num_heads": 2},
    projection_width=6,
    end_token=30,
)


def make(config: CLIPConfig, enliven, seed: int = 0) -> CLIPDualEncoder:
    model = CLIPDualEncoder(config)
    model.build()
    return enliven(model, seed=seed)


@pytest.fixture(scope="module")
def clip(enliven) -> CLIPDualEncoder:
    """A model with lively weights that no test changes."""
    return make(SMALL, enliven)


def draw(num_images: int = 3, num_texts: int = 3, length: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    """Images, and texts that end at different places; behind the end there is padding."""
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, 30, (num_texts, length), dtype="int32")
    mask = np.ones_like(token_ids)
    for i in range(num_texts):
        end = length - 1 - i % 4
        token_ids[i, end] = 30
        token_ids[i, end + 1 :] = 0
        mask[i, end + 1 :] = 0
    images = rng.normal(size=(num_images, 8, 12, 3)).astype("float32")
    return {"images": images, "token_ids": token_ids, "padding_mask": mask}


# --- embeddings and logits


def test_both_towers_end_in_one_space(clip) -> None:
    """What the towers give is projected, divided by its length, and compared (Radford et al. 2021, figure 3)."""
    given, weights = draw(), weights_of(clip)
    vision = clip.vision({"images": given["images"]})["sequence"].numpy()
    text = clip.text({"token_ids": given["token_ids"], "padding_mask": given["padding_mask"]})["sequence"].numpy()
    ends = text[np.arange(3), [8, 7, 6]]
    images = vision[:, 0] @ weights["image_projection/kernel"]
    texts = ends @ weights["text_projection/kernel"]
    images, texts = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (images, texts))
    logits = images @ texts.T * math.exp(weights["similarity/log_scale"])
    outputs = clip(given)
    assert_close(outputs["image_embedding"], images)
    assert_close(outputs["text_embedding"], texts)
    assert_close(outputs["logits_per_image"], logits)
    assert_close(outputs["logits_per_text"], logits.T)


def test_the_text_tower_is_causal_and_pre_norm(clip) -> None:
    given, weights = draw(), inside(weights_of(clip), "text")
    x = weights["token_embedding/table"][given["token_ids"]] + weights["position_embedding/table"]
    for i in range(2):
        block = inside(weights, f"transformer/block_{i}")
        x = reference.block(x, block, 2, "pre", "quick_gelu", 1e-5, True, given["padding_mask"])
    x = reference.layer_norm(x, inside(weights, "final_norm"), 1e-5)
    pooled = x[np.arange(3), [8, 7, 6]] @ weights_of(clip)["text_projection/kernel"]
    expected = pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
    assert_close(clip.encode_text(given["token_ids"], given["padding_mask"]), expected)


def test_one_side_alone_equals_the_call(clip) -> None:
    given = draw()
    outputs = clip(given)
    np.testing.assert_array_equal(clip.encode_image(given["images"]), outputs["image_embedding"])
    texts = clip.encode_text(given["token_ids"], given["padding_mask"])
    np.testing.assert_array_equal(texts, outputs["text_embedding"])
    # What follows the end token is seen by nobody that matters.
    assert_close(clip.encode_text(given["token_ids"]), outputs["text_embedding"])


@pytest.mark.parametrize(("num_images", "num_texts"), [(1, 5), (4, 1), (2, 6)])
def test_images_and_texts_need_not_be_equally_many(clip, num_images: int, num_texts: int) -> None:
    given = draw(num_images, num_texts)
    outputs = clip(given)
    assert outputs["logits_per_image"].shape == (num_images, num_texts)
    assert outputs["logits_per_text"].shape == (num_texts, num_images)
    for i in range(num_images):
        for j in range(num_texts):
            pair = {"images": given["images"][i : i + 1]}
            pair |= {name: given[name][j : j + 1] for name in ("token_ids", "padding_mask")}
            assert float(clip(pair)["logits_per_image"][0, 0]) == pytest.approx(
                float(outputs["logits_per_image"][i, j]), abs=1e-5
            )


def test_another_image_size_interpolates_the_positions(clip, tmp_path: Path) -> None:
    zoo.save(clip, tmp_path / "clip")
    larger = zoo.load(tmp_path / "clip", vision={"image_size": (16, 16)})
    assert larger.config == SMALL.replace(vision={"image_size": (16, 16)})
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")
    assert_close(larger.encode_image(images), clip.encode_image(images))


# --- the end of a text


def at(position: int, model: CLIPDualEncoder, token_ids: np.ndarray) -> np.ndarray:
    """The embedding of a text that is pooled at a place."""
    vector = model.text({"token_ids": token_ids})["sequence"].numpy()[0, position]
    projected = vector @ model.text_projection.kernel.numpy()
    return projected / np.linalg.norm(projected)


@pytest.mark.parametrize(
    ("end_token", "token_ids", "expected"),
    [
        (30, [5, 39, 30, 2], 2),  # a higher id is no end
        (30, [5, 30, 1, 30], 1),  # the first of several
        (30, [30, 1, 2, 3], 0),
        (30, [5, 6, 7, 8], 0),  # none: the first token, as the reference implementation has it
        (0, [5, 0, 30, 0], 1),
        (None, [5, 39, 30, 2], 1),
        (None, [5, 30, 30, 2], 1),
        (None, [5, 6, 7, 8], 3),
    ],
)
def test_a_text_is_pooled_at_its_end_token(enliven, clip, end_token, token_ids: list[int], expected: int) -> None:
    model = clip
    if end_token != 30:
        model = CLIPDualEncoder(SMALL.replace(end_token=end_token))
        model.build()
        model.set_weights(clip.get_weights())
    token_ids = np.array([token_ids], "int32")
    embedding = model.encode_text(token_ids)[0]
    assert_close(embedding, at(expected, model, token_ids))
    for other in set(range(4)) - {expected}:
        assert np.abs(embedding - at(other, model, token_ids)).max() > 1e-2


def test_a_text_is_pooled_at_its_last_token_as_a_gpt_does(enliven, clip, tmp_path: Path) -> None:
    config = SMALL.replace(text_pooling="last", end_token=None)
    model = CLIPDualEncoder(config)
    model.build()
    model.set_weights(clip.get_weights())
    token_ids = np.array([[5, 30, 1, 39], [5, 39, 0, 0]], "int32")
    embeddings = model.encode_text(token_ids, np.array([[1, 1, 1, 1], [1, 1, 0, 0]], "int32"))
    assert_close(embeddings[0], at(3, model, token_ids[:1]))
    assert_close(embeddings[1], at(1, model, token_ids[1:]))
    assert_close(model.encode_text(token_ids[:1])[0], at(3, model, token_ids[:1]))
    zoo.save(model, tmp_path / "model")
    assert zoo.load(tmp_path / "model").config == config
    model = CLIPDualEncoder(config.replace(vision={"image_size": 8}))
    model.build()
    with pytest.raises(UserError, match="text_pooling is 'last', and Hugging Face's layout has 'end' alone"):
        zoo.save(model, tmp_path / "hf", layout="hf")


BERT_TEXT = BERTConfig(vocabulary_size=40, max_length=6, width=24, depth=1, num_heads=2, pooler=False)


def test_a_bert_reads_texts_and_is_pooled_at_its_first_token(tmp_path: Path) -> None:
    config = SMALL.replace(text=BERT_TEXT, text_pooling="first")
    model = CLIPDualEncoder(config)
    model.build()
    assert model.count_params() == config.count_parameters("contrast")
    assert [spec.name for spec in model.input_specs] == ["images", "token_ids", "padding_mask"]
    token_ids, mask = np.array([[5, 30, 1, 7], [5, 9, 0, 0]], "int32"), np.array([[1] * 4, [1, 1, 0, 0]], "int32")
    tower = model.text({"token_ids": token_ids, "padding_mask": mask})["sequence"]
    pooled = np.asarray(tower)[:, 0] @ np.asarray(model.text_projection.kernel)
    assert_close(model.encode_text(token_ids, mask), pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    # What comes later is seen by the first token, which a GPT's would not.
    other = model.encode_text(token_ids + np.array([[0, 0, 0, 1], [0, 0, 0, 0]], "int32"), mask)
    assert np.abs(np.asarray(other - model.encode_text(token_ids, mask))).max(axis=1).round(4).tolist()[0] > 0
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert again.config == config and isinstance(again.config.text, BERTConfig)
    assert_close(again.encode_text(token_ids, mask), model.encode_text(token_ids, mask))

    mean = CLIPDualEncoder(config.replace(text_pooling="mean"))
    mean.build()
    mean.set_weights(model.get_weights())
    real = mask[..., None] / mask.sum(axis=1)[:, None, None]
    pooled = (np.asarray(tower) * real).sum(axis=1) @ np.asarray(model.text_projection.kernel)
    assert_close(mean.encode_text(token_ids, mask), pooled / np.linalg.norm(pooled, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text": BERT_TEXT}, "text_pooling is 'end', and of a BERT must be 'first' or 'mean'"),
        ({"text_pooling": "first"}, "text_pooling is 'first', and of a GPT must be 'end' or 'last'"),
        (
            {"text": BERT_TEXT.replace(pooler=True), "text_pooling": "first"},
            "text.pooler is True, and must be False: the projection takes its place",
        ),
        ({"text": 3}, "text is 3, and must be a GPTConfig or a BERTConfig"),
        ({"text": {"num_segments": 2}}, "GPTConfig: unknown field 'num_segments'"),
    ],
)
def test_a_text_tower_fits_how_it_is_pooled(changes: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        SMALL.replace(**changes)


# --- the temperature


def test_fresh_logits_have_the_papers_temperature() -> None:
    for config, temperature in (
        (SMALL, 0.07),
        (SMALL.replace(loss="sigmoid"), 0.1),
        (SMALL.replace(initial_temperature=0.5), 0.5),
    ):
        model = CLIPDualEncoder(config)
        model.build()
        assert float(model.similarity.log_scale) == pytest.approx(math.log(1 / temperature), rel=1e-6)
        assert config.temperature == temperature
        names = [name for name in model.named_weights() if name.startswith("similarity")]
        if config.loss == "sigmoid":
            assert names == ["similarity.log_scale", "similarity.bias"] and float(model.similarity.bias) == -10.0
        else:
            assert names == ["similarity.log_scale"]


def test_the_scale_is_held_below_a_hundred_after_a_step_and_not_before(enliven) -> None:
    model = make(SMALL, enliven)
    model.similarity.log_scale.assign(5.0)
    given = draw()
    outputs = model(given)
    cosines = outputs["image_embedding"].numpy() @ outputs["text_embedding"].numpy().T
    assert_close(outputs["logits_per_image"], cosines * math.exp(5.0))  # as a loaded model has it
    model.compile(optimizer=keras.optimizers.SGD(1e-9), jit_compile=False)
    model.fit(given, batch_size=3, verbose=0)
    assert float(model.similarity.log_scale) == pytest.approx(math.log(100.0), rel=1e-6)
    model.similarity.log_scale.assign(-3.0)
    model.fit(given, batch_size=3, verbose=0)
    assert float(model.similarity.log_scale) == pytest.approx(-3.0, rel=1e-6)


# --- losses


def softmax_losses(logits: np.ndarray) -> np.ndarray:
    """Radford et al. 2021, figure 3, a pair at a time: the mean of both cross-entropies."""
    losses = []
    for i in range(len(logits)):
        among_texts = math.exp(logits[i, i]) / sum(math.exp(value) for value in logits[i])
        among_images = math.exp(logits[i, i]) / sum(math.exp(value) for value in logits[:, i])
        losses.append(-(math.log(among_texts) + math.log(among_images)) / 2)
    return np.array(losses)


def sigmoid_losses(logits: np.ndarray) -> np.ndarray:
    """Zhai et al. 2023, algorithm 1, a pair at a time: is it a right one?"""
    losses = []
    for i in range(len(logits)):
        shares = [1 / (1 + math.exp(-value)) for value in logits[i]]
        losses.append(-sum(math.log(share if i == j else 1 - share) for j, share in enumerate(shares)))
    return np.array(losses)


LOSSES = {"softmax": softmax_losses, "sigmoid": sigmoid_losses}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_follows_its_paper(kind: str) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 5)) * 3
    expected = LOSSES[kind](logits)
    loss = ContrastiveLoss(kind, reduction=None)
    pairs = np.arange(5)
    both = logits.astype("float32"), logits.T.astype("float32")
    assert_close(loss(pairs, both), expected, 1e-6)
    assert_close(loss(pairs[2:4], tuple(each[2:4] for each in both)), expected[2:4], 1e-6)
    assert float(ContrastiveLoss(kind)(pairs, both)) == pytest.approx(expected.mean(), rel=1e-6)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 1.0])
    weighted = ContrastiveLoss(kind, reduction="sum")(pairs, both, sample_weight=weights)
    assert float(weighted) == pytest.approx((expected * weights).sum(), rel=1e-6)
    half = ContrastiveLoss(kind, reduction=None)(pairs, tuple(tf.cast(each, tf.bfloat16) for each in both))
    assert half.dtype == tf.float32


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    "pairs",
    [
        [[0, 0], [1, 1], [2, 2], [3, 3]],  # all are different: labels change nothing
        [[0, 0], [1, 1], [2, 0], [3, 1]],  # the same text of two images, twice
        [[0, 0], [0, 1], [2, 2], [0, 3]],  # three texts of an image
        [[0, 0], [0, 1], [1, 1], [2, 2]],
    ],
)
def test_what_belongs_together_in_another_pair_is_no_negative(enliven, kind: str, pairs: list[list[int]]) -> None:
    model = make(SMALL.replace(loss=kind), enliven)
    given = draw(4, 4)
    logits = model(given)["logits_per_image"].numpy().astype("float64")
    losses = []
    for i in range(4):
        left_out = [j != i and (pairs[j][0] == pairs[i][0] or pairs[j][1] == pairs[i][1]) for j in range(4)]
        part = logits.copy()
        part[i, left_out] = part[left_out, i] = -700.0  # by exp and by sigmoid as good as nothing
        losses.append(LOSSES[kind](part)[i])
    model.compile("sgd", jit_compile=False)
    found = model.evaluate(given, {"pairs": np.array(pairs, "int32")}, batch_size=4, verbose=0)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
    without = model.evaluate(given, batch_size=4, verbose=0)
    are_different = all(len(set(numbers)) == 4 for numbers in zip(*pairs, strict=True))
    assert (found == pytest.approx(without, rel=1e-6)) == are_different


@pytest.mark.parametrize("kind", LOSSES)
def test_large_logits_stay_finite(kind: str) -> None:
    logits = tf.constant(np.array([[-100.0, 100.0], [100.0, -100.0]], "float32"))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = ContrastiveLoss(kind)(np.arange(2), (logits, tf.transpose(logits)))
    assert float(loss) == pytest.approx(200.0)
    assert np.isfinite(tape.gradient(loss, logits)).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_fit_minimises_the_configured_loss(enliven, kind: str) -> None:
    model = make(SMALL.replace(loss=kind), enliven)
    given = draw(4, 4)
    logits = model(given)["logits_per_image"].numpy().astype("float64")
    assert not np.allclose(logits, logits.T)
    model.compile(optimizer=keras.optimizers.SGD(0.002), jit_compile=False)
    history = model.fit(given, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert history[0] == pytest.approx(LOSSES[kind](logits).mean(), rel=1e-5)
    assert history[2] < history[1] < history[0]
    logits = model(given)["logits_per_image"].numpy().astype("float64")
    assert model.evaluate(given, batch_size=4, verbose=0) == pytest.approx(LOSSES[kind](logits).mean(), rel=1e-5)


def test_the_loss_is_a_keras_loss() -> None:
    loss = ContrastiveLoss("sigmoid", name="pairs")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert (again.kind, again.name) == ("sigmoid", "pairs")
    with pytest.raises(ValueError, match="kind is 'hinge', and must be 'softmax' or 'sigmoid'"):
        ContrastiveLoss("hinge")


@pytest.mark.parametrize("layout", ["zoo", "hf"])
def test_the_sigmoid_s_bias_is_fresh_where_there_was_none(enliven, tmp_path: Path, caplog, layout: str) -> None:
    clip = make(SMALL.replace(vision={"image_size": 8}), enliven)
    zoo.save(clip, tmp_path / "softmax", layout=layout)
    model = zoo.load(tmp_path / "softmax", loss="sigmoid")
    assert float(model.similarity.bias) == -10.0
    assert "has no similarity.bias: they are fresh" in caplog.text
    np.testing.assert_array_equal(model.similarity.log_scale.numpy(), clip.similarity.log_scale.numpy())


def test_the_sigmoid_s_bias_is_left_out_where_none_is_wanted(enliven, tmp_path: Path) -> None:
    model = make(SMALL.replace(loss="sigmoid"), enliven)
    zoo.save(model, tmp_path / "sigmoid")
    again = zoo.load(tmp_path / "sigmoid")
    np.testing.assert_array_equal(again.similarity.bias.numpy(), model.similarity.bias.numpy())
    without = zoo.load(tmp_path / "sigmoid", loss="softmax")
    assert_close(without(draw())["logits_per_image"] + model.similarity.bias, model(draw())["logits_per_image"])


# --- the configuration


def test_the_config_reaches_both_towers() -> None:
    config = SMALL.replace(
        vision={"activation": "gelu", "epsilon": 0.25}, text={"activation": "relu", "epsilon": 0.125, "dropout": 0.5}
    )
    model = CLIPDualEncoder(config)
    assert model.vision.config == config.vision and model.text.config == config.text
    assert model.vision.embedding_norm.epsilon == model.vision.final_norm.epsilon == 0.25
    assert model.text.final_norm.epsilon == 0.125 and model.text.dropout.rate == 0.5
    assert model.vision.pooler is None
    assert (config.vocabulary_size, config.max_length) == (40, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"end_token": 40}, "end_token is 40, and must be below the vocabulary_size of text, 40, or null"),
        ({"vision": {"pooler": True}}, "vision.pooler is True, and must be False"),
        ({"vision": 3}, "vision is 3, and must be a ViTConfig"),
        ({"loss": "hinge"}, "loss is 'hinge', and must be one of softmax, sigmoid"),
        ({"initial_temperature": 0.0}, "initial_temperature is 0.0, and must be float or null >= 0.01"),
        ({"vision": {"widht": 3}}, None),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields: dict, message: str | None) -> None:
    expected = f"CLIPConfig: {message}" if message else "ViTConfig: unknown field 'widht': did you mean 'width'"
    with pytest.raises(UserError) as caught:
        SMALL.replace(**fields)
    assert str(caught.value).startswith(expected)

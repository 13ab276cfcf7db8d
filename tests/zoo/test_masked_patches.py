"""`zoo.objectives.MaskedPatches`: encoder, decoder and loss against loops from the paper, and who sees which pixels."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from tests.zoo import reference
from tests.zoo.reference import assert_close, inside, weights_of
from zoo.objectives import MaskedPatches
from zoo.objectives.masked_patches import cut_patches, join_patches, sine_cosine_positions
from zoo.optimizers.rules import is_decayed, layer_factors, weight_name
from zoo.vit import ViTConfig
from zoo.vit.model import ViTBackbone, ViTClassifier

# Two rows of three patches of 32 numbers, and a row and a column of pixels that fill none.
SMALL = ViTConfig(
    image_size=(9, 13),
    channels=2,
    patch_size=4,
    width=12,
    depth=2,
    num_heads=3,
    mlp_width=20,
    epsilon=1e-3,
    num_classes=5,
    pooler=False,
)
BATCH, PATCHES, KEPT = 3, 6, 2
DECODER = {"decoder_width": 8, "decoder_depth": 2, "decoder_heads": 2}


def make(enliven: Any, config: ViTConfig = SMALL, **options: Any) -> MaskedPatches:
    """An objective with lively weights."""
    model = ViTBackbone(config)
    model.build()
    return enliven(MaskedPatches(model, **{**DECODER, **options}))


@pytest.fixture(scope="module")
def objective(enliven: Any) -> MaskedPatches:
    """One that no test changes."""
    return make(enliven)


def draw(masked: int = PATCHES - KEPT, height: int = 9, width: int = 13) -> dict[str, np.ndarray]:
    """Images, and which of their patches are kept and masked, in any order; those beyond are neither."""
    rng = np.random.default_rng(0)
    patches = np.stack([rng.permutation((height // 4) * (width // 4)) for _ in range(BATCH)]).astype("int32")
    return {
        "images": 2.0 + rng.normal(size=(BATCH, height, width, 2)).astype("float32"),
        "kept_patches": patches[:, :KEPT],
        "masked_patches": patches[:, KEPT : KEPT + masked],
    }


# --- by hand


def patch_by_hand(image: np.ndarray, place: int, size: int = 4) -> np.ndarray:
    """The numbers of one patch, pixel by pixel."""
    row, column = divmod(place, image.shape[1] // size)
    return np.array(
        [
            image[row * size + y, column * size + x, channel]
            for y in range(size)
            for x in range(size)
            for channel in range(image.shape[2])
        ]
    )


def change_patch(image: np.ndarray, place: int) -> None:
    row, column = divmod(place, image.shape[1] // 4)
    image[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] += np.linspace(-3, 3, 16).reshape(4, 4, 1)


def moments(patch: np.ndarray) -> tuple[float, float]:
    """As in the paper's code."""
    mean = sum(patch) / len(patch)
    return mean, math.sqrt(sum((number - mean) ** 2 for number in patch) / (len(patch) - 1) + 1e-6)


def positions_by_hand(rows: int, columns: int, width: int) -> np.ndarray:
    """The fixed positions of the paper's code, a number at a time."""
    table = np.zeros((1 + rows * columns, width))
    for row in range(rows):
        for column in range(columns):
            for i in range(width // 4):
                frequency = 10000 ** (-i / (width / 4))
                numbers = table[1 + row * columns + column]
                numbers[i] = math.sin(column * frequency)
                numbers[width // 4 + i] = math.cos(column * frequency)
                numbers[width // 2 + i] = math.sin(row * frequency)
                numbers[3 * width // 4 + i] = math.cos(row * frequency)
    return table


def encode_by_hand(inputs: dict[str, np.ndarray], weights: reference.Weights, norm: bool = False) -> np.ndarray:
    """He et al. 2022, section 3, "MAE encoder": the class token and the kept patches, and nothing else."""
    kernel = weights["patch_embedding/projection/kernel"].reshape(-1, 12)
    table = weights["position_embedding/table"]
    sequences = []
    for image, kept in zip(inputs["images"], inputs["kept_patches"], strict=True):
        sequence = [weights["patch_embedding/class_token"][0, 0] + table[0]]
        for place in kept:
            vector = patch_by_hand(image, place) @ kernel + weights["patch_embedding/projection/bias"]
            sequence.append(vector + table[1 + place])
        sequences.append(sequence)
    x = np.array(sequences)
    if norm:
        x = reference.layer_norm(x, inside(weights, "embedding_norm"), 1e-3)
    for i in range(2):
        x = reference.block(x, inside(weights, f"transformer/block_{i}"), 3, "pre", "gelu", 1e-3)
    return reference.layer_norm(x, inside(weights, "final_norm"), 1e-3)


def decode_by_hand(encoded: np.ndarray, inputs: dict[str, np.ndarray], weights: reference.Weights) -> np.ndarray:
    """The same, "MAE decoder": the whole image in order, a mask token wherever nothing is known."""
    seen = reference.dense(encoded, weights, "embedding")
    positions = positions_by_hand(2, 3, 8)
    x = np.tile(weights["mask_token"], (BATCH, 1 + PATCHES, 1))
    x[:, 0] = seen[:, 0]
    for i, kept in enumerate(inputs["kept_patches"]):
        for j, place in enumerate(kept):
            x[i, 1 + place] = seen[i, 1 + j]
    x = x + positions
    for i in range(2):
        x = reference.block(x, inside(weights, f"transformer/block_{i}"), 2, "pre", "gelu", 1e-6)
    pixels = reference.dense(reference.layer_norm(x, inside(weights, "norm"), 1e-6), weights, "pixels")
    return np.array([[pixels[i, 1 + place] for place in row] for i, row in enumerate(inputs["masked_patches"])])


def targets_by_hand(inputs: dict[str, np.ndarray], normalize: bool) -> np.ndarray:
    wanted = []
    for image, masked in zip(inputs["images"].astype("float64"), inputs["masked_patches"], strict=True):
        patches = [patch_by_hand(image, place) for place in masked]
        wanted.append([(patch - moments(patch)[0]) / moments(patch)[1] if normalize else patch for patch in patches])
    return np.array(wanted)


# --- patches and positions


def test_patches_are_cut_row_by_row() -> None:
    images = draw()["images"]
    expected = [[patch_by_hand(image, place) for place in range(PATCHES)] for image in images]
    np.testing.assert_array_equal(cut_patches(images, 4), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.data(), st.integers(1, 3), st.integers(1, 3))
def test_joining_is_the_inverse_of_cutting(
    size: int, rows: int, columns: int, data: Any, channels: int, n: int
) -> None:
    """Also where pixels are left over at the right and the bottom."""
    over, beside = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    shape = n, rows * size + over, columns * size + beside, channels
    images = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    patches = cut_patches(images, size)
    assert patches.shape == (n, rows * columns, size * size * channels)
    joined = join_patches(patches, size, (rows, columns))
    np.testing.assert_array_equal(joined, images[:, : rows * size, : columns * size])
    np.testing.assert_array_equal(cut_patches(joined, size), patches)


@pytest.mark.parametrize(("grid", "width"), [((2, 3), 8), ((3, 1), 12), ((1, 1), 4)])
def test_positions_are_those_of_the_paper(grid: tuple[int, int], width: int) -> None:
    assert_close(sine_cosine_positions(grid, width), positions_by_hand(*grid, width), 1e-6)


# --- the encoder


@pytest.mark.parametrize("norm", [False, True])
def test_the_encoder_runs_on_the_kept_patches_alone(enliven: Any, norm: bool) -> None:
    model = ViTBackbone(SMALL.replace(embedding_norm=norm, pooler=True))
    model.build()
    weights, inputs = weights_of(enliven(model)), draw()
    del inputs["masked_patches"]
    expected = encode_by_hand(inputs, weights, norm)
    outputs = model(inputs, return_weights=True)
    assert_close(outputs["sequence"], expected)
    assert_close(outputs["pooled"], np.tanh(reference.dense(expected[:, 0], weights, "pooler")))
    # What is dropped is not masked out of the attention: it is not there, and costs nothing.
    assert [each.shape for each in outputs["attention"]] == 2 * [(BATCH, 3, 1 + KEPT, 1 + KEPT)]


def test_all_patches_kept_are_the_whole_image(objective: MaskedPatches) -> None:
    images = draw()["images"]
    whole = objective.model({"images": images})["sequence"]
    for order in ([0, 1, 2, 3, 4, 5], [4, 0, 5, 2, 1, 3]):
        kept = np.tile(order, (BATCH, 1)).astype("int32")
        found = objective.model({"images": images, "kept_patches": kept})["sequence"]
        assert_close(found, whole.numpy()[:, [0, *(1 + place for place in order)]], 1e-6)


def test_it_is_no_input_of_the_model_as_others_see_it(objective: MaskedPatches) -> None:
    assert [spec.name for spec in objective.model.input_specs] == ["images"]


def test_a_head_sees_the_kept_patches_too(enliven: Any) -> None:
    model = ViTClassifier(SMALL)
    model.build()
    enliven(model)
    inputs = draw()
    encoded = model.backbone(inputs)["sequence"]
    np.testing.assert_array_equal(model(inputs)["logits"], model.classifier(encoded[:, 0]))


# --- the objective


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.5]], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
def test_the_loss_follows_the_paper(enliven: Any, normalize: bool, weights: list[float] | None) -> None:
    objective, inputs = make(enliven, normalize_pixels=normalize), draw()
    encoded = encode_by_hand(inputs, weights_of(objective.model))
    decoder = {
        name.removeprefix("decoder.").replace(".", "/"): weight.numpy().astype("float64")
        for name, weight in objective.named_weights().items()
        if name.startswith("decoder.")
    }
    pixels = decode_by_hand(encoded, inputs, decoder)
    outputs = objective(inputs)
    assert set(outputs) == set(objective.output_names) == {"pixels"}
    assert_close(outputs["pixels"], pixels)

    wanted = targets_by_hand(inputs, normalize)
    assert_close(objective.targets(inputs["images"], inputs["masked_patches"]), wanted)
    weight = np.ones(BATCH) if weights is None else np.array(weights)
    errors = ((pixels - wanted) ** 2).reshape(BATCH, -1).mean(1)
    objective.compile("sgd", jit_compile=False)
    parts = (inputs,) if weights is None else (inputs, {}, weight.astype("float32"))
    found = objective.evaluate(tf.data.Dataset.from_tensor_slices(parts).batch(BATCH), verbose=0)
    assert found == pytest.approx((errors * weight).sum() / weight.sum(), rel=1e-5)


def test_replicas_with_unlike_parts_make_one_mean(enliven: Any, two_replicas: Any) -> None:
    """Of three images, of weights that differ, one replica has two."""
    data = tf.data.Dataset.from_tensor_slices((draw(), {}, np.array([1.0, 0.5, 2.5], "float32"))).batch(BATCH)
    found = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            objective = make(enliven)
            objective.compile("sgd", jit_compile=False)
        found.append(objective.evaluate(data, verbose=0))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_normalized_targets_have_mean_0_and_deviation_1(objective: MaskedPatches) -> None:
    inputs = draw()
    inputs["images"][0] = 7.0  # patches of one colour have no deviation: they become zeros
    wanted = objective.targets(inputs["images"], inputs["masked_patches"]).numpy()
    np.testing.assert_array_equal(wanted[0], np.zeros_like(wanted[0]))
    np.testing.assert_allclose(wanted[1:].mean(-1), np.zeros((2, 4)), atol=1e-6)
    np.testing.assert_allclose(wanted[1:].std(-1, ddof=1), np.ones((2, 4)), rtol=1e-5)


def test_who_sees_which_pixels(objective: MaskedPatches) -> None:
    """A kept patch changes what is predicted; a masked one only what that is compared with; others nothing."""

    def results(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        given = {**inputs, "images": images}
        outputs = objective(given)
        encoded = objective.model({name: given[name] for name in ("images", "kept_patches")})["sequence"]
        return encoded.numpy(), outputs["pixels"].numpy(), float(objective.compute_loss(x=given, y_pred=outputs))

    inputs = draw(masked=2)
    before = results(inputs["images"])
    neither = next(p for p in range(PATCHES) if p not in [*inputs["kept_patches"][1], *inputs["masked_patches"][1]])
    for place, changes in (
        (inputs["kept_patches"][1, 1], (True, True, True)),
        (inputs["masked_patches"][1, 0], (False, False, True)),
        (neither, (False, False, False)),
        (None, (False, False, False)),  # pixels that fill no patch
    ):
        images = inputs["images"].copy()
        if place is None:
            images[1, 8:] += 9.0
            images[1, :, 12:] += 9.0
        else:
            change_patch(images[1], place)
        after = results(images)
        assert tuple(not np.array_equal(a, b) for a, b in zip(after, before, strict=True)) == changes
        np.testing.assert_array_equal(after[1][[0, 2]], before[1][[0, 2]])  # of the other images


def test_gradients_reach_every_weight(enliven: Any) -> None:
    """But for the pooler, and the bias of the keys, which no softmax sees; and in the table of positions only the rows
    of kept patches have one."""
    objective, inputs = make(enliven, SMALL.replace(pooler=True)), draw()
    weights = objective.named_weights()
    with tf.GradientTape() as tape:
        loss = objective.compute_loss(x=inputs, y_pred=objective(inputs, training=True))
    found = tape.gradient(loss, {name: weight.value for name, weight in weights.items()})
    assert {name for name, each in found.items() if each is None} == {"backbone.pooler.kernel", "backbone.pooler.bias"}
    assert {name for name, each in weights.items() if not each.trainable} == {
        "backbone.pooler.kernel",
        "backbone.pooler.bias",
    }
    for name, gradient in found.items():
        if gradient is None:
            continue
        parts = [gradient.numpy()]
        if name.endswith("qkv.bias"):
            query, key, value = np.split(parts[0], 3)
            assert np.abs(key).max() < 1e-6
            parts = [query, value]
        assert all(np.abs(each).max() > 1e-5 for each in parts), name
    rows = np.abs(found["backbone.position_embedding.table"].numpy()).max(1) > 0
    assert set(np.flatnonzero(rows)) == {0, *(1 + inputs["kept_patches"]).ravel()}


@pytest.mark.full  # the recipe learns in the quick tier
def test_it_learns_a_handful_of_images(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = zoo.create("vit-nano", task="backbone", image_size=(16, 16), patch_size=4)
    objective = MaskedPatches(model, decoder_width=64, decoder_depth=1)
    rng = np.random.default_rng(0)
    patches = np.stack([rng.permutation(16) for _ in range(4)]).astype("int32")
    images = rng.normal(size=(4, 16, 16, 3)).astype("float32")
    inputs = {"images": images, "kept_patches": patches[:, :4], "masked_patches": patches[:, 4:]}
    before = {name: weight.numpy() for name, weight in objective.named_weights().items()}

    def measure() -> tuple[float, float]:
        pictures = objective.reconstruct(images, inputs["kept_patches"], inputs["masked_patches"])
        distance = np.abs(pictures - images).mean()
        return float(objective.compute_loss(x=inputs, y_pred=objective(inputs))), float(distance)

    first = measure()
    objective.compile(keras.optimizers.Adam(0.003), jit_compile=False)
    objective.fit(tf.data.Dataset.from_tensors(inputs).repeat(80), shuffle=False, verbose=0)
    last = measure()
    assert last[0] < 0.5 * first[0] and last[1] < 0.8 * first[1], (first, last)
    same = {name for name, weight in objective.named_weights().items() if (weight.numpy() == before[name]).all()}
    assert same == {"backbone.pooler.kernel", "backbone.pooler.bias"}

    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model", task="classify", num_classes=3)  # what it was pretrained for
    assert_close(again.backbone({"images": images})["sequence"], model({"images": images})["sequence"], 1e-6)


# --- pictures


@pytest.mark.parametrize(("height", "width"), [(9, 13), (8, 12), (14, 9)])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
def test_reconstruction_fills_in_the_masked_patches(enliven: Any, normalize: bool, height: int, width: int) -> None:
    """Of images of other sizes too."""
    objective, inputs = make(enliven, normalize_pixels=normalize), draw(masked=3, height=height, width=width)
    pixels = objective(inputs)["pixels"].numpy()
    expected = inputs["images"].copy()
    for i, masked in enumerate(inputs["masked_patches"]):
        for j, place in enumerate(masked):
            mean, deviation = moments(patch_by_hand(inputs["images"][i], place)) if normalize else (0.0, 1.0)
            row, column = divmod(place, width // 4)
            patch = (pixels[i, j] * deviation + mean).reshape(4, 4, 2)
            expected[i, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = patch
    found = objective.reconstruct(**inputs).numpy()
    assert found.dtype == np.float32
    assert_close(found, expected, 1e-6)
    untouched = expected == inputs["images"]
    np.testing.assert_array_equal(found[untouched], inputs["images"][untouched])


# --- around it


def test_the_decoder_s_weights_have_names_of_their_own(objective: MaskedPatches) -> None:
    weights = objective.named_weights()
    model = objective.model.named_weights()
    own = {name: weight for name, weight in weights.items() if name not in model}
    assert {**model, **own} == weights and all(name.startswith("decoder.") for name in own)
    assert {id(weight) for weight in weights.values()} == {id(weight) for weight in objective.weights}
    assert all(objective.is_head(name) for name in own)
    # Optimizers call them the same, and nothing else so.
    assert {weight_name(weight) for weight in own.values()} == set(own)
    assert len({weight_name(weight) for weight in weights.values()}) == len(weights)
    assert not is_decayed(own["decoder.mask_token"]) and is_decayed(own["decoder.pixels.kernel"])
    factors = layer_factors(objective, 0.5)
    assert factors["decoder.transformer.block_1.attention.qkv.kernel"] == 0.5
    assert factors["transformer.block_0.attention.qkv.kernel"] == 0.25


def test_recomputation_is_the_decoder_s_too(enliven: Any) -> None:
    objective, inputs = make(enliven), draw()
    expected = objective(inputs, training=True)["pixels"]
    objective.recompute = True
    assert objective.recompute and objective.model.recompute and objective.decoder.transformer.recompute
    np.testing.assert_array_equal(objective(inputs, training=True)["pixels"], expected)
    objective.recompute = False
    assert not (objective.recompute or objective.decoder.transformer.recompute)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_pixels_and_loss_are_float32_under_mixed_precision(enliven: Any, objective: MaskedPatches, dtype: str) -> None:
    model = ViTBackbone(SMALL, dtype=dtype)
    model.build()
    half, inputs = enliven(MaskedPatches(model, **DECODER)), draw()
    outputs = half(inputs)
    assert half.decoder.transformer.compute_dtype == dtype.removeprefix("mixed_")
    assert outputs["pixels"].dtype == "float32"
    loss = half.compute_loss(x=inputs, y_pred=outputs)
    assert loss.dtype == "float32"
    assert float(loss) == pytest.approx(float(objective.compute_loss(x=inputs, y_pred=objective(inputs))), rel=0.05)


def test_batch_and_counts_may_vary_in_one_trace(objective: MaskedPatches) -> None:
    spec = {
        "images": tf.TensorSpec((None, 9, 13, 2), "float32"),
        "kept_patches": tf.TensorSpec((None, None), "int32"),
        "masked_patches": tf.TensorSpec((None, None), "int32"),
    }
    graph = tf.function(lambda inputs: objective(inputs)["pixels"], input_signature=[spec])
    for masked, rows in ((4, 3), (1, 2)):
        inputs = {name: value[:rows] for name, value in draw(masked).items()}
        assert_close(graph(inputs), objective(inputs)["pixels"], 1e-6)


def test_a_fresh_decoder_has_a_head_for_each_64() -> None:
    model = zoo.create("vit-nano", task="backbone")
    for width, heads in ((32, 1), (128, 2)):
        objective = MaskedPatches(model, width)
        assert [block.attention.num_heads for block in objective.decoder.transformer.blocks] == [heads, heads]


@pytest.mark.parametrize("name", ["kept_patches", "masked_patches"])
@pytest.mark.parametrize("place", [-1, PATCHES])
def test_a_patch_that_is_not_there_is_an_error(objective: MaskedPatches, name: str, place: int) -> None:
    """In the first image, whose next place is the second one's first."""
    inputs = draw()
    inputs[name][0, 0] = place
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \["):
        objective.compute_loss(x=inputs, y_pred=objective(inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_width": 10}, "decoder_width is 10, and must be a multiple of 4 and of decoder_heads, 1"),
        ({"decoder_width": 8, "decoder_heads": 3}, "decoder_width is 8, and must be a multiple of 4 and of .* 3"),
        ({"decoder_width": 0}, "decoder_width is 0, and must be at least 1"),
        ({"decoder_depth": 0}, "decoder_depth is 0, and must be at least 1"),
        ({"decoder_heads": 0}, "decoder_heads is 0, and must be at least 1"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(options: dict[str, int], message: str) -> None:
    model = ViTBackbone(SMALL)
    with pytest.raises(ValueError, match=message):
        MaskedPatches(model, **options)


def test_other_models_and_patches_of_one_number_are_refused() -> None:
    classifier = ViTClassifier(SMALL)
    with pytest.raises(ValueError, match="the model is a ViTClassifier, and must be a ViT for the task 'backbone'"):
        MaskedPatches(classifier)  # type: ignore[arg-type]
    model = ViTBackbone(SMALL.replace(image_size=(2, 2), patch_size=1, channels=1))
    model.build()
    with pytest.raises(ValueError, match="patches of a single number have no deviation: give normalize_pixels=False"):
        MaskedPatches(model)
    assert MaskedPatches(model, normalize_pixels=False).decoder.pixels.units == 1

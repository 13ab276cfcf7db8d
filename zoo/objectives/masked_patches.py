"""Images that a model learns to complete: what most of the patches show, from the few that it is given."""

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.distribution import GlobalLoss
from zoo.layers import TransformerStack, dense
from zoo.objectives.base import Objective
from zoo.vit.model import ViTBackbone, take_tokens

EPSILON = 1e-6  # of the layer norms and of a patch's variance, as in the paper's code


def cut_patches(images: Any, patch_size: int) -> Any:
    """Images (batch, height, width, channels) to patches (batch, patches, patch_size ** 2 * channels), row by row from
    the top left, and the pixels of each alike. Height and width are known when it is traced.

    Pixels at the right and the bottom that fill no whole patch are left out.
    """
    rows, columns, channels = images.shape[1] // patch_size, images.shape[2] // patch_size, images.shape[3]
    images = images[:, : rows * patch_size, : columns * patch_size]
    x = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * columns, patch_size**2 * channels))


def join_patches(patches: Any, patch_size: int, grid: tuple[int, int]) -> Any:
    """The inverse: patches (batch, rows * columns, patch_size ** 2 * channels), where `grid` is (rows, columns), to
    images (batch, rows * patch_size, columns * patch_size, channels)."""
    rows, columns = grid
    channels = patches.shape[2] // patch_size**2
    x = ops.reshape(patches, (-1, rows, columns, patch_size, patch_size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * patch_size, columns * patch_size, channels))


def sine_cosine_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """A fixed row for the class token, of zeros, and one for each patch of a grid (rows, columns): (1 + rows * columns,
    width) float32.

    Half of a row are sines and cosines (Vaswani et al. 2017, section 3.5) of the patch's column, the other half of its
    row, as in the code of He et al. 2022. `width` is a multiple of 4.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    rows, columns = (np.outer(place.ravel(), frequencies) for place in np.indices(grid))
    waves = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.pad(np.concatenate(waves, axis=1), ((1, 0), (0, 0))).astype("float32")


class PatchDecoder(keras.layers.Layer):
    """From vectors of the patches that were seen to pixels of those that were not (He et al. 2022, section 3, "MAE
    decoder").

    Patches are told apart by their positions, fixed ones, and come in any order: those that are neither seen nor asked
    for are left out.

    Args:
        pixels: numbers of a patch.
        width, depth, num_heads: of its transformer; the width is a multiple of 4, for the positions.
        stddev: standard deviation of the initial kernels and of the mask token.
    """

    def __init__(self, pixels: int, width: int, depth: int, num_heads: int, stddev: float = 0.02, **kwargs: Any):
        super().__init__(**kwargs)
        common: dict[str, Any] = {"dtype": self.dtype_policy.name}
        self.width = width
        self.initializer = keras.initializers.RandomNormal(stddev=stddev)
        self.embedding = dense(width, stddev, name="embedding", **common)
        self.transformer = TransformerStack(
            depth,
            width=width,
            num_heads=num_heads,
            mlp_width=4 * width,
            epsilon=EPSILON,
            stddev=stddev,
            name="transformer",
            **common,
        )
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, name="norm", **common)
        self.pixels = dense(pixels, stddev, name="pixels", dtype="float32")

    def build(self, sequence_shape: Any) -> None:
        self.embedding.build(sequence_shape)
        # A vector, and no matrix: it is not to decay.
        self.mask_token = self.add_weight(shape=(self.width,), initializer=self.initializer, name="mask_token")
        inner = (None, None, self.width)
        for layer in (self.transformer, self.norm, self.pixels):
            layer.build(inner)

    def call(
        self,
        sequence: Any,
        kept_patches: Any,
        masked_patches: Any,
        grid: tuple[int, int],
        training: bool | None = None,
    ) -> Any:
        """Predict.

        Args:
            sequence: (batch, 1 + kept, the encoder's width): of the class token and of the patches that it was given.
            kept_patches: (batch, kept) int32, which patches these are.
            masked_patches: (batch, masked) int32, those to predict.
            grid: rows and columns of patches.

        Returns:
            (batch, masked, pixels) float32.
        """
        kept, masked = (ops.cast(each, "int32") for each in (kept_patches, masked_patches))
        seen = self.embedding(sequence)
        unseen = ops.broadcast_to(ops.cast(self.mask_token, seen.dtype), (*ops.shape(masked), self.width))
        places = ops.pad(ops.concatenate([kept, masked], axis=1) + 1, ((0, 0), (1, 0)))  # the class token's is 0
        positions = ops.convert_to_tensor(sine_cosine_positions(grid, self.width), dtype=seen.dtype)
        x = ops.concatenate([seen, unseen], axis=1) + ops.take(positions, places, axis=0)
        x = self.transformer(x, training=training)
        return self.pixels(self.norm(x[:, ops.shape(sequence)[1] :]))


class MaskedPatches(Objective):
    """Trains a `ViTBackbone` to complete images (He et al. 2022, section 3): it encodes the patches that are kept, a
    light decoder, which serves for nothing else, predicts the pixels of the masked ones, and the loss is the mean
    squared error over these.

    Takes `images` (batch, height, width, channels), preprocessed, and for each image the numbers of its patches, row by
    row from the top left: `kept_patches` (batch, kept) int32 and `masked_patches` (batch, masked) int32, the paper's
    three quarters. They are drawn by the input pipeline, so that replicas and a run that goes on see the same.
    Returns `"pixels"` (batch, masked, patch_size ** 2 * channels), float32, in the order of `masked_patches`.

    `fit` takes no labels. Weights, one an image, come from a dataset of `(inputs, {}, weights)`: of arrays without
    labels Keras drops the weights, and a dataset with None in it is not distributed. The names of the decoder's weights
    begin with `decoder.`. The model's pooler, where there is one, has no part in it: it is set not to be trained.

    Args:
        model: what is trained, built, for the task "backbone".
        decoder_width: of the decoder's transformer, a multiple of 4 and of the heads.
        decoder_depth: blocks of it.
        decoder_heads: attention heads of it; one for each 64 of its width where None.
        normalize_pixels: predict the pixels of a patch less their mean, and divided by their standard deviation
            (section 4.1, "Reconstruction target").

    Raises:
        ValueError: the model is another, or a size that is not allowed.
    """

    output_names = ("pixels",)

    def __init__(
        self,
        model: ViTBackbone,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int | None = None,
        normalize_pixels: bool = True,
        name: str = "masked_patches",
    ) -> None:
        if not isinstance(model, ViTBackbone):
            raise ValueError(f"the model is a {type(model).__name__}, and must be a ViT for the task 'backbone'")
        heads = max(decoder_width // 64, 1) if decoder_heads is None else decoder_heads
        for size, value in (("width", decoder_width), ("depth", decoder_depth), ("heads", heads)):
            if value < 1:
                raise ValueError(f"decoder_{size} is {value}, and must be at least 1")
        if decoder_width % 4 or decoder_width % heads:
            raise ValueError(
                f"decoder_width is {decoder_width}, and must be a multiple of 4 and of decoder_heads, {heads}"
            )
        c = model.config
        pixels = c.patch_size**2 * c.channels
        if normalize_pixels and pixels == 1:
            raise ValueError("patches of a single number have no deviation: give normalize_pixels=False")
        super().__init__(model, name=name)
        if model.pooler is not None:
            model.pooler.trainable = False
        self.normalize_pixels = normalize_pixels
        self.decoder = PatchDecoder(
            pixels, decoder_width, decoder_depth, heads, c.stddev, dtype=model.dtype_policy.name, name="decoder"
        )
        # Within the objective's name: optimizers know a weight by what comes after the first.
        with keras.name_scope(self.name):
            self.decoder.build((None, None, c.width))
        self.squared_error = GlobalLoss(keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))

    def named_weights(self) -> dict[str, keras.Variable]:
        own = {".".join(weight.path.split("/")[1:]): weight for weight in self.decoder.weights}
        return {**super().named_weights(), **own}

    @property
    def recompute(self) -> bool:
        """As the model's; the decoder's is the same."""
        return self.model.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.model.recompute = value
        self.decoder.transformer.recompute = bool(value)
        self.forget_traces()

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        images, kept, masked = (inputs[name] for name in ("images", "kept_patches", "masked_patches"))
        encoded = self.model({"images": images, "kept_patches": kept}, training=training)
        pixels = self.decoder(encoded["sequence"], kept, masked, grid=self._grid_of(images), training=training)
        return {"pixels": pixels}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The mean squared error of the global batch, this replica's part of it; a scalar."""
        wanted, found = self.targets(x["images"], x["masked_patches"]), y_pred["pixels"]
        # One row an image: each has one weight.
        wanted, found = (ops.reshape(each, (ops.shape(each)[0], -1)) for each in (wanted, found))
        return self.squared_error(wanted, found, sample_weight=sample_weight)

    def targets(self, images: Any, masked_patches: Any) -> Any:
        """What is to be predicted: the pixels of the masked patches, normalised where that is so set, (batch, masked,
        patch_size ** 2 * channels) float32."""
        pixels = self._pixels_of(images, masked_patches)
        if not self.normalize_pixels:
            return pixels
        mean, deviation = _moments(pixels)
        return (pixels - mean) / deviation

    def reconstruct(self, images: Any, kept_patches: Any, masked_patches: Any) -> Any:
        """The images, float32, with the predictions in place of the masked patches: for pictures of what was learnt.

        With `normalize_pixels` a prediction has neither brightness nor contrast. It is given those of the patch that it
        stands for, as in the paper's own pictures, which are thus not of the prediction alone. All other pixels,
        those that fill no patch among them, are as they were.
        """
        images, masked = ops.cast(images, "float32"), ops.cast(masked_patches, "int32")
        inputs = {"images": images, "kept_patches": kept_patches, "masked_patches": masked}
        found = self(inputs, training=False)["pixels"]
        if self.normalize_pixels:
            mean, deviation = _moments(self._pixels_of(images, masked))
            found = found * deviation + mean
        size, grid = self.model.config.patch_size, self._grid_of(images)
        patches = cut_patches(images, size)
        places = ops.reshape(ops.arange(grid[0] * grid[1], dtype="int32"), (1, -1, 1))
        is_here = ops.cast(ops.equal(places, ops.expand_dims(masked, 1)), "int32")  # (batch, patches, masked)
        chosen = take_tokens(found, ops.argmax(is_here, axis=-1))
        patches = ops.where(ops.any(is_here, axis=-1, keepdims=True), chosen, patches)
        height, width = grid[0] * size, grid[1] * size
        inner = ops.concatenate([join_patches(patches, size, grid), images[:, :height, width:]], axis=2)
        return ops.concatenate([inner, images[:, height:]], axis=1)

    def _pixels_of(self, images: Any, patches: Any) -> Any:
        return take_tokens(cut_patches(ops.cast(images, "float32"), self.model.config.patch_size), patches)

    def _grid_of(self, images: Any) -> tuple[int, int]:
        size = self.model.config.patch_size
        return images.shape[1] // size, images.shape[2] // size


def _moments(pixels: Any) -> tuple[Any, Any]:
    """Mean and standard deviation, with the paper's code's `EPSILON` and unbiased, of the pixels of each patch; (batch,
    patches, 1) both."""
    mean = ops.mean(pixels, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(pixels - mean), axis=-1, keepdims=True) / (pixels.shape[-1] - 1)
    return mean, ops.sqrt(variance + EPSILON)

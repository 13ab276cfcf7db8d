"""ViT (Dosovitskiy et al. 2021): a pre-norm transformer over the patches of an image and a class token."""

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.layers import (
    Dropout,
    GridPositionEmbedding,
    PatchEmbedding,
    TokenPooling,
    TransformerStack,
    dense,
    grid_interpolation,
    l2_normalize,
)
from zoo.model import TaskModel, TensorSpec, ZooModel, image_spec
from zoo.vit.config import ViTConfig


def interpolate_positions(table: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """A table of positions (1 + old rows * columns, width) for another grid of patches; the class token's row stays.

    Raises:
        ValueError: the table is not one of the old grid.
    """
    if table.ndim != 2 or len(table) != 1 + old[0] * old[1]:
        raise ValueError(f"a table of shape {table.shape} is not one of {old[0]} x {old[1]} patches and a class token")
    if old == new:
        return table
    return np.concatenate([table[:1], grid_interpolation(old, new) @ table[1:]]).astype(table.dtype)


def take_tokens(x: Any, places: Any) -> Any:
    """Of each sequence in (batch, tokens, width) the vectors at `places`, (batch, chosen) int32: (batch, chosen,
    width).

    A place that a sequence does not have is an error on a CPU; a GPU gives zeros for it.
    """
    # Rows of one long table. Keras's `take_along_axis` picks number by number, which on a CPU takes over ten times as
    # long, there and back.
    batch, tokens = ops.shape(x)[0], ops.shape(x)[1]
    places = ops.cast(places, "int32")
    rows = places + ops.expand_dims(ops.arange(batch, dtype="int32") * tokens, 1)
    exists = ops.logical_and(places >= 0, places < tokens)  # else it would be the next image's
    return ops.take(ops.reshape(x, (-1, x.shape[-1])), ops.where(exists, rows, batch * tokens), axis=0)


@keras.saving.register_keras_serializable("zoo")
class ViTBackbone(ZooModel):
    """Images to one vector a patch, after the class token's.

    Takes `images` (batch, height, width, channels) and, to encode some patches of each alone, `kept_patches` (batch,
    kept) int32: their numbers, row by row from the top left.

    Args:
        pooler: make the pooler; `config.pooler` where None.

    Returns:
        `{"sequence": (batch, 1 + patches, width)}`, of the kept patches where these are given, after the last layer
        norm; with the pooler also `"pooled"` (batch, width), the class token's vector through a dense layer and tanh;
        with `return_weights` also `"attention"`, a tuple over the blocks of (batch, num_heads, 1 + patches, 1 +
        patches).
    """

    family = "vit"
    config_class = ViTConfig
    config: ViTConfig
    tasks = ("backbone",)

    def __init__(
        self, config: ViTConfig | dict, pooler: bool | None = None, name: str = "backbone", **kwargs: Any
    ) -> None:
        super().__init__(config, name=name, **kwargs)
        c = self.config
        common: dict[str, Any] = {"dtype": self.dtype_policy.name}
        self.patch_embedding = PatchEmbedding(
            c.patch_size, c.width, bias=c.patch_bias, stddev=c.stddev, name="patch_embedding", **common
        )
        self.position_embedding = GridPositionEmbedding(c.grid, c.width, c.stddev, name="position_embedding", **common)
        self.dropout = Dropout(c.dropout, name="dropout", **common)
        self.embedding_norm: Any = None
        if c.embedding_norm:
            self.embedding_norm = keras.layers.LayerNormalization(epsilon=c.epsilon, name="embedding_norm", **common)
        self.transformer = TransformerStack(
            c.depth,
            width=c.width,
            num_heads=c.num_heads,
            mlp_width=c.inner_width,
            activation=c.activation,
            dropout=c.dropout,
            attention_dropout=c.attention_dropout,
            epsilon=c.epsilon,
            stddev=c.stddev,
            stochastic_depth=c.stochastic_depth,
            name="transformer",
            **common,
        )
        self.final_norm = keras.layers.LayerNormalization(epsilon=c.epsilon, name="final_norm", **common)
        self.pooler: Any = None
        if c.pooler if pooler is None else pooler:
            self.pooler = dense(c.width, c.stddev, name="pooler", dtype=self.dtype_policy.name, activation="tanh")

    @property
    def output_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("sequence",) if self.pooler is None else ("sequence", "pooled")

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        return (image_spec(self.config.image_size, self.config.channels),)

    def fit_weight(self, name: str, value: np.ndarray, saved: ViTConfig) -> np.ndarray:
        """The table of positions follows the size of the image."""
        if name.endswith("position_embedding.table"):
            return interpolate_positions(value, saved.grid, self.config.grid)
        return value

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        """Encode.

        Args:
            inputs: `images` (batch, height, width, channels), preprocessed. Another size than the configured one is
                taken as well, with interpolated positions, where the size is known when the model is traced. With
                `kept_patches` (batch, kept) only the class token and these patches, in this order, go on from the
                embeddings, and cost anything after them (He et al. 2022, section 3, "MAE encoder").
            return_weights: return the attention weights too.
        """
        images = inputs["images"]
        size = self.config.patch_size
        x = self.patch_embedding(images)
        x = self.position_embedding(x, grid=(images.shape[1] // size, images.shape[2] // size))
        x = self.dropout(x, training=training)
        kept = inputs.get("kept_patches")
        if kept is not None:
            x = ops.concatenate([x[:, :1], take_tokens(x[:, 1:], kept)], axis=1)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.transformer(x, return_weights=return_weights, training=training)
        x, *extras = x if isinstance(x, tuple) else (x,)
        x = self.final_norm(x)
        outputs = {"sequence": x}
        if self.pooler is not None:
            outputs["pooled"] = self.pooler(x[:, 0])
        return {**outputs, "attention": extras[0]} if return_weights else outputs


@keras.saving.register_keras_serializable("zoo")
class ViTClassifier(TaskModel):
    """Class logits of an image, from the class token (Dosovitskiy et al. 2021, section 3.1); also the objective that
    ViT is pretrained with.

    Takes what `ViTBackbone` does and returns `{"logits": (batch, num_classes)}`, float32.
    """

    family = "vit"
    config_class = ViTConfig
    config: ViTConfig
    tasks = ("classify", "pretrain")
    output_names = ("logits",)

    def __init__(self, config: ViTConfig | dict, name: str = "vit_classifier", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        self.backbone = ViTBackbone(self.config, pooler=False, dtype=self.dtype_policy.name)
        self.classifier = dense(self.config.num_classes, self.config.stddev, name="classifier", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        return {"logits": self.classifier(self.take_sequence(outputs)[:, 0]), **outputs}


@keras.saving.register_keras_serializable("zoo")
class ViTEmbedder(TaskModel):
    """One vector an image: the class token's, or the mean of the patches, divided by its length if so configured.

    Takes what `ViTBackbone` does and returns `{"embedding": (batch, width)}`, float32. The pooler has no part in it; it
    is carried along, untrained, for the sake of the checkpoint's layout.
    """

    family = "vit"
    config_class = ViTConfig
    config: ViTConfig
    tasks = ("embed",)
    output_names = ("embedding",)

    def __init__(self, config: ViTConfig | dict, name: str = "vit_embedder", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        self.backbone = ViTBackbone(self.config, dtype=self.dtype_policy.name)
        if self.backbone.pooler is not None:
            self.backbone.pooler.trainable = False
        self.pooling = TokenPooling(self.config.pooling, name="pooling", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        outputs.pop("pooled", None)
        sequence = self.take_sequence(outputs)
        pooled = self.pooling(sequence if self.config.pooling == "first" else sequence[:, 1:])
        return {"embedding": l2_normalize(pooled) if self.config.normalize else pooled, **outputs}

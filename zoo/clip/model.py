"""CLIP (Radford et al. 2021): a ViT and a GPT, or a BERT, projected to one space and compared there."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.bert.config import BERTConfig
from zoo.bert.model import BERTBackbone
from zoo.clip.config import CLIPConfig
from zoo.contrast import EXCLUDED, ContrastiveLoss, compare_pairs, find_repeated
from zoo.distribution import GlobalLoss, gather_rows
from zoo.gpt.config import GPTConfig
from zoo.gpt.model import GPTBackbone
from zoo.layers import TokenPooling, dense, l2_normalize
from zoo.model import TensorSpec, ZooModel
from zoo.vit.model import ViTBackbone, interpolate_positions

LOWEST_TEMPERATURE = 0.01  # logits are never scaled by more than 100 (Radford et al. 2021, section 2.5)
SIGMOID_BIAS = -10.0  # of fresh logits: most pairs are wrong ones (Zhai et al. 2023, section 3.2)


@keras.saving.register_keras_serializable("zoo")
class HighestLogScale(keras.constraints.Constraint):
    """Holds the logarithm of the scale below that of the lowest temperature, after each update, as OpenAI did."""

    def __call__(self, w: Any) -> Any:
        return ops.minimum(w, -math.log(LOWEST_TEMPERATURE))


@keras.saving.register_keras_serializable("zoo")
class CLIPDualEncoder(ZooModel):
    """Images and texts to vectors of length 1 in one space, and their similarities.

    Takes `images` (images, height, width, channels), `token_ids` (texts, tokens) and `padding_mask` (texts, tokens);
    each text holds its end token. Images and texts need not be equally many. In `fit` they are: text i belongs to image
    i, and the loss is that of the configuration.

    `fit` needs no labels. It takes `{"pairs": (pairs, 2) int32}`, which image and which text each pair is of, by any
    numbers: an image and a text of different pairs of a batch are no negatives of each other where the image also
    stands beside that text, or the text beside that image. Such a pair is left out, and is not one more right pair: the
    same image, or the same text, has its right pair in the batch already.

    Returns:
        `"image_embedding"` (images, projection_width), `"text_embedding"` (texts, projection_width),
        `"logits_per_image"` (images, texts), `"logits_per_text"` (texts, images), all float32; with `return_weights`
        also `"image_attention"` and `"text_attention"`, each a tuple over the tower's blocks.
    """

    family = "clip"
    config_class = CLIPConfig
    config: CLIPConfig
    tasks = ("contrast", "pretrain")
    output_names = ("image_embedding", "text_embedding", "logits_per_image", "logits_per_text")
    joint_outputs = ("image_embedding", "text_embedding")

    def __init__(self, config: CLIPConfig | dict, name: str = "clip", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        c, dtype = self.config, self.dtype_policy.name
        self.vision = ViTBackbone(c.vision, dtype=dtype, name="vision")
        self.text = _make_text_tower(c.text, dtype=dtype, name="text")
        self.end = TokenPooling("at" if c.text_pooling == "end" else c.text_pooling, dtype=dtype, name="end")
        self.image_projection = self._make_projection(c.vision.width, "image_projection")
        self.text_projection = self._make_projection(c.text.width, "text_projection")
        self.similarity = Similarity(c, dtype="float32", name="similarity")
        self.contrast = GlobalLoss(ContrastiveLoss(c.loss, reduction="mean_with_sample_weight"))

    def _make_projection(self, inputs: int, name: str) -> Any:
        width, dtype = self.config.projection_width, self.dtype_policy.name
        return dense(width, inputs**-0.5, use_bias=False, dtype=dtype, name=name)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        # A caption is one segment: what says so is no input.
        return (*self.vision.input_specs, *(each for each in self.text.input_specs if each.name != "segment_ids"))

    @classmethod
    def is_head(cls, name: str) -> bool:
        """The bias that the sigmoid loss adds is fresh where the checkpoint was trained without."""
        return name == "similarity.bias"

    def fit_weight(self, name: str, value: np.ndarray, saved: CLIPConfig) -> np.ndarray:
        """The image tower's table of positions follows the size of the image."""
        if name == "vision.position_embedding.table":
            return interpolate_positions(value, saved.vision.grid, self.config.vision.grid)
        return value

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        images = self._encode_image(inputs, return_weights, training)
        texts = self._encode_text(inputs, return_weights, training)
        logits = self.similarity(images["image_embedding"], texts["text_embedding"])
        return {**images, **texts, "logits_per_image": logits, "logits_per_text": ops.transpose(logits)}

    def encode_image(self, images: Any) -> Any:
        """Images (batch, height, width, channels) to embeddings of length 1 (batch, projection_width), float32."""
        return self._encode_image({"images": images}, False, False)["image_embedding"]

    def encode_text(self, token_ids: Any, padding_mask: Any = None) -> Any:
        """int32 token ids (batch, tokens) to embeddings of length 1 (batch, projection_width), float32."""
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return self._encode_text(inputs, False, False)["text_embedding"]

    def _encode_image(self, inputs: dict[str, Any], return_weights: bool, training: bool | None) -> dict[str, Any]:
        outputs = self.vision({"images": inputs["images"]}, return_weights=return_weights, training=training)
        embedding = l2_normalize(self.image_projection(outputs["sequence"][:, 0]))
        return {"image_embedding": embedding} | ({"image_attention": outputs["attention"]} if return_weights else {})

    def _encode_text(self, inputs: dict[str, Any], return_weights: bool, training: bool | None) -> dict[str, Any]:
        token_ids = inputs["token_ids"]
        texts = {name: inputs.get(name) for name in ("token_ids", "padding_mask", "token_vectors")}
        outputs = self.text(texts, return_weights=return_weights, training=training)
        end = self.config.end_token
        if self.config.text_pooling == "end":
            marks = token_ids if end is None else ops.cast(ops.equal(token_ids, end), "int32")
            pooled = self.end(outputs["sequence"], index=ops.cast(ops.argmax(marks, axis=1), "int32"))
        else:
            pooled = self.end(outputs["sequence"], padding_mask=inputs.get("padding_mask"))
        embedding = l2_normalize(self.text_projection(pooled))
        return {"text_embedding": embedding} | ({"text_attention": outputs["attention"]} if return_weights else {})

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The contrastive loss over the pairs of a batch, a scalar. Under a distribution strategy every pair is
        compared with those of all replicas, and this is the part of this replica's pairs."""
        own, logits = compare_pairs(y_pred["image_embedding"], y_pred["text_embedding"], self.similarity)
        if y is not None:
            all_pairs, _ = gather_rows(y["pairs"])
            repeated = EXCLUDED * find_repeated(own, y["pairs"], all_pairs)
            logits = logits[0] + repeated, logits[1] + repeated
        return self.contrast(own, logits, sample_weight=sample_weight)


def _make_text_tower(config: GPTConfig | BERTConfig, **options: Any) -> GPTBackbone | BERTBackbone:
    return GPTBackbone(config, **options) if isinstance(config, GPTConfig) else BERTBackbone(config, **options)


@keras.saving.register_keras_serializable("zoo")
class Similarity(keras.layers.Layer):
    """Cosine similarities times a learned scale, plus a learned bias where the loss is sigmoid: two sets of vectors of
    length 1, (images, width) and (texts, width), to logits (images, texts)."""

    def __init__(self, config: CLIPConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_log_scale = -math.log(config.temperature)
        self.has_bias = config.loss == "sigmoid"

    def build(self, images_shape: Any, texts_shape: Any) -> None:
        constant = keras.initializers.Constant
        self.log_scale = self.add_weight(
            shape=(), initializer=constant(self.initial_log_scale), constraint=HighestLogScale(), name="log_scale"
        )
        if self.has_bias:
            self.bias = self.add_weight(shape=(), initializer=constant(SIGMOID_BIAS), name="bias")

    def call(self, images: Any, texts: Any) -> Any:
        logits = ops.matmul(images, ops.transpose(texts)) * ops.exp(self.log_scale)
        return logits + self.bias if self.has_bias else logits

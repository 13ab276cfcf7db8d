"""GPT-2 (Radford et al. 2019): a pre-norm causal transformer, next-token logits from its tied embedding, and heads for
whole texts."""

from typing import Any

import keras
from keras import ops

from zoo.gpt.config import GPTConfig
from zoo.layers import (
    Dropout,
    PositionEmbedding,
    TokenEmbedding,
    TokenPooling,
    TransformerStack,
    dense,
    l2_normalize,
    positions_in_documents,
)
from zoo.layers.attention import Cache, empty_cache
from zoo.model import TaskModel, TensorSpec, ZooModel, token_specs


@keras.saving.register_keras_serializable("zoo")
class GPTBackbone(ZooModel):
    """Token ids to one vector a token.

    Returns:
        `{"sequence": (batch, tokens, width)}`, after the last layer norm; with a cache also `"cache"`, and with
        `return_weights` also `"attention"`, a tuple over the blocks of (batch, num_heads, tokens, keys).
    """

    family = "gpt"
    config_class = GPTConfig
    config: GPTConfig
    tasks = ("backbone",)
    output_names = ("sequence",)

    def __init__(self, config: GPTConfig | dict, name: str = "backbone", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        c = self.config
        common: dict[str, Any] = {"dtype": self.dtype_policy.name}
        self.token_embedding = TokenEmbedding(c.vocabulary_size, c.width, c.stddev, name="token_embedding", **common)
        self.position_embedding = PositionEmbedding(
            c.max_length, c.width, c.stddev, name="position_embedding", **common
        )
        self.dropout = Dropout(c.dropout, name="dropout", **common)
        self.transformer = TransformerStack(
            c.depth,
            width=c.width,
            num_heads=c.num_heads,
            mlp_width=c.inner_width,
            causal=True,
            activation=c.activation,
            dropout=c.dropout,
            attention_dropout=c.attention_dropout,
            epsilon=c.epsilon,
            stddev=c.stddev,
            # Each block adds two outputs to the residual stream: scaled so, its variance does not grow with depth
            # (Radford et al. 2019, section 2.3).
            residual_stddev=c.stddev / (2 * c.depth) ** 0.5,
            name="transformer",
            **common,
        )
        self.final_norm = keras.layers.LayerNormalization(epsilon=c.epsilon, name="final_norm", **common)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        return token_specs(self.config.max_length, self.config.vocabulary_size)

    def call(
        self,
        inputs: dict[str, Any],
        cache: tuple[Cache, ...] | None = None,
        cache_index: Any = None,
        return_weights: bool = False,
        training: bool | None = None,
    ) -> dict[str, Any]:
        """Encode.

        Args:
            inputs: `token_ids` (batch, tokens); where there is padding `padding_mask`, 1 for real tokens: (batch,
                tokens), or over all slots of the cache where one is given; where several documents are packed into
                a sequence `document_ids` (batch, tokens), a number for each: tokens see those of their own document
                alone, and positions restart in each; `positions` (batch, tokens) where they do not count up from 0,
                or from what the cache holds; `token_vectors` (batch, tokens, width) in place of what the table holds
                for `token_ids`.
            cache: one `zoo.layers.empty_cache` a block; see `MultiHeadAttention.call`.
            cache_index: int32 scalar, the slots filled so far; None for a cache that grows.
            return_weights: return the attention weights too.
        """
        token_ids = inputs["token_ids"]
        positions, documents = inputs.get("positions"), inputs.get("document_ids")
        if positions is None and documents is not None:
            positions = positions_in_documents(documents)
        elif positions is None:
            first = 0 if cache is None else ops.shape(cache[0]["key"])[2]
            positions = ops.arange(ops.shape(token_ids)[1], dtype="int32") + (
                first if cache_index is None else cache_index
            )
        vectors = inputs.get("token_vectors")
        vectors = self.token_embedding(token_ids) if vectors is None else vectors
        x = vectors + self.position_embedding(positions)
        x = self.dropout(x, training=training)
        x = self.transformer(
            x,
            padding_mask=inputs.get("padding_mask"),
            document_ids=documents,
            cache=cache,
            cache_index=cache_index,
            return_weights=return_weights,
            training=training,
        )
        x, *extras = x if isinstance(x, tuple) else (x,)
        names = (["cache"] if cache is not None else []) + (["attention"] if return_weights else [])
        return {"sequence": self.final_norm(x), **dict(zip(names, extras, strict=True))}

    def empty_cache(self, batch: Any, length: Any) -> tuple[Cache, ...]:
        """A cache of `length` slots for `batch` sequences, to be filled by calls."""
        c = self.config
        return tuple(
            empty_cache(batch, c.num_heads, length, c.width // c.num_heads, self.compute_dtype) for _ in range(c.depth)
        )


@keras.saving.register_keras_serializable("zoo")
class GPTLanguageModel(TaskModel):
    """Logits of the next token at every position, from the embedding table turned round.

    Takes and returns what `GPTBackbone` does, with `"logits"` (batch, tokens, vocabulary_size), float32, in place
    of `"sequence"`.
    """

    family = "gpt"
    config_class = GPTConfig
    config: GPTConfig
    tasks = ("generate", "pretrain")
    output_names = ("logits",)

    def __init__(self, config: GPTConfig | dict, name: str = "gpt", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        self.backbone = GPTBackbone(self.config, dtype=self.dtype_policy.name)

    def call(
        self,
        inputs: dict[str, Any],
        cache: tuple[Cache, ...] | None = None,
        cache_index: Any = None,
        return_weights: bool = False,
        training: bool | None = None,
    ) -> dict[str, Any]:
        """As `GPTBackbone.call`."""
        outputs = self.backbone(
            inputs, cache=cache, cache_index=cache_index, return_weights=return_weights, training=training
        )
        return {"logits": self.project(self.take_sequence(outputs)), **outputs}

    def project(self, sequence: Any) -> Any:
        """Vectors (..., width) to float32 logits (..., vocabulary_size)."""
        return self.backbone.token_embedding(sequence, reverse=True)


@keras.saving.register_keras_serializable("zoo")
class GPTClassifier(TaskModel):
    """Class logits from the last real token (Radford et al. 2018, section 3.2).

    Takes what `GPTBackbone` does, without a cache, and returns `{"logits": (batch, num_classes)}`, float32.
    """

    family = "gpt"
    config_class = GPTConfig
    config: GPTConfig
    tasks = ("classify",)
    output_names = ("logits",)

    def __init__(self, config: GPTConfig | dict, name: str = "gpt_classifier", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        self.backbone = GPTBackbone(self.config, dtype=self.dtype_policy.name)
        self.pooling = TokenPooling("last", name="pooling", dtype=self.dtype_policy.name)
        c = self.config
        self.classifier = dense(c.num_classes, c.stddev, use_bias=False, dtype="float32", name="classifier")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        pooled = self.pooling(self.take_sequence(outputs), padding_mask=inputs.get("padding_mask"))
        return {"logits": self.classifier(pooled), **outputs}


@keras.saving.register_keras_serializable("zoo")
class GPTEmbedder(TaskModel):
    """One vector a text: the last real token's, or the mean of the real tokens, divided by its length if so configured.

    Takes what `GPTBackbone` does, without a cache, and returns `{"embedding": (batch, width)}`, float32.
    """

    family = "gpt"
    config_class = GPTConfig
    config: GPTConfig
    tasks = ("embed",)
    output_names = ("embedding",)

    def __init__(self, config: GPTConfig | dict, name: str = "gpt_embedder", **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        self.backbone = GPTBackbone(self.config, dtype=self.dtype_policy.name)
        self.pooling = TokenPooling(self.config.pooling, name="pooling", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        pooled = self.pooling(self.take_sequence(outputs), padding_mask=inputs.get("padding_mask"))
        return {"embedding": l2_normalize(pooled) if self.config.normalize else pooled, **outputs}

"""BERT (Devlin et al. 2019): a post-norm bidirectional transformer, its pretraining heads, and heads for tasks."""

from typing import Any, ClassVar

import keras
from keras import ops

from zoo.bert.config import BERTConfig
from zoo.layers import (
    ACTIVATIONS,
    Dropout,
    PositionEmbedding,
    SegmentEmbedding,
    TokenEmbedding,
    TokenPooling,
    TransformerStack,
    dense,
    l2_normalize,
    positions_in_documents,
)
from zoo.model import Axis, TaskModel, TensorSpec, ZooModel, token_specs


@keras.saving.register_keras_serializable("zoo")
class BERTBackbone(ZooModel):
    """Token ids to one vector a token, and one for the whole.

    Args:
        pooler: make the pooler; `config.pooler` where None.

    Returns:
        `{"sequence": (batch, tokens, width)}`; with the pooler also `"pooled"` (batch, width), the first token's vector
        through a dense layer and tanh; with `return_weights` also `"attention"`, a tuple over the blocks of (batch,
        num_heads, tokens, tokens).
    """

    family = "bert"
    config_class = BERTConfig
    config: BERTConfig
    tasks = ("backbone",)

    def __init__(
        self, config: BERTConfig | dict, pooler: bool | None = None, name: str = "backbone", **kwargs: Any
    ) -> None:
        super().__init__(config, name=name, **kwargs)
        c = self.config
        common: dict[str, Any] = {"dtype": self.dtype_policy.name}
        self.token_embedding = TokenEmbedding(c.vocabulary_size, c.width, c.stddev, name="token_embedding", **common)
        self.position_embedding = PositionEmbedding(
            c.max_length, c.width, c.stddev, name="position_embedding", **common
        )
        self.segment_embedding = SegmentEmbedding(c.num_segments, c.width, c.stddev, name="segment_embedding", **common)
        self.embedding_norm = keras.layers.LayerNormalization(epsilon=c.epsilon, name="embedding_norm", **common)
        self.dropout = Dropout(c.dropout, name="dropout", **common)
        self.transformer = TransformerStack(
            c.depth,
            width=c.width,
            num_heads=c.num_heads,
            mlp_width=c.inner_width,
            norm="post",
            activation=c.activation,
            dropout=c.dropout,
            attention_dropout=c.attention_dropout,
            epsilon=c.epsilon,
            stddev=c.stddev,
            name="transformer",
            **common,
        )
        self.pooler: Any = None
        if c.pooler if pooler is None else pooler:
            self.pooler = dense(c.width, c.stddev, name="pooler", dtype=self.dtype_policy.name, activation="tanh")

    @property
    def output_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("sequence",) if self.pooler is None else ("sequence", "pooled")

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        c = self.config
        tokens, mask = token_specs(c.max_length, c.vocabulary_size)
        return tokens, mask, TensorSpec("segment_ids", "int32", tokens.shape, highest=c.num_segments - 1)

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        """Encode.

        Args:
            inputs: `token_ids` (batch, tokens); where there is padding `padding_mask`, 1 for real tokens; for pairs
                `segment_ids`, which are 0 where not given; where several documents are packed into a sequence
                `document_ids` (batch, tokens), a number for each: tokens see those of their own document alone, and
                positions restart in each (`pooled` is that of the first); `positions` where they do not count up from
                0; `token_vectors` (batch, tokens, width) in place of what the table holds for `token_ids`.
            return_weights: return the attention weights too.
        """
        token_ids = inputs["token_ids"]
        positions, segments = inputs.get("positions"), inputs.get("segment_ids")
        documents = inputs.get("document_ids")
        if positions is None and documents is not None:
            positions = positions_in_documents(documents)
        elif positions is None:
            positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        if segments is None:
            segments = ops.zeros_like(token_ids)
        vectors = inputs.get("token_vectors")
        vectors = self.token_embedding(token_ids) if vectors is None else vectors
        x = vectors + self.segment_embedding(segments) + self.position_embedding(positions)
        x = self.dropout(self.embedding_norm(x), training=training)
        x = self.transformer(
            x,
            padding_mask=inputs.get("padding_mask"),
            document_ids=documents,
            return_weights=return_weights,
            training=training,
        )
        x, *extras = x if isinstance(x, tuple) else (x,)
        outputs = {"sequence": x}
        if self.pooler is not None:
            outputs["pooled"] = self.pooler(x[:, 0])
        return {**outputs, "attention": extras[0]} if return_weights else outputs


class _BERTTask(TaskModel):
    """What the tasks share: a backbone, with or without its pooler, and its inputs."""

    family = "bert"
    config_class = BERTConfig
    config: BERTConfig

    def __init__(self, config: BERTConfig | dict, pooler: bool | None, name: str, **kwargs: Any) -> None:
        super().__init__(config, name=name, **kwargs)
        self.backbone = BERTBackbone(self.config, pooler=pooler, dtype=self.dtype_policy.name)

    def make_dropout(self) -> Any:
        """The dropout in front of a classifier."""
        c = self.config
        rate = c.dropout if c.classifier_dropout is None else c.classifier_dropout
        return Dropout(rate, dtype=self.dtype_policy.name, name="classifier_dropout")


@keras.saving.register_keras_serializable("zoo")
class BERTMaskedLM(_BERTTask):
    """Logits of the token that stood at each place (Devlin et al. 2019, section 3.1, "Masked LM").

    Takes what `BERTBackbone` does and, to save the others' logits, `masked_positions` (batch, masked), the places to
    predict. Returns `"logits"` (batch, tokens or masked, vocabulary_size), float32.
    """

    tasks: ClassVar[tuple[str, ...]] = ("masked_lm",)
    output_names: tuple[str, ...] = ("logits",)

    def __init__(
        self, config: BERTConfig | dict, pooler: bool = False, name: str = "bert_masked_lm", **kwargs: Any
    ) -> None:
        super().__init__(config, pooler=pooler, name=name, **kwargs)
        self.masked_lm = MaskedTokenHead(self.config, dtype=self.dtype_policy.name, name="masked_lm")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        outputs.pop("pooled", None)
        return {"logits": self.predict_tokens(self.take_sequence(outputs), inputs.get("masked_positions")), **outputs}

    def predict_tokens(self, sequence: Any, positions: Any) -> Any:
        """Vectors (batch, tokens, width) to logits, of the given positions (batch, masked) or of all."""
        if positions is not None:
            sequence = ops.take_along_axis(sequence, ops.expand_dims(ops.cast(positions, "int32"), -1), axis=1)
        vectors = self.masked_lm(sequence)
        return self.backbone.token_embedding(vectors, reverse=True) + self.masked_lm.bias


@keras.saving.register_keras_serializable("zoo")
class BERTPretraining(BERTMaskedLM):
    """Both pretraining objectives (Devlin et al. 2019, section 3.1): masked tokens, and whether the second segment is
    the first one's successor (0) or any other (1).

    Takes `masked_positions` (batch, masked) beside what `BERTBackbone` does; a row with fewer masked tokens repeats a
    position, with weight 0 in the loss. Returns `"logits"` (batch, masked, vocabulary_size) and `"next_sentence"`
    (batch, 2), both float32.
    """

    tasks = ("pretrain",)
    output_names = ("logits", "next_sentence")

    def __init__(self, config: BERTConfig | dict, name: str = "bert_pretraining", **kwargs: Any) -> None:
        super().__init__(config, pooler=True, name=name, **kwargs)
        self.next_sentence = dense(2, self.config.stddev, name="next_sentence", dtype="float32")

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        masked = TensorSpec("masked_positions", "int32", (Axis("batch"), Axis("masked", self.config.max_length)))
        return (*self.backbone.input_specs, masked)

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        return {
            "logits": self.predict_tokens(self.take_sequence(outputs), inputs.get("masked_positions")),
            "next_sentence": self.next_sentence(outputs.pop("pooled")),
            **outputs,
        }


@keras.saving.register_keras_serializable("zoo")
class BERTClassifier(_BERTTask):
    """Class logits of a text or a pair of texts, from the pooler (Devlin et al. 2019, section 3.2).

    Takes what `BERTBackbone` does and returns `{"logits": (batch, num_classes)}`, float32.
    """

    tasks = ("classify",)
    output_names = ("logits",)

    def __init__(self, config: BERTConfig | dict, name: str = "bert_classifier", **kwargs: Any) -> None:
        super().__init__(config, pooler=True, name=name, **kwargs)
        self.dropout = self.make_dropout()
        self.classifier = dense(self.config.num_classes, self.config.stddev, name="classifier", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        self.take_sequence(outputs)
        return {"logits": self.classifier(self.dropout(outputs.pop("pooled"), training=training)), **outputs}


@keras.saving.register_keras_serializable("zoo")
class BERTTagger(_BERTTask):
    """Class logits of every token (Devlin et al. 2019, section 5.3).

    Takes what `BERTBackbone` does and returns `{"logits": (batch, tokens, num_classes)}`, float32.
    """

    tasks = ("tag",)
    output_names = ("logits",)

    def __init__(self, config: BERTConfig | dict, name: str = "bert_tagger", **kwargs: Any) -> None:
        super().__init__(config, pooler=False, name=name, **kwargs)
        self.dropout = self.make_dropout()
        self.classifier = dense(self.config.num_classes, self.config.stddev, name="classifier", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        return {"logits": self.classifier(self.dropout(self.take_sequence(outputs), training=training)), **outputs}


@keras.saving.register_keras_serializable("zoo")
class BERTAnswerer(_BERTTask):
    """Where an answer begins and ends in a text (Devlin et al. 2019, section 4.2).

    Takes what `BERTBackbone` does and returns `"start_logits"` and `"end_logits"`, each (batch, tokens), float32.
    """

    tasks = ("answer",)
    output_names = ("start_logits", "end_logits")

    def __init__(self, config: BERTConfig | dict, name: str = "bert_answerer", **kwargs: Any) -> None:
        super().__init__(config, pooler=False, name=name, **kwargs)
        self.span = dense(2, self.config.stddev, name="span", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        logits = self.span(self.take_sequence(outputs))  # (batch, tokens, 2)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1], **outputs}


@keras.saving.register_keras_serializable("zoo")
class BERTEmbedder(_BERTTask):
    """One vector a text (Reimers and Gurevych 2019, section 3): the mean of the real tokens or the first one's vector,
    divided by its length if so configured.

    Takes what `BERTBackbone` does and returns `{"embedding": (batch, width)}`, float32. The pooler has no part in it;
    it is carried along, untrained, for the sake of the checkpoint's layout.
    """

    tasks = ("embed",)
    output_names = ("embedding",)

    def __init__(self, config: BERTConfig | dict, name: str = "bert_embedder", **kwargs: Any) -> None:
        super().__init__(config, pooler=None, name=name, **kwargs)
        if self.backbone.pooler is not None:
            self.backbone.pooler.trainable = False
        self.pooling = TokenPooling(self.config.pooling, name="pooling", dtype="float32")

    def call(
        self, inputs: dict[str, Any], return_weights: bool = False, training: bool | None = None
    ) -> dict[str, Any]:
        outputs = self.backbone(inputs, return_weights=return_weights, training=training)
        outputs.pop("pooled", None)
        pooled = self.pooling(self.take_sequence(outputs), padding_mask=inputs.get("padding_mask"))
        return {"embedding": l2_normalize(pooled) if self.config.normalize else pooled, **outputs}


@keras.saving.register_keras_serializable("zoo")
class MaskedTokenHead(keras.layers.Layer):
    """From vectors of tokens to vectors that the embedding table turned round makes logits of: dense, activation, norm.
    `bias` is to be added to the logits, (vocabulary_size,)."""

    def __init__(self, config: BERTConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = config.vocabulary_size
        self.transform = dense(config.width, config.stddev, name="transform", dtype=self.dtype_policy.name)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = keras.layers.LayerNormalization(epsilon=config.epsilon, name="norm", dtype=self.dtype_policy.name)

    def build(self, x_shape: Any) -> None:
        self.transform.build(x_shape)
        self.norm.build(x_shape)
        self.bias = self.add_weight(shape=(self.rows,), initializer="zeros", autocast=False, name="bias")

    def call(self, x: Any) -> Any:
        return self.norm(self.activation(self.transform(x)))

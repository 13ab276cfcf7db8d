"""From one vector a token to one vector a sequence."""

from typing import Any

import keras
from keras import ops

STRATEGIES = ("first", "last", "mean", "at")


@keras.saving.register_keras_serializable("zoo")
class TokenPooling(keras.layers.Layer):
    """Pool (batch, tokens, width) to (batch, width).

    Args:
        strategy: "first" (BERT's and ViT's class token); "last", the last real token (GPT); "mean" over the real
            tokens (Reimers and Gurevych 2019, section 3); "at", the token whose index is given (CLIP's end token).

    Raises:
        ValueError: an unknown strategy.
    """

    def __init__(self, strategy: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is {strategy!r}, and must be one of {', '.join(STRATEGIES)}")
        self.strategy = strategy

    def call(self, x: Any, padding_mask: Any = None, index: Any = None) -> Any:
        """Pool.

        Args:
            x: (batch, tokens, width).
            padding_mask: (batch, tokens), 1 for real tokens, on either side; all are real where None. A row
                without a real token pools to its first token ("last") or to zeros ("mean").
            index: (batch,) int32, for "at".

        Raises:
            ValueError: an index is missing or not wanted.
        """
        if (self.strategy == "at") != (index is not None):
            raise ValueError('strategy "at" takes an index, and the others take none')
        if self.strategy == "first":
            return x[:, 0]
        if self.strategy == "mean":
            if padding_mask is None:
                return ops.mean(x, axis=1)
            # In float32: under float16 a sum over a long sequence can leave the type's range.
            mask = ops.expand_dims(ops.cast(padding_mask, "float32"), -1)
            total = ops.sum(ops.cast(x, "float32") * mask, axis=1)
            return ops.cast(total / ops.maximum(ops.sum(mask, axis=1), 1.0), x.dtype)
        if self.strategy == "last":
            if padding_mask is None:
                return x[:, -1]
            positions = ops.expand_dims(ops.arange(ops.shape(x)[1], dtype="int32"), 0)
            index = ops.max(positions * ops.cast(padding_mask, "int32"), axis=1)
        # A one-hot product instead of a gather along an axis: every export format has it as a built-in.
        chosen = ops.expand_dims(ops.one_hot(index, ops.shape(x)[1], dtype=x.dtype), 1)  # (batch, 1, tokens)
        return ops.squeeze(ops.matmul(chosen, x), axis=1)


def l2_normalize(x: Any) -> Any:
    """Vectors (..., width) divided by their length, float32; a vector of zeros stays one."""
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(x * x, axis=-1, keepdims=True), 1e-24))

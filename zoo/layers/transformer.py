"""The transformer block, pre-norm (GPT-2, ViT, CLIP) or post-norm (BERT, the original), and a stack of them."""

from typing import Any

import keras

from zoo.layers.attention import Cache, MultiHeadAttention, later_keys
from zoo.layers.dropout import Dropout
from zoo.layers.feed_forward import FeedForward
from zoo.layers.recomputation import call_recomputed


@keras.saving.register_keras_serializable("zoo")
class TransformerBlock(keras.layers.Layer):
    """Self attention, cross attention where asked for, and a feed-forward network, each added to its input.

    `norm="post"` is Vaswani et al. 2017, `LayerNorm(x + f(x))`; `norm="pre"` is Radford et al. 2019,
    `x + f(LayerNorm(x))`, which leaves the last norm to the model.

    Args:
        width, num_heads, mlp_width: sizes; see `MultiHeadAttention` and `FeedForward`.
        norm: "pre" or "post".
        causal: self attention sees earlier tokens only.
        cross_attention: add a second attention, over `context`.
        activation: of the feed-forward network, a name in `zoo.layers.ACTIVATIONS`.
        dropout: rate on the output of each part, before it is added.
        attention_dropout: rate on the attention weights.
        epsilon: of the layer norms.
        stddev: standard deviation of initial kernels.
        residual_stddev: the same for the kernels whose output is added to the residual stream; `stddev` where None.
        stochastic_depth: rate at which training leaves out a part for an example, whose output is then its input (Huang
            et al. 2016, section 3); what is not left out is scaled up, as dropout does it.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        norm: str = "pre",
        causal: bool = False,
        cross_attention: bool = False,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        epsilon: float = 1e-5,
        stddev: float = 0.02,
        residual_stddev: float | None = None,
        stochastic_depth: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if norm not in ("pre", "post"):
            raise ValueError(f"norm is {norm!r}, and must be 'pre' or 'post'")
        self.norm = norm
        common: dict[str, Any] = {"dtype": self.dtype_policy.name}
        scale: dict[str, Any] = {"stddev": stddev, "output_stddev": residual_stddev}
        heads: dict[str, Any] = {"width": width, "num_heads": num_heads, "dropout": attention_dropout}
        self.attention = MultiHeadAttention(**heads, causal=causal, **scale, **common, name="attention")
        self.attention_norm = keras.layers.LayerNormalization(epsilon=epsilon, name="attention_norm", **common)
        self.cross_attention: Any = None
        if cross_attention:
            self.cross_attention = MultiHeadAttention(**heads, cross=True, **scale, **common, name="cross_attention")
            self.cross_norm = keras.layers.LayerNormalization(epsilon=epsilon, name="cross_norm", **common)
        self.feed_forward = FeedForward(width, mlp_width, activation, **scale, **common, name="feed_forward")
        self.feed_forward_norm = keras.layers.LayerNormalization(epsilon=epsilon, name="feed_forward_norm", **common)
        self.dropout = Dropout(dropout, name="dropout", **common)
        self.leave_out: Any = None  # made where it is used: each has a random state, which a checkpoint holds
        if stochastic_depth:
            self.leave_out = Dropout(stochastic_depth, noise_shape=(None, 1, 1), name="leave_out", **common)

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        self.attention.build(x_shape)
        self.attention_norm.build(x_shape)
        if self.cross_attention is not None:
            self.cross_attention.build(x_shape, context_shape)
            self.cross_norm.build(x_shape)
        self.feed_forward.build(x_shape)
        self.feed_forward_norm.build(x_shape)

    def call(
        self,
        x: Any,
        padding_mask: Any = None,
        document_ids: Any = None,
        context: Any = None,
        context_mask: Any = None,
        cache: Cache | None = None,
        cache_index: Any = None,
        later: Any = None,
        return_weights: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Transform (batch, tokens, width) to the same shape.

        The arguments, and what follows the output where a cache is given or weights are asked for, are those of
        `MultiHeadAttention.call`; `context` and `context_mask` go to cross attention, whose weights come last.
        """
        extras: list[Any] = []

        def attend(h: Any) -> Any:
            h = self.attention(
                h,
                padding_mask=padding_mask,
                document_ids=document_ids,
                cache=cache,
                cache_index=cache_index,
                later=later,
                return_weights=return_weights,
                training=training,
            )
            return _keep_extras(h, extras)

        def attend_context(h: Any) -> Any:
            h = self.cross_attention(
                h, context=context, padding_mask=context_mask, return_weights=return_weights, training=training
            )
            return _keep_extras(h, extras)

        x = self._residual(x, attend, self.attention_norm, training)
        if self.cross_attention is not None:
            x = self._residual(x, attend_context, self.cross_norm, training)
        x = self._residual(x, self.feed_forward, self.feed_forward_norm, training)
        return (x, *extras) if extras else x

    def _residual(self, x: Any, part: Any, norm: Any, training: bool | None) -> Any:
        added = self.dropout(part(norm(x) if self.norm == "pre" else x), training=training)
        if self.leave_out is not None:
            added = self.leave_out(added, training=training)
        return x + added if self.norm == "pre" else norm(x + added)


@keras.saving.register_keras_serializable("zoo")
class TransformerStack(keras.layers.Layer):
    """`depth` blocks, one after the other, named `block_0`, `block_1`, ...

    Args:
        depth: number of blocks.
        stochastic_depth: of the last block; those before it have less, evenly down to none of the first (Huang et al.
            2016, section 3).
        **block: the other arguments of `TransformerBlock`.

    Set its attribute `recompute`, and in training each block keeps its input alone for the backward pass and computes
    the rest again then: a forward pass more, for far less memory. Weights, outputs and gradients stay what they are.
    """

    def __init__(
        self, depth: int, name: str | None = None, dtype: Any = None, stochastic_depth: float = 0.0, **block: Any
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.recompute = False
        block = {**block, "dtype": self.dtype_policy.name}
        rates = [stochastic_depth * (i / (depth - 1) if depth > 1 else 1.0) for i in range(depth)]
        self.blocks = [TransformerBlock(**block, stochastic_depth=rates[i], name=f"block_{i}") for i in range(depth)]

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        for block in self.blocks:
            block.build(x_shape, context_shape)

    def call(
        self,
        x: Any,
        padding_mask: Any = None,
        document_ids: Any = None,
        context: Any = None,
        context_mask: Any = None,
        cache: tuple[Cache, ...] | None = None,
        cache_index: Any = None,
        return_weights: bool = False,
        training: bool | None = None,
    ) -> Any:
        """As `TransformerBlock.call`, with a tuple over the blocks for the cache and for the weights."""
        if self.recompute and training and cache is None and not return_weights:
            for block in self.blocks:
                x = call_recomputed(
                    block,
                    x,
                    padding_mask=padding_mask,
                    document_ids=document_ids,
                    context=context,
                    context_mask=context_mask,
                )
            return x
        # Once for all blocks: in a graph with free axes the shape that it is made from would cut each of them in two.
        causal = self.blocks and self.blocks[0].attention.causal
        later = later_keys(x, cache[0] if cache else None, cache_index) if causal else None
        kept = []
        for i, block in enumerate(self.blocks):
            extras: list[Any] = []
            x = block(
                x,
                padding_mask=padding_mask,
                document_ids=document_ids,
                context=context,
                context_mask=context_mask,
                cache=None if cache is None else cache[i],
                cache_index=cache_index,
                later=later,
                return_weights=return_weights,
                training=training,
            )
            x = _keep_extras(x, extras)
            kept.append(extras)
        return (x, *zip(*kept, strict=True)) if kept and kept[0] else x


def _keep_extras(output: Any, extras: list[Any]) -> Any:
    """Split what a layer returned into its output, which is returned, and the rest, which is added to `extras`."""
    if not isinstance(output, tuple):
        return output
    extras.extend(output[1:])
    return output[0]

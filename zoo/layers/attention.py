"""Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2): self, causal and cross, with a cache."""

from typing import Any

import keras
from keras import ops

from zoo.layers.dense import dense, leading_sizes
from zoo.layers.documents import same_document
from zoo.layers.dropout import Dropout

# Added to the scores of keys that may not be seen. Finite, so that a row with no visible key stays finite (it
# attends evenly), and three of them added up stay inside float32.
HIDDEN = -1e9

Cache = dict[str, Any]


def empty_cache(batch: Any, num_heads: int, length: Any, head_dim: int, dtype: str = "float32") -> Cache:
    """The cache of one layer: `key` and `value`, each (batch, num_heads, length, head_dim), zeros to be filled.

    The layout is settled: one such dict a layer, preallocated to `length` slots, slot i holding token i. A call
    writes its tokens at `cache_index` and hands the cache back, so that the same code runs eagerly, in a
    `tf.while_loop`, and in an exported graph that takes the cache in and gives it out. `dtype` is the compute dtype
    of the layer, to which Keras casts whatever else it is given.
    """
    shape = (batch, num_heads, length, head_dim)
    return {"key": ops.zeros(shape, dtype=dtype), "value": ops.zeros(shape, dtype=dtype)}


@keras.saving.register_keras_serializable("zoo")
class MultiHeadAttention(keras.layers.Layer):
    """Attention with a fused query-key-value projection.

    Args:
        width: size of the input and the output of each token.
        num_heads: heads; each attends in `width / num_heads` dimensions.
        causal: let a token see itself and earlier ones only.
        cross: take keys and values from `context` instead of the input.
        dropout: rate of dropout on the attention weights.
        stddev: standard deviation of the initial query, key and value kernels.
        output_stddev: the same for the output kernel; `stddev` where None.

    Raises:
        ValueError: `width` is no multiple of `num_heads`, or `causal` and `cross` are both set.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        causal: bool = False,
        cross: bool = False,
        dropout: float = 0.0,
        stddev: float = 0.02,
        output_stddev: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if width % num_heads:
            raise ValueError(f"width {width} is no multiple of num_heads {num_heads}")
        if causal and cross:
            raise ValueError("causal attention orders one sequence: it cannot be cross attention too")
        self.width, self.num_heads, self.head_dim = width, num_heads, width // num_heads
        self.causal, self.cross = causal, cross
        common = {"dtype": self.dtype_policy.name}
        if cross:
            self.query = dense(width, stddev, name="query", **common)
            self.key_value = dense(2 * width, stddev, name="key_value", **common)
        else:
            self.qkv = dense(3 * width, stddev, name="qkv", **common)
        self.dropout = Dropout(dropout, name="dropout", **common)
        self.output_projection = dense(width, output_stddev or stddev, name="output", **common)

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        if self.cross:
            self.query.build(x_shape)
            self.key_value.build(context_shape)
        else:
            self.qkv.build(x_shape)
        self.output_projection.build((*x_shape[:-1], self.width))

    def call(
        self,
        x: Any,
        context: Any = None,
        padding_mask: Any = None,
        document_ids: Any = None,
        cache: Cache | None = None,
        cache_index: Any = None,
        later: Any = None,
        return_weights: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Attend.

        Args:
            x: (batch, tokens, width).
            context: (batch, context_tokens, width); cross attention only.
            padding_mask: (batch, keys), 1 for real tokens: over the context in cross attention, over all slots of
                the cache where one is given, else over `x`.
            document_ids: int32 (batch, tokens), a number for each document that is packed into a sequence: a token sees
                those of its own alone. Self attention without a cache only.
            cache: as `empty_cache` makes it; `x` is written to it at slot `cache_index`. Without an index the cache
                holds what was read and no more, nothing at first, and comes back longer by `x`. Causal attention only.
            cache_index: int32 scalar, the number of slots filled before this call. The caller keeps
                `cache_index + tokens` within the slots there are.
            later: what `later_keys` gives for these arguments, where the caller has it; causal attention only.
            return_weights: also return the weights, (batch, num_heads, tokens, keys), float32.

        Returns:
            The output (batch, tokens, width); with a cache or `return_weights` a tuple of it, then the cache, then
            the weights, as far as asked for.

        Raises:
            ValueError: a context, a cache, or documents in the wrong kind of attention; an index without a cache.
        """
        if self.cross != (context is not None):
            raise ValueError("cross attention takes a context, and self attention takes none")
        if cache is not None and not self.causal:
            raise ValueError("only causal attention can append to a cache: later tokens would change earlier ones")
        if cache is None and cache_index is not None:
            raise ValueError("the index of the first free slot goes with a cache")
        if document_ids is not None and (self.cross or cache is not None):
            raise ValueError("documents are told apart within one sequence: not over a context, nor over a cache")
        if self.cross:
            query = self._split_heads(self.query(x), 1)[0]
            key, value = self._split_heads(self.key_value(context), 2)
        else:
            query, key, value = self._split_heads(self.qkv(x), 3)  # each (batch, heads, tokens, head_dim)
        if self.causal and later is None:
            later = later_keys(x, cache, cache_index)
        if cache is not None and cache_index is None:
            key = ops.concatenate([cache["key"], key], axis=2)
            value = ops.concatenate([cache["value"], value], axis=2)
        elif cache is not None:
            start = (0, 0, cache_index, 0)
            key = ops.slice_update(cache["key"], start, key)
            value = ops.slice_update(cache["value"], start, value)
        if cache is not None:
            cache = {"key": key, "value": value}

        query = query * self.head_dim**-0.5
        scores = ops.cast(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))), "float32")
        if self.causal:
            scores = scores + ops.cast(later, "float32") * HIDDEN
        if padding_mask is not None:
            visible = ops.expand_dims(ops.expand_dims(ops.cast(padding_mask, "float32"), 1), 1)
            scores = scores + (1.0 - visible) * HIDDEN  # (batch, 1, 1, keys)
        if document_ids is not None:
            scores = scores + ops.expand_dims(1.0 - same_document(document_ids), 1) * HIDDEN  # (batch, 1, tokens, keys)
        # Of a softmax over a single key Keras warns that it is always 1, as it is to be.
        weights = ops.softmax(scores) if scores.shape[-1] != 1 else ops.exp(scores - scores)
        dropped = self.dropout(ops.cast(weights, self.compute_dtype), training=training)
        mixed = ops.transpose(ops.matmul(dropped, value), (0, 2, 1, 3))  # (batch, tokens, heads, head_dim)
        output = self.output_projection(ops.reshape(mixed, (*leading_sizes(mixed, 2), self.width)))

        extras = ([cache] if cache is not None else []) + ([weights] if return_weights else [])
        return (output, *extras) if extras else output

    def _split_heads(self, projected: Any, parts: int) -> list[Any]:
        """(batch, tokens, parts * width) to `parts` tensors of (batch, heads, tokens, head_dim)."""
        shape = (*leading_sizes(projected, 2), self.num_heads, self.head_dim)
        heads = [ops.reshape(part, shape) for part in ops.split(projected, parts, axis=-1)]
        return [ops.transpose(part, (0, 2, 1, 3)) for part in heads]


def later_keys(x: Any, cache: Cache | None = None, cache_index: Any = None) -> Any:
    """Which keys stand behind a query, and are not to be seen by it: bool (tokens, keys).

    It is the same in all blocks of a stack. The arguments are those of `MultiHeadAttention.call`.
    """
    tokens = ops.shape(x)[1]
    slots = ops.shape(cache["key"])[2] if cache is not None else 0
    first, keys = (slots, slots + tokens) if cache_index is None else (cache_index, slots)
    query_position = ops.expand_dims(ops.arange(tokens, dtype="int32") + first, 1)
    return ops.expand_dims(ops.arange(keys, dtype="int32"), 0) > query_position

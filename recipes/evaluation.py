"""How well a language model predicts a text (TensorFlow only)."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recipes.data.batches import windows
from recipes.data.packing import pack
from recipes.data.text import Corpus, Document
from zoo.errors import UserError


def evaluate_language_model(
    model: Any,
    documents: tuple[Document, ...],
    batch_size: int = 16,
    progress: Callable[[float], None] = lambda part: None,
) -> dict[str, Any]:
    """Measure how well a text is predicted: each token but the first, once, from those before it in its window.

    The windows have the length of the model's context and do not overlap; the last one may be shorter.

    Args:
        model: a language model with its tokenizer.
        documents: the text.
        batch_size: windows at a time; it does not change the result.
        progress: called with the part that is done.

    Returns:
        `loss` in nats a token, `perplexity`, `bits_per_byte`, and the numbers of `tokens` predicted and `bytes`.

    Raises:
        UserError: the model has no tokenizer, or the text fewer than two tokens.
    """
    if model.tokenizer is None:
        raise UserError("this model has no tokenizer, and cannot read text")
    packed = pack(Corpus((), documents), model.tokenizer)
    tokens, length = packed.tokens("validation"), model.config.max_length
    if len(tokens) < 2:
        raise UserError(f"the text has {len(tokens)} tokens: nothing can be predicted")

    @tf.function(reduce_retracing=True)
    def total_loss(ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = model({"token_ids": ids}, training=False)["logits"]
        return tf.reduce_sum(keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    total = 0.0
    full = windows(tokens, length) if len(tokens) > length else np.empty((0, length + 1), np.int32)
    for start in range(0, len(full), batch_size):
        rows = full[start : start + batch_size].astype("int32")
        total += float(total_loss(rows[:, :-1], rows[:, 1:]))
        progress(start / len(full))
    rest = tokens[None, len(full) * length :].astype("int32")
    if rest.shape[1] > 1:
        total += float(total_loss(rest[:, :-1], rest[:, 1:]))
    loss = total / (len(tokens) - 1)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": total / packed.validation.bytes / math.log(2),
        "tokens": len(tokens) - 1,
        "bytes": packed.validation.bytes,
    }

"""How well a language model predicts a text, and completes prompts (TensorFlow only)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recipes.data.batches import Batches, windows
from recipes.data.documents import Document
from recipes.data.packing import pack
from recipes.data.text import Corpus
from zoo.errors import UserError
from zoo.generation import GREEDY, Generator
from zoo.gpt.loss import NextTokenLoss


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
    rest = tokens[len(full) * length :][None].astype("int32")
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


class Completer:
    """What a language model makes of prompts and completions. It is traced once.

    Args:
        model: for "generate", with its tokenizer.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._generator = Generator(model)
        self._loss = NextTokenLoss(model.backbone.token_embedding.table)
        self._total_loss = tf.function(self._trace, reduce_retracing=True)

    def mean_loss(self, batches: Batches) -> float:
        """In nats, the mean over all tokens that weigh, of batches as `recipes.data.completions.CompletionSource` makes
        them."""
        assert batches.num_batches is not None
        total = weight = 0.0
        for step in range(batches.num_batches):
            inputs, labels, weights = batches.batch(step)
            arrays = inputs["token_ids"], labels["sequence"], weights["sequence"]
            total += float(self._total_loss(*map(tf.constant, arrays)))
            weight += float(weights["sequence"].sum())
        return total / weight

    def complete(self, prompts: Sequence[np.ndarray], most_tokens: int, batch_size: int) -> list[str]:
        """Continue each prompt, by the likeliest token each time, up to the end of the text.

        Args:
            prompts: their ids, (tokens,). What the model's context does not hold is cut from the left.
            most_tokens: the most to add to each.
            batch_size: prompts at a time.
        """
        tokenizer, context = self.model.tokenizer, self.model.config.max_length
        kept = [prompt[-context:].tolist() for prompt in prompts]
        said: list[str] = []
        for start in range(0, len(kept), batch_size):
            some = kept[start : start + batch_size]
            rows = self._generator.generate(some, most_tokens, GREEDY, [tokenizer.end_of_text])
            said += map(tokenizer.decode, rows)
        return said

    def _trace(self, token_ids: Any, labels: Any, weights: Any) -> Any:
        """The sum of the weighted losses; each argument (rows, tokens)."""
        sequence = self.model.backbone({"token_ids": token_ids}, training=False)["sequence"]
        return tf.reduce_sum(self._loss.call(labels, sequence) * weights)

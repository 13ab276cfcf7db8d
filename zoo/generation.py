"""Generation with a key/value cache (TensorFlow only): greedy, temperature, top-k and top-p sampling."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.errors import UserError

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits; the defaults draw from the model's own distribution.

    Attributes:
        temperature: the logits are divided by it; 0 takes the likeliest token (greedy).
        top_k: draw among the `top_k` likeliest tokens only; 0 for all of them (Fan et al. 2018, section 5.4). Of
            equally likely tokens the lower id comes first, here, in `top_p` and in the greedy choice.
        top_p: draw among the fewest tokens whose probabilities add up to `top_p` (Holtzman et al. 2020, section 3.1).
        seed: the same seed, prompts and settings give the same tokens.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}, and must be 0 or more")
        if not 0 <= self.top_k < 2**31:
            raise UserError(f"top_k is {self.top_k}, and must be 0 (no limit) or more, below 2**31")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p is {self.top_p}, and must be above 0 and at most 1")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}, and must fit in 64 bits")


GREEDY = Sampling(temperature=0.0)


def choose_token(logits: Any, temperature: Any, top_k: Any, top_p: Any, seed: Any) -> Any:
    """Choose a token for each row of float32 logits (batch, vocabulary): int32 (batch,).

    Everything but the logits is a scalar tensor (`seed`: two int64), so that one traced graph serves all settings.
    """
    # From the likeliest down; of equal ones the lowest id comes first, which is also argmax's.
    logits, tokens = tf.math.top_k(logits, k=tf.shape(logits)[-1])
    # The largest becomes 0 before the division, so that no temperature can make it infinite.
    logits = (logits - logits[:, :1]) / tf.where(temperature > 0.0, temperature, 1.0)
    rank = tf.range(tf.shape(logits)[-1])
    hidden = tf.fill(tf.shape(logits), logits.dtype.min)
    logits = tf.where(tf.logical_or(top_k == 0, rank < top_k), logits, hidden)
    # A token is in the nucleus if the likelier ones do not yet add up to top_p: the likeliest always is. A top_p of 1
    # is no limit; the sum, which rounding can bring to 1 too early, is not asked.
    before = tf.cumsum(tf.nn.softmax(logits, axis=-1), axis=-1, exclusive=True)
    logits = tf.where((before < top_p) | (rank == 0) | (top_p >= 1.0), logits, hidden)
    drawn = tf.random.stateless_categorical(logits, 1, seed=seed, dtype=tf.int32)
    return tf.gather(tokens, tf.where(temperature > 0.0, drawn, 0), batch_dims=1)[:, 0]


def read_and_choose(
    model: Any,
    token_ids: Any,
    positions: Any,
    visible: Any,
    cache: Any,
    filled: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    seed: Any,
) -> tuple[Any, Any]:
    """Read tokens (batch, tokens) into a cache, whose real slots are `visible` (batch, slots): the token to come next,
    int32 (batch,), and the cache."""
    inputs = {"token_ids": token_ids, "positions": positions, "padding_mask": visible}
    outputs = model.backbone(inputs, cache=cache, cache_index=filled, training=False)
    logits = model.project(outputs["sequence"][:, -1])
    if model.tokenizer is not None:  # a table padded to a round size has rows that stand for no token
        logits = logits[:, : model.tokenizer.vocabulary_size]
    return choose_token(logits, temperature, top_k, top_p, seed), outputs["cache"]


class Generator:
    """Generates with one model; keeps the traced graph, so that later calls start at once.

    Args:
        model: a language model with a `backbone` that makes and takes a cache, and `project` to logits.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "project"):
            raise UserError(f"a {model.family} model for {model.task!r} generates no text: load it for 'generate'")
        self.model = model
        self.context = model.config.max_length
        self._step = tf.function(functools.partial(read_and_choose, model), reduce_retracing=True)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_tokens: Sequence[int] = (),
        on_token: Callable[[list[int | None]], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt.

        When the context is full, its last half is read anew and generation goes on from there, so that the cost
        stays linear in `max_new_tokens`.

        Args:
            prompts: token ids, of any lengths, none empty. Longer ones than the context are cut from the left.
            max_new_tokens: the most tokens to add to each.
            sampling: how tokens are chosen.
            stop_tokens: a sequence ends before the first of these.
            on_token: called after each step with the new token of each sequence, None for one that has ended.

        Returns:
            The new tokens of each prompt.

        Raises:
            UserError: an empty prompt, or a token that the model does not have.
        """
        self._check(prompts)
        histories = [list(prompt) for prompt in prompts]
        generated: list[list[int]] = [[] for _ in prompts]
        running = [True] * len(histories)
        step, window = 0, self.context
        while step < max_new_tokens and any(running):
            token_ids, positions, visible = _pad_left([history[-window:] for history in histories])
            # The last token is chosen without being read, so it needs no slot.
            slots = min(self.context, token_ids.shape[1] + max_new_tokens - step - 1)
            visible = np.pad(visible, ((0, 0), (0, slots - token_ids.shape[1])), constant_values=1)
            cache = self.model.backbone.empty_cache(len(histories), slots)
            filled = 0
            while step < max_new_tokens and any(running) and filled < slots:
                chosen, cache = self._run(token_ids, positions, visible, cache, filled, sampling, step)
                filled += token_ids.shape[1]
                step += 1
                running = [going and token not in stop_tokens for going, token in zip(running, chosen, strict=True)]
                for history, new, token, going in zip(histories, generated, chosen, running, strict=True):
                    history.append(token)
                    if going:
                        new.append(token)
                if on_token is not None:
                    on_token([token if going else None for token, going in zip(chosen, running, strict=True)])
                token_ids, positions = np.array(chosen, "int32")[:, None], positions[:, -1:] + 1
            window = max(1, self.context // 2)
        return generated

    def generate_text(
        self,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Continue a text, up to the end-of-text token; `on_text` gets the text so far after each token."""
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            raise UserError("this model has no tokenizer: give it token ids, or save it with its tokenizer")
        new: list[int] = []

        def collect(tokens: list[int | None]) -> None:
            if on_text is not None and tokens[0] is not None:
                new.append(tokens[0])
                on_text(tokenizer.decode(new))

        token_ids = tokenizer.encode(prompt) or [tokenizer.end_of_text]
        rows = self.generate([token_ids], max_new_tokens, sampling, [tokenizer.end_of_text], collect)
        return tokenizer.decode(rows[0])

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        vocabulary_size = self.model.config.vocabulary_size
        for prompt in prompts:
            if not len(prompt):
                raise UserError("an empty prompt cannot be continued: begin with the end-of-text token")
            if not 0 <= min(prompt) <= max(prompt) < vocabulary_size:
                raise UserError(
                    f"the prompt holds token {min(prompt) if min(prompt) < 0 else max(prompt)}, and the model has "
                    f"tokens 0 to {vocabulary_size - 1}"
                )
        longest = max(map(len, prompts), default=0)
        if longest > self.context:
            logger.warning(
                "the prompt has %d tokens and the model's context is %d: the first %d are left out",
                longest,
                self.context,
                longest - self.context,
            )

    def _run(
        self,
        token_ids: np.ndarray,
        positions: np.ndarray,
        visible: np.ndarray,
        cache: Any,
        filled: int,
        sampling: Sampling,
        step: int,
    ) -> tuple[list[int], Any]:
        chosen, cache = self._step(
            tf.constant(token_ids),
            tf.constant(positions),
            tf.constant(visible),
            cache,
            tf.constant(filled),
            tf.constant(sampling.temperature, tf.float32),
            tf.constant(sampling.top_k),
            tf.constant(sampling.top_p, tf.float32),
            tf.constant([sampling.seed, step], tf.int64),
        )
        return chosen.numpy().tolist(), cache


def generate(
    model: Any,
    prompt: str,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """Continue `prompt` with a model that has a tokenizer; see `Sampling` and `Generator` for more control."""
    return Generator(model).generate_text(prompt, max_new_tokens, Sampling(temperature, top_k, top_p, seed))


def _pad_left(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, positions and mask (1 = real), each int32 (batch, longest), every row ending in the last column."""
    longest = max(map(len, rows))
    token_ids, positions, visible = (np.zeros((len(rows), longest), "int32") for _ in range(3))
    for i, row in enumerate(rows):
        token_ids[i, longest - len(row) :] = row
        positions[i, longest - len(row) :] = np.arange(len(row))
        visible[i, longest - len(row) :] = 1
    return token_ids, positions, visible

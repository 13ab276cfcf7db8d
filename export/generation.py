"""Generation inside a graph, with the key/value cache: `zoo.generation.Generator` for models that are saved."""

from typing import Any

import tensorflow as tf

from zoo.generation import read_and_choose


def generate_in_graph(
    model: Any,
    prompts: Any,
    max_new_tokens: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    seed: Any,
    stop_token: int,
) -> tuple[Any, Any]:
    """What `Generator.generate` does, as operators of a TensorFlow graph: for a model that is saved.

    Args:
        model: a language model with a `backbone` that makes and takes a cache, and `project` to logits.
        prompts: ragged int32 (batch, tokens), no row empty.
        max_new_tokens: int32 scalar, at least 0.
        temperature, top_k, top_p: scalars of float32, int32 and float32, as `Sampling` has them.
        seed: int64 scalar.
        stop_token: a sequence ends before it.

    Returns:
        The new tokens, int32 (batch, longest), `stop_token` where a sequence has ended, and how many each has, int32
        (batch,).
    """
    context = model.config.max_length
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    # A history ends in the last column, as `_pad_left` has it; tokens to come are appended.
    history = tf.reverse(tf.reverse(prompts[:, -context:], [1]).to_tensor(), [1])
    rows, width = tf.shape(history)[0], tf.shape(history)[1]
    real = tf.cast(tf.range(width) >= width - lengths[:, None], tf.int32)
    counts, running, step = tf.zeros_like(lengths), tf.ones_like(lengths, tf.bool), tf.constant(0)
    anything, row_vector = tf.TensorShape([None, None]), tf.TensorShape([None])

    def goes_on(step: Any, running: Any) -> Any:
        return (step < max_new_tokens) & tf.reduce_any(running)

    def read(history: Any, real: Any, step: Any, counts: Any, running: Any, window: Any) -> tuple[Any, ...]:
        """Read the last `window` tokens anew, and go on until the context is full."""
        token_ids, visible = history[:, -window:], real[:, -window:]
        positions = tf.maximum(tf.cumsum(visible, axis=1) - 1, 0)
        # The last token is chosen without being read, so it needs no slot.
        filled = tf.shape(token_ids)[1]
        slots = tf.minimum(context, filled + max_new_tokens - step - 1)
        visible = tf.pad(visible, [[0, 0], [0, slots - filled]], constant_values=1)

        def choose(token_ids: Any, positions: Any, cache: Any, filled: Any, step: Any) -> Any:
            seeds = tf.stack([seed, tf.cast(step, tf.int64)])
            return read_and_choose(
                model, token_ids, positions, visible, cache, filled, temperature, top_k, top_p, seeds
            )

        def append(chosen: Any, history: Any, real: Any, step: Any, counts: Any, running: Any) -> tuple[Any, ...]:
            running &= chosen != stop_token
            history = tf.concat([history, chosen[:, None]], axis=1)
            real = tf.concat([real, tf.ones_like(chosen)[:, None]], axis=1)
            return history, real, step + 1, counts + tf.cast(running, tf.int32), running

        def advance(cache: Any, filled: Any, positions: Any, *state: Any) -> tuple[Any, ...]:
            chosen, cache = choose(state[0][:, -1:], positions, cache, filled, state[2])
            return cache, filled + 1, positions + 1, *append(chosen, *state)

        chosen, cache = choose(token_ids, positions, model.backbone.empty_cache(rows, slots), 0, step)
        cache = tf.nest.map_structure(
            lambda part: tf.ensure_shape(part, [None, part.shape[1], None, part.shape[3]]), cache
        )
        state = append(chosen, history, real, step, counts, running)
        _, _, _, *state = tf.while_loop(
            lambda cache, filled, positions, history, real, step, counts, running: (
                goes_on(step, running) & (filled < slots)
            ),
            advance,
            (cache, filled, positions[:, -1:] + 1, *state),
            shape_invariants=(
                tf.nest.map_structure(lambda part: part.shape, cache),
                tf.TensorShape([]),
                tf.TensorShape([None, 1]),
                *(anything, anything, tf.TensorShape([]), row_vector, row_vector),
            ),
        )
        return *state, tf.constant(max(1, context // 2))

    history, _, _, counts, _, _ = tf.while_loop(
        lambda history, real, step, counts, running, window: goes_on(step, running),
        read,
        (history, real, step, counts, running, tf.constant(context)),
        shape_invariants=(anything, anything, tf.TensorShape([]), row_vector, row_vector, tf.TensorShape([])),
    )
    new = history[:, width:]
    return tf.where(tf.range(tf.shape(new)[1]) < counts[:, None], new, stop_token), counts

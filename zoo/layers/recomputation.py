"""Activation recomputation (Chen et al. 2016): keep a layer's input, and compute the rest again for its gradient."""

from typing import Any

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def call_recomputed(layer: Any, x: Any, **tensors: Any) -> Any:
    """`layer(x, **tensors, training=True)`, of which only the arguments are kept for the backward pass.

    Keras's `remat` takes no keyword arguments on TensorFlow, and draws other dropout masks the second time, which makes
    the gradient that of another function. Here both runs are one pure function of the arguments, the layer's weights
    and the state of its random seeds, which moves on once.

    Args:
        layer: built; it gives one tensor.
        x: float, the first argument.
        tensors: the other arguments; None where there is none.
    """
    given = {name: value for name, value in tensors.items() if value is not None}
    trainable, frozen = layer.trainable_variables, layer.non_trainable_weights
    known = {id(weight) for weight in (*trainable, *frozen)}
    seeds = [variable for variable in layer.non_trainable_variables if id(variable) not in known]

    def run(x: Any, arguments: list[Any], weights: list[Any], fixed: list[Any], states: list[Any]) -> Any:
        values = zip((*trainable, *frozen, *seeds), (*weights, *fixed, *states), strict=True)
        with keras.StatelessScope(values) as scope:
            y = layer(x, **dict(zip(given, arguments, strict=True)), training=True)
        return y, [scope.get_current_value(seed) for seed in seeds]

    values = [[variable.value for variable in group] for group in (trainable, frozen, seeds)]
    if keras.backend.backend() == "tensorflow":
        y, states = _run_twice(run, x, list(given.values()), *values)
    else:
        y, states = keras.remat(run)(x, list(given.values()), *values)
    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)
    return y


def _run_twice(
    run: Any, x: Any, arguments: list[Any], weights: list[Any], fixed: list[Any], states: list[Any]
) -> tuple[Any, list[Any]]:
    """`run` now, and once more for its gradient."""

    @tf.custom_gradient
    def forward(*flat: Any) -> tuple[Any, Any]:
        x, arguments, weights, fixed, states = tf.nest.pack_sequence_as(structure, flat)
        y, new_states = run(x, arguments, weights, fixed, states)

        def backward(dy: Any, *_: Any) -> list[Any]:
            late_x, late_states = _after(dy, x, states)
            with tf.GradientTape() as tape:
                sources = [each for each in (late_x, *arguments, *weights) if each.dtype.is_floating]
                tape.watch(sources)
                again, _ = run(late_x, arguments, weights, fixed, late_states)
            found = iter(tape.gradient(again, sources, output_gradients=dy))
            gradients = [next(found) if each.dtype.is_floating else None for each in (late_x, *arguments, *weights)]
            return gradients + [None] * (len(fixed) + len(states))

        return (y, *new_states), backward

    structure = (x, arguments, weights, fixed, states)
    # Read now: the seeds' variables are to move on before the second run.
    y, *new_states = forward(*map(tf.convert_to_tensor, tf.nest.flatten(structure)))
    return y, new_states


def _after(dy: Any, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
    """`x` and the states of the seeds as they are, and yet not to be had before `dy` is.

    TensorFlow and XLA compute the same operation on the same inputs but once, and keep its result: all that was saved
    would be lost. So what the second run begins with depends on the gradient that it is for, in a way that neither can
    see through. Where that is not finite, nor is what comes of it.
    """
    is_finite = tf.math.is_finite(tf.reduce_max(tf.reshape(dy, [-1])[:1]))
    late_x = tf.where(is_finite, x, tf.constant(float("nan"), x.dtype))
    return late_x, [tf.where(is_finite, state, tf.zeros_like(state)) for state in states]

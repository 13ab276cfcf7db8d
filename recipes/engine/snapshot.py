"""From a model in training to the arrays of a checkpoint and back (TensorFlow only).

The next update hangs on more than the weights: the optimizer's variables, the states of the random generators, what
the step remembers, and, between two evaluations, the metrics. These go by their place, since the names that Keras makes
up differ from one process to the next.
"""

from typing import Any

import keras
import numpy as np

from recipes.engine.checkpoint import OPTIMIZER, WEIGHTS, Checkpoint, Kinds, Snapshot
from recipes.engine.state import RunState

METRICS = "metrics."


def take_snapshot(model: Any, state: RunState) -> Snapshot:
    """Copies of all that a checkpoint holds. On several workers all of them take one, at the same step: to read the
    metrics they have to add them up."""
    others = _others(model)
    if state.mid_interval:
        others |= _by_place(METRICS, _metrics(model))
    return Snapshot(state, _copies(model.named_weights()), _copies(others))


def restore(model: Any, checkpoint: Checkpoint) -> None:
    """Set everything but the metrics, which `fit` resets when it begins, or nothing.

    Raises:
        BrokenCheckpointError: it is of another model, or another optimizer.
    """
    weights, others = model.named_weights(), _others(model)
    checkpoint.require(WEIGHTS, _kinds(weights))
    # Some metrics have no variables before `fit` has seen the data.
    metrics = {name: kind for name, kind in checkpoint.kinds(OPTIMIZER).items() if name.startswith(METRICS)}
    checkpoint.require(OPTIMIZER, {**_kinds(others), **metrics})
    for name, value in checkpoint.read(WEIGHTS):
        weights[name].assign(value)
    for name, value in checkpoint.read(OPTIMIZER):
        if name in others:
            others[name].assign(value)


def restore_metrics(model: Any, checkpoint: Checkpoint) -> None:
    """Set the metrics to what they were in the middle of an interval.

    Raises:
        BrokenCheckpointError: it is of other metrics.
    """
    metrics = _by_place(METRICS, _metrics(model))
    checkpoint.require(OPTIMIZER, _kinds({**_others(model), **metrics}))
    for name, value in checkpoint.read(OPTIMIZER):
        if name in metrics:
            metrics[name].assign(value)


def _metrics(model: Any) -> list[Any]:
    """The variables of the metrics, but for the mean of each of several losses: Keras makes these when it traces the
    step, which is too late to set them, and a run tells of their sum alone."""
    of_single_losses = {id(each) for each in getattr(model._compile_loss, "metrics", ())}
    return [each for metric in model.metrics if id(metric) not in of_single_losses for each in metric.variables]


def _others(model: Any) -> dict[str, Any]:
    weights = {id(weight) for weight in model.weights}
    random = [each for each in model.variables if id(each) not in weights]
    # A learning rate that follows no schedule is a variable: it comes from the settings.
    rate = model.optimizer.learning_rate
    optimizer = [each for each in model.optimizer.variables if each is not rate]
    return {
        **_by_place("optimizer.", optimizer),
        **_by_place("random.", random),
        **{f"step.{name}": each for name, each in model.step_state.variables.items()},
    }


def _by_place(prefix: str, variables: list[Any]) -> dict[str, Any]:
    return {f"{prefix}{place:05}": each for place, each in enumerate(variables)}


def _kinds(variables: dict[str, Any]) -> Kinds:
    return {name: (tuple(each.shape), keras.backend.standardize_dtype(each.dtype)) for name, each in variables.items()}


def _copies(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    # On a CPU what a variable hands out may be its own memory, which the next step writes to.
    return {name: np.array(keras.ops.convert_to_numpy(each)) for name, each in variables.items()}

"""The average of the weights over the updates, where one is kept: it is what is evaluated, and what a run leaves."""

from typing import Any

import keras


def swap_averages(model: Any) -> None:
    """Put the averages in place of the weights, and these in theirs; a second time puts both back. Before the first
    update there are none."""
    optimizer = model.optimizer
    if not int(keras.ops.convert_to_numpy(optimizer.iterations)):
        return
    for weight, average in zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True):
        value = keras.ops.copy(weight)
        weight.assign(average)
        average.assign(value)


class Averages(keras.callbacks.Callback):
    """Evaluates with the averages, which stay until the end of the epoch: it comes after the callbacks that keep or try
    out the model then, and before those that save the training."""

    def on_test_begin(self, logs: Any = None) -> None:
        swap_averages(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        swap_averages(self.model)

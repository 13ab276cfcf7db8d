"""What a run of updates that are not finite ends in (TensorFlow only)."""

import logging
from typing import Any

import keras

logger = logging.getLogger("zoo")


class NonFiniteError(ArithmeticError):
    """Too many updates in a row had a gradient that is not finite: the model stands where the last good one left it."""


class NonFiniteGuard(keras.callbacks.Callback):
    """Tells of updates that were skipped, and ends the training after `limit` of them in a row.

    It looks every `limit` steps, since to look is to wait for the device.
    """

    def __init__(self, limit: int = 10) -> None:
        super().__init__()
        self.limit, self.told, self.steps = limit, 0, 0

    def on_train_begin(self, logs: Any = None) -> None:
        self.told, self.steps = self.model.step_state.skipped, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.steps % self.limit == 0:
            self._look()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._look()

    def _look(self) -> None:
        state = self.model.step_state
        if (skipped := state.skipped) > self.told:
            logger.warning(
                "%d updates skipped: their gradient was not finite (%d in all)", skipped - self.told, skipped
            )
            self.told = skipped
        if state.skipped_in_a_row >= self.limit:
            raise NonFiniteError(
                f"the gradient of {state.skipped_in_a_row} updates in a row was not finite: "
                "lower the learning rate, or clip the gradient lower"
            )

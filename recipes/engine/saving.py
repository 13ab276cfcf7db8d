"""When a run is saved, and when it stops before its end."""

import signal
from typing import Any

import keras
import tensorflow as tf

from recipes.engine.checkpoint import BrokenCheckpointError, Checkpoint, Store
from recipes.engine.interruption import Interruption
from recipes.engine.journal import Journal
from recipes.engine.settings import Training
from recipes.engine.snapshot import restore_metrics, take_snapshot
from zoo.errors import UserError

STEPS_BETWEEN_QUESTIONS = 10  # of several workers to each other, whether one of them is to stop


class Saving(keras.callbacks.Callback):
    """Saves every so many steps, and at the end; and on a signal, after the step or the evaluation that is running.

    It comes after the callback that evaluates: a checkpoint at an evaluation knows its result. Several workers stop
    together, within ten steps.

    Args:
        store: where to.
        journal: of the run.
        training: the settings.
        interruption: the signals.
        begun_from: the checkpoint that the run went on from; None where it began.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        training: Training,
        interruption: Interruption,
        begun_from: Checkpoint | None,
    ) -> None:
        super().__init__()
        self.store, self.journal, self.training, self.interruption = store, journal, training, interruption
        self.every = training.save_every or training.interval
        self.begun_from = begun_from
        self.saved = begun_from.state.step if begun_from else None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # `fit` has just reset the metrics.
        if self.begun_from is not None and self.begun_from.state.mid_interval:
            try:
                restore_metrics(self.model, self.begun_from)
            except BrokenCheckpointError as error:
                raise UserError(f"{self.begun_from.directory} cannot be used ({error})") from None
        self.begun_from = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.journal.step
        if step % self.training.interval == 0 or step >= self.training.steps:
            return  # the evaluation comes first
        if self._is_to_stop(step % STEPS_BETWEEN_QUESTIONS == 0):
            self._save()
            self.interruption.stop()
        if step % self.every == 0:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        step, done = self.journal.step, self.journal.step >= self.training.steps
        stop = not done and self._is_to_stop(True)
        if step % self.every == 0 or done or stop:
            self._save()
        if stop:
            self.interruption.stop()

    def _is_to_stop(self, ask: bool) -> bool:
        """Whether a signal came; to any of several workers, which have to stop at the same step: one that goes on alone
        waits for ever. To ask them all takes time, and is done only where `ask` says so, to all alike."""
        strategy = self.model.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return self.interruption.wanted is not None
        if not ask:
            return False
        own = self.interruption.wanted or 0
        signals = strategy.experimental_distribute_values_from_function(lambda context: tf.constant(own))
        total = int(strategy.reduce(tf.distribute.ReduceOp.SUM, signals, axis=None))
        if total and not own:
            self.interruption.wanted = signal.SIGTERM
        return total > 0

    def _save(self) -> None:
        # In the middle of updates that are left out, nothing tells yet whether this is a point to go on from.
        done = self.journal.step >= self.training.steps
        if self.saved != self.journal.step and (done or self.model.step_state.skipped_in_a_row == 0):
            self.store.save(take_snapshot(self.model, self.journal.state()))
            self.saved = self.journal.step

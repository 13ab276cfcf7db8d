"""Ctrl-C in a training: taken between two steps, where nothing is half done."""

import signal
import threading
from types import FrameType
from typing import Any

import keras


class Interruption(keras.callbacks.Callback):
    """Turns Ctrl-C into a KeyboardInterrupt after the step that is running, and a second one at once.

    Python raises KeyboardInterrupt wherever the main thread is; inside TensorFlow's tracing, or where an object is
    being finalised, it is lost, and the training goes on.
    """

    wanted = False
    previous: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        main = threading.current_thread() is threading.main_thread()  # others may set no handler
        if main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as `nohup` and `&` in a script have it
            self.previous = signal.signal(signal.SIGINT, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._stop_if_wanted()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._stop_if_wanted()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._stop_if_wanted()

    def _stop_if_wanted(self) -> None:
        if self.wanted:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Give Ctrl-C back to whoever had it."""
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None

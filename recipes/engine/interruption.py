"""Ctrl-C and SIGTERM in a training: taken between two steps, where nothing is half done."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

EX_TEMPFAIL = os.EX_TEMPFAIL  # 75: "try again later", as `sysexits.h` has it


class Interruption:
    """Remembers a Ctrl-C or a SIGTERM until somebody looks; a second one ends the program at once.

    Python would raise KeyboardInterrupt wherever the main thread is; inside TensorFlow's tracing, or where an object is
    being finalised, it is lost, and the training goes on. SIGTERM, with which schedulers announce the end, would kill.

    Attributes:
        wanted: the signal that came; None where none did.
        taken: `stop` has followed it.
    """

    def __init__(self) -> None:
        self.wanted: int | None = None
        self.taken = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may set no handler
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` in a script have Ctrl-C
                    self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.wanted is None:
            self.wanted = number
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def stop(self) -> None:
        """End the training as was wanted: KeyboardInterrupt, or an exit with 75 for SIGTERM."""
        self.taken = True
        if self.wanted == signal.SIGTERM:
            raise SystemExit(EX_TEMPFAIL)
        raise KeyboardInterrupt

"""How far a run is: a bar on a terminal, a line now and then anywhere else."""

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar(keras.callbacks.Callback):
    """Shows step, loss, tokens per second and time left on standard error.

    The rate is that of training alone since the last evaluation; the time left counts evaluations in.

    Args:
        steps: number of updates of the whole run.
        tokens_per_step: tokens in one global batch.
        console: where to show it.
    """

    def __init__(self, steps: int, tokens_per_step: int, console: Console) -> None:
        super().__init__()
        self.steps, self.tokens_per_step, self.console = steps, tokens_per_step, console
        self.step = 0
        self.tokens_per_second = 0.0
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def on_train_begin(self, logs: Any = None) -> None:
        self.task = self.bar.add_task("train", total=self.steps, state="compiling")
        self.shown = time.monotonic()
        if self.console.is_terminal:
            self.bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.stretch_began, self.stretch_steps = time.monotonic(), 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        now = time.monotonic()
        if self.step == 1:  # the first step compiles: it says nothing about the speed
            self.began, self.stretch_began = now, now
        else:
            self.stretch_steps += 1
            self.tokens_per_second = self.stretch_steps * self.tokens_per_step / max(now - self.stretch_began, 1e-9)
        if self.console.is_terminal:
            if now - self.shown > 0.2:
                self.shown = now
                state = f"loss {float((logs or {})['loss']):.3f}  {self.tokens_per_second:,.0f} tokens/s"
                self.bar.update(self.task, completed=self.step, state=state)
        elif now - self.shown > SECONDS_BETWEEN_LINES and self.step > 1:
            self.shown = now
            left = (now - self.began) / (self.step - 1) * (self.steps - self.step)
            self.console.print(
                f"step {self.step}/{self.steps}  loss {float((logs or {})['loss']):.3f}  "
                f"{self.tokens_per_second:,.0f} tokens/s  {left:.0f} s left",
                highlight=False,
            )

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; a run that is interrupted never reaches `on_train_end`."""
        if self.console.is_terminal:
            self.bar.stop()

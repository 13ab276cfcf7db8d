"""How far a run is: a bar on a terminal, a line now and then anywhere else."""

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar(keras.callbacks.Callback):
    """Shows step, loss, speed and time left on standard error.

    The rate is that of training alone since the last evaluation; the time left counts evaluations in.

    Args:
        first_step: updates that were done before.
        steps: number of updates of the whole run.
        unit: what the speed is counted in, such as "tokens".
        units_per_step: of them, in one global batch.
        console: where to show it.
    """

    def __init__(self, first_step: int, steps: int, unit: str, units_per_step: int, console: Console) -> None:
        super().__init__()
        self.steps, self.unit, self.units_per_step, self.console = steps, unit, units_per_step, console
        self.first_step = self.step = first_step
        self.units_per_second = 0.0
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("train", total=steps, completed=first_step, state="compiling")

    def on_train_begin(self, logs: Any = None) -> None:
        self.shown = time.monotonic()
        if self.console.is_terminal:
            self.bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.stretch_began, self.stretch_steps = time.monotonic(), 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        now = time.monotonic()
        if self.step == self.first_step + 1:  # the first step compiles: it says nothing about the speed
            self.began, self.stretch_began = now, now
        else:
            self.stretch_steps += 1
            self.units_per_second = self.stretch_steps * self.units_per_step / max(now - self.stretch_began, 1e-9)
        if self.console.is_terminal:
            if now - self.shown > 0.2:
                self.shown = now
                state = f"loss {float((logs or {})['loss']):.3f}  {self.units_per_second:,.0f} {self.unit}/s"
                self.bar.update(self.task, completed=self.step, state=state)
        elif now - self.shown > SECONDS_BETWEEN_LINES and self.step > self.first_step + 1:
            self.shown = now
            left = (now - self.began) / (self.step - self.first_step - 1) * (self.steps - self.step)
            self.console.print(
                f"step {self.step}/{self.steps}  loss {float((logs or {})['loss']):.3f}  "
                f"{self.units_per_second:,.0f} {self.unit}/s  {left:.0f} s left",
                highlight=False,
            )

    def close(self) -> None:
        """Take the bar away."""
        if self.console.is_terminal:
            self.bar.stop()

"""After each evaluation: a row, a line on the console, a sample, and the model if it is the best so far."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

import zoo.lora
import zoo.presets
from recipes.engine.job import Figures, Job
from recipes.engine.journal import Journal
from recipes.engine.progress import ProgressBar
from zoo.training import NonFiniteError


class Records(keras.callbacks.Callback):
    """Counts the steps, and tells the journal of each evaluation. `model/` is replaced where it is the best. A
    loss that is not finite is a NonFiniteError.

    Args:
        journal: of the run.
        job: for its figures and samples.
        steps: number of updates of the whole run.
        evaluate: measures more than the loss; None measures no more.
        sample: makes a sample text; None makes none.
        progress: for the speed.
        console: where to tell.
    """

    def __init__(
        self,
        journal: Journal,
        job: Job,
        steps: int,
        evaluate: Callable[[], Figures] | None,
        sample: Callable[[], str] | None,
        progress: ProgressBar,
        console: Console,
    ) -> None:
        super().__init__()
        self.journal, self.job, self.steps = journal, job, steps
        self.evaluate, self.sample, self.progress, self.console = evaluate, sample, progress, console

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.journal.step += 1
        if self.journal.step >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs, journal = logs or {}, self.journal
        validation_loss = float(logs["val_loss"])
        speed = f"{self.job.unit}_per_second"
        row = {
            "step": journal.step,
            "loss": float(logs["loss"]),
            "validation_loss": validation_loss,
            **self.job.figures(validation_loss),
            **(self.evaluate() if self.evaluate else {}),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "skipped_updates": self.model.step_state.skipped,
            speed: round(self.progress.units_per_second),
            "seconds": round(journal.seconds, 2),
        }
        if not math.isfinite(row["loss"]) or not math.isfinite(validation_loss):
            raise NonFiniteError(f"the loss is not finite at step {journal.step}: lower --learning-rate or --clip-norm")
        best = self.job.is_better(row, journal.best)
        journal.add(row)
        if best:
            if journal.writes:
                keep_model(self.job.kept(self.model), journal.run)
            journal.keep_best(row)
        judged = self.job.judged_by
        figure = "" if judged == "validation_loss" else f"  {judged.removeprefix('validation_')} {row[judged]:.4f}"
        self.console.print(
            f"step {journal.step}/{self.steps}  loss {row['loss']:.4f}  validation {row['validation_loss']:.4f}{figure}"
            f"{' (best)' if best else ''}  {row[speed]:,} {self.job.unit}/s  {row['seconds']:.0f} s",
            highlight=False,
            soft_wrap=True,
        )
        if self.sample is not None:
            text = self.sample()
            journal.add_sample(text)
            self.console.print(
                f"  {text!r}", style="dim", highlight=False, markup=False, overflow="ellipsis", no_wrap=True
            )


def keep_model(model: Any, run: Path) -> None:
    """Write `model/`; where adapters are trained, with these merged, and in `adapters/` apart."""
    zoo.presets.save(model, run / "model", force=True)
    if model.lora is not None:
        zoo.lora.save_lora(model, run / "adapters", force=True)

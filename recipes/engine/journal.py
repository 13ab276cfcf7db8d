"""What a run has measured so far, in memory and in files: `metrics.jsonl`, `samples.txt` and `loss.png`."""

import hashlib
import json
import time
from pathlib import Path

from matplotlib.figure import Figure

from recipes.engine.state import Row, RunState
from zoo.files import whole_file, write_text

WEIGHTS = "model/model.safetensors"


class Journal:
    """The record of a run, from its beginning or from a checkpoint on.

    Args:
        run: the run directory.
        state: where to go on; None begins.
        writes: of several workers one alone writes files.
        judged_by: the figure that is drawn beside the losses, where it is another.

    Attributes:
        step: updates done.
        rows: one for each evaluation.
        best: the row of the best evaluation.
    """

    def __init__(
        self, run: Path, state: RunState | None, writes: bool = True, judged_by: str = "validation_loss"
    ) -> None:
        self.run, self.writes, self.judged_by = run, writes, judged_by
        self.step = state.step if state else 0
        self.rows: list[Row] = list(state.rows) if state else []
        self.best = state.best if state else None
        self._best_weights = state.best_weights if state else ""
        self._samples = list(state.samples) if state else []
        self._began = time.monotonic() - (state.seconds if state else 0.0)
        if writes:  # what was written after the checkpoint is to be done again
            write_text(run / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in self.rows))
            if self._samples:
                write_text(run / "samples.txt", "".join(_entry(*sample) for sample in self._samples))
            else:
                (run / "samples.txt").unlink(missing_ok=True)
            if self.rows:
                self._draw()

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between its processes."""
        return time.monotonic() - self._began

    def state(self) -> RunState:
        """The run at this moment."""
        return RunState(
            step=self.step,
            seconds=self.seconds,
            rows=tuple(self.rows),
            samples=tuple(self._samples),
            best=self.best,
            best_weights=self._best_weights,
            mid_interval=self.step != (self.rows[-1]["step"] if self.rows else 0),
        )

    def add(self, row: Row) -> None:
        """Take note of an evaluation."""
        self.rows.append(row)
        if self.writes:
            with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self._draw()

    def add_sample(self, text: str) -> None:
        self._samples.append((self.step, text))
        if self.writes:
            with (self.run / "samples.txt").open("a", encoding="utf-8") as file:
                file.write(_entry(self.step, text))

    def keep_best(self, row: Row) -> None:
        """This row is the best, and `model/` has been written for it."""
        self.best = row
        if self.writes:
            self._best_weights = self._hash_of_model()

    def best_is_there(self) -> bool:
        """Whether `model/` holds the best, and not a later one that a killed process left, or nothing."""
        return (self.run / WEIGHTS).is_file() and self._hash_of_model() == self._best_weights

    def forget_best(self) -> None:
        """The next evaluation is the best: the model of the one that was is lost."""
        self.best, self._best_weights = None, ""

    def _hash_of_model(self) -> str:
        with (self.run / WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _draw(self) -> None:
        figure = Figure(figsize=(7, 4), layout="constrained")
        both = self.judged_by != "validation_loss"
        axes = figure.add_subplot(1, 2, 1) if both else figure.add_subplot()
        steps = [row["step"] for row in self.rows]
        axes.plot(
            steps, [row["loss"] for row in self.rows], marker="o", markersize=3, label="training (mean since last)"
        )
        axes.plot(steps, [row["validation_loss"] for row in self.rows], marker="o", markersize=3, label="validation")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        axes.legend()
        if both:
            judged = figure.add_subplot(1, 2, 2)
            judged.plot(steps, [row[self.judged_by] for row in self.rows], marker="o", markersize=3, color="C2")
            judged.set_xlabel("step")
            judged.set_title(self.judged_by.replace("_", " "), fontsize="medium")
            judged.grid(alpha=0.3)
        with whole_file(self.run / "loss.png") as partial:
            figure.savefig(partial, format="png", dpi=120)


def _entry(step: int, text: str) -> str:
    return f"--- step {step}\n{text}\n"

"""What a run leaves behind as it goes: metrics, the curve, samples, and the best model."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from matplotlib.figure import Figure
from rich.console import Console

import zoo.presets
from zoo.errors import UserError
from zoo.files import whole_file


class Records(keras.callbacks.Callback):
    """After each evaluation: a line in `metrics.jsonl`, `loss.png` drawn anew, a line and a sample on the console,
    and `model/` replaced if the validation loss is the best so far.

    Args:
        run: the run directory.
        steps: number of updates of the whole run.
        bytes_per_token: of the validation text, to state its loss in bits per byte.
        sample: makes a sample text; None makes none.
        speed: gives the tokens per second at present.
        console: where to tell.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        bytes_per_token: float,
        sample: Callable[[], str] | None,
        speed: Callable[[], float],
        console: Console,
    ) -> None:
        super().__init__()
        self.run, self.steps, self.bytes_per_token = run, steps, bytes_per_token
        self.sample, self.speed, self.console = sample, speed, console
        self.began = time.monotonic()
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.rows: list[dict[str, Any]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self.step >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        row = {
            "step": self.step,
            "loss": float(logs["loss"]),
            "validation_loss": float(logs["val_loss"]),
            "validation_bits_per_byte": float(logs["val_loss"]) / self.bytes_per_token / math.log(2),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "tokens_per_second": round(self.speed()),
            "seconds": round(time.monotonic() - self.began, 2),
        }
        if not math.isfinite(row["loss"]) or not math.isfinite(row["validation_loss"]):
            raise UserError(
                f"the loss is not finite at step {self.step}: lower --learning-rate or --clip-norm"
                + (f"; {self.run / 'model'} keeps step {self.best['step']}" if self.best else "")
            )
        self.rows.append(row)
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._draw()
        best = self.best is None or row["validation_loss"] < self.best["validation_loss"]
        if best:
            self.best = row
            zoo.presets.save(self.model, self.run / "model", force=True)
        self.console.print(
            f"step {self.step}/{self.steps}  loss {row['loss']:.4f}  validation {row['validation_loss']:.4f}"
            f"{' (best)' if best else ''}  {row['tokens_per_second']:,} tokens/s  {row['seconds']:.0f} s",
            highlight=False,
        )
        if self.sample is not None:
            text = self.sample()
            with (self.run / "samples.txt").open("a", encoding="utf-8") as file:
                file.write(f"--- step {self.step}\n{text}\n")
            self.console.print(
                f"  {text!r}", style="dim", highlight=False, markup=False, overflow="ellipsis", no_wrap=True
            )

    def _draw(self) -> None:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        steps = [row["step"] for row in self.rows]
        axes.plot(
            steps, [row["loss"] for row in self.rows], marker="o", markersize=3, label="training (mean since last)"
        )
        axes.plot(steps, [row["validation_loss"] for row in self.rows], marker="o", markersize=3, label="validation")
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(alpha=0.3)
        axes.legend()
        with whole_file(self.run / "loss.png") as partial:
            figure.savefig(partial, format="png", dpi=120)

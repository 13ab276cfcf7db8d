"""The loop of every recipe: strategy, compile, `model.fit`, and what a run leaves behind (TensorFlow only)."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from recipes.engine.interruption import Interruption
from recipes.engine.optimizer import make_optimizer
from recipes.engine.progress import ProgressBar
from recipes.engine.records import Records
from recipes.engine.settings import Training
from recipes.engine.strategy import make_strategy
from zoo.errors import UserError


def train(
    make_model: Callable[[str], Any],
    losses: dict[str, Any],
    train_data: Any,
    validation_data: Any,
    training: Training,
    run: Path,
    open_run: Callable[[], None],
    tokens_per_step: int,
    bytes_per_token: float,
    make_sample: Callable[[Any], Callable[[], str] | None],
) -> dict[str, Any]:
    """Train a model and leave the best of it in `run/model`.

    Args:
        make_model: makes or loads the model with the dtype policy it is given; called under the strategy.
        losses: by name of output; the mean over the batch is taken.
        train_data: `tf.data.Dataset` of global batches, at least `training.steps` of them.
        validation_data: the same, ending.
        training: the settings.
        run: the run directory.
        open_run: makes the run directory; called when nothing is left that the user can have got wrong.
        tokens_per_step: tokens in a global batch, for the speed.
        bytes_per_token: of the validation text.
        make_sample: given the model, gives what makes a sample text after each evaluation, or None.

    Returns:
        What there is to tell: the best step, its losses, the time taken.
    """
    console = Console(stderr=True)
    keras.utils.set_random_seed(training.seed)
    strategy = make_strategy(training.strategy, training.batch_size)
    replicas = strategy.num_replicas_in_sync
    held_out = tf.nest.flatten(validation_data.element_spec)[0].shape[0]
    if held_out % replicas:
        raise UserError(
            f"the held-out text makes batches of {held_out} windows, which {replicas} replicas cannot share evenly: "
            "hold out more text, or use --strategy one"
        )
    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    with strategy.scope():
        model = make_model("mixed_bfloat16" if training.precision == "bfloat16" else "float32")
        # XLA inside MirroredStrategy fails on CPU (tensorflow #56423).
        model.compile(
            optimizer=make_optimizer(model, training), loss=losses, jit_compile=training.xla and replicas == 1
        )
    open_run()
    console.print(
        f"{model.count_params():,} parameters, {training.steps:,} steps of {tokens_per_step:,} tokens, "
        f"on {replicas} {device}{'s' if replicas > 1 else ''}",
        highlight=False,
    )
    progress = ProgressBar(training.steps, tokens_per_step, console)
    records = Records(
        run, training.steps, bytes_per_token, make_sample(model), lambda: progress.tokens_per_second, console
    )
    interruption = Interruption()
    board = keras.callbacks.TensorBoard(str(run / "tensorboard"), write_graph=False)
    try:
        model.fit(
            train_data,
            steps_per_epoch=training.evaluate_every,
            epochs=math.ceil(training.steps / training.evaluate_every),
            validation_data=validation_data,
            callbacks=[progress, records, board, interruption],
            shuffle=False,  # the data is in the order that it is to be in
            verbose=0,
        )
    except KeyboardInterrupt:
        kept = f"{run / 'model'} keeps step {records.best['step']}" if records.best else "no model was kept yet"
        print(f"stopped at step {records.step}: {kept}", file=sys.stderr)
        raise
    finally:
        interruption.close()
        progress.close()
    assert records.best is not None  # every run ends with an evaluation
    return {
        "run": str(run),
        "best_step": records.best["step"],
        "validation_loss": records.best["validation_loss"],
        "validation_bits_per_byte": records.best["validation_bits_per_byte"],
        "seconds": records.rows[-1]["seconds"],
        "tokens_per_second": records.rows[-1]["tokens_per_second"],
    }

"""The loop of every recipe: strategy, compile, restore, `model.fit`, and what a run leaves behind (TensorFlow only)."""

import contextlib
import logging
import math
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

import zoo
from recipes.data.dataset import raise_failure
from recipes.engine.averages import Averages, swap_averages
from recipes.engine.checkpoint import BrokenCheckpointError, Checkpoint, Store
from recipes.engine.cluster import is_first
from recipes.engine.directory import SUMMARY, Run
from recipes.engine.interruption import EX_TEMPFAIL, Interruption
from recipes.engine.job import Job
from recipes.engine.journal import Journal
from recipes.engine.memory import peak_memory
from recipes.engine.optimizer import make_optimizer
from recipes.engine.progress import ProgressBar
from recipes.engine.records import Records, keep_model
from recipes.engine.saving import Saving
from recipes.engine.settings import Training
from recipes.engine.snapshot import restore
from recipes.engine.state import summarize
from recipes.engine.strategy import make_strategy
from recipes.engine.summary import write_summary
from zoo.errors import UserError
from zoo.training import NonFiniteError

logger = logging.getLogger("zoo")

# What TensorFlow raises on a worker when it cannot reach another.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def train(job: Job, training: Training, run: Run) -> dict[str, Any]:
    """Train a model, from the beginning or from the newest checkpoint in the run directory on, and leave the best of it
    in `model/`.

    A run that was killed at any moment ends as one that never was, bit for bit on one CPU: weights, optimizer, random
    states, metrics and the data go on from where the checkpoint has them.

    Args:
        job: what to train, on what.
        training: the settings.
        run: where; the directory is made, or opened, when nothing is left that the user can have got wrong.

    Returns:
        What there is to tell: see `recipes.engine.state.summarize`.

    Raises:
        UserError: the settings do not fit the devices or the run; no checkpoint can be used; the loss or ten updates in
            a row are not finite.
        KeyboardInterrupt: by Ctrl-C, after a checkpoint.
        SystemExit: with 75, by SIGTERM, after a checkpoint; or where another worker was lost.
    """
    # Several workers can be joined only before TensorFlow does anything else.
    strategy = make_strategy(training.strategy, training.batch_size, training.accumulate, training.cluster)
    keras.utils.set_random_seed(training.seed)
    replicas = strategy.num_replicas_in_sync
    validation_data = job.validation_data()
    held_out = tf.nest.flatten(validation_data.element_spec)[0].shape[0]
    if held_out is not None and held_out % replicas:
        raise UserError(
            f"the held-out data makes batches of {held_out}, which {replicas} replicas cannot share evenly: "
            "hold out more, or use --strategy one"
        )
    # Of several workers one alone writes, and speaks.
    writes = is_first(strategy.cluster_resolver)
    console = Console(stderr=True, quiet=not writes)
    with strategy.scope():
        model = job.make_model(POLICIES[training.precision])
        optimizer = make_optimizer(model, training.optimization, training.steps)
        model.recompute = training.recompute
        # XLA inside MirroredStrategy fails on CPU (tensorflow #56423).
        model.compile(
            optimizer=optimizer,
            loss=job.losses(model) if callable(job.losses) else job.losses,
            loss_weights=job.loss_weights,
            jit_compile=training.xla and replicas == 1,
            accumulate=training.accumulate,
        )
        optimizer.build(model.trainable_variables)  # for there to be something to restore
        # Keras would put the averages, where there are any, in place of the weights whenever a `fit` ends; a run that
        # goes on has more than one, and is to end as any other.
        optimizer.finalize_variable_values = lambda weights: None
    with run.opened() if writes else contextlib.nullcontext(), Interruption() as interruption:
        store = run.store
        store.writes = writes
        checkpoint = store.newest(lambda found: restore(model, found)) if run.goes_on else None
        if writes and run.goes_on:
            run.take_over()  # a changed setting is the run's own once its checkpoint has been found to fit
        if writes:
            (run.directory / SUMMARY).unlink(missing_ok=True)  # of a run that is given more steps
        journal = Journal(run.directory, checkpoint.state if checkpoint else None, writes, job.judged_by)
        if checkpoint is not None:
            require_best(model, job.kept(model), journal, store, checkpoint)
        costs: dict[str, Any] = {"trained_parameters": sum(math.prod(v.shape) for v in model.trainable_variables)}
        _announce(console, job, training, model, replicas, journal.step)
        progress = ProgressBar(journal.step, training.steps, job.unit, job.units_per_step, console)
        evaluate = job.make_evaluation(job.kept(model)) if job.make_evaluation else None
        sample = job.make_sample(job.kept(model)) if job.make_sample and writes else None
        callbacks = [
            progress,
            Records(journal, job, training.steps, evaluate, sample, progress, console),
            *([Averages()] if optimizer.use_ema else []),
            *([keras.callbacks.TensorBoard(run.directory / "tensorboard", write_graph=False)] if writes else []),
            Saving(store, journal, training, interruption, checkpoint),
        ]
        try:
            _fit(model, job.train_data, validation_data, training, journal, callbacks)
            store.wait()
            if (memory := peak_memory()) is not None:
                costs["peak_memory_mb"] = round(memory)
            if writes:
                _report(job, run, journal, costs)
        except NonFiniteError as error:
            store.wait()
            last = f"{store.path(store.steps()[0])} is the last good checkpoint" if store.steps() else "none was saved"
            raise UserError(f"{error}; {last}") from None
        except OSError as error:  # a full disk
            with contextlib.suppress(OSError):
                store.wait()
            raise UserError(
                f"{run.directory} cannot be written ({error.strerror or error}): make room there; "
                f"{_tell_kept(store, journal)}"
            ) from None
        except tf.errors.OpError as error:
            raise_failure()
            if not isinstance(error, LOST) or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
                raise
            store.wait()
            logger.error("another worker was lost (%s): %s", _last_line(error), _tell_kept(store, journal))
            raise SystemExit(EX_TEMPFAIL) from None
        except (KeyboardInterrupt, SystemExit):
            if interruption.taken:  # and not a second one, which waits for nothing
                store.wait()
                if writes:
                    print(f"stopped at step {journal.step}: {_tell_kept(store, journal)}", file=sys.stderr)
            raise
        finally:
            progress.close()
    return summarize(run.directory, journal.state(), job.unit) | costs


def _fit(
    model: Any,
    train_data: Callable[[int], Any],
    validation_data: Any,
    training: Training,
    journal: Journal,
    callbacks: list[Any],
) -> None:
    """Interval by interval, each an epoch for Keras, with an evaluation at its end. One that was interrupted comes
    first, by itself, since the epochs of one `fit` are equally long."""
    every = training.interval
    while journal.step < training.steps:
        done = journal.step % every
        interval = journal.step // every
        model.fit(
            train_data(journal.step),
            steps_per_epoch=every - done,
            initial_epoch=interval,
            epochs=interval + 1 if done else math.ceil(training.steps / every),
            validation_data=validation_data,
            callbacks=callbacks,
            shuffle=False,  # the data is in the order that it is to be in
            verbose=0,
        )


def require_best(model: Any, kept: Any, journal: Journal, store: Store, checkpoint: Checkpoint) -> None:
    """Let `model/` be what the checkpoint says it is: a process that was killed may have replaced it since.

    Args:
        model: what is trained.
        kept: the part of it that is left in `model/`.
        journal, store: of the run.
        checkpoint: the one that the run goes on from.
    """
    if journal.best is None or not journal.writes or journal.best_is_there():
        return
    best = store.at(journal.best["step"])
    try:
        if best is None:
            raise BrokenCheckpointError("there is none")
        restore(model, best)
    except BrokenCheckpointError:
        journal.forget_best()
        return
    if model.optimizer.use_ema:
        swap_averages(model)
    keep_model(kept, journal.run)
    journal.keep_best(journal.best)
    restore(model, checkpoint)


def _report(job: Job, run: Run, journal: Journal, costs: dict[str, Any]) -> None:
    """What there is to look at once the last step is done; `summary.md` comes last, and ends the run."""
    pages = job.report(zoo.load(run.directory / "model"), run.directory) if job.report else []
    write_summary(run, journal.state(), job.unit, costs, pages)


def _announce(console: Console, job: Job, training: Training, model: Any, replicas: int, step: int) -> None:
    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    console.print(
        f"{model.count_params():,} parameters, {training.steps:,} steps of {job.units_per_step:,} {job.unit}, "
        f"on {replicas} {device}{'s' if replicas > 1 else ''}"
        f"{f', going on from step {step:,}' if step else ''}",
        highlight=False,
    )


def _last_line(error: tf.errors.OpError) -> str:
    """Of the many lines of TensorFlow's message the one that tells what happened."""
    lines = [line for line in str(error).splitlines() if line.startswith("Collective ops is aborted")]
    return (lines or [type(error).__name__])[0]


def _tell_kept(store: Store, journal: Journal) -> str:
    """What a run that stopped leaves."""
    steps = store.steps()
    told = (
        f"the same command goes on from {store.path(steps[0])}"
        if steps
        else "no checkpoint was saved yet, and the same command begins again"
    )
    return told + (f"; {journal.run / 'model'} keeps step {journal.best['step']}" if journal.best else "")

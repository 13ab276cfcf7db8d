"""The training step under `tf.distribute` (TensorFlow only): N replicas equal one device on the same global batch."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf

from zoo.training.guard import NonFiniteGuard
from zoo.training.loss import GlobalBatch, globalize, of_global_batch
from zoo.training.micro_batches import add_up, collect, split, take
from zoo.training.replicas import count_replicas
from zoo.training.update import StepState, apply_gradients


class DistributedModel(keras.Model):
    """A Keras model whose `fit` ends with the same weights on one device, on several, and on several workers.

    Stock Keras takes a mean of means where the parts of a batch weigh differently, clips the gradient of each replica
    by itself, looks for overflow on the first replica alone, and does not run on several workers at all. Here a loss is
    a sum over the global batch, divided once; the gradients are summed over the replicas, then checked, then clipped,
    then applied, or, where one is not finite, left out everywhere.

    A subclass may override `compute_loss`: it returns what this replica contributes, so that the sum over replicas is
    the loss of the global batch; a loss of its own goes through `zoo.training.GlobalLoss`.

    Attributes:
        joint_outputs: the names of the outputs that `compute_loss` looks at, where the loss compares the examples of a
            batch with one another; none where it is a sum over examples.
        step_state: what the step remembers, once compiled: `skipped` updates, the loss scale.
    """

    joint_outputs: ClassVar[tuple[str, ...]] = ()
    step_state: StepState
    train_function: Any
    test_function: Any

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, accumulate: int = 1, **kwargs: Any
    ) -> None:
        """As Keras's, and:

        Args:
            optimizer: any Keras optimizer. Its limits hold for the gradient of the global batch. Under mixed_float16
                the step scales the loss.
            loss: any of Keras's; "sum_over_batch_size" is a mean over the global batch, "mean_with_sample_weight" a sum
                over it divided by the sum of its weights.
            accumulate: into how many micro-batches, one after the other, each replica's part of a batch is split; the
                update is that of the whole batch.

        Raises:
            ValueError: something that would train otherwise than it says; the message tells what to do instead.
        """
        optimizer = keras.optimizers.get(optimizer)
        strategy = self.distribute_strategy
        _require_supported(optimizer, strategy, accumulate)
        kwargs["auto_scale_loss"] = False
        super().compile(optimizer, globalize(loss), *args, **kwargs)
        workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if self.steps_per_execution > 1 and (workers or strategy.num_replicas_in_sync > 1):
            raise ValueError("steps_per_execution fails under several replicas: leave it at 1")
        # Past Keras's bookkeeping, which takes no new part once a model is built; its own tracker goes past it as well.
        object.__setattr__(self, "_loss_tracker", _LossMean(name="loss"))
        self.accumulate = accumulate
        with strategy.scope():
            self.step_state = StepState(scales_loss=self.compute_dtype == "float16")

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        return {**config, "accumulate": self.accumulate} if config else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As Keras's, and:

        Raises:
            NonFiniteError: ten updates in a row were left out, because a gradient was not finite.
        """
        guard = NonFiniteGuard()
        if isinstance(callbacks, keras.callbacks.CallbackList):
            guard.set_model(self)
            callbacks.append(guard)
        else:
            callbacks = [
                *(callbacks if isinstance(callbacks, list | tuple) else [callbacks] if callbacks else []),
                guard,
            ]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update, in the context of one replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = self.trainable_weights
        if self.accumulate == 1:
            gradients = self._gradients((x, y, sample_weight), weights, GlobalBatch.of(x, sample_weight, 1))
        elif self.joint_outputs:
            gradients = self._gradients_of_joint_loss(x, y, sample_weight, weights)
        else:
            batch = GlobalBatch.of(x, sample_weight, self.accumulate)
            parts = split((x, y, sample_weight), self.accumulate)
            gradients = add_up(
                self.accumulate, lambda place: self._gradients(take(parts, place), weights, batch), weights
            )
        apply_gradients(self.optimizer, gradients, weights, self.step_state)
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """The loss and the metrics of one batch, in the context of one replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = GlobalBatch.of(x, sample_weight, 1)
        self._measure(x, y, self(x, training=False), sample_weight, batch, training=False)
        return self.get_metrics_result()

    def _gradients(self, data: tuple[Any, Any, Any], weights: list[Any], batch: GlobalBatch) -> list[Any]:
        """What these examples add to the gradient of the scaled loss; loss and metrics take note of them."""
        x, y, sample_weight = data
        with tf.GradientTape() as tape:
            loss = self._measure(x, y, self(x, training=True), sample_weight, batch, training=True)
            loss = loss * (self.step_state.loss_scale / batch.micro_batches)
        return _dense(tape.gradient(loss, weights))

    def _measure(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, batch: GlobalBatch, training: bool) -> Any:
        """This replica's share in the loss of the batch, after loss and metrics took note of it."""
        with of_global_batch(batch):
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        replicas = count_replicas()
        weight = batch.rows / (replicas * batch.micro_batches)
        # An update that is skipped is told by its count: one loss that is not finite would hide all the others'.
        counts = tf.math.is_finite(loss) if training else tf.constant(True)
        self._loss_tracker.update_state(
            tf.where(counts, loss, 0.0) * replicas, sample_weight=tf.where(counts, weight, 0.0)
        )
        self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        scale = self.optimizer.loss_scale_factor
        return loss * scale if training and scale and not self.step_state.scales_loss else loss

    def _gradients_of_joint_loss(self, x: Any, y: Any, sample_weight: Any, weights: list[Any]) -> list[Any]:
        """The gradient of a loss that compares examples, by micro-batches (Gao et al. 2021, section 3): all outputs
        first, without what a backward pass needs; the loss and its gradient by the outputs; then each micro-batch
        again, forward and back from that gradient."""
        parts, count = split(x, self.accumulate), self.accumulate
        random_states = [(each, tf.identity(each.value)) for each in _random_states(self)]

        def outputs_of(place: Any) -> list[Any]:
            outputs = self(take(parts, place), training=True)
            return [outputs[name] for name in self.joint_outputs]

        specs = [tf.TensorSpec([None, *shape[1:]], dtype) for shape, dtype in self._joint_specs(x)]
        outputs = collect(count, outputs_of, specs)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            y_pred = dict(zip(self.joint_outputs, outputs, strict=True))
            loss = self._measure(x, y, y_pred, sample_weight, GlobalBatch.of(x, sample_weight, 1), training=True)
            loss = loss * self.step_state.loss_scale
        direct, by_output = tape.gradient(loss, (weights, outputs))
        by_output = split(by_output, count)
        for state, value in random_states:  # dropout is to draw what it drew the first time
            state.assign(value)

        def gradients_of(place: Any) -> list[Any]:
            with tf.GradientTape() as tape:
                outputs = outputs_of(place)
            return _dense(tape.gradient(outputs, weights, output_gradients=take(by_output, place)))

        through = add_up(count, gradients_of, weights)
        pairs = zip(_dense(direct), through, strict=True)
        return [a if b is None else b if a is None else a + b for a, b in pairs]

    def _joint_specs(self, x: Any) -> list[tuple[Any, Any]]:
        """Shape and dtype of each of the joint outputs."""
        symbols = tf.nest.map_structure(lambda each: keras.KerasTensor(each.shape, dtype=each.dtype.name), x)
        outputs = self.compute_output_spec(symbols)
        return [(outputs[name].shape, outputs[name].dtype) for name in self.joint_outputs]

    def make_train_function(self, force: bool = False) -> Any:
        """As Keras's, whose own fails on several workers."""
        if not isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return super().make_train_function(force)
        if self.train_function is None or force:
            self.train_function = self._make_step_function(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """As Keras's, whose own fails on several workers."""
        if not isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = self._make_step_function(self.test_step)
        return self.test_function

    def _make_step_function(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A step on all replicas of this worker. What it returns is the mean over these alone: the results of an epoch,
        which Keras takes from the metrics themselves, are those of all workers."""
        strategy = self.distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def run(data: Any) -> Any:
            results = strategy.run(step, args=(data,))
            return tf.nest.map_structure(
                lambda each: tf.reduce_mean(tf.stack(strategy.experimental_local_results(each)), axis=0), results
            )

        if not self.run_eagerly:
            run = tf.function(run, reduce_retracing=True, jit_compile=self.jit_compile)
        return lambda iterator: run(next(iter(iterator)))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Keras builds on the mean of the replicas' batches, for which ids become fractions, and fails on several
        workers; the first replica's batch does as well."""
        if self._distribute_strategy is None:
            return
        for _, _, batches in iterator or ():
            batch = next(batches)
            data_batch = tf.nest.map_structure(
                lambda each: self.distribute_strategy.experimental_local_results(each)[0], batch
            )
            break
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)


class _LossMean(keras.metrics.Mean):
    """A mean that is not a number where nothing has been counted. Keras's is zero there, which for a loss would be the
    best there is."""

    def result(self) -> Any:
        return tf.where(tf.convert_to_tensor(self.count) > 0, super().result(), float("nan"))


def _dense(gradients: list[Any]) -> list[Any]:
    """A lookup's gradient is a list of rows, several of one id among them. Optimizers would clip, and square for Adam,
    each by itself: they are added up first."""
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _random_states(model: keras.Model) -> list[Any]:
    """The states of the random generators of a model, which are no weights."""
    weights = {id(weight) for weight in model.weights}
    return [each for each in model.variables if id(each) not in weights]


def _require_supported(optimizer: Any, strategy: Any, accumulate: int) -> None:
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}, and must be at least 1")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "LossScaleOptimizer looks for overflow on the first replica alone: give its inner optimizer; "
            "under mixed_float16 the step scales the loss by itself, and looks at all of them"
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "gradient_accumulation_steps of an optimizer averages over batches of different weight, after each was "
            "clipped: use compile(..., accumulate=k), which splits each batch into k"
        )
    if isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
        raise ValueError("under ParameterServerStrategy workers are not in step: use MultiWorkerMirroredStrategy")
    if strategy.num_replicas_in_sync > 1 and optimizer.ema_overwrite_frequency:
        raise ValueError(
            "ema_overwrite_frequency fails under several replicas: use use_ema with keras.callbacks.SwapEMAWeights"
        )

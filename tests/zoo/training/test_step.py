"""The step in plain `fit`: what is skipped, what users bring along, what is refused."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.training import cases
from tests.zoo.training.cases import BATCH, FAMILIES, RATE, assert_equal, make_adamw, make_data, make_start, train
from zoo.clip.model import CLIPDualEncoder
from zoo.training import DistributedModel, GlobalLoss, NonFiniteError
from zoo.training.update import StepState


def vit(strategy: tf.distribute.Strategy, make_optimizer: Any = make_adamw, **compiled: Any) -> Any:
    """The ViT of `cases`, compiled."""
    with strategy.scope():
        model = FAMILIES["vit"][0]()
        settings = {"loss": {"logits": cases.token_loss()}, "jit_compile": False, **compiled}
        model.compile(make_optimizer(), **settings)
    model.set_weights(make_start("vit"))
    return model


def batches(count: int = 1, spoilt: int | None = None) -> tf.data.Dataset:
    """Batches for it; image `spoilt` of each is infinite."""
    images, labels, weights = FAMILIES["vit"][1](np.random.default_rng(3), count * BATCH)
    if spoilt is not None:
        images["images"][spoilt::BATCH, 0, 0, 0] = np.inf
    return tf.data.Dataset.from_tensor_slices((images, labels, weights)).batch(BATCH)


def everywhere(variables: list[Any]) -> list[np.ndarray]:
    """The values of variables on every replica."""
    return [
        each.numpy() for variable in variables for each in getattr(variable.value, "values", None) or [variable.value]
    ]


@pytest.mark.parametrize("spoilt", [0, BATCH - 1], ids=["first replica", "second replica"])
def test_an_infinity_on_any_replica_changes_nothing_anywhere(two_replicas, spoilt: int) -> None:
    model = vit(two_replicas)
    model.fit(batches(), shuffle=False, verbose=0)
    state = [*model.trainable_variables, *model.optimizer.variables]
    before = everywhere(state)
    assert len(before) == 2 * len(state)
    model.fit(batches(spoilt=spoilt), shuffle=False, verbose=0)
    for old, new in zip(before, everywhere(state), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (model.step_state.skipped, model.step_state.skipped_in_a_row) == (1, 1)
    model.fit(batches(), shuffle=False, verbose=0)
    assert (model.step_state.skipped, model.step_state.skipped_in_a_row) == (1, 0)
    assert not np.array_equal(before[0], everywhere(state)[0])
    assert np.isfinite(np.concatenate([value.ravel() for value in everywhere(state)])).all()


def test_skipped_updates_are_told_and_a_run_of_them_ends_the_training(caplog) -> None:
    model = vit(tf.distribute.get_strategy())
    history = model.fit(batches(5, spoilt=3), shuffle=False, verbose=0).history["loss"]
    assert np.isnan(history).all()  # nothing was learnt, and no number says otherwise
    with pytest.raises(NonFiniteError, match="gradient of 15 updates in a row was not finite: lower the learning rate"):
        model.fit(batches(25, spoilt=3), shuffle=False, verbose=0)
    assert "5 updates skipped: their gradient was not finite (5 in all)" in caplog.text
    for weight, start in zip(model.weights, make_start("vit"), strict=True):
        np.testing.assert_array_equal(weight.numpy(), start)


def test_the_loss_scale_halves_doubles_and_keeps_its_bounds() -> None:
    """Micikevicius et al. 2018: halve where an update is skipped, double after 2000 that were not."""
    state = StepState(scales_loss=True)
    assert float(state.loss_scale) == 2.0**15
    state.note(tf.constant(False))
    assert float(state.loss_scale) == 2.0**14
    state.note(tf.constant(True))
    assert int(state.variables["good_updates"].numpy()) == 1
    state.variables["good_updates"].assign(1998)
    state.note(tf.constant(True))
    assert float(state.loss_scale) == 2.0**14
    state.note(tf.constant(True))
    assert float(state.loss_scale) == 2.0**15
    state.variables["loss_scale"].assign(1.0)
    state.note(tf.constant(False))
    assert float(state.loss_scale) == 1.0
    assert (state.skipped, state.skipped_in_a_row) == (2, 1)


@pytest.fixture(scope="module")
def float16_update() -> Any:
    """Gives what one update of SGD in a precision changes, with a loss that makes tiny gradients."""

    def update(strategy: tf.distribute.Strategy, dtype: str) -> tuple[np.ndarray, Any]:
        with strategy.scope():
            model = FAMILIES["vit"][0](dtype=dtype)
            # Gradients of 1e-7 and less are zero in float16, unless the loss is scaled.
            model.compile(keras.optimizers.SGD(1.0), loss={"logits": cases.token_loss()}, loss_weights={"logits": 1e-5})
        model.set_weights(make_start("vit"))
        model.fit(batches(), shuffle=False, verbose=0)
        pairs = zip(model.get_weights(), make_start("vit"), strict=True)
        return np.concatenate([np.ravel(new - old) for new, old in pairs]), model

    return update


def test_float16_loses_no_small_gradient_on_two_replicas(float16_update, two_replicas) -> None:
    exact, _ = float16_update(tf.distribute.get_strategy(), "float32")
    half, model = float16_update(two_replicas, "mixed_float16")
    assert float(model.step_state.loss_scale) == 2.0**15
    assert model.step_state.skipped == 0
    assert np.linalg.norm(half - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: keras.optimizers.Adam(RATE, use_ema=True, clipnorm=0.01),
        pytest.param(lambda: keras.optimizers.Lion(RATE, clipvalue=0.01), marks=pytest.mark.full),
        pytest.param(
            lambda: keras.optimizers.RMSprop(RATE, loss_scale_factor=4.0, global_clipnorm=0.05), marks=pytest.mark.full
        ),
    ],
    ids=["adam with ema", "lion", "rmsprop with a loss scale"],
)
def test_any_optimizer_of_the_user(two_replicas, make_optimizer) -> None:
    models = [vit(strategy, make_optimizer) for strategy in (tf.distribute.get_strategy(), two_replicas)]
    for model in models:
        model.fit(batches(2), shuffle=False, verbose=0)
    one, two = ([*model.weights, *model.optimizer.variables] for model in models)
    for left, right in zip(one, two, strict=True):
        if "qkv/bias" not in left.path and "qkv_bias" not in left.path:  # a key's has no true gradient
            np.testing.assert_allclose(right.numpy(), left.numpy(), rtol=2e-4, atol=2e-6, err_msg=left.path)


class Counter(keras.callbacks.Callback):
    """A callback that a user has."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))


def squared(y_true: Any, y_pred: Any) -> Any:
    """A loss of the user's, a function."""
    return keras.ops.mean(keras.ops.square(y_pred - keras.ops.cast(y_true, "float32")[..., None] / 37), axis=-1)


@pytest.mark.full  # a loss on two replicas is in the quick tier by itself
def test_losses_metrics_and_callbacks_of_the_user(two_replicas) -> None:
    """A function as the loss, plain and weighted metrics, a callback; a last batch of one row, which leaves the second
    replica without any."""
    inputs, labels, weights = FAMILIES["gpt"][1](np.random.default_rng(3), 17)
    found = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = FAMILIES["gpt"][0]()
            model.compile(
                make_adamw(),
                loss={"logits": squared},
                metrics={"logits": keras.metrics.SparseCategoricalAccuracy(name="accuracy")},
                weighted_metrics={
                    "logits": keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
                },
                jit_compile=False,
            )
        model.set_weights(make_start("gpt"))
        counter = Counter()
        given = {"x": inputs, "y": labels, "sample_weight": weights, "batch_size": BATCH, "verbose": 0}
        history = model.fit(**given, callbacks=[counter], shuffle=False)
        found.append((history.history, model.evaluate(**given, return_dict=True), counter.losses))
    (history, measured, losses), (history_of_two, measured_of_two, losses_of_two) = found
    assert set(history) == {"loss", "accuracy", "entropy"}
    assert len(losses) == 3
    np.testing.assert_allclose(losses_of_two, losses, rtol=1e-5)
    assert history_of_two == {name: pytest.approx(value, rel=1e-5) for name, value in history.items()}
    assert measured_of_two == {name: pytest.approx(value, rel=1e-5) for name, value in measured.items()}


@pytest.mark.parametrize(
    "reduction",
    [
        pytest.param("sum_over_batch_size", marks=pytest.mark.full),
        "mean_with_sample_weight",
        pytest.param("sum", marks=pytest.mark.full),
    ],
)
def test_each_reduction_is_that_of_keras_over_the_whole_batch(two_replicas, reduction: str) -> None:
    """What Keras itself says of one batch is what a test says, and a training in micro-batches on two replicas."""

    def loss() -> Any:
        return {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)}

    one = tf.distribute.get_strategy()
    model = vit(one)
    (inputs, labels, weights), *_ = batches().as_numpy_iterator()
    expected = float(loss()["logits"](labels["logits"], model(inputs)["logits"], weights["logits"]))
    model = vit(two_replicas, loss=loss(), accumulate=2)
    assert model.fit(batches(), shuffle=False, verbose=0).history["loss"] == [pytest.approx(expected, rel=1e-5)]
    model = vit(two_replicas, loss=loss())
    assert model.evaluate(batches(), verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.full
def test_compiled_by_xla_and_in_bfloat16(two_replicas) -> None:
    plain = train("vit", tf.distribute.get_strategy())
    assert_equal(train("vit", tf.distribute.get_strategy(), jit_compile=True), plain)
    with two_replicas.scope():
        model = FAMILIES["gpt"][0](dtype="mixed_bfloat16")
        model.compile(make_adamw(), loss={"logits": cases.token_loss()})
    losses = [model.fit(make_data("gpt"), shuffle=False, verbose=0).history["loss"][0] for _ in range(3)]
    assert losses[2] < losses[0]


@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0, and must be at least 1"),
        ({"steps_per_execution": 2}, "steps_per_execution fails under several replicas: leave it at 1"),
        ({"loss": "crossentropy"}, "the loss 'crossentropy' may mean three: name it"),
        ({"loss": keras.losses.MeanSquaredError(reduction=None)}, "has reduction None: a step minimises one number"),
    ],
)
def test_what_is_not_supported_is_refused(two_replicas, compiled, message) -> None:
    with pytest.raises(ValueError, match=message):
        vit(two_replicas, **compiled)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "use compile(..., accumulate=k)"),
        (
            lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
            "use use_ema with keras.callbacks",
        ),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), "give its inner optimizer"),
    ],
)
def test_an_optimizer_that_is_not_supported_is_refused(two_replicas, optimizer, message) -> None:
    with pytest.raises(ValueError) as raised:
        vit(two_replicas, optimizer)
    assert message in str(raised.value)


def test_micro_batches_need_rows_that_divide() -> None:
    model = vit(tf.distribute.get_strategy(), accumulate=3)
    with pytest.raises(Exception, match="must divide into 3 micro-batches"):
        model.fit(batches(), shuffle=False, verbose=0)


class Masked(DistributedModel):
    """A model of the user's, whose output carries a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(5, 7, mask_zero=True)

    def call(self, x: Any) -> Any:
        return self.embedding(x)


@pytest.mark.parametrize("weighted", [False, True])
def test_masks_and_ignored_classes_are_left_out_of_the_global_mean(two_replicas, weighted: bool) -> None:
    """By hand: the sum over the tokens that are left, over their number, or the sum of their weights."""
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 5, (8, 3)).astype("int32"), rng.integers(0, 7, (8, 3)).astype("int32")
    ids[:4] = np.maximum(ids[:4], 1)
    labels[:2, 1] = -1
    weights = rng.uniform(0.5, 2, (8, 3)).astype("float32") if weighted else np.ones((8, 3), "float32")
    table = rng.normal(size=(5, 7)).astype("float32")
    left = ((ids != 0) & (labels != -1)) * weights
    entropy = (
        np.log(np.exp(table[ids]).sum(-1)) - np.take_along_axis(table[ids], np.maximum(labels, 0)[..., None], 2)[..., 0]
    )
    expected = (entropy * left).sum() / left.sum()
    reduction = "mean_with_sample_weight" if weighted else "sum_over_batch_size"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction=reduction)
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = Masked()
            model(ids)
            model.compile("sgd", loss=loss, jit_compile=False)
        model.set_weights([table])
        given = {"sample_weight": weights} if weighted else {}
        history = model.fit(ids, labels, batch_size=8, shuffle=False, verbose=0, **given).history["loss"]
        assert history == [pytest.approx(expected, rel=1e-5)]
    model = Masked()
    model.compile("sgd", loss=loss, accumulate=2, jit_compile=False)
    with pytest.raises(NotImplementedError, match="has a mask, or an ignore_class, whose sum over micro-batches"):
        model.fit(ids, labels, verbose=0)


def test_what_was_compiled_can_be_told_and_compiled_again() -> None:
    model = vit(tf.distribute.get_strategy(), accumulate=2)
    again = FAMILIES["vit"][0]()
    again.compile_from_config(model.get_compile_config())
    assert again.accumulate == 2
    loss = again.loss["logits"]
    assert isinstance(loss, GlobalLoss)
    assert (loss.path, loss.reduction, loss.loss.from_logits) == (("logits",), "mean_with_sample_weight", True)


@pytest.mark.full  # without dropout it is in the quick tier
def test_cached_embeddings_drop_out_twice_alike() -> None:
    """CLIP in micro-batches with dropout, against one tape over both halves, from the same random states."""
    config = FAMILIES["clip"][0]().config.to_dict()
    for tower in ("vision", "text"):
        config[tower] |= {"dropout": 0.3, "attention_dropout": 0.3}
    models = [CLIPDualEncoder(config) for _ in range(2)]
    ((batch,),) = make_data("clip").take(1)
    for model in models:
        model.build()
        model.compile(keras.optimizers.SGD(1.0), accumulate=2, jit_compile=False)
        model.set_weights(make_start("clip"))
    for one, other in zip(*(random_states(model) for model in models), strict=True):
        other.assign(one)
    models[0].fit(batch, batch_size=BATCH, shuffle=False, verbose=0)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 4), slice(4, 8))]
    with tf.GradientTape() as tape:
        outputs = [models[1](half, training=True) for half in halves]
        names = models[1].joint_outputs
        loss = models[1].compute_loss(y_pred={name: tf.concat([each[name] for each in outputs], 0) for name in names})
    gradients = tape.gradient(loss, models[1].trainable_weights)
    for weight, start, gradient in zip(models[0].weights, make_start("clip"), gradients, strict=True):
        wanted = start - tf.convert_to_tensor(gradient).numpy()
        assert np.linalg.norm(weight.numpy() - wanted) <= 1e-5 * np.linalg.norm(wanted), weight.path
    for one, other in zip(*(random_states(model) for model in models), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def random_states(model: Any) -> list[Any]:
    return [each for each in model.variables if "seed_generator" in each.path]

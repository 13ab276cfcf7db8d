"""`zoo.lora`: adapters that change nothing at first, are trained alone, are kept apart, and can be folded in."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from export.saved_model import write_saved_model
from export.signatures import signatures
from tests.zoo.reference import assert_close
from zoo.generation import Generator
from zoo.layers import Dense, LowRankAdapter
from zoo.lora import add_lora, load_lora, merge_lora, save_lora
from zoo.registry import find_preset
from zoo.tensors import open_tensors, write_tensors

TOWER = {"width": 16, "depth": 1, "num_heads": 2, "mlp_width": 24}
TEXT = {**TOWER, "vocabulary_size": 31, "max_length": 8}
IMAGE = {**TOWER, "image_size": 8, "patch_size": 4}
STILL = {"dropout": 0.0, "attention_dropout": 0.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("classify", {**TEXT, **STILL, "num_classes": 3}),
    "gpt": ("generate", {**TEXT, **STILL}),
    "vit": ("classify", {**IMAGE, **STILL, "num_classes": 3}),
    "clip": ("contrast", {"vision": IMAGE, "text": {**TEXT, "width": 12}, "projection_width": 10, "end_token": None}),
}
RNG = np.random.default_rng(0)
INPUTS = {
    "token_ids": RNG.integers(0, 31, (4, 7)).astype("int32"),
    "padding_mask": np.ones((4, 7), "int32"),
    "images": RNG.normal(size=(4, 8, 8, 3)).astype("float32"),
}
QKV = "backbone.transformer.block_0.attention.qkv"


def make(family: str, task: str | None = None, **overrides: Any) -> Any:
    keras.utils.set_random_seed(0)
    main, sizes = FAMILIES[family]
    return zoo.create(f"{family}-nano", task=task or main, **{**sizes, **overrides})


def inputs_of(model: Any) -> dict[str, np.ndarray]:
    return {spec.name: INPUTS[spec.name] for spec in model.input_specs if spec.name in INPUTS}


def outputs_of(model: Any) -> list[np.ndarray]:
    return [value.numpy() for value in model(inputs_of(model)).values()]


def stir(model: Any, seed: int = 1) -> Any:
    """Adapters as training leaves them: B is no longer zero."""
    rng = np.random.default_rng(seed)
    for name, weight in model.named_weights().items():
        if name.endswith(".lora.b"):
            weight.assign(rng.normal(size=weight.shape) * 0.3)
    return model


def values_of(model: Any) -> dict[str, np.ndarray]:
    return {name: weight.numpy().copy() for name, weight in model.named_weights().items()}


# --- the layer


def test_the_layer_is_the_formula_and_so_is_its_gradient() -> None:
    x, pull = RNG.normal(size=(2, 3, 5)), RNG.normal(size=(2, 3, 4))
    layer = Dense(4, activation="tanh", dtype="float64", name="dense")
    layer.build((None, 3, 5))
    layer.attach(LowRankAdapter(4, rank=2, alpha=6.0, dtype="float64", name="lora"))
    a, b, bias = RNG.normal(size=(5, 2)), RNG.normal(size=(2, 4)), RNG.normal(size=4)
    for weight, value in ((layer.adapter.a, a), (layer.adapter.b, b), (layer.bias, bias)):
        weight.assign(value)
    assert [weight.path for weight in layer.adapter.weights] == ["dense/lora/a", "dense/lora/b"]
    expected = np.tanh(x @ layer.kernel.numpy() + bias + 3.0 * (x @ a) @ b)
    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(y * pull)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    outer = ((1 - expected**2) * pull).reshape(6, 4)
    for gradient, by_hand in zip(
        tape.gradient(loss, [layer.adapter.a.value, layer.adapter.b.value]),
        [3.0 * x.reshape(6, 5).T @ outer @ b.T, 3.0 * (x.reshape(6, 5) @ a).T @ outer],
        strict=True,
    ):
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-10)
    np.testing.assert_allclose(layer.merged_kernel(), layer.kernel.numpy() + 3.0 * a @ b, rtol=1e-12)


def test_the_gradient_of_a_frozen_kernel_is_never_made() -> None:
    """No product of the size of the kernel is left in the graph of a step."""
    layer = Dense(41)
    layer.build((None, 37))
    layer.attach(LowRankAdapter(41, rank=2, alpha=1.0, dropout=0.5))

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True))
        return tape.gradient(loss, [weight.value for weight in layer.adapter.trainable_weights])

    graph = step.get_concrete_function(tf.TensorSpec((3, 37))).graph
    wide = [op for op in graph.get_operations() if op.type == "MatMul" and op.outputs[0].shape == (37, 41)]
    used = {tensor.op for op in graph.get_operations() for tensor in op.inputs}
    assert [op.name for op in wide if op in used] == []


def test_dropout_is_on_the_input_of_the_adapter_alone() -> None:
    layer = Dense(4)
    layer.build((None, 400))
    layer.kernel.assign(np.zeros((400, 4)))
    layer.attach(LowRankAdapter(4, rank=1, alpha=1.0, dropout=0.5))
    layer.adapter.a.assign(np.ones((400, 1)))
    layer.adapter.b.assign(np.ones((1, 4)))
    x = np.ones((64, 400), "float32")
    np.testing.assert_array_equal(layer(x, training=False), np.full((64, 4), 400.0))
    kept = layer(x, training=True).numpy()[:, 0] / 2
    assert abs(kept.mean() - 200) < 5 and 5 < kept.std() < 15  # binomial: 200 and 10


# --- a model of each family


@pytest.fixture(scope="module", params=FAMILIES)
def adapted(request: pytest.FixtureRequest, enliven: Any) -> tuple[Any, list[np.ndarray]]:
    """A model with adapters that do something, and what it gave without any. No test changes it."""
    model = enliven(make(request.param))
    before = outputs_of(model)
    add_lora(model, rank=3, alpha=6.0)
    for ours, theirs in zip(outputs_of(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)  # a fresh adapter changes nothing
    return stir(model), before


def test_every_attention_and_feed_forward_layer_has_one(adapted) -> None:
    model, before = adapted
    blocks = [layer for layer in model._flatten_layers() if layer.name.startswith("block_")]
    names = [name for name in model.named_weights() if ".lora." in name]
    assert len(set(names)) == len(blocks) * 4 * 2
    assert [name for name in model.named_weights() if name.endswith("block_0.feed_forward.down.lora.a")]
    assert len(model.weights) == len(model.named_weights())
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(outputs_of(model), before, strict=True))


def test_a_seed_draws_the_same_adapters_in_every_process() -> None:
    """In the order of the layers, and not in one that Python chooses anew each time."""
    model = make("bert")
    keras.utils.set_random_seed(5)
    add_lora(model, rank=2)
    keras.utils.set_random_seed(5)
    for name, weight in model.named_weights().items():
        if name.endswith(".lora.a"):
            np.testing.assert_array_equal(weight.numpy(), keras.initializers.HeNormal()(weight.shape))


def test_only_adapters_and_heads_are_trained(adapted) -> None:
    model, _ = adapted
    trainable = {id(weight) for weight in model.trainable_weights}
    for name, weight in model.named_weights().items():
        assert (id(weight) in trainable) == (".lora." in name or model.is_head(name)), name


def test_saved_it_is_merged_and_stays_as_it_is(adapted, tmp_path: Path) -> None:
    model, _ = adapted
    before, outputs = values_of(model), outputs_of(model)
    for layout in ("zoo", "hf"):
        zoo.save(model, tmp_path / layout, layout=layout)
        plain = zoo.load(tmp_path / layout, task=model.task)
        assert plain.lora is None and not [name for name in plain.named_weights() if ".lora." in name]
        for ours, theirs in zip(outputs_of(plain), outputs, strict=True):
            assert_close(ours, theirs, tolerance=1e-6)
        assert f"{plain.count_params():,} parameters" in (tmp_path / layout / "README.md").read_text()
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_adapters_come_back_and_fold_in(adapted, enliven, tmp_path: Path) -> None:
    """Onto a fresh copy of the same base; then merged, which leaves a plain model with the same outputs."""
    model, before = adapted
    save_lora(model, tmp_path / "adapters")
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["adapter.json", "adapter.safetensors"]
    again = enliven(make(model.family))
    plain = list(again.named_weights())
    trainable = [weight.path for weight in again.trainable_weights]
    for ours, theirs in zip(outputs_of(again), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    load_lora(again, tmp_path / "adapters")
    assert again.lora == model.lora
    for ours, theirs in zip(outputs_of(again), outputs_of(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    merge_lora(again)
    assert again.lora is None
    assert list(again.named_weights()) == plain
    assert [weight.path for weight in again.trainable_weights] == trainable
    for ours, theirs in zip(outputs_of(again), outputs_of(model), strict=True):
        assert_close(ours, theirs, tolerance=1e-6)
    add_lora(again, rank=2)  # and once more
    assert len(again.trainable_weights) < len(trainable) * 2


# --- training


def fit(model: Any, outputs: Any, strategy: Any = None, **options: Any) -> Any:
    with (strategy or tf.distribute.get_strategy()).scope():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), {"logits": loss}, jit_compile=False, **options)
    model.fit(inputs_of(model), {"logits": outputs}, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


CLASSES = np.array([0, 2, 1, 1], "int32")


@pytest.fixture(scope="module")
def trained() -> tuple[Any, dict[str, np.ndarray]]:
    """A model that was trained on one device, and its weights before. No test changes it."""
    model = make("bert")
    add_lora(model, rank=2)
    before = values_of(stir(model))
    return fit(model, CLASSES), before


def test_training_leaves_the_base_bitwise_alone(trained) -> None:
    model, before = trained
    for name, value in values_of(model).items():
        moved = ".lora." in name or name.startswith(("classifier.", "backbone.pooler."))
        assert np.array_equal(value, before[name]) != moved, name
    # Adam keeps two numbers for each that it trains, beside its own count and rate.
    state = sum(np.prod(variable.shape, dtype=int) for variable in model.optimizer.variables)
    assert state == 2 * sum(np.prod(weight.shape, dtype=int) for weight in model.trainable_weights) + 2


def test_on_two_replicas_with_recomputation_it_is_the_same_training(trained, two_replicas) -> None:
    with two_replicas.scope():
        model = make("bert")
        add_lora(model, rank=2)
        model.recompute = True
    before = values_of(stir(model))
    after = values_of(fit(model, CLASSES, two_replicas))
    for name, value in values_of(trained[0]).items():
        np.testing.assert_array_equal(before[name], trained[1][name])
        if ".lora." in name:
            assert_close(after[name], value, tolerance=1e-5)


def test_what_was_traced_before_is_traced_anew() -> None:
    model = make("bert")
    predict: Callable[[], Any] = lambda: model.predict(inputs_of(model), verbose=0)["logits"]  # noqa: E731
    plain = predict()
    add_lora(model, rank=2)
    adapted = (stir(model), predict())[1]
    assert np.abs(adapted - plain).max() > 1e-3
    merge_lora(model)
    assert np.abs(predict() - adapted).max() < 1e-2 * np.abs(adapted - plain).max()


def test_generation_and_a_saved_model_take_the_adapters_along(tmp_path: Path) -> None:
    model = make("gpt")
    add_lora(model, rank=2)
    stir(model)
    tokens = Generator(model).generate([[1, 2, 3]], 4)
    inputs = inputs_of(model)
    write_saved_model(model, tmp_path / "1", signatures(model))
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    assert_close(served(**{k: tf.constant(v) for k, v in inputs.items()})["logits"], outputs_of(model)[0], 1e-6)
    merge_lora(model)
    assert Generator(model).generate([[1, 2, 3]], 4) == tokens


def test_in_mixed_precision_adapters_stay_float32() -> None:
    model = make("gpt", dtype="mixed_bfloat16")
    add_lora(model, rank=2)
    adapters = [weight for name, weight in model.named_weights().items() if ".lora." in name]
    assert {weight.dtype for weight in adapters} == {"float32"}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(stir(model)(inputs_of(model), training=True)["logits"] ** 2)
    for gradient in tape.gradient(loss, [weight.value for weight in adapters]):
        assert gradient.dtype == tf.float32 and np.isfinite(gradient).all() and np.any(gradient)


def test_under_two_percent_of_bert_base_is_trained() -> None:
    """Counted from shapes, and from one block for all twelve: no weight of its size is made."""
    family, config = find_preset("bert-base")
    with keras.StatelessScope(initialize_variables=False):
        model = family.model_class("classify")(config.replace(num_classes=2, depth=1), task="classify")
        model.build()
        add_lora(model)
    keras.backend.clear_session()  # which forgets the weights that are still to be initialized

    def count(names: Iterable[str]) -> int:
        sizes = {name: int(np.prod(weight.shape)) for name, weight in model.named_weights().items()}
        return sum(sizes[name] * (config.depth if ".block_0." in name else 1) for name in names)

    whole = config.replace(num_classes=2).count_parameters("classify")
    assert count(name for name in model.named_weights() if ".lora." not in name) == whole
    trained = count(name for name, weight in model.named_weights().items() if weight.trainable)
    assert 0.01 < trained / whole < 0.02


# --- what is refused


@pytest.fixture(scope="module")
def bert() -> Any:
    """Without adapters; no test changes it."""
    return make("bert")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 0}, "rank is 0, and must be an int from 1 to 4096"),
        ({"rank": True}, "rank is True"),
        ({"rank": 5000}, "rank is 5000"),
        ({"alpha": float("nan")}, "alpha is nan, and must be a number above 0"),
        ({"alpha": -1}, "alpha is -1"),
        ({"dropout": 1.0}, "dropout is 1.0, and must be a number from 0, and below 1"),
        ({"patterns": ["*.qvk"]}, r"no layer is named '\*.qvk': there are .*transformer.block_\*.attention.qkv"),
        ({"patterns": []}, "no pattern is given"),
        ({"train": ["head.*"]}, r"no weight is named 'head.\*': there are .*classifier.kernel"),
    ],
)
def test_wrong_settings_are_refused(bert, options: dict[str, Any], told: str) -> None:
    with pytest.raises(zoo.UserError, match=told):
        add_lora(bert, **options)
    assert bert.lora is None and all(weight.trainable for weight in bert.weights)


def test_what_needs_adapters_and_what_needs_none(bert, tmp_path: Path) -> None:
    for verb in (merge_lora, lambda model: save_lora(model, tmp_path / "none")):
        with pytest.raises(zoo.UserError, match="has no adapters: add_lora or load_lora"):
            verb(bert)
    model = make("bert")
    add_lora(model, patterns=[QKV], train=["*_norm.*", "classifier.bias"])
    trained = {name for name, weight in model.named_weights().items() if weight.trainable}
    assert {f"{QKV}.lora.a", f"{QKV}.lora.b", "classifier.bias", "backbone.embedding_norm.gamma"} <= trained
    assert len(trained) == 2 + 1 + 2 * 3 and not (tmp_path / "none").exists()
    with pytest.raises(zoo.UserError, match="has adapters already: merge_lora folds them in"):
        add_lora(model)
    with pytest.raises(zoo.UserError, match="Keras would lose the adapters: merge_lora first"):
        model.save(tmp_path / "model.keras")
    frozen = make("bert")
    frozen.backbone.trainable = False
    with pytest.raises(zoo.UserError, match="is frozen as a layer: set trainable = True"):
        add_lora(frozen)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make("bert")
    add_lora(model, rank=2)
    directory = tmp_path_factory.mktemp("saved") / "adapters"
    save_lora(stir(model), directory)
    return directory


def damaged(saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    directory = tmp_path / "adapters"
    shutil.copytree(saved, directory)
    record = json.loads((directory / "adapter.json").read_text())
    (directory / "adapter.json").write_text(json.dumps(change(record) or record))
    return directory


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record.pop("rank"), "the fields must be .*, not so 'rank'"),
        (lambda record: record.update(code="x"), "the fields must be .*, not so 'code'"),
        (lambda record: [1], "the fields must be"),
        (lambda record: record.update(zoo_lora=2), "format 2 is not 1"),
        (lambda record: record.update(family="gpt"), "these adapters are of 'gpt', and the model is of 'bert'"),
        (lambda record: record.update(rank=10**9), "rank is 1000000000, and must be an int from 1 to 4096"),
        (lambda record: record.update(rank=3), r"qkv.lora.a is \(16, 2\) and must be \(16, 3\)"),
        (lambda record: record.update(alpha="1"), "alpha is '1'"),
        (lambda record: record.update(patterns="*"), r"patterns is '\*', and must be a list"),
        (lambda record: record.update(patterns=["x" * 301]), "patterns holds what is no name"),
        (lambda record: record.update(patterns=["*.attention.*"]), r"unexpected '[^']*up.lora.a' \(16, 2\)"),
        (lambda record: record.update(patterns=["nothing"]), "no layer is named 'nothing'"),
        (lambda record: record.update(trained=[]), r"unexpected '[^']*kernel'"),
        (lambda record: record.update(trained=[7]), "trained holds what is no name"),
    ],
)
def test_damaged_settings_are_refused(bert, saved, tmp_path: Path, change: Any, told: str) -> None:
    directory = damaged(saved, tmp_path, lambda record: value if isinstance(value := change(record), list) else None)
    before = values_of(bert)
    with pytest.raises(zoo.UserError, match=told) as raised:
        load_lora(bert, directory)
    assert str(directory) in str(raised.value) and "\n" not in str(raised.value)
    assert values_of(bert).keys() == before.keys() and all(weight.trainable for weight in bert.weights)


def test_damaged_tensors_are_refused(bert, saved, tmp_path: Path) -> None:
    directory = damaged(saved, tmp_path, lambda record: None)
    path = directory / "adapter.safetensors"
    with open_tensors(path) as tensors:
        whole = {name: tensors.read(name) for name in tensors}
    content = path.read_bytes()
    for broken in (b"", content[:100], content[:-1], b"\xff" * 8 + content[8:]):
        path.write_bytes(broken)
        with pytest.raises(zoo.UserError, match="not a readable safetensors file"):
            load_lora(bert, directory)
    first = f"{QKV}.lora.a"
    for changed, told in (
        ({name: value for name, value in whole.items() if name != first}, rf"missing {first} \(16, 2\)"),
        ({**whole, "x": np.zeros(3)}, r"unexpected 'x' \(3,\)"),
        ({**whole, first: np.zeros((16, 2), "int32")}, "holds int32, and must hold floating-point numbers"),
    ):
        write_tensors(changed, path, framework="tf")
        with pytest.raises(zoo.UserError, match=told):
            load_lora(bert, directory)
    path.unlink()
    with pytest.raises(zoo.UserError, match=r"adapter\.safetensors"):
        load_lora(bert, directory)
    assert bert.lora is None


def test_another_base_is_refused_by_its_shapes(saved) -> None:
    with pytest.raises(zoo.UserError, match=r"qkv.lora.a is \(16, 2\) and must be \(20, 2\)"):
        load_lora(make("bert", width=20), saved)
    with pytest.raises(zoo.UserError, match=r"classifier.kernel is \(16, 3\) and must be \(16, 5\)"):
        load_lora(make("bert", num_classes=5), saved)
    with pytest.raises(zoo.UserError, match=r"no weight is named 'backbone\.pooler\.kernel'"):
        load_lora(make("bert", task="masked_lm"), saved)


def test_only_adapters_are_replaced(bert, tmp_path: Path) -> None:
    model = make("bert")
    add_lora(model, rank=2)
    save_lora(model, tmp_path / "adapters")
    with pytest.raises(zoo.UserError, match="is not empty"):
        save_lora(model, tmp_path / "adapters")
    save_lora(model, tmp_path / "adapters", force=True)
    zoo.save(bert, tmp_path / "model")
    with pytest.raises(zoo.UserError, match=r"has no adapter.json, so --force does not replace it"):
        save_lora(model, tmp_path / "model", force=True)


def test_it_is_found_without_an_import_of_its_own() -> None:
    assert zoo.__getattr__("lora").add_lora is add_lora
    assert zoo.__getattr__("optimizers").__name__ == "zoo.optimizers"
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'loras'"):
        zoo.__getattr__("loras")

"""Hugging Face's directories read and written: round trips, other tasks, labels, and what is refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import zoo
from tests.golden import MODELS, NAMES, Arrays, copy_checkpoint
from tests.zoo.fuzzing import CHECKPOINTS, FILES, count_refusals
from zoo.directory import read_saved
from zoo.errors import UserError
from zoo.huggingface import find_layout, read_settings
from zoo.prediction import model_inputs
from zoo.text import Tokenizer, train_clip, train_wordpiece

# Settings of theirs that say nothing about the function that a checkpoint computes, or what is the only way here.
WITHOUT_EFFECT = {
    "transformers_version",
    "dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",  # the tokenizer knows it, which these checkpoints lack
    "initializer_factor",
    "logit_scale_init_value",
    "encoder_stride",
    "pooler_output_size",
    "reorder_and_upcast_attn",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "text_config.model_type",
    "vision_config.model_type",
    "text_config.projection_dim",
    "vision_config.projection_dim",
    "text_config.initializer_factor",
    "vision_config.initializer_factor",
    "text_config.bos_token_id",
    "text_config.pad_token_id",
}


def read_record(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def read_weights(directory: Path) -> Arrays:
    return safetensors.numpy.load_file(directory / "model.safetensors")


def refusal(call: Callable[[], Any]) -> str:
    """The message with which `call` is refused: one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 1000
    return message


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and key not in ("id2label", "label2id")
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def assert_same_weights(left: Any, right: Any) -> None:
    ours, theirs = left.named_weights(), right.named_weights()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        np.testing.assert_array_equal(weight.numpy(), theirs[name].numpy(), err_msg=name)


# --- there and back


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    model = zoo.load(MODELS / name)
    zoo.save(model, tmp_path / "hf", layout="hf")
    zoo.save(model, tmp_path / "zoo")

    before, after = read_weights(MODELS / name), read_weights(tmp_path / "hf")
    if getattr(model.config, "pooler", None) is False and model.task in ("backbone", "embed"):
        # Their class has a pooler, and misses it where the file has none: a blank one takes its place.
        blank = {key for key in after if key.startswith("pooler.")}
        assert len(blank) == 2 and not any(after.pop(key).any() for key in blank)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key].dtype == value.dtype
        np.testing.assert_array_equal(after[key], value, err_msg=key)

    theirs, ours = flatten(read_record(MODELS / name)), flatten(read_record(tmp_path / "hf"))
    fixed = find_layout(model.family).fixed
    for key, value in theirs.items():
        if key in fixed and key not in ours:
            assert value in fixed[key]
        elif key in WITHOUT_EFFECT and ours.get(key) is None:
            continue
        elif value == "gelu_pytorch_tanh":  # another name of the same function
            assert ours[key] == "gelu_new"
        else:
            assert ours[key] == value, key

    for layout in ("hf", "zoo"):
        saved = read_saved(tmp_path / layout)
        assert (saved.family.name, saved.task) == (model.family, model.task)
        assert saved.config == model.config and saved.labels == model.labels
    named = {key: weight.numpy() for key, weight in model.named_weights().items()}
    stored = read_weights(tmp_path / "zoo")
    assert named.keys() == stored.keys()
    for key, value in stored.items():
        np.testing.assert_array_equal(named[key], value, err_msg=key)


@pytest.mark.parametrize("name", ["gpt-generate", "vit-classify"])
def test_from_one_layout_to_the_other_and_back(name: str, tmp_path: Path) -> None:
    model = zoo.load(MODELS / name)
    zoo.save(model, tmp_path / "zoo")
    again = zoo.load(tmp_path / "zoo")
    assert_same_weights(again, model)
    zoo.save(again, tmp_path / "hf", layout="hf")
    last = zoo.load(tmp_path / "hf")
    assert_same_weights(last, model)
    assert (last.config, last.task, last.labels) == (model.config, model.task, model.labels)
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {"config.json", "model.safetensors", "README.md"} | (
        {"preprocessor_config.json"} if name == "vit-classify" else set()
    )


@pytest.mark.parametrize(
    ("preset", "task", "architecture"),
    [
        ("bert-nano", "embed", "BertModel"),
        ("gpt-nano", "pretrain", "GPT2LMHeadModel"),
        ("gpt-nano", "embed", "GPT2Model"),
        ("vit-nano", "pretrain", "ViTForImageClassification"),
        ("vit-nano", "embed", "ViTModel"),
        ("clip-nano", "pretrain", "CLIPModel"),
    ],
)
def test_a_task_that_theirs_does_not_know_comes_back(preset: str, task: str, architecture: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"pooling": "mean", "normalize": True} if task == "embed" else {}
    if preset == "clip-nano":
        changes = {"vision": {"mlp_width": 20}, "text": {"mlp_width": 24}}
    else:
        changes |= {"mlp_width": 20, "depth": 1}
    if preset == "vit-nano":
        changes["pooler"] = task == "embed"  # which the tensors say
    model = zoo.create(preset, task=task, **changes)
    zoo.save(model, tmp_path / "hf", layout="hf")
    assert read_record(tmp_path / "hf")["architectures"] == [architecture]
    saved = read_saved(tmp_path / "hf")
    assert (saved.task, saved.config) == (task, model.config)


def test_what_theirs_has_no_place_for_is_kept(tmp_path: Path) -> None:
    """And what it has one for stands there alone, where their programs change it."""
    config = {
        "pooler": False,
        "dropout": 0.3,
        "classifier_dropout": 0.2,
        "pooling": "first",
        "stddev": 0.5,
        "activation": "gelu_tanh",
    }
    model = zoo.create("bert-nano", task="tag", num_classes=3, width=8, depth=1, **config)
    zoo.save(model, tmp_path / "hf", layout="hf")
    record = read_record(tmp_path / "hf")
    assert record["tf_model_zoo"] == {"task": "tag", "config": {"pooling": "first"}}
    assert (record["hidden_dropout_prob"], record["classifier_dropout"]) == (0.3, 0.2)
    assert record["hidden_act"] == "gelu_new" and record["intermediate_size"] == 32
    assert read_saved(tmp_path / "hf").config == model.config.replace(mlp_width=32)


# --- other tasks and sizes


def test_another_task_gets_a_fresh_head_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zoo"):
        model = zoo.load(MODELS / "bert-masked_lm", task="classify", num_classes=7)
    (record,) = caplog.records
    assert str(MODELS / "bert-masked_lm") in record.message
    fresh = ("backbone.pooler.bias", "backbone.pooler.kernel", "classifier.bias", "classifier.kernel")
    assert f"has no {', '.join(fresh)}:" in record.message
    whole = zoo.load(MODELS / "bert-masked_lm").named_weights()
    for name, weight in model.named_weights().items():
        if name not in fresh:
            np.testing.assert_array_equal(weight.numpy(), whole[name].numpy(), err_msg=name)
    assert model.classifier.kernel.shape == (12, 7)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("bert-pretrain", "masked_lm"),
        ("bert-classify", "backbone"),
        ("bert-backbone", "embed"),
        ("gpt-classify", "generate"),
        ("gpt-generate", "embed"),
        ("vit-classify", "backbone"),
        ("clip-contrast", "pretrain"),
    ],
)
def test_a_task_whose_weights_are_all_there_is_loaded_silently(
    name: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="zoo"):
        assert zoo.load(MODELS / name, task=task).task == task
    assert not caplog.records


@pytest.mark.parametrize(("name", "width"), [("bert-classify", 12), ("vit-classify", 12), ("gpt-classify", 12)])
def test_another_number_of_classes_makes_a_fresh_head(name: str, width: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zoo"):
        model = zoo.load(MODELS / name, num_classes=9)
    assert "classifier.kernel" in caplog.text and "backbone" not in caplog.text
    assert model.classifier.kernel.shape == (width, 9) and model.labels is None
    assert model.labels is None
    tensors = read_weights(MODELS / name)
    embedding = {"bert": "bert.embeddings.word_embeddings.weight", "gpt": "transformer.wte.weight"}
    if name != "vit-classify":
        table = model.backbone.token_embedding.table.numpy()
        np.testing.assert_array_equal(table, tensors[embedding[name.partition("-")[0]]])


def test_an_image_size_is_no_excuse_for_another_misfit(tmp_path: Path) -> None:
    def cut(tensors: Arrays) -> None:
        tensors["vit.embeddings.position_embeddings"] = tensors["vit.embeddings.position_embeddings"][:, :-1]

    directory = copy_checkpoint("vit-classify", tmp_path / "cut", tensors=cut)
    message = refusal(lambda: zoo.load(directory, image_size=32))
    assert "'vit.embeddings.position_embeddings' is (1, 16, 12)" in message


@pytest.mark.parametrize("architecture", ["BertForMultipleChoice", "BertForNextSentencePrediction", "BertLMHeadModel"])
def test_a_kind_without_a_task_asks_for_one(architecture: str, tmp_path: Path) -> None:
    directory = copy_checkpoint(
        "bert-tag", tmp_path / "other", record=lambda record: record.update(architectures=[architecture])
    )
    message = refusal(lambda: zoo.load(directory))
    assert "choose one of backbone, pretrain" in message
    assert zoo.load(directory, task="tag").task == "tag"


@pytest.mark.parametrize("architectures", [None, [], "BertForTokenClassification", [["BertModel"]], {}])
def test_architectures_may_be_missing_or_odd(architectures: Any, tmp_path: Path) -> None:
    directory = copy_checkpoint(
        "bert-tag", tmp_path / "odd", record=lambda record: record.update(architectures=architectures)
    )
    assert read_saved(directory).task in (None, "backbone")


# --- labels


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("bert-classify", ("to sea", "to land", "überall", "nowhere")),
        ("vit-classify", ("cat", "dog", "a bird")),
        ("bert-tag", None),  # LABEL_0, LABEL_1, ...: no names
        ("gpt-classify", None),
    ],
)
def test_labels_come_from_the_config(name: str, labels: tuple[str, ...] | None) -> None:
    saved: Any = read_saved(MODELS / name)
    assert saved.labels == labels
    assert saved.config.num_classes == len(read_record(MODELS / name)["id2label"])


def test_labels_go_to_the_config_of_a_classifier_alone(tmp_path: Path) -> None:
    small = {"width": 8, "depth": 1, "num_classes": 3}
    model = zoo.create("bert-nano", task="classify", **small)
    model.labels = ("b", "ä", "b")  # ImageNet has two classes of one name
    zoo.save(model, tmp_path / "named", layout="hf")
    record = read_record(tmp_path / "named")
    assert record["id2label"] == {"0": "b", "1": "ä", "2": "b"}
    assert set(record["label2id"]) == {"b", "ä"}
    assert zoo.load(tmp_path / "named").labels == model.labels
    # Of any other head theirs would take the number of labels for its own.
    zoo.save(zoo.create("bert-nano", task="answer", **small), tmp_path / "span", layout="hf")
    assert "id2label" not in read_record(tmp_path / "span")
    assert read_saved(tmp_path / "span").config.num_classes == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "labels", [{"0": "a", "2": "b"}, {"0": "a", "1": 7}, {"0": "a", "1": "b\nc"}, ["a", "b"], "ab", {"0": "a\x85b"}]
)
def test_labels_that_are_none_are_refused(labels: Any, tmp_path: Path) -> None:
    directory = copy_checkpoint("bert-tag", tmp_path / "odd", record=lambda record: record.update(id2label=labels))
    assert "id2label" in refusal(lambda: zoo.load(directory))


# --- sentence-transformers


def modules_of(directory: Path) -> list[str]:
    return [module["type"].rpartition(".")[2] for module in json.loads((directory / "modules.json").read_text())]


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("normalize", [True, False])
def test_an_embedder_is_written_for_sentence_transformers(pooling: str, normalize: bool, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(MODELS.parent / "text" / "bert-uncased")
    small = {"vocabulary_size": tokenizer.vocabulary_size, "width": 8, "depth": 1}
    model = zoo.create("bert-nano", task="embed", pooling=pooling, normalize=normalize, **small)
    model.tokenizer = tokenizer
    zoo.save(model, tmp_path / "hf", layout="hf")
    assert modules_of(tmp_path / "hf") == ["Transformer", "Pooling"] + ["Normalize"] * normalize
    for module in json.loads((tmp_path / "hf" / "modules.json").read_text()):
        assert (tmp_path / "hf" / module["path"]).is_dir() or module["type"].endswith("Normalize")
    record = json.loads((tmp_path / "hf" / "1_Pooling" / "config.json").read_text())
    modes = {key for key, value in record.items() if key.startswith("pooling_mode") and value}
    assert modes == {"pooling_mode_mean_tokens" if pooling == "mean" else "pooling_mode_cls_token"}
    assert record["word_embedding_dimension"] == 8
    # Their files alone say all of it.
    config = read_record(tmp_path / "hf")
    del config["tf_model_zoo"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    saved: Any = read_saved(tmp_path / "hf")
    assert (saved.task, saved.config.pooling, saved.config.normalize) == ("embed", pooling, normalize)


def edit_json(path: Path, edit: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content) or content))


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("modules.json", lambda m: m.append({"type": "sentence_transformers.models.Dense"}), "Dense"),
        ("modules.json", lambda m: m.pop(1), "modules.json"),
        ("modules.json", lambda m: ["Transformer"], "modules.json"),
        ("modules.json", lambda m: {"a": 1}, "modules.json"),
        ("modules.json", lambda m: 7, "modules.json"),
        ("1_Pooling/config.json", lambda p: p.update(pooling_mode_max_tokens=True), "another pooling"),
        ("1_Pooling/config.json", lambda p: p.update(pooling_mode_cls_token=True), "another pooling"),
        ("1_Pooling/config.json", lambda p: p.update(pooling_mode_mean_tokens=False), "another pooling"),
        ("1_Pooling/config.json", lambda p: [1], "1_Pooling/config.json"),
    ],
)
def test_another_way_to_embed_is_refused(file: str, edit: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    directory = copy_checkpoint("bert-embed", tmp_path / "hf")
    edit_json(directory / file, edit)
    answer = refusal(lambda: zoo.load(directory))
    assert message in answer and str(directory) in answer


def test_modules_without_their_pooling_are_refused(tmp_path: Path) -> None:
    directory = copy_checkpoint("bert-embed", tmp_path / "hf")
    shutil.rmtree(directory / "1_Pooling")
    assert str(directory / "1_Pooling" / "config.json") in refusal(lambda: zoo.load(directory))


# --- configs that are refused


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bert-tag", {"is_decoder": True}, "is_decoder is True, and must be False"),
        ("bert-tag", {"add_cross_attention": True}, "add_cross_attention is True"),
        (
            "bert-tag",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key', and must",
        ),
        ("bert-tag", {"tie_word_embeddings": False}, "tie_word_embeddings is False, and must be True"),
        ("bert-tag", {"hidden_act": "silu"}, "activation is 'silu', and must be one of gelu, gelu_tanh"),
        ("bert-tag", {"hidden_size": 13, "num_attention_heads": 2}, "width is 13, and must be a multiple of num_heads"),
        ("bert-tag", {"num_hidden_layers": "2"}, "depth is '2', and must be int"),
        ("bert-tag", {"model_type": "roberta"}, "model_type is 'roberta', and must be one of bert, gpt2, vit, clip"),
        ("bert-tag", {"model_type": ["bert"]}, "model_type is ['bert']"),
        ("bert-tag", {"model_type": None}, "model_type is None"),
        ("bert-tag", {"tf_model_zoo": 1}, "tf_model_zoo"),
        ("bert-tag", {"tf_model_zoo": {"task": ["tag"], "config": {}}}, "no task ['tag']"),
        ("bert-tag", {"id2label": None, "num_labels": 1_000_000}, "bytes cannot hold the"),
        ("bert-tag", {"tf_model_zoo": {"task": "fly", "config": {}}}, "no task 'fly'"),
        ("bert-tag", {"tf_model_zoo": {"task": "tag", "config": {"widht": 1}}}, "unknown field 'widht'"),
        ("gpt-generate", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt-generate", {"scale_attn_weights": False}, "scale_attn_weights is False, and must be True"),
        ("gpt-generate", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt-generate", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("vit-classify", {"qkv_bias": False}, "qkv_bias is False, and must be True"),
        ("vit-classify", {"patch_size": [4, 2]}, "patch_size"),
        ("vit-classify", {"image_size": [16, 12, 8]}, "image_size is [16, 12, 8], and must be 2 values"),
        ("vit-backbone", {"pooler_act": "relu"}, "pooler_act is 'relu', and must be 'tanh'"),
        ("clip-contrast", {"vision_config": {"hidden_act": "silu"}}, "activation is 'silu'"),
    ],
)
def test_a_setting_that_is_not_supported_is_named(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    directory = copy_checkpoint(name, tmp_path / "other", record=lambda record: record.update(change))
    answer = refusal(lambda: zoo.load(directory))
    assert message in answer and answer.startswith(str(directory))


def test_settings_of_each_tower_are_checked(tmp_path: Path) -> None:
    """A text tower with 49,408 rows cannot come from a file with 32."""
    directory = copy_checkpoint(
        "clip-contrast", tmp_path / "other", record=lambda record: record["text_config"].update(vocab_size=49408)
    )
    assert "cannot hold the" in refusal(lambda: zoo.load(directory))


def test_a_config_of_keras_is_recognised(tmp_path: Path) -> None:
    content = {"module": "keras", "class_name": "Functional", "config": {}, "registered_name": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    answer = refusal(lambda: zoo.load(tmp_path))
    assert "Keras's own, which is not read here" in answer and str(tmp_path / "config.json") in answer


# --- files that are refused


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    ("architectures", "loader"),
    [
        (["BertForTokenClassification"], "BertForTokenClassification"),
        (None, "AutoModel"),
        (["os'); import os #"], "AutoModel"),
    ],
)
def test_a_pickle_alone_is_refused_with_the_command_that_converts_it(
    pickle: str, architectures: Any, loader: str, tmp_path: Path
) -> None:
    directory = copy_checkpoint(
        "bert-tag", tmp_path / "old", record=lambda record: record.update(architectures=architectures)
    )
    (directory / "model.safetensors").rename(directory / pickle)
    answer = refusal(lambda: zoo.load(directory))
    assert f"transformers.{loader}.from_pretrained('{directory}').save_pretrained('old-safetensors')" in answer


def test_no_weights_at_all(tmp_path: Path) -> None:
    directory = copy_checkpoint("bert-tag", tmp_path / "empty")
    (directory / "model.safetensors").unlink()
    assert refusal(lambda: zoo.load(directory)).startswith(f"{directory}: there is no model.safetensors")


NORM = "bert.encoder.layer.0.output.LayerNorm.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(QUERY), f"missing {QUERY}, for backbone.transformer.block_0.attention.qkv.kernel (12, 36)"),
        (lambda t: t.pop("classifier.bias"), "missing classifier.bias (5,)"),
        (lambda t: t.update({"bert.new.weight": np.ones((2, 3), "float32")}), "unexpected 'bert.new.weight' (2, 3)"),
        (
            lambda t: t.update({QUERY.replace("layer.0", "layer.7"): np.ones((12, 12), "float32")}),
            f"unexpected {QUERY.replace('layer.0', 'layer.7')!r} (12, 12)",
        ),
        (lambda t: t.update({NORM: np.ones(11, "float32")}), f"{NORM!r} is (11,) and must be (12,)"),
        (lambda t: t.update({QUERY: np.ones((11, 12), "float32")}), f"{QUERY!r} is (11, 12) and must be (12, 12)"),
        (lambda t: t.update({QUERY: np.ones(144, "float32")}), f"{QUERY!r} is (144,) and must be (12, 12)"),
        (lambda t: t.update({"classifier.weight": np.ones((12, 5), "float32")}), "'classifier.weight' is (12, 5)"),
        (lambda t: t.update({NORM: np.ones(12, "int32")}), f"{NORM!r} holds int32, and must hold floating-point"),
        (
            lambda t: t.update({NORM.replace("weight", "gamma"): t[NORM]}),
            f"{NORM.replace('weight', 'gamma')!r} and {NORM!r} are the same weight twice",
        ),
        (lambda t: t.update({NORM.removeprefix("bert."): t[NORM]}), "are the same weight twice"),
    ],
)
def test_tensors_that_do_not_fit_are_named(edit: Callable[[Arrays], Any], message: str, tmp_path: Path) -> None:
    def edit_in_order(tensors: Arrays) -> None:
        edit(tensors)

    directory = copy_checkpoint("bert-tag", tmp_path / "other", tensors=edit_in_order)
    answer = refusal(lambda: zoo.load(directory))
    assert answer.startswith(f"{directory / 'model.safetensors'}: ")
    assert message in answer


@pytest.mark.parametrize("name", ["bert-masked_lm", "gpt-generate"])
@pytest.mark.parametrize("change", ["value", "shape"])
def test_an_untied_decoder_is_refused(name: str, change: str, tmp_path: Path) -> None:
    original, copy = {
        "bert-masked_lm": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        "gpt-generate": ("transformer.wte.weight", "lm_head.weight"),
    }[name]

    def untie(tensors: Arrays) -> None:
        other = tensors[original].copy()
        other[-1, -1] = np.nextafter(other[-1, -1], 9, dtype="float32")
        tensors[copy] = other if change == "value" else other[:-1]

    directory = copy_checkpoint(name, tmp_path / "untied", tensors=untie)
    answer = refusal(lambda: zoo.load(directory))
    assert f"{copy} and {original} differ" in answer and "untied weights are not supported" in answer


# --- shards


def shard(directory: Path) -> dict[str, Any]:
    """Split a checkpoint into two files; returns its index."""
    tensors = read_weights(directory)
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for i in range(2):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names[i::2]}, directory / file)
        places |= dict.fromkeys(names[i::2], file)
    return {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": places}


FIRST = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda index: index["weight_map"].update({NORM: f"../{FIRST}"}),
            "is not the name of a safetensors file beside",
        ),
        (
            lambda index: index["weight_map"].update({NORM: f"./{FIRST}"}),
            "is not the name of a safetensors file beside",
        ),
        (lambda index: index["weight_map"].update({NORM: f"/tmp/{FIRST}"}), "is not the name of a safetensors file"),
        (lambda index: index["weight_map"].update({NORM: "config.json"}), "is not the name of a safetensors file"),
        (lambda index: index["weight_map"].update({NORM: 1}), "1 is not the name of a safetensors file"),
        (
            lambda index: index["weight_map"].update({NORM: "gone.safetensors"}),
            "'gone.safetensors', which it names, is",
        ),
        (lambda index: index["weight_map"].update({"bert.new": FIRST}), f"'bert.new' is not in {FIRST}"),
        (lambda index: index.pop("weight_map"), "it has no weight_map"),
        (lambda index: index.update(weight_map=[FIRST]), "it has no weight_map"),
        (lambda index: index.update(weight_map={}), "missing"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(
    edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    shutil.copy(MODELS / "bert-tag" / "model.safetensors", tmp_path / FIRST)  # "../" would be found
    directory = copy_checkpoint("bert-tag", tmp_path / "sharded")
    index = shard(directory)
    edit(index)
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    answer = refusal(lambda: zoo.load(directory))
    assert answer.startswith(f"{path}: ") and message in answer


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"weight_map": 1' + b"0" * 5000])
def test_an_index_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    directory = copy_checkpoint("bert-tag", tmp_path / "sharded")
    shard(directory)
    path = directory / "model.safetensors.index.json"
    path.write_bytes(content)
    assert refusal(lambda: zoo.load(directory)).startswith(f"{path}: not a readable safetensors file")


def test_a_tensor_is_read_from_the_shard_that_the_index_names(tmp_path: Path) -> None:
    directory = copy_checkpoint("bert-tag", tmp_path / "sharded")
    index = shard(directory)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    wanted = read_weights(MODELS / "bert-tag")
    for file in set(index["weight_map"].values()):  # each file holds a wrong copy of what is in the other
        tensors = safetensors.numpy.load_file(directory / file)
        stale = {name: np.zeros_like(value) for name, value in wanted.items() if name not in tensors}
        safetensors.numpy.save_file({**tensors, **stale}, directory / file)
    model = zoo.load(directory)
    bias = model.backbone.transformer.blocks[0].attention.output_projection.bias.numpy()
    np.testing.assert_array_equal(bias, wanted["bert.encoder.layer.0.attention.output.dense.bias"])
    np.testing.assert_array_equal(model.classifier.bias.numpy(), wanted["classifier.bias"])
    np.testing.assert_array_equal(model.classifier.kernel.numpy(), wanted["classifier.weight"].T)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_refused_or_loads_as_it_says(
    checkpoint: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some dozens; `tests/full` has hundreds."""
    refused, grown = count_refusals(checkpoint, file, 12, tmp_path / "model", monkeypatch)
    assert refused >= 3
    assert grown < 200e6


@pytest.mark.parametrize("kind", ["clip", "wordpiece"])
def test_clip_brings_whatever_tokenizer_ends_its_texts(kind: str, tmp_path: Path) -> None:
    texts = ["a red square", "a blue circle"] * 3
    tokenizer = train_clip(texts, 520) if kind == "clip" else train_wordpiece(texts, 128)
    ids = tokenizer.prepare(["a red circle"], max_length=16)["token_ids"][0]
    model = zoo.create("clip-nano", text={"vocabulary_size": tokenizer.vocabulary_size}, end_token=int(ids[-1]))
    model.tokenizer = tokenizer
    zoo.save(model, tmp_path / "hf", layout="hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())["text_config"]
    assert (config["bos_token_id"], config["eos_token_id"]) == (ids[0], ids[-1])
    again = zoo.load(tmp_path / "hf")
    assert np.array_equal(again.tokenizer.prepare(["a red circle"], max_length=16)["token_ids"][0], ids)


# --- what their layout cannot express


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("clip-nano", {"loss": "sigmoid"}, "loss is 'sigmoid'"),
        ("clip-nano", {"text": {"dropout": 0.1}}, "text.dropout is 0.1"),
        ("clip-nano", {"vision": {"patch_bias": True}}, "vision.patch_bias is True"),
        ("vit-nano", {"patch_bias": False}, "patch_bias is False"),
        ("vit-nano", {"embedding_norm": True}, "embedding_norm is True"),
    ],
)
def test_what_theirs_cannot_express_is_refused_and_leaves_nothing(
    preset: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = zoo.create(preset, **changes)
    answer = refusal(lambda: zoo.save(model, tmp_path / "new", layout="hf"))
    assert message in answer and "Hugging Face's layout has" in answer
    assert not list(tmp_path.iterdir())
    kept = copy_checkpoint("bert-tag", tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert refusal(lambda: zoo.save(model, kept, layout="hf", force=True)) == answer
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert list(tmp_path.iterdir()) == [kept]


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    model = zoo.create("vit-nano", width=8, depth=1)
    assert "layout is 'keras', and must be zoo or hf" in refusal(
        lambda: zoo.save(model, tmp_path / "x", layout="keras")
    )
    assert not list(tmp_path.iterdir())


# --- checkpoints of ours that theirs has gone on with


def test_what_theirs_made_of_an_export_of_ours_is_what_it_says(tmp_path: Path) -> None:
    """`transformers` carries our field along when it saves a model of another class."""
    model = zoo.create("bert-nano", task="masked_lm", width=8, depth=1, num_classes=5)
    zoo.save(model, tmp_path / "ours", layout="hf")
    tuned = zoo.create("bert-nano", task="classify", width=8, depth=1, num_classes=3)
    zoo.save(tuned, tmp_path / "tuned", layout="hf")
    record = read_record(tmp_path / "tuned") | {"tf_model_zoo": read_record(tmp_path / "ours")["tf_model_zoo"]}
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(record))
    again = zoo.load(tmp_path / "tuned")
    assert (again.task, again.config.num_classes) == ("classify", 3)


def test_a_backbone_without_a_pooler_is_whole_for_theirs_and_comes_back_without(tmp_path: Path) -> None:
    zoo.save(zoo.create("bert-nano", task="masked_lm", width=8, depth=1), tmp_path / "masked")
    model = zoo.load(tmp_path / "masked", task="embed")
    assert model.config.pooler is False
    zoo.save(model, tmp_path / "hf", layout="hf")
    assert {"pooler.dense.weight", "pooler.dense.bias"} < read_weights(tmp_path / "hf").keys()
    assert zoo.load(tmp_path / "hf").config.pooler is False


@pytest.mark.parametrize("layout", ["zoo", "hf"])
@pytest.mark.parametrize("labels", [("a", "b", "c"), ("a", "b\nc"), ("a", "b\r"), ("a", 2)])
def test_labels_that_could_not_be_read_back_are_not_written(layout: str, labels: Any, tmp_path: Path) -> None:
    model = zoo.create("bert-nano", task="classify", width=8, depth=1)
    model.labels = labels
    with pytest.raises(UserError, match="label"):
        zoo.save(model, tmp_path / "model", layout=layout)
    assert not (tmp_path / "model").exists()


def test_a_clip_of_oblong_images_stays_in_our_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="square ones alone"):
        zoo.save(zoo.create("clip-nano", vision={"image_size": (32, 48)}), tmp_path / "clip", layout="hf")
    assert not (tmp_path / "clip").exists()


def test_old_towers_hold_alone_where_they_are_given(tmp_path: Path) -> None:
    """As in transformers: what `text_config_dict` leaves out has its default, whatever `text_config` says."""
    record = {"model_type": "clip", "text_config": {"hidden_size": 32, "num_hidden_layers": 3}, "projection_dim": 8}
    record["text_config_dict"] = {"hidden_size": 64}
    config = read_settings(tmp_path, record, [])[2]
    assert (config.text.width, config.text.depth) == (64, 12)


def test_a_tokenizer_of_another_end_is_refused(tmp_path: Path) -> None:
    """Every text would be pooled at its first token."""
    tokenizer = train_wordpiece(["a text"] * 3, 128)
    clip = zoo.create("clip-nano", end_token=511)
    clip.tokenizer = tokenizer
    zoo.save(clip, tmp_path / "clip")
    with pytest.raises(UserError, match="end_token is 511"):
        zoo.load(tmp_path / "clip")


def test_a_length_that_the_tokenizer_states_is_kept(tmp_path: Path) -> None:
    model = zoo.create("bert-nano", task="embed", width=8, depth=1)
    model.tokenizer = train_wordpiece(["a text"] * 3, 128)
    zoo.save(model, tmp_path / "hf", layout="hf")
    (tmp_path / "hf/sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    again = zoo.load(tmp_path / "hf")
    assert again.tokenizer.max_length == 9
    assert model_inputs(again, texts=["a text " * 30])["token_ids"].shape == (1, 9)
    zoo.save(again, tmp_path / "again", layout="hf")
    assert json.loads((tmp_path / "again/sentence_bert_config.json").read_text())["max_seq_length"] == 9

"""Every family and task head against the installed `transformers` on PyTorch, with configurations drawn at random:
outputs, checkpoints there and back, and the gradients of what each family is pretrained with."""

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import zoo
from tests.golden import MODELS
from tests.zoo.reference import assert_close
from zoo.directory import read_saved
from zoo.errors import UserError
from zoo.huggingface import find_layout
from zoo.registry import FAMILIES

pytestmark = pytest.mark.peers

Arrays = dict[str, np.ndarray]

HEADS = {
    "bert": (
        "BertForPreTraining",
        "BertModel",
        "BertForMaskedLM",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertForQuestionAnswering",
    ),
    "gpt": ("GPT2LMHeadModel", "GPT2Model", "GPT2ForSequenceClassification"),
    "vit": ("ViTForImageClassification", "ViTModel"),
    "clip": ("CLIPModel",),
}
SEEDS = {"bert": 12, "gpt": 12, "vit": 10, "clip": 10}  # a multiple of the number of heads
CASES = [
    pytest.param(
        (family, HEADS[family][seed % len(HEADS[family])], seed),
        id=f"{HEADS[family][seed % len(HEADS[family])]}-seed{seed}",
    )
    for family in HEADS
    for seed in range(SEEDS[family])
]
# What each family is pretrained with.
PRETRAINING = [case for case in CASES if case.values[0][1] == HEADS[case.values[0][0]][0]]  # type: ignore[index]


# --- configurations drawn at random


def draw_sizes(draw: np.random.Generator) -> dict[str, Any]:
    """What every tower has."""
    heads = int(draw.integers(1, 7))
    return {
        # A layer norm over two numbers gives the same two whatever they are, and no gradient.
        "hidden_size": heads * int(draw.choice([3, 5, 8])) if heads > 1 else 8,
        "num_attention_heads": heads,
        "num_hidden_layers": int(draw.integers(1, 4)),
        "intermediate_size": int(draw.integers(5, 60)),
        "layer_norm_eps": float(draw.choice([1e-12, 1e-5, 1e-3])),
    }


def draw_activation(draw: np.random.Generator) -> str:
    names = ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "quick_gelu", "relu"]
    return str(draw.choice(names))


def draw_config(family: str, head: str, draw: np.random.Generator) -> Any:
    import transformers

    sizes, activation = draw_sizes(draw), draw_activation(draw)
    vocabulary, length, labels = (int(draw.integers(*ends)) for ends in ((20, 80), (12, 30), (3, 7)))
    if family == "bert":
        return transformers.BertConfig(
            **sizes,
            hidden_act=activation,
            vocab_size=vocabulary,
            max_position_embeddings=length,
            type_vocab_size=int(draw.integers(1, 4)),
            num_labels=2 if "QuestionAnswering" in head else labels,
        )
    if family == "gpt":
        return transformers.GPT2Config(
            n_embd=sizes["hidden_size"],
            n_head=sizes["num_attention_heads"],
            n_layer=sizes["num_hidden_layers"],
            n_inner=sizes["intermediate_size"] if draw.random() < 0.7 else None,
            layer_norm_epsilon=sizes["layer_norm_eps"],
            activation_function=activation,
            vocab_size=vocabulary,
            n_positions=length,
            num_labels=labels,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=vocabulary - 1 if "Classification" in head else None,
        )
    patch = int(draw.integers(2, 6))
    # Not always a multiple of the patch's size.
    sides = [patch * int(draw.integers(2, 5)) + int(draw.integers(0, 2)) for _ in range(2)]
    if family == "vit":
        return transformers.ViTConfig(
            **sizes,
            hidden_act=activation,
            image_size=sides[0] if draw.random() < 0.5 else sides,
            patch_size=patch,
            num_channels=int(draw.integers(1, 5)),
            num_labels=labels,
        )
    return transformers.CLIPConfig(
        vision_config={**sizes, "hidden_act": activation, "image_size": sides[0], "patch_size": patch},
        text_config={
            **draw_sizes(draw),
            "hidden_act": draw_activation(draw),
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2 if draw.random() < 0.5 else int(draw.integers(3, vocabulary)),
        },
        projection_dim=int(draw.integers(2, 20)),
    )


def draw_inputs(config: Any, draw: np.random.Generator, part: float = 1.0) -> Arrays:
    """Inputs by our names, texts of a part of the greatest length, the later ones padded."""
    inputs: Arrays = {}
    batch = 4
    vision, text = getattr(config, "vision_config", config), getattr(config, "text_config", config)
    if hasattr(vision, "image_size"):
        size = vision.image_size
        size = size if isinstance(size, (list, tuple)) else (size, size)
        if part != 1.0 and config.model_type == "vit" and size[0] == size[1]:
            size = (size[0] + 9, size[1] + 5)  # where positions are interpolated
        inputs["images"] = draw.normal(size=(batch, *size, vision.num_channels)).astype("float32")
    if hasattr(text, "vocab_size"):
        length = int(text.max_position_embeddings * part)
        real = np.array([length, max(2, length * 2 // 3), 2, length - 1])
        mask = np.arange(length) < real[:, None]
        # The first id is BERT's padding, whose row PyTorch gives no gradient wherever it is looked up. The last one is
        # the padding of GPT's classifier, and the end in CLIP where the config names none.
        ids = draw.integers(1, text.vocab_size - 1, size=(batch, length))
        if config.model_type == "clip":
            end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
            ids[ids == end] = 1
            ids[np.arange(batch), real - 1] = end
        if config.model_type == "gpt2" and text.pad_token_id is not None:
            ids[~mask] = text.pad_token_id
        inputs |= {"token_ids": ids.astype("int32"), "padding_mask": mask.astype("int32")}
    if config.model_type == "bert":
        inputs["segment_ids"] = draw.integers(0, config.type_vocab_size, size=ids.shape).astype("int32")
    return inputs


# --- the two models


def run_theirs(model: Any, inputs: Arrays, **labels: np.ndarray) -> Any:
    """The reference's outputs for our inputs, in float64."""
    import torch

    names = {"token_ids": "input_ids", "padding_mask": "attention_mask", "segment_ids": "token_type_ids"}
    arguments: dict[str, Any] = {
        names[name]: torch.from_numpy(value.astype("int64")) for name, value in inputs.items() if name in names
    }
    arguments |= {name: torch.from_numpy(value.astype("int64")) for name, value in labels.items()}
    if "images" in inputs:
        arguments["pixel_values"] = torch.from_numpy(inputs["images"].transpose(0, 3, 1, 2)).double()
    if model.config.model_type == "vit":
        size = model.config.image_size
        own = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        arguments["interpolate_pos_encoding"] = inputs["images"].shape[1:3] != own
    if model.config.model_type == "clip":
        arguments["return_loss"] = True
    return model.double()(**arguments)


def by_our_names(outputs: Any) -> Arrays:
    from tests.golden.make_models import OUTPUTS

    return {OUTPUTS[name]: value.detach().numpy() for name, value in outputs.items() if name in OUTPUTS}


def load_theirs(directory: Path) -> Any:
    """A directory as `transformers` loads it: with nothing missing, unexpected or misshapen."""
    import transformers

    (name,) = json.loads((directory / "config.json").read_text())["architectures"]
    model, report = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= report.keys()
    assert not any(report.values()), report
    return model.eval()


@dataclasses.dataclass
class Pair:
    """A checkpoint of theirs, saved in `directory`, and ours loaded from it."""

    family: str
    theirs: Any
    ours: Any
    directory: Path
    draw: np.random.Generator


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    import torch
    import transformers

    from tests.golden.make_models import enliven

    family, head, seed = request.param
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    config = draw_config(family, head, draw)
    print(f"seed {seed}: {head} {config.to_diff_dict()}")
    theirs = enliven(getattr(transformers, head)(config))
    directory = tmp_path_factory.mktemp("pair") / "theirs"
    theirs.save_pretrained(directory)
    return Pair(family, theirs, zoo.load(directory), directory, draw)


# --- random configurations


@pytest.mark.parametrize("pair", CASES, indirect=True)
def test_outputs_and_tensors_there_and_back(pair: Pair, tmp_path: Path) -> None:
    stored = safetensors.numpy.load_file(pair.directory / "model.safetensors")
    zoo.save(pair.ours, tmp_path / "ours", layout="hf")
    written = safetensors.numpy.load_file(tmp_path / "ours" / "model.safetensors")
    assert stored.keys() == written.keys()
    for name, value in stored.items():
        assert written[name].dtype == value.dtype
        np.testing.assert_array_equal(written[name], value, err_msg=name)
    again = load_theirs(tmp_path / "ours")
    assert type(again) is type(pair.theirs)
    if pair.family == "gpt":
        again.config.pad_token_id = pair.theirs.config.pad_token_id  # the tokenizer's to know, and there is none

    for part in (1.0, 0.5):
        inputs = draw_inputs(pair.theirs.config, pair.draw, part)
        expected = by_our_names(run_theirs(pair.theirs, inputs))
        outputs = pair.ours(inputs)
        for name in pair.ours.output_names:
            assert_close(outputs[name], expected[name])
        # Their settings came back too: in float64 the same function.
        for name, value in by_our_names(run_theirs(again, inputs)).items():
            assert_close(value, expected[name], tolerance=1e-11)


@pytest.mark.parametrize("pair", CASES, indirect=True)
def test_a_config_without_its_defaults(pair: Pair, tmp_path: Path) -> None:
    """As older versions wrote it: what is the default of theirs is left out."""
    config, record = pair.theirs.config, json.loads((pair.directory / "config.json").read_text())
    whole = len(str(record))
    for values, default in (
        (record.get("text_config"), getattr(config, "text_config", None)),
        (record.get("vision_config"), getattr(config, "vision_config", None)),
        (record, config),
    ):
        if values is not None:
            defaults = json.loads(type(default)().to_json_string(use_diff=False))
            for name in [name for name, value in values.items() if name in defaults and defaults[name] == value]:
                if name not in ("model_type", "architectures"):
                    del values[name]
    assert len(str(record)) < whole - 100
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").symlink_to(pair.directory / "model.safetensors")
    assert read_saved(tmp_path).config == pair.ours.config


# --- gradients


def bert_losses(pair: Pair, inputs: Arrays) -> tuple[Callable[[], Any], Any]:
    """Masked tokens, as many as there are in each row, and the next sentence."""
    draw, (batch, length) = pair.draw, inputs["token_ids"].shape
    labels = np.where(draw.random((batch, length)) < 0.4, draw.integers(0, 20, size=(batch, length)), -100)
    labels[inputs["padding_mask"] == 0] = -100
    labels[:, 0] = 3
    following = draw.integers(0, 2, size=batch)
    chosen = [np.flatnonzero(row != -100) for row in labels]
    most = max(map(len, chosen))
    positions = np.array([np.resize(row, most) for row in chosen], "int32")
    weights = np.array([np.arange(most) < len(row) for row in chosen], "float32")
    masked = cross_entropy(reduction="mean_with_sample_weight")

    def loss() -> Any:
        outputs = pair.ours({**inputs, "masked_positions": positions})
        of_tokens = masked(np.take_along_axis(labels, positions, axis=1), outputs["logits"], sample_weight=weights)
        return of_tokens + cross_entropy()(following, outputs["next_sentence"])

    return loss, run_theirs(pair.theirs, inputs, labels=labels, next_sentence_label=following).loss


def gpt_losses(pair: Pair, inputs: Arrays) -> tuple[Callable[[], Any], Any]:
    """The next token of those that are real."""
    ids, mask = inputs["token_ids"], inputs["padding_mask"]
    loss = cross_entropy(reduction="mean_with_sample_weight")
    shorter = {name: value[:, :-1] for name, value in inputs.items()}
    labels = np.where(mask == 1, ids, -100)
    return (
        lambda: loss(ids[:, 1:], pair.ours(shorter)["logits"], sample_weight=mask[:, 1:]),
        run_theirs(pair.theirs, inputs, labels=labels).loss,
    )


def vit_losses(pair: Pair, inputs: Arrays) -> tuple[Callable[[], Any], Any]:
    labels = pair.draw.integers(0, pair.ours.config.num_classes, size=len(inputs["images"]))
    return (
        lambda: cross_entropy()(labels, pair.ours(inputs)["logits"]),
        run_theirs(pair.theirs, inputs, labels=labels).loss,
    )


def clip_losses(pair: Pair, inputs: Arrays) -> tuple[Callable[[], Any], Any]:
    return lambda: pair.ours.compute_loss(y_pred=pair.ours(inputs)), run_theirs(pair.theirs, inputs).loss


LOSSES = {"bert": bert_losses, "gpt": gpt_losses, "vit": vit_losses, "clip": clip_losses}


def cross_entropy(**settings: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **settings)


def parameters_by_name(pair: Pair) -> dict[str, Any]:
    """Their parameters by their names in the file, which are not always those in the program: told by their values."""
    stored = safetensors.numpy.load_file(pair.directory / "model.safetensors")
    left = [(value.detach().float().numpy(), value) for value in pair.theirs.parameters()]
    found = {
        name: [parameter for held, parameter in left if np.array_equal(held, value)] for name, value in stored.items()
    }
    assert all(len(parameters) == 1 for parameters in found.values()) and len(found) == len(left)
    return {name: parameters[0] for name, parameters in found.items()}


def scale_of_log_scale(pair: Pair, inputs: Arrays) -> float:
    """The gradient of CLIP's one scalar is a sum over all pairs whose terms cancel: this is what they add up to without
    their signs, (share - right) * logit, for the texts of an image and for the images of a text."""
    logits = run_theirs(pair.theirs, inputs).logits_per_image.detach()
    right = np.eye(len(logits))
    shares = (logits.softmax(0).numpy() + logits.softmax(1).numpy()) / 2.0
    return float(np.abs((shares - right) * logits.numpy()).sum() / len(right))


@pytest.mark.parametrize("pair", PRETRAINING, indirect=True)
def test_gradients_of_pretraining(pair: Pair) -> None:
    pair.theirs.zero_grad()
    inputs = draw_inputs(pair.theirs.config, pair.draw)
    loss, reference = LOSSES[pair.family](pair, inputs)
    with tf.GradientTape() as tape:
        value = loss()
    assert float(value) == pytest.approx(float(reference.detach()), rel=1e-5)

    named = pair.ours.named_weights()
    gradients = tape.gradient(value, [weight.value for weight in named.values()])
    reference.backward()
    parameters = parameters_by_name(pair)
    layout = find_layout(pair.family)
    for name, gradient in zip(named, gradients, strict=True):
        weight, theirs = layout.weight_for(name)
        parts = weight.transform.split(tf.convert_to_tensor(gradient).numpy())
        expected = [parameters.pop(each).grad.numpy() for each in theirs]
        if name.endswith("qkv.bias"):
            if len(parts) == 1:  # theirs are fused too
                parts, expected = np.split(parts[0], 3), np.split(expected[0], 3)
            # Adding to every key the same changes nothing: the true gradient is zero, and rounding is all there is.
            assert np.linalg.norm(expected.pop(1)) < 1e-12
            assert np.linalg.norm(parts.pop(1)) < 1e-5
        for got, wanted in zip(parts, expected, strict=True):
            norm = scale_of_log_scale(pair, inputs) if name == "similarity.log_scale" else np.linalg.norm(wanted)
            error = np.linalg.norm(got - wanted) / norm
            assert error <= 1e-4, f"{name}: off by {error:.1e} of its norm"
    assert not parameters  # every one of theirs has one of ours


# --- what is made here


@pytest.mark.parametrize(
    ("family", "task"), [(family.name, task) for family in FAMILIES.values() for task in family.tasks]
)
def test_what_we_make_they_load(family: str, task: str, tmp_path: Path, enliven: Callable[..., Any]) -> None:
    changes: dict[str, Any] = {"depth": 1, "mlp_width": 17}
    if family == "clip":
        changes = {"vision": changes, "text": {"depth": 3, "mlp_width": 9}}
    ours = enliven(zoo.create(f"{family}-nano", task=task, **changes))
    zoo.save(ours, tmp_path / "ours", layout="hf")
    theirs = load_theirs(tmp_path / "ours")
    if family == "gpt" and task == "classify":
        theirs.config.pad_token_id = ours.config.vocabulary_size - 1  # no tokenizer has named it
    inputs = draw_inputs(theirs.config, np.random.default_rng(0), part=0.2)
    expected = by_our_names(run_theirs(theirs, inputs))
    outputs = ours(inputs)
    if task == "embed":
        sequence, mask = expected["sequence"], inputs.get("padding_mask")
        expected["embedding"] = {
            "bert": lambda: (sequence * mask[..., None]).sum(1) / mask.sum(1, keepdims=True),
            "gpt": lambda: sequence[np.arange(len(sequence)), mask.sum(1) - 1],
            "vit": lambda: sequence[:, 0],
        }[family]()
    for name in ours.output_names:
        assert_close(outputs[name], expected[name])


# --- checkpoints that hold a pickle alone


def test_the_command_in_the_message_converts_a_pickle(tmp_path: Path) -> None:
    import torch

    directory = tmp_path / "an old one"
    directory.mkdir()
    (directory / "config.json").write_bytes((MODELS / "bert-tag" / "config.json").read_bytes())
    tensors = safetensors.numpy.load_file(MODELS / "bert-tag" / "model.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, directory / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        zoo.load(directory)
    command = shlex.split(str(caught.value)[str(caught.value).index("python -c") :])
    assert command.pop(0) == "python" and len(command) == 2
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True)
    model = zoo.load(tmp_path / "an old one-safetensors")
    np.testing.assert_array_equal(model.classifier.kernel.numpy(), tensors["classifier.weight"].T)

"""A model's life outside a program: `create` it from a named size, `load` it from a directory, `save` it to one.

A model directory holds `config.json`, `model.safetensors`, the tokenizer's files where the model reads text,
`preprocessing.json` where it sees images, `labels.txt` where its classes have names, and a `README.md`. It holds no
code, and loading it never runs any. Hugging Face's directories are read and written as well.
"""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from zoo.checkpoint import TranslatedTensors
from zoo.directory import (
    Saved,
    find_model_directory,
    load_preprocessing,
    read_saved,
    require_labels,
    require_vocabulary,
    write_config,
    write_labels,
)
from zoo.errors import UserError
from zoo.files import whole_directory, write_json
from zoo.huggingface import find_layout, read_sentence_length, reading_length, write_settings
from zoo.lora import merged_weights
from zoo.model import ZooModel
from zoo.registry import Family, find_preset
from zoo.tensors import FILE, Tensors, find_tensors, open_tensors, total_bytes, write_tensors
from zoo.text import Tokenizer

logger = logging.getLogger("zoo")

LAYOUTS = ("zoo", "hf")
PREPROCESSOR = "preprocessor_config.json"
POOLER, POOLER_BIAS = "backbone.pooler.kernel", "backbone.pooler.bias"


def create(preset: str, task: str | None = None, dtype: str = "float32", **overrides: Any) -> ZooModel:
    """Make a model with fresh weights.

    Args:
        preset: a named size; `zoo list` shows them.
        task: what it is for; `zoo list` shows each family's tasks. None for the family's main one.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16".
        **overrides: fields of the family's configuration to change, such as `vocabulary_size=8000`.

    Raises:
        UserError: an unknown preset, task or field, or a value that is not allowed.
    """
    family, config = find_preset(preset)
    return build(family, config.replace(**overrides), task or family.main_task, dtype)


def load(source: str | Path, task: str | None = None, dtype: str = "float32", **overrides: Any) -> ZooModel:
    """Load a model directory, or the run directory that holds one, or a Hugging Face checkpoint.

    Args:
        source: a directory in the zoo's layout or in Hugging Face's, or `hf:organisation/name[@revision]`, which is
            fetched from the hub.
        task: load it for another task than it was saved for; weights that the other task lacks are left out, and those
            that the checkpoint lacks are fresh, with a warning that names them.
        dtype: Keras dtype policy.
        **overrides: fields of the configuration to change, such as `dropout=0.0`. The weights must still fit, with
            three exceptions: positions are interpolated for another `image_size`, another `num_classes` makes a fresh
            head, and CLIP's other `loss` a fresh bias.

    Raises:
        UserError: something is missing, corrupt, or does not fit; the message names file and field or tensor.
    """
    directory = find_model_directory(source)
    saved = read_saved(directory)
    config: Any = saved.config.replace(**overrides)
    task = task or saved.task
    if task is None:
        raise UserError(
            f"{directory}: of a kind that no task here is for: choose one of {', '.join(saved.family.tasks)}"
        )
    saved.family.require_task(task)
    path = find_tensors(directory)
    # The config is checked against the file before anything is allocated for it.
    needed, held = saved.config.count_parameters(saved.task or "backbone"), total_bytes(path)
    if needed > held:  # a byte a weight is the least that any format of ours needs
        raise UserError(f"{path}: {held:,} bytes cannot hold the {needed:,} weights that config.json asks for")
    tokenizer = _load_tokenizer(directory, config)
    if task != saved.task and saved.layout is None and getattr(config, "pooler", False):
        with open_tensors(path) as tensors:
            config = config.replace(pooler=POOLER in tensors)  # what was never there is no part of a backbone
    model = build(saved.family, config, task, dtype)
    with open_tensors(path) as tensors:
        _assign(model, tensors, saved)
    model.tokenizer = tokenizer
    if model.preprocessing is not None and (preprocessing := load_preprocessing(saved)) is not None:
        resized = config.image_size != getattr(saved.config, "image_size", None)
        model.preprocessing = preprocessing.with_output_size(*config.image_size) if resized else preprocessing
    if getattr(config, "num_classes", None) == getattr(saved.config, "num_classes", None):
        model.labels = saved.labels
    return model


def save(model: ZooModel, directory: str | Path, layout: str = "zoo", force: bool = False) -> None:
    """Write a model directory, whole or not at all. Where the model has adapters, what is written has them merged.

    Args:
        model: what to save.
        directory: where.
        layout: "zoo", or "hf" for one that `transformers` loads.
        force: replace the model that is there.

    Raises:
        UserError: the directory is not empty, and `force` is not given, or it holds no model; an unknown layout; or the
            layout cannot express the model.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout is {layout!r:.80}, and must be {' or '.join(LAYOUTS)}")
    require_labels(model.labels, model.config)
    with whole_directory(Path(directory), force, marker="config.json") as partial:
        if layout == "zoo":
            write_config(partial, model.family, model.task, model.config)
            write_labels(partial, model.labels)
            write_tensors(_values(model), partial / FILE, framework="tf")
            if model.preprocessing is not None:
                model.preprocessing.save(partial)
        else:
            write_settings(partial, model)
            table, values = find_layout(model.family), _values(model)
            if model.task in ("backbone", "embed") and getattr(model.config, "pooler", None) is False:
                # Their class has one, and would else report it missing; that it is none is kept in the config.
                width = model.config.width
                values |= {POOLER: np.zeros((width, width), "float32"), POOLER_BIAS: np.zeros(width, "float32")}
            write_tensors(
                table.write_weights(values, bare=model.task in ("backbone", "embed")),
                partial / FILE,
                framework="pt",
            )
            if model.preprocessing is not None:
                write_json(partial / PREPROCESSOR, model.preprocessing.to_huggingface(model.family))
        # safetensors makes files that their owner alone can read; a model is as readable as its config.
        shutil.copymode(partial / "config.json", partial / FILE)
        if model.tokenizer is not None:
            length = reading_length(model.tokenizer, model.config)
            model.tokenizer.save(partial, layout=layout, max_length=length)
        (partial / "README.md").write_text(_card(model), encoding="utf-8")


def _values(model: ZooModel) -> dict[str, np.ndarray]:
    """Every weight, adapters merged, without a copy where it lies in memory that NumPy can look into."""
    values = {name: getattr(weight, "value", weight) for name, weight in merged_weights(model).items()}
    # Under TensorFlow the value is a variable, and `numpy()` would copy it.
    return {
        name: np.asarray(each.read_value() if hasattr(each, "read_value") else each) for name, each in values.items()
    }


def _assign(model: ZooModel, tensors: Tensors, saved: Saved) -> None:
    """Set every weight, one at a time.

    Raises:
        UserError: a tensor is missing, unexpected, misshapen or of a wrong type; names and shapes are listed.
    """
    weights = model.named_weights()
    # CLIP's other loss is a task of its own: it brings a weight along.
    other_task = (model.task, getattr(model.config, "loss", None)) != (saved.task, getattr(saved.config, "loss", None))
    other_classes = getattr(model.config, "num_classes", None) != getattr(saved.config, "num_classes", None)
    source: Tensors | TranslatedTensors
    if saved.layout is None:
        source = tensors
        missing = {name: [name] for name in weights if name not in tensors}
        unexpected = [name for name in tensors if name not in weights and not (other_task and model.is_head(name))]
    else:
        source = TranslatedTensors(saved.layout, tensors, weights)
        missing, unexpected = source.missing, source.unexpected

    fresh = [name for name in missing if other_task and model.is_head(name)]
    fitted: dict[str, np.ndarray] = {}
    problems = [
        f"missing {their_name}, for {name} {tuple(weights[name].shape)}"
        if their_name != name
        else f"missing {name} {tuple(weights[name].shape)}"
        for name, their_names in missing.items()
        if name not in fresh
        for their_name in their_names
    ]
    problems += [f"unexpected {name!r:.80} {tensors[name]!r:.80}" for name in sorted(unexpected)]
    for name, weight in weights.items():
        if name in missing or (problem := source.misfit(name, tuple(weight.shape))) is None:
            continue
        if other_classes and model.is_head(name):
            fresh.append(name)
        elif (value := _fit(model, name, source, saved)) is not None:
            fitted[name] = value
        else:
            problems.append(problem)
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{tensors.path}: does not fit config.json: {'; '.join(problems[:5])}{more}")
    for name, weight in weights.items():
        if name not in fresh:
            weight.assign(fitted[name] if name in fitted else source.read(name))
    if fresh:
        logger.warning("%s has no %s: they are fresh, and to be trained", saved.directory, ", ".join(sorted(fresh)))


def _fit(model: ZooModel, name: str, source: Tensors | TranslatedTensors, saved: Saved) -> np.ndarray | None:
    """A weight that follows a changed configuration; None where it cannot."""
    if model.config == saved.config:
        return None
    try:
        value = model.fit_weight(name, source.read(name), saved.config)
    except ValueError:
        return None
    return value if value.shape == tuple(model.named_weights()[name].shape) else None


def _load_tokenizer(directory: Path, config: Any) -> Tokenizer | None:
    if not hasattr(config, "vocabulary_size") or not Tokenizer.is_saved_in(directory):
        return None
    tokenizer = Tokenizer.load(directory)
    if (length := read_sentence_length(directory)) is not None:
        tokenizer = Tokenizer(dataclasses.replace(tokenizer.specification, max_length=length))
    require_vocabulary(tokenizer, config, directory)
    return tokenizer


def build(family: Family, config: Any, task: str, dtype: str) -> ZooModel:
    """A model of a configuration that is known to be right, with fresh weights."""
    model = family.model_class(task)(config, task=task, dtype=dtype)
    model.build()
    return model


def _card(model: ZooModel) -> str:
    fields = "\n".join(f"| {name} | {value} |" for name, value in model.config.to_dict().items())
    return (
        f"# {model.family}, {model.task}\n\n{model.config.count_parameters(model.task):,} parameters. "
        f"Load it with `zoo.load(directory)`.\n\n| field | value |\n| --- | --- |\n{fields}\n"
    )

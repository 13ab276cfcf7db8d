"""A model's life outside a program: `create` it from a named size, `load` it from a directory, `save` it to one.

A model directory holds `config.json`, `model.safetensors`, the tokenizer's files where the model reads text, and a
`README.md`. It holds no code, and loading it never runs any.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from zoo.directory import find_model_directory, read_config, require_vocabulary, write_config
from zoo.errors import UserError
from zoo.files import whole_directory
from zoo.model import ZooModel
from zoo.registry import Family, find_preset
from zoo.text import Tokenizer


def create(preset: str, task: str = "generate", dtype: str = "float32", **overrides: Any) -> ZooModel:
    """Make a model with fresh weights.

    Args:
        preset: a named size; `zoo list` shows them.
        task: what it is for; `zoo list` shows each family's tasks.
        dtype: Keras dtype policy, "float32" or "mixed_bfloat16".
        **overrides: fields of the family's configuration to change, such as `vocabulary_size=8000`.

    Raises:
        UserError: an unknown preset, task or field, or a value that is not allowed.
    """
    family, config = find_preset(preset)
    return _build(family, config.replace(**overrides), task, dtype)


def load(source: str | Path, task: str | None = None, dtype: str = "float32", **overrides: Any) -> ZooModel:
    """Load a model directory, or the run directory that holds one.

    Args:
        source: the directory.
        task: load it for another task than it was saved for; weights that the other task lacks are left out.
        dtype: Keras dtype policy.
        **overrides: fields of the configuration to change, such as `dropout=0.0`. The weights must still fit.

    Raises:
        UserError: something is missing, corrupt, or does not fit; the message names file and field or tensor.
    """
    directory = find_model_directory(source)
    family, saved_task, values = read_config(directory)
    config = family.config_class.from_dict(values).replace(**overrides)
    path = directory / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{directory}: there is no model.safetensors")
    # The config is checked against the file before anything is allocated for it.
    needed, held = config.parameter_count, path.stat().st_size
    if needed > held:  # a byte a weight is the least that any format of ours needs
        raise UserError(f"{path}: {held:,} bytes cannot hold the {needed:,} weights that config.json asks for")
    tokenizer = Tokenizer.load(directory) if Tokenizer.is_saved_in(directory) else None
    if tokenizer is not None:
        require_vocabulary(tokenizer, config, directory)
    model = _build(family, config, task or saved_task, dtype)
    assign_weights(model, path, other_task=task not in (None, saved_task))
    model.tokenizer = tokenizer
    return model


def save(model: ZooModel, directory: str | Path, force: bool = False) -> None:
    """Write a model directory, whole or not at all.

    Raises:
        UserError: the directory is not empty, and `force` is not given, or it holds no model.
    """
    with whole_directory(Path(directory), force, marker="config.json") as partial:
        write_config(partial, model.family, model.task, model.config)
        save_weights(model, partial / "model.safetensors")
        # safetensors makes files that their owner alone can read; a model is as readable as its config.
        shutil.copymode(partial / "config.json", partial / "model.safetensors")
        if model.tokenizer is not None:
            model.tokenizer.save(partial)
        (partial / "README.md").write_text(_card(model), encoding="utf-8")


def save_weights(model: ZooModel, path: Path) -> None:
    """Write every weight under its name to a safetensors file."""
    tensors = {name: np.ascontiguousarray(weight.numpy()) for name, weight in model.named_weights().items()}
    safetensors.numpy.save_file(tensors, path, metadata={"format": "tf"})


def assign_weights(model: ZooModel, path: Path, other_task: bool = False) -> None:
    """Assign every weight from a safetensors file, one at a time.

    Args:
        model: whose weights to set.
        path: the file.
        other_task: the file was saved for another task: weights outside `backbone.` may be absent on either side.

    Raises:
        UserError: the file is corrupt, or a tensor is missing, unexpected, misshapen or of a wrong type; names and
            shapes are listed.
    """
    weights = model.named_weights()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _require_match(path, {name: tuple(weight.shape) for name, weight in weights.items()}, shapes, other_task)
            for name, weight in weights.items():
                if name in shapes:
                    tensor = file.get_tensor(name)
                    if tensor.dtype.kind != "f":
                        raise UserError(f"{path}: {name} holds {tensor.dtype}, and must hold floating-point numbers")
                    weight.assign(tensor)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {str(error).splitlines()[0]}") from None


def _require_match(
    path: Path, ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]], other_task: bool
) -> None:
    def strict(names: set[str]) -> list[str]:
        return sorted(name for name in names if not other_task or name.startswith("backbone."))

    problems = [f"missing {name} {ours[name]}" for name in strict(set(ours) - set(theirs))]
    # What comes from the file may be of any length.
    problems += [f"unexpected {name!r:.80} {theirs[name]!r:.80}" for name in strict(set(theirs) - set(ours))]
    problems += [
        f"{name} is {theirs[name]!r:.80} and must be {ours[name]}"
        for name in sorted(set(ours) & set(theirs))
        if ours[name] != theirs[name]
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path}: does not fit config.json: {'; '.join(problems[:5])}{more}")


def _build(family: Family, config: Any, task: str, dtype: str) -> ZooModel:
    model = family.model_class(task)(config, dtype=dtype)
    model.build()
    model.task = task
    return model


def _card(model: ZooModel) -> str:
    fields = "\n".join(f"| {name} | {value} |" for name, value in model.config.to_dict().items())
    return (
        f"# {model.family}, {model.task}\n\n{model.count_params():,} parameters. "
        f"Load it with `zoo.load(directory)`.\n\n| field | value |\n| --- | --- |\n{fields}\n"
    )

"""LoRA (Hu et al. 2021): a pretrained model stays as it is, and low-rank adapters beside its dense layers are trained.

`add_lora` before `compile` and `fit`, in the scope of the strategy where there is one; then `save_lora` keeps the
adapters apart from the model, and `merge_lora` makes a plain model of both. `zoo.save` writes them merged.
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.files import read_json, whole_directory, write_json
from zoo.layers import Dense, LowRankAdapter
from zoo.model import ZooModel
from zoo.tensors import Shape, Tensors, open_tensors, write_tensors

FORMAT = 1
SETTINGS, FILE = "adapter.json", "adapter.safetensors"
PATTERNS = ("*.attention.*", "*.feed_forward.*")
LARGEST_RANK = 4096
MOST_NAMES, LONGEST_NAME = 2_000, 300  # in a file: patterns, and names of trained weights


@dataclasses.dataclass(frozen=True)
class LoRA:
    """What a model was adapted with.

    Attributes:
        rank: of every adapter.
        alpha: the scale of what adapters add, before it is divided by `rank`.
        dropout: rate of dropout on the adapters' inputs.
        patterns: as in `add_lora`.
        trained: names of the weights that are trained beside the adapters.
        frozen: names of those that were not to be trained any more.
    """

    rank: int
    alpha: float
    dropout: float
    patterns: tuple[str, ...]
    trained: tuple[str, ...]
    frozen: tuple[str, ...]


def add_lora(
    model: ZooModel,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    patterns: Iterable[str] = PATTERNS,
    train: Iterable[str] | None = None,
) -> None:
    """Give dense layers of `model` fresh adapters, and leave nothing else to be trained but what `train` says.

    Args:
        model: built, as `zoo.create` and `zoo.load` make it. To be compiled after this.
        rank: of the adapters, 1 to 4096.
        alpha: what an adapter adds is scaled by `alpha / rank`.
        dropout: rate of dropout on the input of an adapter.
        patterns: which layers, by their names in `named_weights`, such as `backbone.transformer.block_0.attention.qkv`,
            with the wildcards of `fnmatch`. The attention and feed-forward layers of every block where not given.
        train: names or patterns of further weights to train, whole; the head of the task where None. The kernel and
            bias beside an adapter never are.

    Raises:
        UserError: a value that is not allowed, a pattern that matches nothing, or a model that has adapters.
    """
    _attach(model, _plan(model, rank, alpha, dropout, tuple(patterns), None if train is None else tuple(train)))


def merge_lora(model: ZooModel) -> None:
    """Fold the adapters into the kernels, in place, and take them away: a plain model, with the same outputs.

    What `add_lora` froze can be trained again. Compile the model before it is; and what was traced before by other
    means than `fit`, `evaluate` and `predict`, such as a `zoo.generation.Generator`, is to be made anew.

    Raises:
        UserError: the model has no adapters.
    """
    lora = _require_lora(model)
    for layer in _adapted(model).values():
        layer.kernel.assign(layer.merged_kernel())
        layer.detach()
    weights = model.named_weights()
    for name in lora.frozen:
        weights[name].trainable = True
    model.lora = None
    model.forget_traces()


def merged_weights(model: ZooModel) -> dict[str, Any]:
    """Every weight of the plain model that `merge_lora` would make, by name, without changing `model`: a kernel that
    has an adapter as a NumPy array, and what has none as the variable that it is."""
    merged: dict[str, Any] = {name: weight for name, weight in model.named_weights().items() if ".lora." not in name}
    return merged | {f"{name}.kernel": layer.merged_kernel() for name, layer in _adapted(model).items()}


def save_lora(model: ZooModel, directory: str | Path, force: bool = False) -> None:
    """Write the adapters, and the weights that are trained beside them, to a directory, whole or not at all.

    Args:
        model: one with adapters.
        directory: where. It gets `adapter.json` and `adapter.safetensors`, and nothing of the model itself.
        force: replace the adapters that are there.

    Raises:
        UserError: the model has no adapters; or the directory is not empty, and `force` is not given, or it holds none.
    """
    lora = _require_lora(model)
    weights = model.named_weights()
    kept = [name for name in weights if ".lora." in name or name in lora.trained]
    record = {"zoo_lora": FORMAT, "family": model.family, **dataclasses.asdict(lora)}
    del record["frozen"]
    with whole_directory(Path(directory), force, marker=SETTINGS) as partial:
        write_json(partial / SETTINGS, record)
        write_tensors({name: np.asarray(weights[name].numpy()) for name in kept}, partial / FILE, framework="tf")
        (partial / FILE).chmod((partial / SETTINGS).stat().st_mode)


def load_lora(model: ZooModel, directory: str | Path) -> None:
    """Give `model` the adapters that `save_lora` wrote, with the weights that were trained beside them.

    The model is as after `add_lora`: ready to predict, to be trained further once it is compiled, or to be merged.

    Args:
        model: of the family, size and task that the adapters were trained on, and without adapters.
        directory: what `save_lora` wrote, or anybody else: nothing in it is run, and it is checked before it is used.

    Raises:
        UserError: a file is missing or damaged, or does not fit the model; the message names the tensors and shapes.
    """
    directory = Path(directory)
    record = read_json(directory / SETTINGS)
    try:
        plan = _read_plan(model, record)
    except UserError as error:
        raise UserError(f"{directory / SETTINGS}: {error}") from None
    with open_tensors(directory / FILE) as tensors:
        _require_fit(model, plan, tensors)
        values = {name: tensors.read(name) for name in tensors}
    _attach(model, plan)
    weights = model.named_weights()
    for name, value in values.items():
        weights[name].assign(value)


def _plan(
    model: ZooModel,
    rank: Any,
    alpha: Any,
    dropout: Any,
    patterns: tuple[Any, ...],
    train: tuple[Any, ...] | None,
) -> LoRA:
    """What is to be done to a model, checked; nothing is done yet."""
    if model.lora is not None:
        raise UserError("the model has adapters already: merge_lora folds them in")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        raise UserError(f"rank is {rank!r:.80}, and must be an int from 1 to {LARGEST_RANK}")
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise UserError(f"alpha is {alpha!r:.80}, and must be a number above 0")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout!r:.80}, and must be a number from 0, and below 1")
    weights, adapted = model.named_weights(), _select_layers(model, patterns)
    if not adapted:
        raise UserError("no pattern is given: name the layers that are to have adapters")
    for name, layer in adapted.items():
        if not layer.trainable:
            raise UserError(f"{name} is frozen as a layer: set trainable = True, and add_lora freezes what is to be")
    beside = {f"{name}.{part}" for name in adapted for part in ("kernel", "bias")}
    trainable = {id(weight) for weight in model.trainable_weights}
    if train is None:
        chosen = {name for name in weights if model.is_head(name)}
    else:
        chosen = {name for pattern in train for name in _match(pattern, weights, "weight")}
    trained = [name for name in weights if name in chosen - beside and id(weights[name]) in trainable]
    frozen = [name for name in weights if name not in trained and id(weights[name]) in trainable]
    return LoRA(rank, float(alpha), float(dropout), patterns, tuple(trained), tuple(frozen))


def _attach(model: ZooModel, lora: LoRA) -> None:
    weights = model.named_weights()
    for name in lora.frozen:
        weights[name].trainable = False
    for layer in _select_layers(model, lora.patterns).values():
        adapter = LowRankAdapter(
            layer.units, lora.rank, lora.alpha, lora.dropout, name="lora", dtype=layer.dtype_policy.name
        )
        layer.attach(adapter)
    model.lora = lora
    model.forget_traces()


def _select_layers(model: ZooModel, patterns: tuple[Any, ...]) -> dict[str, Dense]:
    """The layers that are to have adapters, in the order of the model, in which a seed draws their first values."""
    layers = _dense_layers(model)
    chosen = {name for pattern in patterns for name in _match(pattern, layers, "layer")}
    return {name: layer for name, layer in layers.items() if name in chosen}


def _match(pattern: Any, names: Iterable[str], what: str) -> list[str]:
    matching = fnmatch.filter(names, pattern) if isinstance(pattern, str) else []
    if not matching:
        kinds = dict.fromkeys(re.sub(r"\.block_[0-9]+\.", ".block_*.", name) for name in names)
        raise UserError(f"no {what} is named {pattern!r:.80}: there are {', '.join(kinds)}")
    return matching


def _dense_layers(model: ZooModel) -> dict[str, Dense]:
    """Every dense layer by its name, that of its weights without their own."""
    layers = {id(layer.kernel): layer for layer in model._flatten_layers() if isinstance(layer, Dense)}
    return {
        name.removesuffix(".kernel"): layers[id(weight)]
        for name, weight in model.named_weights().items()
        if id(weight) in layers
    }


def _adapted(model: ZooModel) -> dict[str, Dense]:
    return {name: layer for name, layer in _dense_layers(model).items() if layer.adapter is not None}


def _require_lora(model: ZooModel) -> LoRA:
    if model.lora is None:
        raise UserError("the model has no adapters: add_lora or load_lora gives it some")
    return model.lora


def _read_plan(model: ZooModel, record: Any) -> LoRA:
    fields = {"zoo_lora", "family", "rank", "alpha", "dropout", "patterns", "trained"}
    if not isinstance(record, dict) or set(record) != fields:
        odd = sorted(fields ^ set(record)) if isinstance(record, dict) else []
        raise UserError(f"the fields must be {', '.join(sorted(fields))}" + (f", not so {odd[0]!r:.80}" if odd else ""))
    if record["zoo_lora"] != FORMAT:
        raise UserError(f"format {record['zoo_lora']!r:.80} is not {FORMAT}, the one that this version reads")
    if record["family"] != model.family:
        raise UserError(f"these adapters are of {record['family']!r:.80}, and the model is of {model.family!r}")
    for field in ("patterns", "trained"):
        names = record[field]
        if not isinstance(names, list) or len(names) > MOST_NAMES:
            raise UserError(f"{field} is {names!r:.80}, and must be a list of at most {MOST_NAMES} names")
        if not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names):
            raise UserError(f"{field} holds what is no name of at most {LONGEST_NAME} characters")
    return _plan(
        model, record["rank"], record["alpha"], record["dropout"], tuple(record["patterns"]), tuple(record["trained"])
    )


def _require_fit(model: ZooModel, lora: LoRA, tensors: Tensors) -> None:
    """Raise UserError unless the file holds what the adapted model will have, and no more."""
    wanted = _shapes(model, lora)
    problems = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in tensors]
    problems += [f"unexpected {name!r:.80} {tensors[name]!r:.80}" for name in tensors if name not in wanted]
    found = (tensors.misfit(name, shape) for name, shape in wanted.items() if name in tensors)
    problems += [problem for problem in found if problem is not None]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{tensors.path}: does not fit the model: {'; '.join(problems[:5])}{more}")


def _shapes(model: ZooModel, lora: LoRA) -> Mapping[str, Shape]:
    weights = model.named_weights()
    shapes: dict[str, Shape] = {}
    for name, layer in _select_layers(model, lora.patterns).items():
        inputs, units = layer.kernel.shape
        shapes |= {f"{name}.lora.a": (inputs, lora.rank), f"{name}.lora.b": (lora.rank, units)}
    return shapes | {name: tuple(weights[name].shape) for name in lora.trained}

"""What a weight's name says about how it is trained: whether it decays, how fast it learns, whether it does at all."""

import fnmatch
import re
from collections.abc import Iterable
from typing import Any

from zoo.config import nearest
from zoo.errors import UserError

# The last part of the name of what is no matrix, whatever its shape: a class token is (1, 1, width).
NEVER_DECAYED = ("bias", "gamma", "beta", "class_token")
# Layers whose kernel holds several matrices side by side, (rows, count * columns), and how many.
FUSED = {"qkv": 3, "key_value": 2}
_BLOCK = re.compile(r"^(?P<tower>.*?)transformer\.block_(?P<index>\d+)\.")
_EMBEDDING = re.compile(r"^(?P<tower>(?:.*\.)?)[^.]*embedding[^.]*\.")


def weight_name(weight: Any) -> str:
    """The name of a weight within its model: its path without the model's own name, joined by dots.

    It is the name in `named_weights()`, without the `backbone.` that a backbone alone puts before it there.
    """
    path = getattr(weight, "path", None) or weight.name
    return ".".join(path.split("/")[1:]) or path


def is_decayed(weight: Any) -> bool:
    """Whether weight decay applies: to matrices and tables, not to biases, gains and class tokens.

    Tables of positions decay with the others, as in the code of BERT and in "all weights that are not gains or biases"
    of CLIP (Radford et al. 2021, section 2.5) and GPT (Radford et al. 2018, section 4.1). Implementations of ViT differ
    there: some leave the table out.
    """
    return len(weight.shape) >= 2 and weight_name(weight).rpartition(".")[2] not in NEVER_DECAYED


def count_fused(name: str) -> int:
    """How many matrices the kernel called `name` holds side by side, along its last axis."""
    *_, layer, kind = ["", *name.split(".")]
    return FUSED.get(layer, 1) if kind == "kernel" else 1


def layer_factors(model: Any, decay: float) -> dict[str, float]:
    """Learning rates that fall layer by layer from the head down (Clark et al. 2020, section 3.1 and appendix B; the
    depths are those of Bao et al. 2022, BEiT): `decay ** (N + 1 - depth)` for a weight at `depth`.

    Embeddings have depth 0, block i of N depth i + 1, what comes after the blocks depth N + 1, so a factor of 1. Each
    tower of a model with several has depths of its own.

    Returns:
        By name in an optimizer (`weight_name`): the factor of every weight that is trained.

    Raises:
        UserError: the model has no blocks.
    """
    depths: dict[str, int] = {}
    for weight in model.weights:
        if found := _BLOCK.match(weight_name(weight)):
            depths[found["tower"]] = max(depths.get(found["tower"], 0), int(found["index"]) + 1)
    if not depths:
        raise UserError(f"{model.name} has no transformer blocks, so its learning rate cannot decay by layer")
    factors = {}
    for name in map(weight_name, model.trainable_weights):
        if found := _BLOCK.match(name):
            below = depths[found["tower"]] - int(found["index"])
        elif (found := _EMBEDDING.match(name)) and found["tower"] in depths:
            below = depths[found["tower"]] + 1
        else:
            below = 0
        factors[name] = decay**below
    return factors


def freeze(model: Any, patterns: Iterable[str]) -> list[str]:
    """Leave weights as they are in training: those whose name in `model.named_weights()` matches one of `patterns`,
    such as `backbone.token_embedding.*` or `*.block_[01].*` (as in `fnmatch`). Call it before `compile`.

    Returns:
        The names of the weights that are frozen now.

    Raises:
        UserError: a pattern matches no weight, or no weight is left to train.
    """
    weights = model.named_weights()
    frozen: list[str] = []
    for pattern in patterns:
        matching = fnmatch.filter(weights, pattern)
        if not matching:
            raise UserError(f"{pattern!r} is to be frozen, and no weight is called so{_hint(pattern, weights)}")
        frozen += [name for name in matching if name not in frozen]
    if set(frozen) >= {name for name, weight in weights.items() if weight.trainable}:
        raise UserError(f"all weights of {model.name} are frozen: leave some to train")
    for name in frozen:
        weights[name].trainable = False
    return frozen


def _hint(pattern: str, names: Iterable[str]) -> str:
    """The layers most like `pattern`, with one name for those of all blocks: there are too many weights to list."""
    layers = {re.sub(r"block_\d+", "block_*", name.rpartition(".")[0]) + ".*" for name in names}
    blocks = {layer.partition(".block_*.")[0] + ".block_*.*" for layer in layers if ".block_*." in layer}
    return nearest(pattern, sorted(layers | blocks))

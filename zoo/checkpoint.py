"""How a family's weights and settings are laid out in Hugging Face's checkpoints, as a table that reads both ways."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.tensors import Shape, Tensors

Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """From one tensor of ours to one or several of theirs, and back, without loss.

    Attributes:
        shapes: our shape to theirs.
        split: our tensor to theirs.
        join: theirs to ours.
    """

    shapes: Callable[[Shape], list[Shape]]
    split: Callable[[np.ndarray], Arrays]
    join: Callable[[Arrays], np.ndarray]


SAME = Transform(lambda shape: [shape], lambda ours: [ours], lambda theirs: theirs[0])
# PyTorch's linear layers keep their kernel as (outputs, inputs).
TRANSPOSED = Transform(lambda shape: [shape[::-1]], lambda ours: [ours.T], lambda theirs: theirs[0].T)
# Query, key and value: three kernels or biases beside each other.
FUSED_KERNELS = Transform(
    lambda shape: [(shape[1] // 3, shape[0])] * 3,
    lambda ours: [part.T for part in np.split(ours, 3, axis=1)],
    lambda theirs: np.concatenate([part.T for part in theirs], axis=1),
)
FUSED_BIASES = Transform(
    lambda shape: [(shape[0] // 3,)] * 3,
    lambda ours: np.split(ours, 3),
    lambda theirs: np.concatenate(theirs),
)
# PyTorch's convolutions keep theirs as (outputs, inputs, height, width), Keras's as (height, width, inputs, outputs).
PATCHES = Transform(
    lambda shape: [(shape[3], shape[2], shape[0], shape[1])],
    lambda ours: [ours.transpose(3, 2, 0, 1)],
    lambda theirs: theirs[0].transpose(2, 3, 1, 0),
)
# One axis of size 1 more in front, or two fewer.
WITH_BATCH = Transform(lambda shape: [(1, *shape)], lambda ours: [ours[None]], lambda theirs: theirs[0][0])
BARE = Transform(lambda shape: [shape[2:]], lambda ours: [ours[0, 0]], lambda theirs: theirs[0][None, None])


@dataclasses.dataclass(frozen=True)
class Weight:
    """A row of the table: the name of a weight of ours, those of theirs that it is made of, and how. `{i}` in both
    stands for the number of a layer."""

    ours: str
    theirs: tuple[str, ...]
    transform: Transform = SAME


def linear(ours: str, theirs: str) -> tuple[Weight, Weight]:
    """The rows of a dense layer."""
    return Weight(f"{ours}.kernel", (f"{theirs}.weight",), TRANSPOSED), Weight(f"{ours}.bias", (f"{theirs}.bias",))


def norm(ours: str, theirs: str) -> tuple[Weight, Weight]:
    """The rows of a layer norm."""
    return Weight(f"{ours}.gamma", (f"{theirs}.weight",)), Weight(f"{ours}.beta", (f"{theirs}.bias",))


def fused(ours: str, theirs: tuple[str, str, str]) -> tuple[Weight, Weight]:
    """The rows of a dense layer that is made of theirs for query, key and value."""
    kernels, biases = tuple(f"{name}.weight" for name in theirs), tuple(f"{name}.bias" for name in theirs)
    return Weight(f"{ours}.kernel", kernels, FUSED_KERNELS), Weight(f"{ours}.bias", biases, FUSED_BIASES)


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting: its name in our config and those that it has in theirs, dots leading into nested ones.

    Attributes:
        ours: name of ours.
        theirs: all are written, and the first that is there is read.
        default: what theirs stands for where it is missing; None where that is our default too.
        values: theirs to ours where they are written differently; others are the same in both. Of several for one
            of ours the first is written.
    """

    ours: str
    theirs: tuple[str, ...]
    default: Any = None
    values: tuple[tuple[Any, Any], ...] = ()

    def read(self, value: Any) -> Any:
        """Their value to ours."""
        return next((ours for theirs, ours in self.values if type(theirs) is type(value) and theirs == value), value)

    def write(self, value: Any) -> Any:
        """Our value to theirs."""
        if isinstance(value, list) and len(set(value)) == 1:
            return value[0]
        return next((theirs for theirs, ours in self.values if type(ours) is type(value) and ours == value), value)


ACTIVATIONS = (
    ("gelu_new", "gelu_tanh"),
    ("gelu_pytorch_tanh", "gelu_tanh"),
    ("gelu_fast", "gelu_tanh"),
    ("gelu", "gelu"),
    ("gelu_python", "gelu"),
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A family in Hugging Face's layout.

    Attributes:
        model_type: the family's name there.
        prefix: what the names of the backbone's tensors begin with where a head stands beside it.
        architectures: their class to our task; the first for a task is written.
        weights: the rows of the table, those of every task.
        fields: the settings.
        fixed: settings of theirs that ours has one way only: name to the values that mean that way.
        fixed_ours: settings of ours that theirs has one way only.
        square_images: theirs has one number for the size of an image.
        renamed: endings of older names, and what they are today.
        tied: names of tensors that are stored twice in some checkpoints, and the ones that they equal.
        ignored: patterns of names of what is no weight.
    """

    model_type: str
    prefix: str
    architectures: dict[str, str]
    weights: tuple[Weight, ...]
    fields: tuple[Field, ...]
    fixed: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    fixed_ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    square_images: bool = False
    renamed: tuple[tuple[str, str], ...] = ()
    tied: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @functools.cached_property
    def _known(self) -> re.Pattern[str]:
        names = [name for weight in self.weights for name in weight.theirs]
        return re.compile("|".join(_pattern(name) for name in [*names, *self.tied]))

    @functools.cached_property
    def _ours(self) -> list[tuple[re.Pattern[str], Weight]]:
        return [(re.compile(_pattern(weight.ours)), weight) for weight in self.weights]

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor of theirs is no weight."""
        return any(re.search(pattern, name) for pattern in self.ignored)

    def canonical(self, name: str) -> str:
        """The name that a tensor has in today's checkpoints of a model with a head; an unknown name stays as it is."""
        for old, new in self.renamed:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return self.prefix + name if not self._known.fullmatch(name) else name

    def weight_for(self, name: str) -> tuple[Weight, list[str]]:
        """The row for a weight of ours, and the names of theirs."""
        for pattern, weight in self._ours:
            if match := pattern.fullmatch(name):
                return weight, [each.replace("{i}", (match.groups() or ("",))[0]) for each in weight.theirs]
        raise KeyError(f"{name} is in no row of the table of {self.model_type}")

    def is_of_a_head(self, name: str) -> bool:
        """Whether a tensor that one task does not want is another's: what is numbered belongs to all."""
        return any(name in weight.theirs for weight in self.weights)

    def write_weights(self, named: Mapping[str, np.ndarray], bare: bool) -> dict[str, np.ndarray]:
        """Their tensors for our named weights; of a bare backbone the names have no prefix.

        Raises:
            KeyError: the layout has no place for one.
        """
        tensors = {}
        for name, value in named.items():
            weight, theirs = self.weight_for(name)
            for their_name, tensor in zip(theirs, weight.transform.split(value), strict=True):
                tensors[their_name.removeprefix(self.prefix) if bare else their_name] = tensor
        return tensors


def _pattern(name: str) -> str:
    return re.escape(name).replace(re.escape("{i}"), r"(\d+)")


class TranslatedTensors:
    """The tensors of a Hugging Face checkpoint as those of ours that `layout` makes of them.

    Args:
        layout: the family's.
        tensors: of the checkpoint.
        wanted: the names of our weights.

    Attributes:
        missing: for our weights that are not there, what of theirs is missing.
        unexpected: names of theirs that the family does not have, or not so many of.

    Raises:
        UserError: two tensors stand for the same weight, or tied ones are not equal.
    """

    def __init__(self, layout: Layout, tensors: Tensors, wanted: Iterable[str]) -> None:
        self._tensors = tensors
        self._rows: dict[str, tuple[Transform, list[str]]] = {}
        self.missing: dict[str, list[str]] = {}
        present, used = _canonical_names(layout, tensors), set[str]()
        for name in wanted:
            try:
                weight, theirs = layout.weight_for(name)
            except KeyError:  # theirs never has it
                self.missing[name] = [name]
                continue
            absent = [each for each in theirs if each not in present]
            if absent:
                self.missing[name] = absent
            else:
                self._rows[name] = weight.transform, [present[each] for each in theirs]
            used.update(theirs)
        self.unexpected = [old for name, old in present.items() if name not in used and not layout.is_of_a_head(name)]

    def misfit(self, name: str, shape: Shape) -> str | None:
        """What is wrong with the shape of what one of our weights is made of; None where it fits."""
        transform, theirs = self._rows[name]
        problems = [
            f"{each!r:.80} is {self._tensors[each]!r:.80} and must be {wanted}"
            for each, wanted in zip(theirs, transform.shapes(shape), strict=True)
            if self._tensors[each] != wanted
        ]
        return "; ".join(problems) or None

    def read(self, name: str) -> np.ndarray:
        """A weight of ours, float32.

        Raises:
            ValueError: the tensors do not have the axes that the weight is made of.
        """
        transform, theirs = self._rows[name]
        try:
            return transform.join([self._tensors.read(each) for each in theirs])
        except IndexError as error:
            raise ValueError(str(error)) from None


def _canonical_names(layout: Layout, tensors: Tensors) -> dict[str, str]:
    """Canonical name to the name in the file, the tied ones resolved."""
    present: dict[str, str] = {}
    for old in tensors:
        if layout.is_ignored(old):
            continue
        name = layout.canonical(old)
        if name in present:
            raise UserError(f"{tensors.path}: {present[name]!r:.80} and {old!r:.80} are the same weight twice")
        present[name] = old
    for copy, original in layout.tied.items():
        if copy not in present:
            continue
        duplicate = present.pop(copy)
        if original not in present:
            present[original] = duplicate
        elif tensors[duplicate] != tensors[present[original]] or not np.array_equal(
            tensors.read(duplicate), tensors.read(present[original])
        ):
            raise UserError(
                f"{tensors.path}: {duplicate} and {present[original]} differ, and are one weight here: "
                "untied weights are not supported"
            )
    return present

"""The base of every model: what it takes in and gives out, how it is built, and how its weights are named."""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from zoo.config import Config
from zoo.distribution import DistributedModel
from zoo.errors import UserError
from zoo.layers import TransformerStack


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis whose size varies from call to call.

    Attributes:
        name: "batch", "tokens", ...
        maximum: the largest size allowed; None for no limit.
    """

    name: str
    maximum: int | None = None


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One named input of a model.

    Attributes:
        name: its key in the dict of inputs.
        dtype: "int32" or "float32".
        shape: an `Axis` where the size varies, an int where it is fixed.
        highest: the largest value allowed in an integer input; None for no limit.
    """

    name: str
    dtype: str
    shape: tuple[Axis | int, ...]
    highest: int | None = None


def token_specs(max_length: int, vocabulary_size: int) -> tuple[TensorSpec, ...]:
    """The inputs of a text model: `token_ids` and `padding_mask` (1 = real), int32 (batch, tokens)."""
    shape = (Axis("batch"), Axis("tokens", max_length))
    return (
        TensorSpec("token_ids", "int32", shape, highest=vocabulary_size - 1),
        TensorSpec("padding_mask", "int32", shape, highest=1),
    )


def image_spec(size: tuple[int, int], channels: int) -> TensorSpec:
    """The input of an image model: `images`, float32 (batch, height, width, channels), preprocessed."""
    return TensorSpec("images", "float32", (Axis("batch"), *size, channels))


class ZooModel(DistributedModel):
    """A Keras model that is made from one `Config`, takes a dict of named inputs and returns a dict of named outputs.

    A subclass sets `family`, `config_class`, `tasks` and `output_names`, states `input_specs`, makes its layers in
    `__init__`, each with a name, and writes `call`. Its weights exist once it is built.

    Args:
        config: the configuration, or its fields as a dict.
        task: what the model is for, one of `tasks`; the first of them where None.

    Attributes:
        tokenizer: what text goes through (None for a model without text).
        preprocessing: what images go through, a `zoo.image.Preprocessing`, at first that of the family (None for a
            model without images).
        labels: the names of the classes, in order; None where they have none.

    The task and these three are kept by `zoo.save` and come back with `zoo.load`.

    Raises:
        ValueError: the class does not do `task`.
    """

    family: ClassVar[str]
    config_class: ClassVar[type[Config]]
    tasks: ClassVar[tuple[str, ...]]
    config: Any
    output_names: tuple[str, ...]

    def __init__(self, config: Config | dict, task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if task is not None and task not in self.tasks:
            raise ValueError(f"{type(self).__name__} is for {' and '.join(self.tasks)}, not for {task!r}")
        self.config = self.config_class.from_dict(config) if isinstance(config, dict) else config
        self.task = task or self.tasks[0]
        self.tokenizer: Any = None
        self.preprocessing: Any = self.config.make_preprocessing()
        self.labels: tuple[str, ...] | None = None
        self.lora: Any = None  # what adapters it has, a `zoo.lora.LoRA`; None where it has none

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The inputs, stated once: building, testing and exporting read them here."""
        raise NotImplementedError(f"{type(self).__name__} does not state its inputs")

    def build(self, input_shape: Any = None) -> None:
        """Make the weights, by tracing `call` on symbolic inputs: nothing is computed."""
        inputs = {
            spec.name: keras.KerasTensor(
                tuple(None if isinstance(size, Axis) else size for size in spec.shape), dtype=spec.dtype
            )
            for spec in self.input_specs
        }
        self.compute_output_spec(inputs)
        self.built = True

    @property
    def recompute(self) -> bool:
        """Whether training keeps the input of each transformer block alone, and computes the rest again for the
        backward pass: far less memory, for a forward pass more. False at first. To be set before `fit`, or between two
        of them; it is no part of what is saved."""
        stacks = self._stacks()
        return bool(stacks) and all(stack.recompute for stack in stacks)

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for stack in self._stacks():
            stack.recompute = bool(value)
        self.forget_traces()

    def forget_traces(self) -> None:
        """Have `fit`, `evaluate` and `predict` trace the model anew, now that it computes something else."""
        for traced in ("train_function", "test_function", "predict_function"):
            setattr(self, traced, None)

    def _stacks(self) -> list[TransformerStack]:
        return [layer for layer in self._flatten_layers() if isinstance(layer, TransformerStack)]

    def named_weights(self) -> dict[str, keras.Variable]:
        """Every weight by its name in a checkpoint: the names of the layers that hold it, joined by dots.

        A backbone's weights begin with `backbone.` whether it stands alone or inside a task model.
        """
        prefix = "backbone." if self.tasks == ("backbone",) else ""
        return {prefix + ".".join(weight.path.split("/")[1:]): weight for weight in self.weights}

    @classmethod
    def is_head(cls, name: str) -> bool:
        """Whether a weight belongs to one task rather than to the family: where a checkpoint of another task lacks it,
        it stays fresh."""
        return not name.startswith("backbone.") or name.startswith("backbone.pooler.")

    def fit_weight(self, name: str, value: np.ndarray, saved: Any) -> np.ndarray:
        """A weight as this model needs it, from a checkpoint whose config was `saved`: where sizes were changed that a
        weight can follow, such as the image's, a family says here how."""
        return value

    def get_config(self) -> dict[str, Any]:
        """What the model is made again from.

        Raises:
            UserError: it has adapters, which would not be.
        """
        if self.lora is not None:
            raise UserError("Keras would lose the adapters: merge_lora first, or use zoo.save or save_lora")
        return {
            "config": self.config.to_dict(),
            "task": self.task,
            "name": self.name,
            "dtype": self.dtype_policy.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ZooModel":
        model = cls(**config)
        model.build()
        return model


class TaskModel(ZooModel):
    """A `backbone`, which a subclass makes, and a head over it: it takes what the backbone takes."""

    backbone: Any
    _keeps_sequence = False

    @property
    def keeps_sequence(self) -> bool:
        """Whether the backbone's `"sequence"` stays among the outputs, beside what the head makes of it: for a loss of
        the vectors themselves. What no loss is of, TensorFlow leaves out of a step of `fit`. False at first. To be set
        before `fit`, or between two of them; it is no part of what is saved."""
        return self._keeps_sequence

    @keeps_sequence.setter
    def keeps_sequence(self, value: bool) -> None:
        self._keeps_sequence = bool(value)
        self.forget_traces()

    def take_sequence(self, outputs: dict[str, Any]) -> Any:
        """The `"sequence"` of the backbone's outputs, which it is taken out of unless it is to be kept."""
        return outputs["sequence"] if self.keeps_sequence else outputs.pop("sequence")

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        return self.backbone.input_specs

    def fit_weight(self, name: str, value: np.ndarray, saved: Any) -> np.ndarray:
        """As the backbone's."""
        return self.backbone.fit_weight(name, value, saved)

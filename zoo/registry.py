"""The families: their configurations, named sizes and tasks. Nothing here imports Keras until a model is wanted."""

import dataclasses
import importlib
from typing import TYPE_CHECKING

from zoo.config import Config, nearest
from zoo.errors import UserError
from zoo.gpt.config import PRESETS as GPT_PRESETS
from zoo.gpt.config import GPTConfig

if TYPE_CHECKING:
    from zoo.model import ZooModel


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: its name in a model directory.
        title: what it is, in a line.
        config_class: the type of its configurations.
        presets: its named sizes.
        tasks: task to the name of the class in `zoo.NAME.model`.
    """

    name: str
    title: str
    config_class: type[Config]
    presets: dict[str, Config]
    tasks: dict[str, str]

    def model_class(self, task: str) -> "type[ZooModel]":
        """The class that does `task`; an unknown task is a UserError."""
        self.require_task(task)
        return getattr(importlib.import_module(f"zoo.{self.name}.model"), self.tasks[task])

    def require_task(self, task: str) -> None:
        """Raise UserError where the family has no such task."""
        if task not in self.tasks:
            raise UserError(f"{self.name} has no task {task!r:.80}{nearest(task, self.tasks)}")


FAMILIES: dict[str, Family] = {
    "gpt": Family(
        name="gpt",
        title="GPT-2, a decoder-only language model (Radford et al. 2019)",
        config_class=GPTConfig,
        presets=dict(GPT_PRESETS),
        tasks={"backbone": "GPTBackbone", "pretrain": "GPTLanguageModel", "generate": "GPTLanguageModel"},
    ),
}


def find_preset(preset: str) -> tuple[Family, Config]:
    """The family and the configuration of a named size; an unknown name is a UserError that suggests the nearest."""
    for family in FAMILIES.values():
        if preset in family.presets:
            return family, family.presets[preset]
    known = [name for family in FAMILIES.values() for name in family.presets]
    raise UserError(f"unknown preset {preset!r}{nearest(preset, known)}")


def find_family(name: object) -> Family:
    """The family of that name; an unknown one is a UserError."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"unknown family {name!r:.80}{nearest(str(name), FAMILIES)}")
    return FAMILIES[name]

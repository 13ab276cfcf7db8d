"""The families: their configurations, named sizes and tasks. Nothing here imports Keras until a model is wanted."""

import dataclasses
import importlib
from typing import TYPE_CHECKING

from zoo.bert.config import PRESETS as BERT_PRESETS
from zoo.bert.config import BERTConfig
from zoo.clip.config import PRESETS as CLIP_PRESETS
from zoo.clip.config import CLIPConfig
from zoo.config import Config, nearest
from zoo.errors import UserError
from zoo.gpt.config import PRESETS as GPT_PRESETS
from zoo.gpt.config import GPTConfig
from zoo.vit.config import PRESETS as VIT_PRESETS
from zoo.vit.config import ViTConfig

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
        main_task: what a model is made for where nothing else is said, and what parameters are counted for.
        unit: what `Config.count_flops` counts for.
    """

    name: str
    title: str
    config_class: type[Config]
    presets: dict[str, Config]
    tasks: dict[str, str]
    main_task: str
    unit: str

    def model_class(self, task: str) -> "type[ZooModel]":
        """The class that does `task`; an unknown task is a UserError."""
        self.require_task(task)
        return getattr(importlib.import_module(f"zoo.{self.name}.model"), self.tasks[task])

    def require_task(self, task: str) -> None:
        """Raise UserError where the family has no such task."""
        if task not in self.tasks:
            raise UserError(f"{self.name} has no task {task!r:.80}{nearest(task, self.tasks)}")


FAMILIES: dict[str, Family] = {
    "bert": Family(
        name="bert",
        title="BERT, a bidirectional encoder of text (Devlin et al. 2019)",
        config_class=BERTConfig,
        presets=dict(BERT_PRESETS),
        tasks={
            "backbone": "BERTBackbone",
            "pretrain": "BERTPretraining",
            "masked_lm": "BERTMaskedLM",
            "classify": "BERTClassifier",
            "tag": "BERTTagger",
            "answer": "BERTAnswerer",
            "embed": "BERTEmbedder",
        },
        main_task="backbone",
        unit="token",
    ),
    "gpt": Family(
        name="gpt",
        title="GPT-2, a decoder-only language model (Radford et al. 2019)",
        config_class=GPTConfig,
        presets=dict(GPT_PRESETS),
        tasks={
            "backbone": "GPTBackbone",
            "pretrain": "GPTLanguageModel",
            "generate": "GPTLanguageModel",
            "classify": "GPTClassifier",
            "embed": "GPTEmbedder",
        },
        main_task="generate",
        unit="token",
    ),
    "vit": Family(
        name="vit",
        title="ViT, a transformer over the patches of an image (Dosovitskiy et al. 2021)",
        config_class=ViTConfig,
        presets=dict(VIT_PRESETS),
        tasks={
            "backbone": "ViTBackbone",
            "pretrain": "ViTClassifier",
            "classify": "ViTClassifier",
            "embed": "ViTEmbedder",
        },
        main_task="classify",
        unit="image",
    ),
    "clip": Family(
        name="clip",
        title="CLIP, an image tower and a text tower that meet in one space (Radford et al. 2021)",
        config_class=CLIPConfig,
        presets=dict(CLIP_PRESETS),
        tasks={"pretrain": "CLIPDualEncoder", "contrast": "CLIPDualEncoder"},
        main_task="contrast",
        unit="pair",
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

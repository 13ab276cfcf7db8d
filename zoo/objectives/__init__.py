"""What a model is trained by where that is more than a loss of its own outputs: another model around it, for `fit`."""

from zoo.objectives.base import Objective
from zoo.objectives.distillation import Distillation, HiddenDistance, SoftTargets, begin_as_teacher
from zoo.objectives.masked_patches import MaskedPatches
from zoo.objectives.pairs import PairContrast

__all__ = [
    "Distillation",
    "HiddenDistance",
    "MaskedPatches",
    "Objective",
    "PairContrast",
    "SoftTargets",
    "begin_as_teacher",
]

"""AdamW, LAMB and Muon as Keras optimizers, with rules per weight, and the schedule they follow (TensorFlow only).

Any other Keras optimizer trains a model of the zoo as well; these know a weight's name, and so what decays, what is
orthogonalised, and how fast each layer learns.
"""

from zoo.optimizers.adamw import AdamW
from zoo.optimizers.lamb import LAMB
from zoo.optimizers.muon import Muon
from zoo.optimizers.rules import freeze, is_decayed, layer_factors
from zoo.optimizers.schedule import Schedule

__all__ = ["LAMB", "AdamW", "Muon", "Schedule", "freeze", "is_decayed", "layer_factors"]

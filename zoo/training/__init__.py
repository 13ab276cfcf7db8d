"""Training under `tf.distribute` (TensorFlow only): what makes `model.fit` give the same weights on any devices."""

from zoo.training.guard import NonFiniteError
from zoo.training.loss import GlobalLoss
from zoo.training.model import DistributedModel
from zoo.training.replicas import gather_rows

__all__ = ["DistributedModel", "GlobalLoss", "NonFiniteError", "gather_rows"]

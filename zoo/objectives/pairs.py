"""Embeddings from pairs: in a batch, what belongs together should be nearer than all else."""

from typing import Any

from keras import ops

from zoo.contrast import EXCLUDED, ContrastiveLoss, compare_pairs, find_repeated
from zoo.distribution import GlobalLoss, gather_rows
from zoo.layers import l2_normalize
from zoo.model import ZooModel
from zoo.objectives.base import Objective

PAIR = "pair_"  # before the names of the second text's inputs


class PairContrast(Objective):
    """Trains a model for the task "embed" on pairs of texts: cosines over a temperature, and the mean of both
    cross-entropies, of the right second among those of the whole batch and of the right first (Gao et al. 2021, SimCSE,
    equation 1; negatives of the batch as in Henderson et al. 2017, section 4). Under a distribution strategy the
    batch is that of all replicas.

    Takes the inputs of the model, for the first text of each pair under their own names and for the second with `pair_`
    before them. The same text on both sides makes two vectors by two draws of dropout, which is what SimCSE learns from
    without pairs (section 3). Returns `"embedding"` and `"pair_embedding"`, each (pairs, width), of length 1, float32.

    As labels `fit` takes `{"texts": (pairs, 2) int32}`: which text each side is, by any numbers. What is known to
    belong to a text, or is the text itself, is no negative to it: a second that also stands beside the same first, or
    that is the same as its own second, or as the first. Without labels all others are negatives.

    Args:
        model: what is trained, built.
        temperature: the cosines are divided by it.

    Raises:
        ValueError: the temperature is not above 0.
    """

    output_names = ("embedding", "pair_embedding")
    joint_outputs = output_names

    def __init__(self, model: ZooModel, temperature: float = 0.05, name: str = "pair_contrast") -> None:
        super().__init__(model, name=name)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, and must be above 0")
        self.temperature = temperature
        self.contrast = GlobalLoss(ContrastiveLoss(reduction="mean_with_sample_weight"))

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        firsts = {name: value for name, value in inputs.items() if not name.startswith(PAIR)}
        seconds = {name.removeprefix(PAIR): value for name, value in inputs.items() if name.startswith(PAIR)}
        return {"embedding": self._embed(firsts, training), "pair_embedding": self._embed(seconds, training)}

    def _embed(self, inputs: dict[str, Any], training: bool | None) -> Any:
        return l2_normalize(self.model(inputs, training=training)["embedding"])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The contrastive loss over the pairs of the global batch, this replica's part of it; a scalar."""
        own, logits = compare_pairs(y_pred["embedding"], y_pred["pair_embedding"], self._scaled_cosines)
        if y is not None:
            known = _find_known(own, y["texts"])
            logits = logits[0] + EXCLUDED * known[0], logits[1] + EXCLUDED * known[1]
        return self.contrast(own, logits, sample_weight=sample_weight)

    def _scaled_cosines(self, a: Any, b: Any) -> Any:
        return ops.matmul(a, ops.transpose(b)) / self.temperature


def _find_known(own: Any, texts: Any) -> tuple[Any, Any]:
    """Of this replica's firsts with all seconds, and of its seconds with all firsts, 1 for those that are no negatives:
    each (pairs, all) float32.

    Args:
        own: (pairs,) the places of these pairs among all.
        texts: (pairs, 2) int32, which texts they are.
    """
    all_texts, _ = gather_rows(texts)
    places = ops.arange(ops.shape(all_texts)[0], dtype="int32")
    others = ops.not_equal(ops.expand_dims(own, 1), ops.expand_dims(places, 0))
    repeated = find_repeated(own, texts, all_texts)

    def known(side: int) -> Any:
        same = ops.equal(ops.expand_dims(texts[:, side], 1), ops.expand_dims(all_texts[:, 1 - side], 0))
        return ops.maximum(repeated, ops.cast(ops.logical_and(others, same), "float32"))

    return known(0), known(1)

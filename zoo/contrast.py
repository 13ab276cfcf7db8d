"""Losses that compare pairs: of all pairs in a batch, the right ones should be the most similar."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.distribution import gather_rows

EXCLUDED = -1e9  # added to the logit of what is no negative


@keras.saving.register_keras_serializable("zoo")
class ContrastiveLoss(keras.losses.Loss):
    """One loss for each pair of a batch, from the similarities of the first of each (CLIP's image) with the second of
    each (its text).

    Args:
        kind: "softmax", the mean of both cross-entropies, of the right second among all seconds and of the right first
            among all firsts (Radford et al. 2021, figure 3); "sigmoid", for each pair, right or wrong, a binary
            cross-entropy, summed over the seconds (Zhai et al. 2023, algorithm 1).
    """

    def __init__(self, kind: str = "softmax", name: str = "contrastive_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if kind not in ("softmax", "sigmoid"):
            raise ValueError(f"kind is {kind!r}, and must be 'softmax' or 'sigmoid'")
        self.kind = kind

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of the pairs whose rows are given, (pairs,) float32.

        Args:
            y_true: the places of these pairs among all: (pairs,) whole numbers.
            y_pred: the logits of these pairs' firsts with all seconds, and of these pairs' seconds with all firsts,
                each (pairs, all).
        """
        by_first, by_second = (ops.cast(logits, "float32") for logits in y_pred)
        right = ops.one_hot(ops.cast(y_true, "int32"), ops.shape(by_first)[1], dtype="float32")
        if self.kind == "sigmoid":
            return -ops.sum(ops.log_sigmoid((2.0 * right - 1.0) * by_first), axis=1)
        return -(_log_share(right, by_first) + _log_share(right, by_second)) / 2.0

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


def compare_pairs(firsts: Any, seconds: Any, similarity: Callable[[Any, Any], Any]) -> tuple[Any, tuple[Any, Any]]:
    """This replica's pairs beside those of all replicas, as `ContrastiveLoss` takes them.

    Args:
        firsts, seconds: (pairs, width), of which those in the same row belong together.
        similarity: of vectors (a, width) and others (b, width), makes (a, b).

    Returns:
        The places of these pairs among all, (pairs,) int32; and the similarities of their firsts with all seconds, and
        of their seconds with all firsts, each (pairs, all).
    """
    all_firsts, place = gather_rows(firsts)
    all_seconds, _ = gather_rows(seconds)
    own = place + ops.arange(ops.shape(firsts)[0], dtype="int32")
    return own, (similarity(firsts, all_seconds), similarity(seconds, all_firsts))


def find_repeated(own: Any, numbers: Any, all_numbers: Any) -> Any:
    """Of this replica's firsts with all seconds, and likewise of its seconds with all firsts, 1 for those that are no
    negatives, although they stand in different pairs: (pairs, all) float32.

    They are known to belong together where the second also stands beside the same first, or where the first also stands
    beside the same second. One of this replica's pairs compares the very same two, and counts for all of them.

    Args:
        own: (pairs,) the places of these pairs among all, as `compare_pairs` gives them.
        numbers: (pairs, 2) int32, which first and which second each pair is of: the same number for the same.
        all_numbers: (all, 2) int32, those of all replicas.
    """
    same = ops.equal(ops.expand_dims(numbers, 1), ops.expand_dims(all_numbers, 0))  # (pairs, all, 2)
    places = ops.arange(ops.shape(all_numbers)[0], dtype="int32")
    others = ops.not_equal(ops.expand_dims(own, 1), ops.expand_dims(places, 0))
    return ops.cast(ops.logical_and(others, ops.any(same, axis=-1)), "float32")


def _log_share(right: Any, logits: Any) -> Any:
    return ops.sum(right * ops.log_softmax(logits, axis=1), axis=1)

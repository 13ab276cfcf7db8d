"""What CLIP is trained to minimise: of all pairs in a batch, the right ones should be the most similar."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("zoo")
class ContrastiveLoss(keras.losses.Loss):
    """One loss for each pair of a batch, from the similarities of every image with every text.

    Args:
        kind: "softmax", the mean of both cross-entropies, of the right text among all texts and of the right image
            among all images (Radford et al. 2021, figure 3); "sigmoid", for each pair, right or wrong, a binary
            cross-entropy, summed over the texts (Zhai et al. 2023, algorithm 1).
    """

    def __init__(self, kind: str = "softmax", name: str = "contrastive_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if kind not in ("softmax", "sigmoid"):
            raise ValueError(f"kind is {kind!r}, and must be 'softmax' or 'sigmoid'")
        self.kind = kind

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of the pairs whose rows are given, (pairs,) float32.

        Args:
            y_true: which of all images, and of all texts, belong to these pairs: (pairs,) whole numbers.
            y_pred: the logits of these pairs' images with all texts, and of these pairs' texts with all images, each
                (pairs, all).
        """
        by_image, by_text = (ops.cast(logits, "float32") for logits in y_pred)
        right = ops.one_hot(ops.cast(y_true, "int32"), ops.shape(by_image)[1], dtype="float32")
        if self.kind == "sigmoid":
            return -ops.sum(ops.log_sigmoid((2.0 * right - 1.0) * by_image), axis=1)
        return -(_log_share(right, by_image) + _log_share(right, by_text)) / 2.0

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


def _log_share(right: Any, logits: Any) -> Any:
    return ops.sum(right * ops.log_softmax(logits, axis=1), axis=1)

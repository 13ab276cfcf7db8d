"""What CLIP is trained to minimise: of all pairs in a batch, the right ones should be the most similar."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("zoo")
class ContrastiveLoss(keras.losses.Loss):
    """One loss for each pair, from the similarity of every image with every text; the labels are the diagonal.

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
        """Logits (batch images, batch texts) to (batch,). `y_true` is not looked at."""
        logits = ops.cast(y_pred, "float32")
        right = ops.eye(ops.shape(logits)[0], dtype="float32")
        if self.kind == "sigmoid":
            return -ops.sum(ops.log_sigmoid((2.0 * right - 1.0) * logits), axis=1)
        by_image = ops.sum(right * ops.log_softmax(logits, axis=1), axis=1)
        by_text = ops.sum(right * ops.log_softmax(logits, axis=0), axis=0)
        return -(by_image + by_text) / 2.0

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}

"""What models need in order to be trained on several devices: from `zoo.training` under TensorFlow; on other backends,
which run the layers and models, and train on one device as Keras does, the same names for next to nothing."""

from typing import Any

import keras

if keras.backend.backend() == "tensorflow":
    from zoo.training import DistributedModel, GlobalLoss, gather_rows
else:
    DistributedModel = keras.Model  # type: ignore[misc]

    def GlobalLoss(loss: Any) -> Any:  # type: ignore[no-redef]  # noqa: N802
        return loss

    def gather_rows(rows: Any) -> tuple[Any, Any]:
        return rows, 0


__all__ = ["DistributedModel", "GlobalLoss", "gather_rows"]

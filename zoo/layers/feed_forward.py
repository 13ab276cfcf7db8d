"""The position-wise feed-forward network (Vaswani et al. 2017, section 3.3) and the activations that families use."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.layers.dense import dense


def gelu(x: Any) -> Any:
    """x * Phi(x) (Hendrycks and Gimpel 2016), written with erf: `ops.gelu` becomes Erfc, which no ONNX runtime has."""
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


def gelu_tanh(x: Any) -> Any:
    """The tanh approximation of GELU that GPT-2 was trained with."""
    return ops.gelu(x, approximate=True)


def quick_gelu(x: Any) -> Any:
    """x * sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * ops.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": ops.relu,
    "tanh": ops.tanh,
}


@keras.saving.register_keras_serializable("zoo")
class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation between: (batch, tokens, width) to the same.

    Args:
        width: size of input and output.
        mlp_width: size in between.
        activation: a name in `ACTIVATIONS`.
        stddev: standard deviation of the initial kernel of the first layer.
        output_stddev: the same for the second; `stddev` where None.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        width: int,
        mlp_width: int,
        activation: str = "gelu",
        stddev: float = 0.02,
        output_stddev: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: known are {', '.join(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        dtype = self.dtype_policy.name
        self.up = dense(mlp_width, stddev, dtype=dtype, name="up")
        self.down = dense(width, output_stddev or stddev, dtype=dtype, name="down")

    def build(self, input_shape: Any) -> None:
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.up.units))

    def call(self, x: Any) -> Any:
        return self.down(self.activation(self.up(x)))

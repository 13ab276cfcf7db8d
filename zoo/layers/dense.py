"""The dense layer that everything here is made of, and the low-rank adapter that it can carry."""

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.layers.dropout import Dropout


def dense(units: int, stddev: float, **kwargs: Any) -> Any:
    """A `Dense` whose kernel is drawn from a normal distribution of deviation `stddev`; the other arguments are
    Keras's."""
    return Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=stddev), **kwargs)


def multiply(x: Any, kernel: Any) -> Any:
    """(..., inputs) times (inputs, units): (..., units).

    As `ops.matmul`, which where an axis is free computes the shapes to and from a matrix in the graph: there a device's
    accelerator has to stop.
    """
    if len(x.shape) == 2:
        return ops.matmul(x, kernel)
    product = ops.matmul(ops.reshape(x, (-1, kernel.shape[0])), kernel)
    return ops.reshape(product, (*leading_sizes(x, len(x.shape) - 1), kernel.shape[1]))


def leading_sizes(x: Any, axes: int) -> tuple[Any, ...]:
    """The sizes of the first `axes` axes, for `ops.reshape`: -1 in place of the first that is not known yet, so that
    where no other is unknown the shape is a constant of the graph."""
    sizes = list(ops.shape(x)[:axes])
    free = [axis for axis, size in enumerate(x.shape[:axes]) if size is None]
    if free:
        sizes[free[0]] = -1
    return tuple(sizes)


@keras.saving.register_keras_serializable("zoo")
class Dense(keras.layers.Dense):
    """Keras's dense layer, which can be given a `LowRankAdapter` once it is built, and lose it again.

    Keras's own `enable_lora` adds the adapter to the kernel in each forward pass, which makes the gradient of a whole
    kernel on the way to those of two small matrices. Here the product of them never is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapter: LowRankAdapter | None = None

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """(..., inputs) to (..., units)."""
        x = multiply(inputs, self.kernel)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        if self.adapter is not None:
            x = ops.add(x, self.adapter(inputs, training=training))
        return x if self.activation is None else self.activation(x)

    def attach(self, adapter: "LowRankAdapter") -> None:
        """Take the adapter in and build it, under the name of this layer.

        Raises:
            ValueError: this layer is not built, or has one.
        """
        if not self.built or self.adapter is not None:
            raise ValueError(f"{self.name} {'has an adapter' if self.built else 'is not built'}")
        self._tracker.unlock()  # a built layer takes no more parts: Keras's `enable_lora` does the same
        self.adapter = adapter
        self._tracker.lock()
        parent = self.path.rpartition("/")[0]
        with keras.name_scope(self.name, override_parent=parent):
            adapter.build((None, self.kernel.shape[0]))

    def detach(self) -> None:
        """Let the adapter go."""
        self._tracker.unlock()
        self._tracker.untrack(self.adapter)
        del self.adapter  # with what TensorFlow keeps of it for its checkpoints
        self.adapter = None
        self._tracker.lock()

    def merged_kernel(self) -> np.ndarray:
        """The kernel (inputs, units), float32, with the adapter folded in."""
        kernel = ops.convert_to_numpy(self.kernel)
        return kernel if self.adapter is None else kernel + self.adapter.product()


@keras.saving.register_keras_serializable("zoo")
class LowRankAdapter(keras.layers.Layer):
    """`alpha / rank * (dropout(x) A) B`, to be added to what a dense layer makes of x (Hu et al. 2021, section 4.1).

    A is drawn from a normal distribution and B begins as zeros, so that a fresh adapter changes nothing.

    Args:
        units: size of the output.
        rank: size in between.
        alpha: the scale, divided by `rank`.
        dropout: rate of dropout on the input.
    """

    def __init__(self, units: int, rank: int, alpha: float, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.rank, self.scale = units, rank, alpha / rank
        self.dropout = Dropout(dropout, dtype=self.dtype_policy.name, name="dropout")

    def build(self, input_shape: Any) -> None:
        normal = keras.initializers.HeNormal()
        self.a = self.add_weight(shape=(input_shape[-1], self.rank), initializer=normal, name="a")
        self.b = self.add_weight(shape=(self.rank, self.units), initializer="zeros", name="b")

    def call(self, x: Any, training: bool | None = None) -> Any:
        """(..., inputs) to (..., units)."""
        x = self.dropout(x, training=training)
        return ops.matmul(ops.matmul(x, self.a), self.b) * self.scale

    def product(self) -> np.ndarray:
        """What it adds to a kernel: (inputs, units), float32."""
        a, b = ops.convert_to_numpy(self.a), ops.convert_to_numpy(self.b)
        return self.scale * (a @ b)

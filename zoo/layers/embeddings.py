"""Embeddings: tokens (which also project back to the vocabulary), positions, segments, image patches."""

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.layers.dense import multiply


class _Table(keras.layers.Layer):
    """A table of `rows` learned rows of `width` numbers, drawn from a normal distribution of deviation `stddev`."""

    def __init__(self, rows: int, width: int, stddev: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.width, self.stddev = rows, width, stddev

    def build(self, input_shape: Any = None) -> None:
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        # Never autocast: the logits need the table itself, and a lookup casts just the rows that it takes.
        self.table = self.add_weight(shape=(self.rows, self.width), initializer=normal, autocast=False, name="table")


class _Lookup(_Table):
    """The rows for ids."""

    def call(self, ids: Any) -> Any:
        # Under MirroredStrategy Keras builds a model with the mean of the replicas' ids, which is float32.
        return ops.cast(ops.take(self.table, ops.cast(ids, "int32"), axis=0), self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class TokenEmbedding(_Lookup):
    """A row for each token id; the same table turned round gives logits (Press and Wolf 2017).

    Args:
        vocabulary_size: ids are 0 to `vocabulary_size - 1`.
        width: size of a row.
        stddev: standard deviation of the initial table.
    """

    def __init__(self, vocabulary_size: int, width: int, stddev: float = 0.02, **kwargs: Any) -> None:
        super().__init__(vocabulary_size, width, stddev, **kwargs)

    def call(self, x: Any, reverse: bool = False) -> Any:
        """int32 ids (batch, tokens) to (batch, tokens, width); with `reverse`, (..., width) to float32 logits
        (..., vocabulary_size)."""
        if not reverse:
            return super().call(x)
        return multiply(ops.cast(x, "float32"), ops.transpose(self.table))


@keras.saving.register_keras_serializable("zoo")
class PositionEmbedding(_Lookup):
    """A learned row for each position.

    Args:
        max_length: positions are 0 to `max_length - 1`.
        width: size of a row.
        stddev: standard deviation of the initial table.
    """

    def __init__(self, max_length: int, width: int, stddev: float = 0.02, **kwargs: Any) -> None:
        super().__init__(max_length, width, stddev, **kwargs)

    def call(self, positions: Any) -> Any:
        """int32 positions (tokens,) or (batch, tokens) to rows (..., tokens, width). The caller passes positions,
        so that a cache, left padding or packing can offset them."""
        return super().call(positions)


@keras.saving.register_keras_serializable("zoo")
class SegmentEmbedding(_Lookup):
    """A row for each segment of a BERT input (Devlin et al. 2019, section 3).

    Args:
        num_segments: ids are 0 to `num_segments - 1`.
        width: size of a row.
        stddev: standard deviation of the initial table.
    """

    def __init__(self, num_segments: int, width: int, stddev: float = 0.02, **kwargs: Any) -> None:
        super().__init__(num_segments, width, stddev, **kwargs)

    def call(self, segment_ids: Any) -> Any:
        """int32 segment ids (batch, tokens) to (batch, tokens, width)."""
        return super().call(segment_ids)


@keras.saving.register_keras_serializable("zoo")
class GridPositionEmbedding(_Table):
    """A learned row for each patch of a grid, after the row of a class token (Dosovitskiy et al. 2021, section 3.1).

    Args:
        grid: rows and columns of patches.
        width: size of a row of the table.
        stddev: standard deviation of the initial table.
    """

    def __init__(self, grid: tuple[int, int], width: int, stddev: float = 0.02, **kwargs: Any) -> None:
        super().__init__(1 + grid[0] * grid[1], width, stddev, **kwargs)
        self.grid = grid

    def call(self, x: Any, grid: tuple[int, int]) -> Any:
        """Add to each vector of (batch, 1 + rows * columns, width) its row, where `grid` is (rows, columns).

        For another grid than its own, the patches' rows are interpolated, as at a resolution that the model was not
        trained for (section 3.2).
        """
        table = ops.convert_to_tensor(self.table)
        if tuple(grid) != tuple(self.grid):
            matrix = ops.convert_to_tensor(grid_interpolation(self.grid, grid), dtype=table.dtype)
            table = ops.concatenate([table[:1], ops.matmul(matrix, table[1:])], axis=0)
        return x + ops.cast(table, x.dtype)


def grid_interpolation(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """The matrix (new rows * columns, old rows * columns) of bicubic interpolation between two grids."""
    return np.kron(_bicubic_matrix(old[0], new[0]), _bicubic_matrix(old[1], new[1]))


def _bicubic_matrix(old: int, new: int) -> np.ndarray:
    """(new, old): cubic convolution (Keys 1981) with a = -0.75 and pixel centres at halves, which is what reference
    implementations of ViT use. Beyond the border stands the border's value."""
    a = -0.75
    matrix = np.zeros((new, old))
    for row in range(new):
        place = (row + 0.5) * old / new - 0.5
        first = int(np.floor(place)) - 1
        for tap in range(first, first + 4):
            x = abs(place - tap)
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            matrix[row, min(max(tap, 0), old - 1)] += weight
    return matrix


@keras.saving.register_keras_serializable("zoo")
class PatchEmbedding(keras.layers.Layer):
    """An image cut into square patches, each projected to `width`, with a class token in front if asked for
    (Dosovitskiy et al. 2021, section 3.1).

    Args:
        patch_size: side of a patch in pixels.
        width: size of the projection.
        class_token: put a learned token before the patches.
        bias: give the projection a bias (ViT has one, CLIP has none).
        stddev: standard deviation of the initial kernel and class token.
    """

    def __init__(
        self,
        patch_size: int,
        width: int,
        class_token: bool = True,
        bias: bool = True,
        stddev: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size, self.width = patch_size, width
        self.has_class_token = class_token
        self.initializer = keras.initializers.RandomNormal(stddev=stddev)
        self.projection = keras.layers.Conv2D(
            width,
            patch_size,
            strides=patch_size,
            use_bias=bias,
            kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
            data_format="channels_last",
            dtype=self.dtype_policy.name,
            name="projection",
        )

    def build(self, input_shape: Any) -> None:
        self.projection.build(input_shape)
        if self.has_class_token:
            self.class_token = self.add_weight(
                shape=(1, 1, self.width), initializer=self.initializer, name="class_token"
            )

    def call(self, images: Any) -> Any:
        """Images (batch, height, width, channels) to (batch, patches [+ 1], width), row by row from the top left.

        Pixels at the right and the bottom that fill no whole patch are left out.
        """
        patches = self.projection(images)  # (batch, rows, columns, width)
        shape = ops.shape(patches)
        patches = ops.reshape(patches, (-1, shape[1] * shape[2], self.width))
        if not self.has_class_token:
            return patches
        token = ops.broadcast_to(ops.cast(self.class_token, patches.dtype), (shape[0], 1, self.width))
        return ops.concatenate([token, patches], axis=1)

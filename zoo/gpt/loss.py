"""The loss of the next token over a long vocabulary, without the logits of all tokens at once (TensorFlow only)."""

from typing import Any

import keras
import tensorflow as tf

from zoo.errors import UserError
from zoo.training.micro_batches import in_turn


@keras.saving.register_keras_serializable("zoo")
class NextTokenLoss(keras.losses.Loss):
    """Cross-entropy of the next token (Radford et al. 2019, section 2) from vectors of tokens and the table that makes
    logits of them: `{"sequence": NextTokenLoss(model.backbone.token_embedding.table)}`, after `model.keeps_sequence`.

    The logits of 1024 tokens are 200 MB where there are 50257 to choose from, and a step holds several times that.
    Where those of a batch take more than a limit, they are made for a part of the tokens, one part after another, and
    made again for the gradient: the same numbers, for one product with the table more. So it is, too, where the number
    of tokens is not known before a step runs. The logits among the model's outputs are then nobody's, and TensorFlow
    leaves them out of the step.

    Args:
        table: the embedding table, (vocabulary_size, width) float32, a variable of the model.
        logits_memory: the most that the logits of a replica's part of a batch may take, in MB; a few times as much is
            what is needed to go through them.
        reduction: of Keras; over the batch that is `zoo.training.GlobalLoss`'s.
    """

    def __init__(self, table: Any, logits_memory: float = 256.0, name: str = "next_token_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.table = table
        self.most_rows = max(1, int(logits_memory * 1e6 / (4 * table.shape[0])))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each token, (batch, tokens) float32.

        Args:
            y_true: the next tokens, (batch, tokens) whole numbers.
            y_pred: the vectors, (batch, tokens, width).
        """
        vectors = tf.reshape(tf.cast(y_pred, tf.float32), [-1, y_pred.shape[-1]])
        labels = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        table = tf.convert_to_tensor(self.table)
        rows = vectors.shape[0]
        if rows is not None and rows <= self.most_rows:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, _logits(vectors, table))
        else:
            losses = _losses_in_parts(vectors, table, labels, self.most_rows, self.table.trainable)
        return tf.reshape(losses, tf.shape(y_true))

    def get_config(self) -> dict[str, Any]:
        """Raise UserError: the table is the model's, and could not be found again."""
        raise UserError(
            "Keras cannot save a loss that looks at the model's own table: use zoo.save, or compile another"
        )


def _logits(vectors: Any, table: Any) -> Any:
    return tf.matmul(vectors, table, transpose_b=True)


def _losses_in_parts(vectors: Any, table: Any, labels: Any, most_rows: int, table_learns: bool) -> Any:
    """The cross-entropy of each row, (rows,) float32, from the logits of at most `most_rows` rows at a time.

    Args:
        vectors: (rows, width) float32.
        table: (vocabulary, width) float32.
        labels: (rows,) int32.
        most_rows: in a part.
        table_learns: whether the gradient of the table is wanted.
    """
    rows = tf.shape(vectors)[0]
    count = tf.maximum(-(-rows // most_rows), 1)
    size = -(-rows // count)  # parts alike, so that little is filled up

    def split(values: Any) -> Any:
        """(rows, ...) to (count, size, ...), with zeros at the end."""
        missing = [[0, count * size - rows], *([0, 0] for _ in values.shape[1:])]
        return tf.reshape(tf.pad(values, missing), [count, size, *values.shape[1:]])

    @tf.custom_gradient
    def losses(vectors: Any, table: Any) -> Any:
        part_vectors, part_labels = split(vectors), split(labels)

        def measure(place: Any) -> tuple[Any, Any]:
            """The losses of a part, (size,), and their slopes by its logits, (size, vocabulary)."""
            logits = _logits(part_vectors[place], table)
            return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=part_labels[place])

        def collect(place: Any, state: list[Any]) -> tuple[Any, list[Any]]:
            return place + 1, [state[0].write(place, measure(place)[0])]

        def backward(upstream: Any) -> tuple[Any, Any]:
            # It needs nothing that the forward pass finds, and would run beside it, with as much memory again.
            with tf.control_dependencies([values]):
                part_upstream = split(tf.identity(upstream))

            def add(place: Any, state: list[Any]) -> tuple[Any, list[Any]]:
                by_vectors, by_table = state
                _, slopes = measure(place)
                # A row's weight goes to the short vectors: to multiply the slopes takes another pass over them.
                weights = tf.expand_dims(part_upstream[place], 1)
                by_vectors = by_vectors.write(place, weights * tf.matmul(slopes, table))
                if table_learns:
                    by_table = by_table + tf.matmul(slopes, weights * part_vectors[place], transpose_a=True)
                return place + 1, [by_vectors, by_table]

            nothing = tf.zeros(table.shape if table_learns else [])
            by_vectors, by_table = in_turn(count, add, [tf.TensorArray(tf.float32, count), nothing])
            joined = tf.reshape(by_vectors.stack(), [-1, vectors.shape[1]])[:rows]
            return joined, by_table if table_learns else None

        values = in_turn(count, collect, [tf.TensorArray(tf.float32, count)])[0].stack()
        return tf.reshape(values, [-1])[:rows], backward

    return losses(vectors, table)

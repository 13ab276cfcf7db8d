"""A student beside its teacher: how well both do, how often they agree, how large and how fast they are (TensorFlow
only)."""

import math
import time
from typing import Any

import numpy as np
import tensorflow as tf

from recipes.data.batches import Batches
from recipes.engine.job import Figures

# By task what a model is judged by; of a perplexity the lower is the better.
FIGURES = {"classify": "accuracy", "masked_lm": "masked_accuracy", "generate": "perplexity"}
WARM_UP, TIMED = 3, 30  # calls


class Comparison:
    """Measures a student and its teacher on held-out batches.

    Args:
        student, teacher: for the same task, with an output "logits".
        batches: held out, with labels "logits" and perhaps weights.
    """

    def __init__(self, student: Any, teacher: Any, batches: Batches) -> None:
        self.models = {"student": student, "teacher": teacher}
        self.figure = FIGURES[student.task]
        self.batches = batches
        self._sums = tf.function(self._add_up, reduce_retracing=True)

    def figures(self) -> Figures:
        """The figure of the task of the student, by its name, and that of the teacher, with `teacher_` before it; and
        `agreement`, the part of the places at which both say the same."""
        assert self.batches.num_batches is not None
        total = np.zeros(6)
        for step in range(self.batches.num_batches):
            inputs, labels, *weights = self.batches.batch(step)
            right = labels["logits"]
            if right.dtype == np.float32:  # shares of the classes
                right = right.argmax(axis=-1).astype(np.int32)
            given = weights[0]["logits"] if weights else np.ones_like(right, np.float32)
            tensors = {name: tf.constant(value) for name, value in inputs.items()}
            total += self._sums(tensors, tf.constant(right), tf.constant(given)).numpy()
        agreement, *of_each = total[1:] / total[0]
        found = {"agreement": float(agreement)}
        for prefix, (right, entropy) in (("", of_each[:2]), ("teacher_", of_each[2:])):
            perplexity = math.exp(min(entropy, 700.0))
            found[f"{prefix}{self.figure}"] = perplexity if self.figure == "perplexity" else float(right)
        return found

    def _add_up(self, inputs: Any, labels: Any, weights: Any) -> Any:
        """Weighted sums over a batch: of 1, of agreement, and of each model, of what is right and of the entropy."""
        logits = [tf.cast(model(inputs, training=False)["logits"], tf.float32) for model in self.models.values()]
        best = [tf.argmax(each, axis=-1, output_type=tf.int32) for each in logits]
        values = [tf.ones_like(weights), tf.cast(best[0] == best[1], tf.float32)]
        for each, said in zip(logits, best, strict=True):
            values.append(tf.cast(said == labels, tf.float32))
            values.append(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, each))
        return tf.stack([tf.reduce_sum(each * weights) for each in values])

    def table(self) -> list[str]:
        """Markdown that shows both side by side."""
        figures, (inputs, *_) = self.figures(), self.batches.batch(0)
        single = {name: tf.constant(value[:1]) for name, value in inputs.items()}
        what = f"input of {single['token_ids'].shape[1]} tokens" if "token_ids" in single else "image"
        names = {"student": self.figure, "teacher": f"teacher_{self.figure}"}
        rows = {
            "parameters": {who: f"{model.count_params():,}" for who, model in self.models.items()},
            "MB in float32": {who: f"{4e-6 * model.count_params():,.1f}" for who, model in self.models.items()},
            f"ms for one {what}": {
                who: f"{1e3 * median_seconds(model, single):,.2f}" for who, model in self.models.items()
            },
            self.figure.replace("_", " "): {who: f"{figures[name]:,.4f}" for who, name in names.items()},
        }
        return [
            "| | teacher | student |",
            "| --- | ---: | ---: |",
            *(f"| {name} | {each['teacher']} | {each['student']} |" for name, each in rows.items()),
            "",
            f"Both say the same at {figures['agreement']:.1%} of the held-out places. The time is the median of "
            f"{TIMED} forward passes.",
        ]


def median_seconds(model: Any, inputs: dict[str, Any]) -> float:
    """How long a forward pass takes, in a graph, on this machine."""
    run = tf.function(lambda given: model(given, training=False)["logits"])
    seconds = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        run(inputs).numpy()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[WARM_UP:]))

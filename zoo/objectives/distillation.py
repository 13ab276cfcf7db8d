"""A small model that learns from a large one: what the large one says of each example, and how it sees it."""

import functools
import re
from typing import Any

import keras
from keras import ops

from zoo.distribution import GlobalLoss
from zoo.layers import dense, l2_normalize
from zoo.model import TaskModel
from zoo.objectives.base import Objective

_BLOCK = re.compile(r"(?<=transformer\.block_)\d+(?=\.)")


@keras.saving.register_keras_serializable("zoo")
class SoftTargets(keras.losses.Loss):
    """How far a student's distribution is from its teacher's, both at a temperature: `T^2 KL(teacher || student)`. The
    square keeps the gradient as large as that of the task's own loss (Hinton et al. 2015, section 2).

    Args:
        temperature: the logits are divided by it.
    """

    def __init__(self, temperature: float = 2.0, name: str = "soft_targets", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Logits (..., classes) of the teacher and of the student to losses (...), float32."""
        teacher, student = (
            ops.log_softmax(ops.cast(logits, "float32") / self.temperature, axis=-1) for logits in (y_true, y_pred)
        )
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable("zoo")
class HiddenDistance(keras.losses.Loss):
    """How far a student's vectors point from its teacher's: one minus the cosine (Sanh et al. 2019, section 2), the
    mean over the real tokens of each example."""

    def __init__(self, name: str = "hidden_distance", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The distance of each example, (batch,) float32.

        Args:
            y_true: vectors of the teacher (batch, tokens, width), and a mask (batch, tokens), 1 for real tokens.
            y_pred: vectors of the student, (batch, tokens, width).
        """
        teacher, mask = y_true
        mask = ops.cast(mask, "float32")
        distances = 1.0 - ops.sum(l2_normalize(teacher) * l2_normalize(y_pred), axis=-1)
        return ops.sum(distances * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


class Distillation(Objective):
    """Trains a student on what a teacher makes of the same inputs: `(1 - alpha) task + alpha soft targets + beta hidden
    distance` (Hinton et al. 2015, section 2; Sanh et al. 2019, section 2). Compile it with the loss of the
    student's task, a mean by "mean_with_sample_weight" where there are sample weights: the soft targets are weighed
    alike.

    The teacher runs inside the step, in inference mode. It is no part of the objective: neither trained nor saved.
    Where its width is not the student's, the student's vectors are compared through a linear map that is learned with
    it and serves for nothing else (Jiao et al. 2020, section 3.1); its weight is `hidden_map.kernel`.

    Takes the inputs of the student, and of the teacher alike. Returns `"logits"` and `"teacher_logits"`; and with beta,
    `"sequence"` and `"teacher_sequence"`, (batch, tokens, the teacher's width).

    Args:
        student: what is trained, built, with an output "logits".
        teacher: built, for the same task, with as many classes or the same vocabulary.
        temperature: of the soft targets.
        alpha: what the teacher's word weighs against the labels', 0 to 1.
        beta: what the hidden distance weighs beside both; 0 leaves it out.
    """

    output_names: tuple[str, ...] = ("logits", "teacher_logits")

    def __init__(
        self,
        student: TaskModel,
        teacher: TaskModel,
        temperature: float = 2.0,
        alpha: float = 0.7,
        beta: float = 0.1,
        name: str = "distillation",
    ) -> None:
        super().__init__(student, name=name)
        self.alpha, self.beta = alpha, beta
        # Keras, and with it every checkpoint, looks for models among the attributes, and not inside of a function.
        self.teach = functools.partial(teacher.__call__, training=False)
        self.soft_targets = GlobalLoss(SoftTargets(temperature, reduction="mean_with_sample_weight"), ("logits",))
        self.hidden_distance = GlobalLoss(HiddenDistance(reduction="mean_with_sample_weight"))
        self.hidden_map: Any = None
        if beta:
            student.keeps_sequence = teacher.keeps_sequence = True
            self.output_names = (*self.output_names, "sequence", "teacher_sequence")
            width, teacher_width = student.config.width, teacher.config.width
            if width != teacher_width:
                dtype = student.dtype_policy.name
                self.hidden_map = dense(teacher_width, width**-0.5, use_bias=False, dtype=dtype, name="hidden_map")
                self.hidden_map.build((None, None, width))

    def named_weights(self) -> dict[str, keras.Variable]:
        own = {} if self.hidden_map is None else {"hidden_map.kernel": self.hidden_map.kernel}
        return {**super().named_weights(), **own}

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        learnt, taught = self.model(inputs, training=training), self.teach(inputs)
        outputs = {"logits": learnt["logits"], "teacher_logits": ops.stop_gradient(taught["logits"])}
        if self.beta:
            sequence = learnt["sequence"] if self.hidden_map is None else self.hidden_map(learnt["sequence"])
            outputs |= {"sequence": sequence, "teacher_sequence": ops.stop_gradient(taught["sequence"])}
        return outputs

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of the global batch, this replica's part of it; a scalar."""
        task = super().compute_loss(x, y, {"logits": y_pred["logits"]}, sample_weight, training)
        weights = None if sample_weight is None else sample_weight["logits"]
        soft = self.soft_targets(y_pred["teacher_logits"], y_pred["logits"], weights)
        loss = (1.0 - self.alpha) * task + self.alpha * soft
        if self.beta:
            mask = x.get("padding_mask")
            mask = ops.ones(ops.shape(y_pred["sequence"])[:2]) if mask is None else mask
            loss += self.beta * self.hidden_distance((y_pred["teacher_sequence"], mask), y_pred["sequence"])
        return loss


def begin_as_teacher(student: TaskModel, teacher: TaskModel) -> None:
    """Give a student that is its teacher but for fewer blocks the teacher's weights: of the blocks evenly spaced ones,
    from the first on, so that half as many get every other (Sanh et al. 2019, section 3)."""
    of_teacher = teacher.named_weights()
    depth, blocks = teacher.config.depth, student.config.depth
    for name, weight in student.named_weights().items():
        weight.assign(of_teacher[_BLOCK.sub(lambda found: str(int(found[0]) * depth // blocks), name)].numpy())

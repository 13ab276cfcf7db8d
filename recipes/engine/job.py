"""What a recipe hands to the engine: everything that tells one recipe's training from another's."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Job:
    """A model, its data, and what is measured.

    Attributes:
        make_model: makes or loads the model with the dtype policy it is given; called under the strategy.
        losses: by name of output; the mean over the batch is taken.
        train_data: gives a `tf.data.Dataset` of global batches from a step on, as many as are asked for. Batch `step`
            hangs on nothing but the step, so that a run goes on with the very data it would have had.
        validation_data: gives the same, ending. Neither is called before the strategy stands: to make a dataset is to
            start TensorFlow, which several workers cannot join after that.
        unit: what the speed is counted in, such as "tokens".
        units_per_step: of them, in a global batch.
        figures: more figures for the row of an evaluation, from its validation loss.
        make_sample: given the model, gives what makes a sample text after each evaluation; None makes none.
    """

    make_model: Callable[[str], Any]
    losses: dict[str, Any]
    train_data: Callable[[int], Any]
    validation_data: Callable[[], Any]
    unit: str
    units_per_step: int
    figures: Callable[[float], dict[str, float]] = lambda validation_loss: {}
    make_sample: Callable[[Any], Callable[[], str]] | None = None

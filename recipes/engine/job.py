"""What a recipe hands to the engine: everything that tells one recipe's training from another's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Job:
    """A model, its data, and what is measured.

    Attributes:
        make_model: makes or loads the model with the dtype policy it is given; called under the strategy.
        losses: by name of output; the mean over the batch is taken. Or what makes them, given the model, where one is
            of its weights. None where the model brings its own.
        train_data: gives a `tf.data.Dataset` of global batches from a step on, as many as are asked for. Batch `step`
            hangs on nothing but the step, so that a run goes on with the very data it would have had.
        validation_data: gives the same, ending. Neither is called before the strategy stands: to make a dataset is to
            start TensorFlow, which several workers cannot join after that.
        unit: what the speed is counted in, such as "tokens".
        units_per_step: of them, in a global batch.
        loss_weights: by name of output; None weighs all alike.
        figures: more figures for the row of an evaluation, from its validation loss.
        make_evaluation: given the model, gives what measures it after each evaluation: figures for the row, each name
            beginning with `validation_`. Of several workers each calls it, and all get the same. None measures no more.
        judged_by: the figure by which the best model is told.
        highest_is_best: whether a higher one is better.
        make_sample: given the model, gives what makes a sample text after each evaluation; None makes none.
        kept: of the model that is trained, the part that is left in `model/`.
        report: given the best model and the run directory, writes pages to look at there, and returns lines of
            Markdown that show them; None writes none.
    """

    make_model: Callable[[str], Any]
    losses: dict[str, Any] | Callable[[Any], dict[str, Any]] | None
    train_data: Callable[[int], Any]
    validation_data: Callable[[], Any]
    unit: str
    units_per_step: int
    loss_weights: dict[str, float] | None = None
    figures: Callable[[float], Figures] = lambda validation_loss: {}
    make_evaluation: Callable[[Any], Callable[[], Figures]] | None = None
    judged_by: str = "validation_loss"
    highest_is_best: bool = False
    make_sample: Callable[[Any], Callable[[], str]] | None = None
    kept: Callable[[Any], Any] = lambda model: model
    report: Callable[[Any, Path], list[str]] | None = None

    def is_better(self, row: dict[str, Any], best: dict[str, Any] | None) -> bool:
        """Whether the row of an evaluation is better than the best so far, if any; of two alike the lower loss is."""
        if best is None:
            return True
        figure, before = row[self.judged_by], best[self.judged_by]
        if figure == before:
            return row["validation_loss"] < best["validation_loss"]
        return figure > before if self.highest_is_best else figure < before

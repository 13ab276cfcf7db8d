"""Batches as pure functions of their step, so that a run resumes exactly; here windows of packed text."""

import dataclasses
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from recipes.data.tokens import JoinedTokens, JoinedWindows, Tokens
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array of a batch.

    Attributes:
        shape: None for an axis whose size varies from batch to batch.
        dtype: NumPy's name of it.
    """

    shape: tuple[int | None, ...]
    dtype: str = "int32"


class Batches(Protocol):
    """A stream of global batches.

    Attributes:
        element: what a batch is made of, as `model.fit` takes it, `(inputs, labels)` or `(inputs, labels, weights)`,
            each a dict by name, with an `ArraySpec` for each array.
        num_batches: how many there are; None for a stream without end.
    """

    @property
    def element(self) -> Any: ...

    @property
    def num_batches(self) -> int | None: ...

    def batch(self, step: int) -> Any:
        """Batch `step`, from 0."""


def windows(tokens: Tokens, length: int, phase: int = 0) -> np.ndarray | JoinedWindows:
    """All windows one after another from `phase` on, each with the token that follows: a view, (count, length + 1).

    A last window that is not full is left out.
    """
    if isinstance(tokens, JoinedTokens):
        return JoinedWindows(tokens, length, phase)
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[phase::length]


@dataclasses.dataclass(frozen=True)
class WindowBatch:
    """How windows of text become a batch: `({"token_ids": ids}, {"logits": next ids})`, all (rows, length) int32.

    Attributes:
        label: the output that learns from the next ids.
        separator: the token that every document is followed by; where it is given, the inputs tell documents apart by
            `"document_ids"`, the separators at or before a token. The one behind a document is the first token of the
            next: from it alone the next one's first token is predicted, as a text is generated that begins with
            nothing.
    """

    label: str = "logits"
    separator: int | None = None

    def element(self, rows: int, length: int) -> Any:
        """See `Batches`."""
        spec = ArraySpec((rows, length))
        documents = {} if self.separator is None else {"document_ids": spec}
        return {"token_ids": spec, **documents}, {self.label: spec}

    def make(self, rows: np.ndarray) -> Any:
        """The batch of these windows and the token after each, (rows, length + 1) int32."""
        inputs = {"token_ids": rows[:, :-1]}
        if self.separator is not None:
            inputs["document_ids"] = np.cumsum(rows[:, :-1] == self.separator, axis=1, dtype=np.int32)
        return inputs, {self.label: rows[:, 1:]}


PLAIN = WindowBatch()


class TrainingBatches:
    """An endless stream of batches of windows.

    Each epoch cuts the text into windows that do not overlap, from a random first token on, and takes them in random
    order: a token is seen once an epoch, but for less than two windows at the ends of the text.

    Args:
        tokens: (tokens,) integers, such as `PackedText.tokens("train")`.
        length: tokens in a window.
        batch_size: windows in a batch.
        seed: of the order.
        form: what a batch is made of.

    Raises:
        UserError: the text is shorter than one window and the token that follows it.
    """

    num_batches = None

    def __init__(self, tokens: Tokens, length: int, batch_size: int, seed: int, form: WindowBatch = PLAIN) -> None:
        require_window(tokens, length, "training")
        self.tokens, self.length, self.batch_size, self.seed, self.form = tokens, length, batch_size, seed, form
        self.element = form.element(batch_size, length)
        # As many windows as every phase has room for; only a text of less than two windows limits the phases.
        self.windows_per_epoch = max(1, (len(tokens) - length) // length)
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, step: int) -> Any:
        """The batch of the global step `step`, from 0."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rows = np.empty((self.batch_size, self.length + 1), np.int32)
        epochs = places // self.windows_per_epoch
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            all_windows, order = self._epoch(epoch)
            rows[here] = all_windows[order[places[here] % self.windows_per_epoch]]
        return self.form.make(rows)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray | JoinedWindows, np.ndarray]:
        """The windows of an epoch, and the order in which they come: (windows_per_epoch,) int64."""
        random = np.random.default_rng([self.seed, epoch])
        spare = len(self.tokens) - 1 - self.windows_per_epoch * self.length
        phase = int(random.integers(min(self.length, spare + 1)))
        return windows(self.tokens, self.length, phase), random.permutation(self.windows_per_epoch)


class ValidationBatches:
    """The same windows at every evaluation: consecutive from the start of the text, without overlap.

    Every batch is full, so that each window weighs the same in a mean over batches: where the windows do not divide by
    `batch_size`, or are more than `max_windows`, some are left out, evenly over the text. Fewer windows than one batch
    make one smaller batch.

    Args:
        tokens: (tokens,) integers, such as `PackedText.tokens("validation")`.
        length: tokens in a window.
        batch_size: windows in a batch.
        max_windows: take no more than this many.
        form: what a batch is made of.

    Raises:
        UserError: the text is shorter than one window and the token that follows it.
    """

    def __init__(
        self,
        tokens: Tokens,
        length: int,
        batch_size: int,
        max_windows: int | None = None,
        form: WindowBatch = PLAIN,
    ) -> None:
        require_window(tokens, length, "validation")
        self.length, self.form = length, form
        self._windows = windows(tokens, length)
        count = min(len(self._windows), max_windows or len(self._windows))
        self.batch_size = min(batch_size, count)
        self.element = form.element(self.batch_size, length)
        self.num_batches = count // self.batch_size
        taken = self.num_batches * self.batch_size
        self._taken = np.arange(taken) * len(self._windows) // taken

    def batch(self, step: int) -> Any:
        """Batch `step` of `num_batches`."""
        return self.form.make(self._windows[self._taken[step * self.batch_size :][: self.batch_size]].astype(np.int32))


def require_window(tokens: Tokens, length: int, name: str) -> None:
    """Raise UserError unless there is a window of `length` tokens and the token that follows it."""
    if len(tokens) < length + 1:
        raise UserError(
            f"the {name} text has {len(tokens)} tokens, and one sequence needs {length + 1}: "
            "give more text, a shorter sequence, or another share of it to validation"
        )

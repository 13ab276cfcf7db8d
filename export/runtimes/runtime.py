"""What is asked of a runtime."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

Tensors = dict[str, np.ndarray]


class Runtime(Protocol):
    """Loads one artefact and runs it. Some can do more: `operators(path)`, `partitions()`, and `continuing()` or
    `generate(prompt, count)`.

    Attributes:
        version: name and version of all that it is made of.
    """

    version: str

    def load(self, path: Path) -> None:
        """Load the artefact at `path`."""

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        """The outputs by name, of which those in `outputs` are wanted. Strings are arrays of bytes."""
        ...

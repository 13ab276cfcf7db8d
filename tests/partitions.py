"""How many parts XNNPACK cuts each function of a .tflite file into: where it has to stop, tensors are copied."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from export.runtimes.litert import LiteRT


def count_partitions(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of delegated parts of each signature of the file, once it has run.

    Args:
        path: the file.
        sizes: the shape to run each input with whose shape is free, by its name.
    """
    runtime = LiteRT()
    runtime.load(path)
    for function, runner in runtime.runners.items():
        inputs = {}
        for name, each in runner.get_input_details().items():
            is_free = (each["shape_signature"] < 0).any()
            inputs[name] = np.zeros(sizes[name] if is_free else each["shape"], each["dtype"])
        runtime.run(function, inputs, ())
    return runtime.partitions()

"""LiteRT (TensorFlow Lite): functions of a model as one .tflite file of built-in operators, for phones and devices."""

import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.processes import one_line, run_child
from zoo.files import whole_file

if TYPE_CHECKING:  # this module runs in a child process, which has no need of Keras
    import numpy as np

    from export.signatures import Signature
    from zoo.model import ZooModel

QUANTIZED = ("int8", "int8_full", "int4")
PRECISIONS = ("float32", "float16", *QUANTIZED)


def fix_shapes(function: "Signature", batch: int | None = None, tokens: int | None = None) -> "Signature":
    """The function with the axes `batch` and `tokens` of these sizes; where None they stay free.

    XNNPACK takes a model whole while at most one axis of an input is free: fix the batch to leave the length free.
    """
    sizes = {"batch": batch, "tokens": tokens}
    inputs = (
        dataclasses.replace(
            spec,
            shape=tuple(axis if isinstance(axis, int) else sizes.get(axis.name) or axis for axis in spec.shape),
        )
        for spec in function.inputs
    )
    return dataclasses.replace(function, inputs=tuple(inputs))


def write_tflite(
    model: "ZooModel",
    functions: Sequence["Signature"],
    file: Path,
    *,
    precision: str = "float32",
    calibration: Iterable[dict[str, "np.ndarray"]] = (),
    timeout: float,
) -> None:
    """Write `functions` of `model` to `file`, each a signature under its own name, which share one copy of the weights.

    No operators of TensorFlow's own (Flex) are let in: the LiteRT runtimes on devices do not have them. The
    converter leaks memory and logs without end, so that each conversion has a process of its own.

    Args:
        functions: none with strings.
        precision: "float32"; "float16", to which weights are rounded; "int8", weights of 8 bits, one scale a row,
            times activations that the runtime rounds to 8 bits call by call; "int4", the same with 4 bits and a scale
            for every 32 weights, and 8 bits for convolutions and for tables of tokens and positions; "int8_full", like
            "int8", and the rounding of activations is settled by what is seen in `calibration`, so that each dense
            layer and each convolution is one of integers. Layer norms, softmax, activation functions, the products of
            attention and all sums stay float32 in each, and so do inputs and outputs.
        calibration: inputs that occur, for "int8_full", which needs some. A function with other inputs is "int8".
        timeout: seconds that each conversion may take.

    Raises:
        ChildFailure: it cannot be converted; where operators are the reason, the message names them.
        OSError: the disk is full.
        ValueError: an unknown precision, or "int8_full" without `calibration`.
    """
    import numpy as np

    from export.saved_model import write_saved_model

    samples = list(calibration) if precision == "int8_full" else []
    if precision not in PRECISIONS or (precision == "int8_full" and not samples):
        raise ValueError(f"precision {precision!r}: {'needs calibration' if precision in PRECISIONS else 'unknown'}")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".tflite-") as scratch, whole_file(file) as partial:
        saved_model, whole = Path(scratch, "saved_model"), Path(scratch, "model.tflite")
        write_saved_model(model, saved_model, functions)
        is_quantized = precision in QUANTIZED
        conversion = [str(saved_model), str(whole if is_quantized else partial), precision]
        run_child(["-P", "-m", "export.tflite", *conversion, *(function.name for function in functions)], timeout)
        if is_quantized:
            inputs = Path(scratch, "inputs.npz")
            arrays: Any = {f"{i}/{name}": value for i, each in enumerate(samples) for name, value in each.items()}
            np.savez(inputs, **arrays)
            run_child(["-P", "-m", "export.tflite_quantize", str(whole), str(partial), precision, str(inputs)], timeout)


def _convert(saved_model: str, file: str, precision: str, *functions: str) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=list(functions))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    try:
        content = converter.convert()
    except Exception as error:  # the converter's own class, its message a page of MLIR
        operators = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(error))))
        sys.exit(f"TFLite has no {', '.join(operators)}" if operators else one_line(str(error)))
    Path(file).write_bytes(content)


if __name__ == "__main__":
    _convert(*sys.argv[1:])

"""LiteRT (TensorFlow Lite): a SavedModel as one .tflite file of built-in operators, for phones and edge devices."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from export.processes import one_line, run_child


def write_tflite(saved_model: Path, functions: Sequence[str], file: Path, timeout: float) -> None:
    """Convert the signatures named `functions` of the SavedModel in `saved_model` to `file`, with their free axes.

    No operators of TensorFlow's own (Flex) are let in: the LiteRT runtimes on devices do not have them. The
    converter leaks memory and logs without end, so that each conversion has a process of its own.

    Args:
        timeout: seconds that the conversion may take.

    Raises:
        ChildFailure: it cannot be converted; where operators are the reason, the message names them.
        OSError: the disk is full.
    """
    run_child(["-P", "-m", "export.tflite", str(saved_model), str(file), *functions], timeout)


def _convert(saved_model: str, file: str, *functions: str) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=list(functions))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        content = converter.convert()
    except Exception as error:  # the converter's own class, its message a page of MLIR
        operators = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(error))))
        sys.exit(f"TFLite has no {', '.join(operators)}" if operators else one_line(str(error)))
    Path(file).write_bytes(content)


if __name__ == "__main__":
    _convert(*sys.argv[1:])

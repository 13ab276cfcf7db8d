"""ONNX files made small: weights in float16, in int8 with products of integers, or in blocks of 4 bits.

ONNX Runtime's own converters fall short of it. Its dynamic quantizer leaves a table float that is both looked up and
multiplied with (the tied logits of GPT and of masked tokens), gives a table one scale, and leaves convolutions float.
Its 4-bit quantizer keeps such a table twice. Its float16 converter makes everything float16, squared norms, counts of
tokens and the cube in GELU's tanh form included. Here each weight is kept once, unless products take it both as it is
and turned round, and all but products stays float32.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from export.onnx import EXTERNAL_ABOVE, move_model
from export.processes import one_line, run_child
from zoo.errors import UserError

PRECISIONS = ("float16", "int8", "int4")


def quantize_onnx(file: Path, out: Path, precision: str, timeout: float) -> None:
    """Write the ONNX model in `file`, which `write_onnx` made, to `out` with smaller weights. Inputs and outputs stay.

    - float16: half the size. Products with weights are computed in float16, from sums and norms in float32. A CPU
      without float16 arithmetic computes them in float32.
    - int8: a quarter. Products with weights are of integers: weights of 7 bits with a scale for each output, what
      they are multiplied with of 8 bits, with one scale, found at run time. Rows of embedding tables have a scale
      each. The kernel of a convolution is kept in int8 and used in float32.
    - int4: about a sixth. Weights that something is multiplied with are kept in blocks of 32 numbers of 4 bits that
      share a scale; other ones are in int8. ONNX Runtime alone has the operators for it.

    Args:
        timeout: seconds that it may take.

    Raises:
        UserError: an unknown precision.
        ChildFailure: it cannot be done.
        OSError: the disk is full.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}: known are {', '.join(PRECISIONS)}")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".onnx-") as scratch:
        request = {
            "file": str(file),
            "out": str(Path(scratch, out.name)),
            "precision": precision,
            "external_above": EXTERNAL_ABOVE,
        }
        run_child(["-P", "-m", "export.onnx_quantize", json.dumps(request)], timeout)
        move_model(Path(scratch, out.name), out)


def _quantize(request: dict[str, Any]) -> None:
    import onnx

    from export.onnx_graph import Graph, save
    from export.onnx_weights import MICROSOFT, Float16, Int4, Int8, rewrite

    model = onnx.load(request["file"])
    graph = Graph(model)
    ways: dict[str, type[Float16 | Int8]] = {"float16": Float16, "int8": Int8, "int4": Int4}
    rewrite(graph, ways[request["precision"]](graph))
    if MICROSOFT in {node.domain for node in model.graph.node} - {each.domain for each in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    save(model, Path(request["out"]), request["external_above"])


if __name__ == "__main__":
    try:
        _quantize(json.loads(sys.argv[1]))
    except Exception as error:
        sys.exit(one_line(f"{type(error).__name__}: {error}"))

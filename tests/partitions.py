"""How many parts XNNPACK cuts each function of a .tflite file into: where it has to stop, tensors are copied."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def count_partitions(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of delegated parts of each signature of the file, once it has run.

    Args:
        path: the file.
        sizes: the shape to run each input with whose shape is free, by its name.
    """
    from ai_edge_litert import interpreter, schema_py_generated

    content = path.read_bytes()
    model = schema_py_generated.Model.GetRootAs(content, 0)
    names = [each.SignatureKey().decode() for each in map(model.SignatureDefs, range(model.SignatureDefsLength()))]
    graphs = [model.SignatureDefs(i).SubgraphIndex() for i in range(len(names))]
    found = {}
    for i, (name, graph) in enumerate(zip(names, graphs, strict=True)):
        signature = model.SignatureDefs(i)
        inputs = {
            each.TensorIndex(): each.Name().decode() for each in map(signature.Inputs, range(signature.InputsLength()))
        }
        runner = interpreter.Interpreter(model_content=_put_first(content, model, graph), num_threads=1)
        for each in runner.get_input_details():
            if (each["shape_signature"] < 0).any():
                runner.resize_tensor_input(each["index"], sizes[inputs[each["index"]]])
        runner.allocate_tensors()
        for each in runner.get_input_details():
            runner.set_tensor(each["index"], np.zeros(runner.get_tensor(each["index"]).shape, each["dtype"]))
        runner.invoke()
        found[name] = sum(each["op_name"] == "DELEGATE" for each in runner._get_ops_details())
    return found


def _put_first(content: bytes, model: object, graph: int) -> bytes:
    """The file with two graphs exchanged: an interpreter shows the operators of the first alone."""
    changed = bytearray(content)
    first = model._tab.Vector(model._tab.Offset(8))  # type: ignore[attr-defined] # field 2 of Model: its graphs
    other = first + 4 * graph
    targets = [place + struct.unpack_from("<I", content, place)[0] for place in (first, other)]
    struct.pack_into("<I", changed, first, targets[1] - first)
    struct.pack_into("<I", changed, other, targets[0] - other)
    return bytes(changed)

"""ONNX: a model as one .onnx file (opset 18) for ONNX Runtime and the many tools that read the format."""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.processes import one_line, run_child

if TYPE_CHECKING:  # the process that converts has no need of Keras
    from export.signatures import Signature
    from zoo.model import ZooModel

OPSET = 18
FORWARD = "forward"  # the signature that is handed from one process to the other
EXTERNAL_ABOVE = 2_000_000_000  # bytes of weights; protobuf, which an .onnx file is, ends at 2 GiB


def write_onnx(model: "ZooModel", function: "Signature", saved_model: Path, file: Path, timeout: float) -> None:
    """Convert a function of `model` to `file`; its weights are read from a SavedModel that `write_saved_model` made.

    tf2onnx keeps many copies of what it takes for constants: so it is given a graph in which the weights are inputs,
    and they become initializers, under their checkpoint names, afterwards. Weights of more than 2 GB go into a file
    of their own beside `file`, named like it with `.data` added.

    Args:
        timeout: seconds that the conversion may take.

    Raises:
        ChildFailure: it cannot be converted; where operators are the reason, the message names them.
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".onnx-") as scratch:
        names = _write_weightless(model, function, scratch)
        request = {
            "weightless": scratch,
            "weights": names,
            "inputs": {
                spec.name: [size if isinstance(size, int) else size.name for size in spec.shape]
                for spec in function.inputs
            },
            "saved_model": str(saved_model),
            "file": str(Path(scratch, file.name)),
            "external_above": EXTERNAL_ABOVE,
        }
        Path(scratch, "request.json").write_text(json.dumps(request))
        run_child(["-P", "-m", "export.onnx", str(Path(scratch, "request.json"))], timeout)
        move_model(Path(scratch, file.name), file)


def _write_weightless(model: "ZooModel", function: "Signature", directory: str) -> dict[str, str]:
    """Write the function with the weights as arguments, as a SavedModel; returns argument name -> weight name."""
    import keras
    import tensorflow as tf

    from export.saved_model import tensor_specs

    weights = model.named_weights()
    arguments = {f"weight_{i}": weight for i, weight in enumerate(weights.values())}

    def forward(**tensors: Any) -> dict[str, Any]:
        with keras.StatelessScope(state_mapping=[(weight, tensors.pop(name)) for name, weight in arguments.items()]):
            outputs = function.compute(tensors)
        return {name: outputs[name] for name in function.outputs}

    specs = {name: tf.TensorSpec(weight.shape, weight.dtype, name=name) for name, weight in arguments.items()}
    signature = tf.function(forward).get_concrete_function(**specs, **tensor_specs(function.inputs))
    tf.saved_model.save(tf.Module(), directory, signatures={FORWARD: signature})
    return dict(zip(arguments, weights, strict=True))


def _convert(request: dict[str, Any]) -> None:
    import tensorflow as tf
    import tf2onnx

    from export.onnx_graph import Graph, fuse_layer_norms, save

    problems: list[str] = []  # tf2onnx only logs what it cannot convert, and goes on

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            problems.append(record.getMessage())

    logging.getLogger("tf2onnx").addHandler(Keep(logging.ERROR))

    forward = tf.saved_model.load(request["weightless"]).signatures[FORWARD]
    specs = forward.structured_input_signature[1]
    names = [*request["weights"], *request["inputs"]]
    model, _ = tf2onnx.convert.from_function(
        tf.function(lambda *tensors: forward(**dict(zip(names, tensors, strict=True)))),
        [tf.TensorSpec(specs[name].shape, specs[name].dtype, name=name) for name in names],
        opset=OPSET,
        custom_op_handlers={"Bitcast": (_convert_bitcast, [])},
    )
    if problems:
        sys.exit(one_line("tf2onnx: " + "; ".join(problems)))
    _name_axes(model, request["inputs"])
    _attach(model, request["weights"], tf.saved_model.load(request["saved_model"]).weights)
    fuse_layer_norms(Graph(model))
    save(model, Path(request["file"]), request["external_above"])


def move_model(source: Path, target: Path) -> None:
    """Move an ONNX file, of the same name, with what lies beside it."""
    data = source.with_name(f"{source.name}.data")
    if data.exists():
        data.replace(target.with_name(data.name))
    source.replace(target)


def _convert_bitcast(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """ONNX cannot look at the bits of a number. Keras's argmax, the one that asks for them, wants to know whether the
    first bit of a float32 is set, to tell -0.0 from 0.0: here these two are equal."""
    import numpy as np
    from onnx import TensorProto

    (x,), (bits,) = node.input, node.output
    if any(taker.type != "BitwiseAnd" for taker in graph.find_output_consumers(bits)):
        raise ValueError("Bitcast: ONNX has none")  # which tf2onnx logs, as an error
    shape = graph.get_shape(bits)
    graph.remove_node(node.name)
    zero = graph.make_const(f"{name}_zero", np.zeros((), "float32")).output[0]
    sign = graph.make_const(f"{name}_sign", np.array(np.iinfo("int32").min, "int32")).output[0]
    negative = graph.make_node("Less", [x, zero]).output[0]
    negative = graph.make_node("Cast", [negative], attr={"to": TensorProto.INT32}).output[0]
    graph.make_node("Mul", [negative, sign], outputs=[bits], dtypes=[TensorProto.INT32], shapes=[shape])


def _name_axes(model: Any, inputs: dict[str, list[str | int]]) -> None:
    """Give the free axes of the inputs their names; those of the outputs, which tf2onnx only numbered, get none."""
    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, []), strict=False):
            if isinstance(size, str):
                axis.dim_param = size
    for value in model.graph.output:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.ClearField("dim_param")


def _attach(model: Any, names: dict[str, str], weights: Any) -> None:
    """Turn the inputs that stand for weights into initializers under the weights' own names."""
    from onnx import numpy_helper

    from export.onnx_graph import every_node

    for node in every_node(model.graph):
        node.input[:] = [names.get(name, name) for name in node.input]
    inputs = [value for value in model.graph.input if value.name not in names]
    used = [names[value.name] for value in model.graph.input if value.name in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(weights[name].numpy(), name) for name in used)


if __name__ == "__main__":
    try:
        _convert(json.loads(Path(sys.argv[1]).read_text()))
    except Exception as error:
        sys.exit(one_line(f"{type(error).__name__}: {error}"))

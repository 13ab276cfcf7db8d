"""ONNX: a model as one .onnx file (opset 18) for ONNX Runtime and the many tools that read the format."""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.processes import one_line, run_child
from export.runtimes import SIGNATURE

if TYPE_CHECKING:  # the process that converts has no need of Keras
    from export.signatures import Signature
    from zoo.model import ZooModel

OPSET = 18
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
            "file": str(file),
            "external": model.count_params() * 4 > EXTERNAL_ABOVE,
        }
        Path(scratch, "request.json").write_text(json.dumps(request))
        run_child(["-P", "-m", "export.onnx", str(Path(scratch, "request.json"))], timeout)


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
    tf.saved_model.save(tf.Module(), directory, signatures={SIGNATURE: signature})
    return dict(zip(arguments, weights, strict=True))


def _convert(request: dict[str, Any]) -> None:
    import onnx
    import tensorflow as tf
    import tf2onnx

    problems: list[str] = []  # tf2onnx only logs what it cannot convert, and goes on

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            problems.append(record.getMessage())

    logging.getLogger("tf2onnx").addHandler(Keep(logging.ERROR))

    forward = tf.saved_model.load(request["weightless"]).signatures[SIGNATURE]
    specs = forward.structured_input_signature[1]
    names = [*request["weights"], *request["inputs"]]
    model, _ = tf2onnx.convert.from_function(
        tf.function(lambda *tensors: forward(**dict(zip(names, tensors, strict=True)))),
        [tf.TensorSpec(specs[name].shape, specs[name].dtype, name=name) for name in names],
        opset=OPSET,
    )
    if problems:
        sys.exit(one_line("tf2onnx: " + "; ".join(problems)))
    onnx.checker.check_model(model, full_check=True)
    _name_axes(model, request["inputs"])
    _attach(model, request["weights"], tf.saved_model.load(request["saved_model"]).weights)
    data = Path(request["file"]).name + ".data"
    onnx.save(model, request["file"], save_as_external_data=request["external"], location=data)


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

    for node in model.graph.node:
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

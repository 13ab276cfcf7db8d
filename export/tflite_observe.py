"""What the tensors of a .tflite file hold while it reads samples: what integers for them have to reach."""

import os
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.tflite_file import builtin_codes, file_content, read_file

Ranges = dict[int, tuple[float, float]]  # the least and the greatest value of tensors, by their index


def observe(content: bytes, samples: list[dict[str, np.ndarray]]) -> dict[int, Ranges]:
    """By the index of its graph, for each function of a float32 file that takes what the samples hold: the least and
    the greatest value of what goes into its dense layers and convolutions and of what comes out."""
    ranges: dict[int, Ranges] = {}
    for signature in read_file(content).signatureDefs:
        names = {each.name.decode(): each.tensorIndex for each in signature.inputs}
        given = [{names[name]: sample[name] for name in names} for sample in samples if names.keys() <= sample.keys()]
        if given:
            ranges[signature.subgraphIndex] = _observe_graph(content, signature.subgraphIndex, given)
    return ranges


def _observe_graph(content: bytes, number: int, samples: list[dict[int, np.ndarray]]) -> Ranges:
    from ai_edge_litert.interpreter import Interpreter

    model = read_file(content)
    codes = builtin_codes(model)
    dense = (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D)
    graph = model.subgraphs[number]
    found = [each for each in graph.operators if codes[each.opcodeIndex] in dense]
    seen = sorted({int(index) for each in found for index in (each.inputs[0], each.outputs[0])})
    # An output is kept; and the interpreter shows the tensors of the first graph alone.
    graph.outputs = np.array([*graph.outputs, *(i for i in seen if i not in graph.outputs)], "int32")
    model.subgraphs, model.signatureDefs = [graph], []
    interpreter = Interpreter(model_content=bytes(file_content(model)), num_threads=os.cpu_count())
    ranges = dict.fromkeys(seen, (np.inf, -np.inf))
    shapes: dict[int, Any] = {}
    for sample in samples:
        if shapes != (shapes := {index: value.shape for index, value in sample.items()}):
            for index, value in sample.items():
                interpreter.resize_tensor_input(index, value.shape)
            interpreter.allocate_tensors()
        for index, value in sample.items():
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        for index in seen:
            values, (low, high) = interpreter.get_tensor(index), ranges[index]
            ranges[index] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges

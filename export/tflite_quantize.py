"""A .tflite file of float32 made smaller: weights of 8 or 4 bits, each of them once, and dense layers of integers.

The converter's own quantization keeps a table twice that is looked up and turned round into logits. Here a table has
one scale a row, which both can use: a lookup becomes the operator that knows of them.
"""

import collections
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.processes import one_line
from export.tflite_file import Editor, SharedScales, file_content, read_file
from export.tflite_observe import Ranges, observe

SMALLEST = 1024  # weights; fewer stay float32
BLOCK = 32  # weights of 4 bits that share a scale


def quantize(model: Any, bits: int, ranges: Mapping[int, Ranges]) -> None:
    """Round the weights of a `ModelT` of float32 in place.

    Args:
        bits: 8, or 4 for matrices.
        ranges: by the index of a graph what its tensors are known to hold: where those before and after a matrix are,
            the product is one of integers.
    """
    _Quantization(model, bits).rewrite(ranges)


class _Quantization:
    def __init__(self, model: Any, bits: int) -> None:
        self.model, self.edit = model, Editor(model)
        self.codes = self.edit.codes
        self.kinds: dict[int, set[str]] = collections.defaultdict(set)  # how each buffer is used
        for graph in model.subgraphs:
            for index in graph.outputs:
                self.kinds[graph.tensors[index].buffer].add("output")
            for operator in graph.operators:
                for place, index in enumerate(operator.inputs):
                    if index >= 0:
                        self.kinds[graph.tensors[index].buffer].add(self._kind(graph, operator, place))
        self.scales: dict[int, Any] = {}  # of the rows of each buffer of 8 bits
        self.blocks: dict[int, int] = {}  # the buffer of the scales of each buffer of 4 bits
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                self._quantize_weights(tensor, bits)
        for graph in model.subgraphs:
            for tensor in [*graph.tensors]:
                self._describe(graph, tensor)

    def _kind(self, graph: Any, operator: Any, place: int) -> str:
        code = self.codes[operator.opcodeIndex]
        builtin = schema.BuiltinOperator
        if code == builtin.FULLY_CONNECTED and place == 1:
            return "matrix"
        if code == builtin.CONV_2D and place == 1:
            return "filter"
        options = operator.builtinOptions
        is_table = len(graph.tensors[operator.inputs[place]].shape) == 2
        if code == builtin.GATHER and place == 0 and is_table and options.axis == options.batchDims == 0:
            return "table"
        return "other"

    def _quantize_weights(self, tensor: Any, bits: int) -> None:
        """Round the buffer of a tensor, where it holds weights and was not rounded yet."""
        number, buffer = tensor.buffer, self.model.buffers[tensor.buffer]
        kinds = self.kinds[number]
        if buffer.data is None or tensor.type != schema.TensorType.FLOAT32 or {number} & {*self.scales, *self.blocks}:
            return
        if not kinds or kinds & {"other", "output"} or len(buffer.data) < 4 * SMALLEST:
            return
        weights = np.frombuffer(buffer.data, "float32").reshape(int(tensor.shape[0]), -1)
        if bits == 4 and kinds == {"matrix"} and weights.shape[1] % BLOCK == 0:
            packed, scales = round_to_4_bits(weights)
            self.blocks[number] = self.edit.add_buffer(scales)
            buffer.data = packed
        else:
            rounded, scales = round_to_8_bits(weights)
            self.scales[number] = _scaled(scales, np.zeros(len(scales), "int64"))
            buffer.data = rounded.reshape(-1).view("uint8")

    def _describe(self, graph: Any, tensor: Any) -> None:
        """Say of a tensor whose buffer was rounded what type it is now."""
        if tensor.buffer in self.scales:
            tensor.type = schema.TensorType.INT8
            tensor.quantization = self.scales[tensor.buffer]
        elif tensor.buffer in self.blocks:
            tensor.type = schema.TensorType.INT4
            rows, columns = tensor.shape
            scales = self.edit.add_tensor(
                graph, tensor.name + b"_scales", (rows, columns // BLOCK), schema.TensorType.FLOAT16
            )
            graph.tensors[scales].buffer = self.blocks[tensor.buffer]
            tensor.quantization = schema.QuantizationParametersT(
                detailsType=schema.QuantizationDetails.BlockwiseQuantization,
                details=schema.BlockwiseQuantizationT(scales=scales, zeroPoints=-1, blockSize=BLOCK),
            )

    def rewrite(self, ranges: Mapping[int, Ranges]) -> None:
        builtin = schema.BuiltinOperator
        for number, graph in enumerate(self.model.subgraphs):
            known = ranges.get(number, {})
            rounded: dict[int, int] = {}  # the tensor of 8 bits for what one of float32 holds
            operators: list[Any] = []
            for operator in graph.operators:
                code = self.codes[operator.opcodeIndex]
                weights = graph.tensors[operator.inputs[1]].buffer if len(operator.inputs) > 1 else -1
                if code == builtin.GATHER and graph.tensors[operator.inputs[0]].buffer in self.scales:
                    operators += self._look_up(graph, operator)
                elif code in (builtin.FULLY_CONNECTED, builtin.CONV_2D) and weights in self.scales:
                    if known.keys() >= {operator.inputs[0], operator.outputs[0]}:
                        operators += self._integers(graph, operator, known, rounded, weights)
                    else:
                        if code == builtin.FULLY_CONNECTED:
                            operator.builtinOptions.asymmetricQuantizeInputs = True
                        operators.append(operator)
                else:
                    operators.append(operator)
            graph.operators = operators
        for code in self.model.operatorCodes:
            if code.builtinCode == builtin.FULLY_CONNECTED:
                code.version = 12  # the first with weights of a scale a row
            elif code.builtinCode == builtin.CONV_2D:
                code.version = 5

    def _look_up(self, graph: Any, operator: Any) -> Iterator[Any]:
        """Rows of a table of 8 bits as float32: the operator for it takes one axis of ids alone."""
        table, ids = operator.inputs
        width = graph.tensors[table].shape[1]
        output = graph.tensors[operator.outputs[0]]
        builtin, types = schema.BuiltinOperator, schema.TensorType
        if len(graph.tensors[ids].shape) == 1:
            yield self.edit.operator(builtin.EMBEDDING_LOOKUP, 3, (ids, table), operator.outputs)
            return
        sizes = [int(size) for size in (output.shape if output.shapeSignature is None else output.shapeSignature)]
        count = int(np.prod(graph.tensors[ids].shape))
        is_free = -1 in sizes
        flat = self.edit.add_tensor(graph, output.name + b"_ids", (count,), types.INT32, is_free)
        rows = self.edit.add_tensor(graph, output.name + b"_rows", (count, width), types.FLOAT32, is_free)
        yield self.edit.operator(builtin.RESHAPE, 1, (ids, self.edit.add_integers(graph, [-1])), (flat,))
        yield self.edit.operator(builtin.EMBEDDING_LOOKUP, 3, (flat, table), (rows,))
        if sizes.count(-1) < 2:
            shape = self.edit.add_integers(graph, sizes)
        else:
            axes = len(sizes)
            of_ids = self.edit.add_tensor(graph, output.name + b"_ids_shape", (axes - 1,), types.INT32)
            shape = self.edit.add_tensor(graph, output.name + b"_shape", (axes,), types.INT32)
            yield self.edit.operator(
                builtin.SHAPE,
                1,
                (ids,),
                (of_ids,),
                schema.BuiltinOptions.ShapeOptions,
                schema.ShapeOptionsT(outType=types.INT32),
            )
            yield self.edit.operator(
                builtin.CONCATENATION,
                1,
                (of_ids, self.edit.add_integers(graph, [int(width)])),
                (shape,),
                schema.BuiltinOptions.ConcatenationOptions,
                schema.ConcatenationOptionsT(),
            )
        yield self.edit.operator(builtin.RESHAPE, 1, (rows, shape), operator.outputs)

    def _integers(
        self, graph: Any, operator: Any, known: Ranges, rounded: dict[int, int], weights: int
    ) -> Iterator[Any]:
        """A dense layer or a convolution from float32 to float32 that computes in integers between."""
        builtin, types = schema.BuiltinOperator, schema.TensorType
        x, y = operator.inputs[0], operator.outputs[0]
        if x not in rounded:
            rounded[x] = self._add_like(graph, x, *known[x])
            yield self.edit.operator(builtin.QUANTIZE, 2, (x,), (rounded[x],))
        result = self._add_like(graph, y, *known[y])
        scales = graph.tensors[rounded[x]].quantization.scale[0] * self.scales[weights].scale
        inputs = [rounded[x], *operator.inputs[1:]]
        if len(inputs) > 2 and inputs[2] >= 0:
            bias = graph.tensors[inputs[2]]
            values = np.frombuffer(self.model.buffers[bias.buffer].data, "float32")
            integers = np.clip(np.rint(values / scales.astype("float64")), -(2**31), 2**31 - 1).astype("int32")
            inputs[2] = self.edit.add_tensor(graph, bias.name + b"_rounded", bias.shape, types.INT32)
            graph.tensors[inputs[2]].buffer = self.edit.add_buffer(integers)
            graph.tensors[inputs[2]].quantization = _scaled(scales, np.zeros(len(scales), "int64"))
        operator.inputs, operator.outputs = np.array(inputs, "int32"), np.array([result], "int32")
        yield operator
        yield self.edit.operator(builtin.DEQUANTIZE, 2, (result,), (y,))

    def _add_like(self, graph: Any, index: int, low: float, high: float) -> int:
        """A tensor of 8 bits for what is float32 in another one, whose values lie between `low` and `high`."""
        like = graph.tensors[index]
        low, high = min(low, 0.0), max(high, 0.0)  # zero is to be exact
        scale = max((high - low) / 255, 1e-12)
        added = self.edit.add_tensor(graph, like.name + b"_rounded", like.shape, schema.TensorType.INT8)
        graph.tensors[added].shapeSignature = like.shapeSignature
        zero = int(np.clip(np.rint(-128 - low / scale), -128, 127))
        graph.tensors[added].quantization = _scaled(np.array([scale], "float32"), np.array([zero], "int64"))
        return added


def _scaled(scales: np.ndarray, zeros: np.ndarray) -> Any:
    return SharedScales(scale=scales.astype("float32"), zeroPoint=zeros, quantizedDimension=0)


def round_to_8_bits(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, columns) to int8 of the same shape, -127 to 127, and the scales float32 (rows,)."""
    scales = np.maximum(np.abs(weights).max(1), 1e-12) / np.float32(127)
    return np.rint(weights / scales[:, None]).astype("int8"), scales.astype("float32")


def round_to_4_bits(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, columns) to integers from -8 to 7, two a byte, the first one low: uint8 (rows * columns / 2,); and
    the scales of their blocks, float16 (rows, columns / BLOCK). Of several scales each block gets the one with the
    least squared error; all have 8 significant bits, to which XNNPACK rounds them."""
    blocks = weights.reshape(len(weights), -1, BLOCK)
    largest = np.maximum(np.abs(blocks).max(2, keepdims=True), 1e-6)
    best = np.full(largest.shape, np.inf, "float32")
    scales, integers = np.zeros_like(largest), np.zeros(blocks.shape, "int8")
    for top in (7.0, 7.5, 8.0, 9.0):
        mantissa, exponent = np.frexp(largest / top)
        scale = np.ldexp(np.rint(mantissa * 256) / 256, exponent).astype("float16").astype("float32")
        rounded = np.clip(np.rint(blocks / scale), -8, 7)
        error = ((rounded * scale - blocks) ** 2).sum(2, keepdims=True)
        is_better = error < best
        best, scales = np.where(is_better, error, best), np.where(is_better, scale, scales)
        integers = np.where(is_better, rounded, integers).astype("int8")
    nibbles = integers.reshape(-1, 2).view("uint8") & 15
    return nibbles[:, 0] | (nibbles[:, 1] << 4), scales[..., 0].astype("float16")


def _main(source: str, target: str, precision: str, inputs: str) -> None:
    content = Path(source).read_bytes()
    samples: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    with np.load(inputs, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, name = key.split("/")
            samples[number][name] = arrays[key]
    ranges = observe(content, list(samples.values()))
    if precision == "int8_full" and not ranges:
        sys.exit("no function takes what the calibration holds")
    model = read_file(content)
    quantize(model, 4 if precision == "int4" else 8, ranges)
    Path(target).write_bytes(file_content(model))


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except Exception as error:
        sys.exit(one_line(f"{type(error).__name__}: {error}"))

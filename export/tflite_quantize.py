"""A .tflite file of float32 made smaller: weights of 8 or 4 bits, each of them once, and dense layers of integers.

The converter's own quantization keeps a table twice that is looked up and turned round into logits. Here a table has
one scale a row, which both can use: a lookup becomes the operator that knows of them.
"""

import collections
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.processes import one_line

SMALLEST = 1024  # weights; fewer stay float32
BLOCK = 32  # weights of 4 bits that share a scale
ALIGNMENT = 16  # bytes: what runtimes expect of a buffer

Ranges = dict[int, tuple[float, float]]  # the least and the greatest value of tensors, by their index


class AlignedBuffer(schema.BufferT):
    """A buffer that is written where runtimes expect it: the generated code would put it anywhere."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated code's name
        data = None
        if self.data is not None:
            content = np.asarray(self.data, "uint8").tobytes()
            builder.StartVector(1, len(content), ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            builder.vectorNumElems = len(content)
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class SharedScales(schema.QuantizationParametersT):
    """Scales that tensors of several graphs have in common: written once. Twelve bytes a row, they would count."""

    written: Any = None

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated code's name
        if self.written is None or self.written[0] is not builder:
            self.written = builder, super().Pack(builder)
        return self.written[1]


def read_file(content: bytes) -> Any:
    """The content of a .tflite file as the schema's `ModelT`, its weights not copied."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    model.buffers = [AlignedBuffer(buffer.data) for buffer in model.buffers]
    return model


def file_content(model: Any) -> bytearray:
    """What a file of this `ModelT` holds."""
    import flatbuffers

    total = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(total + total // 8 + 2**20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return builder.Output()


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
        self.model = model
        self.codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
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
            self.blocks[number] = self._add_buffer(scales)
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
            scales = self._add_tensor(
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
            yield self._operator(builtin.EMBEDDING_LOOKUP, 3, (ids, table), operator.outputs)
            return
        sizes = [int(size) for size in (output.shape if output.shapeSignature is None else output.shapeSignature)]
        count = int(np.prod(graph.tensors[ids].shape))
        is_free = -1 in sizes
        flat = self._add_tensor(graph, output.name + b"_ids", (count,), types.INT32, is_free)
        rows = self._add_tensor(graph, output.name + b"_rows", (count, width), types.FLOAT32, is_free)
        yield self._operator(builtin.RESHAPE, 1, (ids, self._add_integers(graph, [-1])), (flat,))
        yield self._operator(builtin.EMBEDDING_LOOKUP, 3, (flat, table), (rows,))
        if sizes.count(-1) < 2:
            shape = self._add_integers(graph, sizes)
        else:
            axes = len(sizes)
            of_ids = self._add_tensor(graph, output.name + b"_ids_shape", (axes - 1,), types.INT32)
            shape = self._add_tensor(graph, output.name + b"_shape", (axes,), types.INT32)
            yield self._operator(
                builtin.SHAPE,
                1,
                (ids,),
                (of_ids,),
                schema.BuiltinOptions.ShapeOptions,
                schema.ShapeOptionsT(outType=types.INT32),
            )
            yield self._operator(
                builtin.CONCATENATION,
                1,
                (of_ids, self._add_integers(graph, [int(width)])),
                (shape,),
                schema.BuiltinOptions.ConcatenationOptions,
                schema.ConcatenationOptionsT(),
            )
        yield self._operator(builtin.RESHAPE, 1, (rows, shape), operator.outputs)

    def _integers(
        self, graph: Any, operator: Any, known: Ranges, rounded: dict[int, int], weights: int
    ) -> Iterator[Any]:
        """A dense layer or a convolution from float32 to float32 that computes in integers between."""
        builtin, types = schema.BuiltinOperator, schema.TensorType
        x, y = operator.inputs[0], operator.outputs[0]
        if x not in rounded:
            rounded[x] = self._add_like(graph, x, *known[x])
            yield self._operator(builtin.QUANTIZE, 2, (x,), (rounded[x],))
        result = self._add_like(graph, y, *known[y])
        scales = graph.tensors[rounded[x]].quantization.scale[0] * self.scales[weights].scale
        inputs = [rounded[x], *operator.inputs[1:]]
        if len(inputs) > 2 and inputs[2] >= 0:
            bias = graph.tensors[inputs[2]]
            values = np.frombuffer(self.model.buffers[bias.buffer].data, "float32")
            integers = np.clip(np.rint(values / scales.astype("float64")), -(2**31), 2**31 - 1).astype("int32")
            inputs[2] = self._add_tensor(graph, bias.name + b"_rounded", bias.shape, types.INT32)
            graph.tensors[inputs[2]].buffer = self._add_buffer(integers)
            graph.tensors[inputs[2]].quantization = _scaled(scales, np.zeros(len(scales), "int64"))
        operator.inputs, operator.outputs = np.array(inputs, "int32"), np.array([result], "int32")
        yield operator
        yield self._operator(builtin.DEQUANTIZE, 2, (result,), (y,))

    def _operator(
        self, builtin: int, version: int, inputs: Any, outputs: Any, options_type: int = 0, options: Any = None
    ) -> Any:
        known = [(code.builtinCode, code.version) for code in self.model.operatorCodes]
        if (builtin, version) not in known:
            known.append((builtin, version))
            deprecated = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
            self.model.operatorCodes.append(
                schema.OperatorCodeT(deprecatedBuiltinCode=deprecated, builtinCode=builtin, version=version)
            )
            self.codes.append(builtin)
        return schema.OperatorT(
            opcodeIndex=known.index((builtin, version)),
            inputs=np.array(inputs, "int32"),
            outputs=np.array(outputs, "int32"),
            builtinOptionsType=options_type,
            builtinOptions=options,
        )

    def _add_buffer(self, values: np.ndarray) -> int:
        self.model.buffers.append(AlignedBuffer(np.ascontiguousarray(values).reshape(-1).view("uint8")))
        return len(self.model.buffers) - 1

    def _add_tensor(self, graph: Any, name: bytes, shape: Any, kind: int, first_is_free: bool = False) -> int:
        sizes = np.array(shape, "int32")
        tensor = schema.TensorT(shape=sizes, type=kind, name=name, hasRank=True)
        if first_is_free:
            tensor.shapeSignature = np.array([-1, *sizes[1:]], "int32")
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def _add_integers(self, graph: Any, values: list[int]) -> int:
        index = self._add_tensor(graph, b"sizes", (len(values),), schema.TensorType.INT32)
        graph.tensors[index].buffer = self._add_buffer(np.array(values, "int32"))
        return index

    def _add_like(self, graph: Any, index: int, low: float, high: float) -> int:
        """A tensor of 8 bits for what is float32 in another one, whose values lie between `low` and `high`."""
        like = graph.tensors[index]
        low, high = min(low, 0.0), max(high, 0.0)  # zero is to be exact
        scale = max((high - low) / 255, 1e-12)
        added = self._add_tensor(graph, like.name + b"_rounded", like.shape, schema.TensorType.INT8)
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
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
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

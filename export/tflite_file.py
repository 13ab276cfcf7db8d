"""A .tflite file read, changed and written: the objects of its schema, whose generated code this completes."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

ALIGNMENT = 16  # bytes: what runtimes expect of a buffer


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


def builtin_codes(model: Any) -> list[int]:
    """The number of each of a `ModelT`'s kinds of operators, of which the first 127 have a place of their own."""
    return [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]


class Editor:
    """Makes new parts of a `ModelT`.

    Attributes:
        codes: `builtin_codes` of it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.codes = builtin_codes(model)

    def operator(
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

    def add_buffer(self, values: np.ndarray) -> int:
        self.model.buffers.append(AlignedBuffer(np.ascontiguousarray(values).reshape(-1).view("uint8")))
        return len(self.model.buffers) - 1

    def add_tensor(self, graph: Any, name: bytes, shape: Any, kind: int, first_is_free: bool = False) -> int:
        sizes = np.array(shape, "int32")
        tensor = schema.TensorT(shape=sizes, type=kind, name=name, hasRank=True)
        if first_is_free:
            tensor.shapeSignature = np.array([-1, *sizes[1:]], "int32")
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def add_integers(self, graph: Any, values: list[int]) -> int:
        index = self.add_tensor(graph, b"sizes", (len(values),), schema.TensorType.INT32)
        graph.tensors[index].buffer = self.add_buffer(np.array(values, "int32"))
        return index

"""How the weights of an ONNX graph are kept and multiplied with in float16, in int8, and in blocks of 4 bits."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from export.onnx_graph import Graph, attribute_of, taken_by

SMALLEST = 1024  # elements: a smaller weight stays as it is
BLOCK = 32  # weights that share a scale in int4
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
# Processors without instructions for it add two products of 8 bits in 16: with weights of 7 bits none overflows.
REDUCED, FULL = 64, 127


class Float16:
    """A weight as float16, products in it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.halves: dict[str, str] = {}  # by name, the same in float16: cast to it, or what was cast from it

    def _half(self, weight: str) -> str:
        number = self.graph.value(weight)
        assert number is not None
        return self.graph.keep(f"{weight}.float16", number.astype("float16"))

    def _cast(self, node: Any, output: str) -> list[Any]:
        """A node that computes in float16, and `output`, which is what it computes in float32."""
        (self.halves[output],) = node.output
        return [node, helper.make_node("Cast", node.output, [output], to=TensorProto.FLOAT)]

    def lookup(self, table: str, ids: str, output: str) -> list[Any]:
        return self._cast(helper.make_node("Gather", [self._half(table), ids], [f"{output}.half"], axis=0), output)

    def product(self, x: str, weight: str, turned: bool, output: str) -> list[Any]:
        nodes, half = [], self._half(weight)
        if x not in self.halves:
            self.halves[x] = f"{x}.half"
            nodes.append(helper.make_node("Cast", [x], [f"{x}.half"], to=TensorProto.FLOAT16))
        if turned:
            nodes.append(helper.make_node("Transpose", [half], [f"{output}.weight"], perm=[1, 0]))
            half = f"{output}.weight"
        product = helper.make_node("MatMul", [self.halves[x], half], [f"{output}.half"])
        return [*nodes, *self._cast(product, output)]

    def restore(self, weight: str) -> list[Any]:
        return [helper.make_node("Cast", [self._half(weight)], [weight], to=TensorProto.FLOAT)]


class Int8:
    """A weight as int8 with a float32 scale for each of its outputs, products of integers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.quantized: dict[str, list[str]] = {}  # what was quantized already: value, scale, zero point
        self.kept: dict[str, dict[Any, tuple[str, str]]] = {}  # by weight and by the way round, what it became
        self.multiplied: dict[str, bool] = {}  # what is multiplied with, and whether turned, the first time
        for node in graph.proto.node:
            if (found := _multiplied_with(graph, node)) is not None:
                self.multiplied.setdefault(*found)

    def _names(self, weight: str, way: Any, endings: tuple[str, str]) -> tuple[str, str, bool]:
        """What a weight that is kept in some way is called, and whether it is kept so already. One that is multiplied
        with both ways round is kept twice."""
        ways = self.kept.setdefault(weight, {})
        known = way in ways
        if not known:
            name = f"{weight}.{len(ways) + 1}" if ways else weight
            ways[way] = name + endings[0], name + endings[1]
        return *ways[way], known

    def _keep(self, weight: str, axis: int) -> tuple[str, str]:
        """The names of a weight's int8, of 7 bits where it is multiplied with, and of its scales, one for each place
        along `axis`."""
        value, scale, known = self._names(weight, axis, (".int8", ".scale"))
        if not known:
            number = self.graph.value(weight)
            assert number is not None
            highest = REDUCED if weight in self.multiplied else FULL
            others = tuple(i for i in range(number.ndim) if i != axis)
            scales = np.maximum(np.abs(number).max(others, keepdims=True) / highest, np.finfo("float32").tiny)
            self.graph.keep(value, np.rint(number / scales).astype("int8"))
            self.graph.keep(scale, scales.ravel().astype("float32"))
        return value, scale

    def lookup(self, table: str, ids: str, output: str) -> list[Any]:
        value, scale = self._keep(table, 0)
        last = self.graph.keep("last_axis", np.array([-1]))
        return [
            helper.make_node("Gather", [value, ids], [f"{output}.int8"], axis=0),
            helper.make_node("Gather", [scale, ids], [f"{output}.scale"], axis=0),
            helper.make_node("Cast", [f"{output}.int8"], [f"{output}.integer"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{output}.scale", last], [f"{output}.scales"]),
            helper.make_node("Mul", [f"{output}.integer", f"{output}.scales"], [output]),
        ]

    def product(self, x: str, weight: str, turned: bool, output: str) -> list[Any]:
        nodes = []
        value, scale = self._keep(weight, 0 if turned else 1)
        if x not in self.quantized:  # its parts by names that what looks up, or restores, x has not taken
            self.quantized[x] = [f"{x}.uint8", f"{x}.uint8_scale", f"{x}.uint8_zero"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [x], self.quantized[x]))
        x_value, x_scale, x_zero = self.quantized[x]
        if turned:
            nodes.append(helper.make_node("Transpose", [value], [f"{output}.weight"], perm=[1, 0]))
            value = f"{output}.weight"
        return [
            *nodes,
            helper.make_node("MatMulInteger", [x_value, value, x_zero], [f"{output}.int32"]),
            helper.make_node("Cast", [f"{output}.int32"], [f"{output}.integer"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [x_scale, scale], [f"{output}.scales"]),
            helper.make_node("Mul", [f"{output}.integer", f"{output}.scales"], [output]),
        ]

    def restore(self, weight: str) -> list[Any]:
        rank = len(self.graph.constants[weight].dims)
        turned = self.multiplied.get(weight, True)  # as it is kept for products, if it is
        axis = 0 if rank == 2 and turned else rank - 1
        value, scale = self._keep(weight, axis)
        # The zero point is 0 by right without it: ONNX Runtime before 1.28 loses the type when it moves the node.
        zero = self.graph.keep(f"{weight}.zero", np.zeros(self.graph.constants[scale].dims, "int8"))
        return [helper.make_node("DequantizeLinear", [value, scale, zero], [weight], axis=axis)]


class Int4(Int8):
    """A weight that is multiplied with in blocks of 4 bits, other ones as int8."""

    def _keep_blocks(self, weight: str, turned: bool) -> tuple[str, str, int, int]:
        """Names and sizes of a weight as MatMulNBits takes it: uint8 (outputs, blocks, BLOCK / 2), two numbers a byte,
        the lower one first, 8 for 0; and float32 (outputs, blocks), the scales."""
        value, scale, known = self._names(weight, ("blocks", turned), (".int4", ".scales"))
        number = self.graph.value(weight)
        assert number is not None
        rows = number if turned else number.T
        outputs, inputs = rows.shape
        if not known:
            padded = np.pad(rows, ((0, 0), (0, -inputs % BLOCK))).reshape(outputs, -1, BLOCK)
            scales = _find_scales(padded)
            nibbles = (_round(padded, scales) + 8).astype("uint8")
            self.graph.keep(value, nibbles[..., ::2] | nibbles[..., 1::2] << 4)
            self.graph.keep(scale, scales[..., 0])
        return value, scale, inputs, outputs

    def product(self, x: str, weight: str, turned: bool, output: str) -> list[Any]:
        value, scale, inputs, outputs = self._keep_blocks(weight, turned)
        sizes: dict[str, Any] = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        return [helper.make_node("MatMulNBits", [x, value, scale], [output], domain=MICROSOFT, **sizes)]

    def lookup(self, table: str, ids: str, output: str) -> list[Any]:
        if table not in self.multiplied:
            return super().lookup(table, ids, output)
        value, scale, width, _ = self._keep_blocks(table, True)
        flat = self.graph.keep("rows_of_bytes", np.array([0, -1]))
        padded = f"{output}.padded" if width % BLOCK else output
        sizes: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": 4}
        nodes = [
            helper.make_node("Reshape", [value, flat], [f"{output}.table"]),
            helper.make_node(
                "GatherBlockQuantized", [f"{output}.table", ids, scale], [padded], domain=MICROSOFT, **sizes
            ),
        ]
        if width % BLOCK:
            first, last = self.graph.keep("first_column", np.array([0])), self.graph.keep("last_axis", np.array([-1]))
            end = self.graph.keep(f"end_of_{width}_columns", np.array([width]))
            nodes.append(helper.make_node("Slice", [padded, first, end, last], [output]))
        return nodes


def _round(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(blocks / scales), -8, 7)


def _find_scales(blocks: np.ndarray) -> np.ndarray:
    """A scale for each block, (..., 1): of several, that which leaves the smallest squared error. The number that is
    farthest from 0 becomes -8, the end of the range that is the farther one too, or is cut off there."""
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    best, least = np.ones_like(farthest), np.full_like(farthest, np.inf)
    for end in (-8.0, -8.5, -9.0, -9.5, -10.0, -7.5, -7.0):
        scales = np.where(farthest == 0, 1, farthest / end).astype("float32")
        error = np.square(_round(blocks, scales) * scales - blocks).sum(-1, keepdims=True)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def rewrite(graph: Graph, how: Float16 | Int8) -> None:
    """Have every large weight of a graph kept, and every product with one computed, in another precision."""
    others: dict[int, list[Any]] = {}
    first: dict[str, list[Any]] = {}
    for node in graph.proto.node:
        whole = taken_by(node)  # what it goes on to take in float32
        if (found := _multiplied_with(graph, node)) is not None:
            others[id(node)] = how.product(node.input[0], *found, node.output[0])
            whole = node.input[:1]
        elif _looks_up(graph, node):
            others[id(node)] = how.lookup(node.input[0], node.input[1], node.output[0])
            whole = []
        elif _turns_for_products(graph, node):
            whole = []
        first |= {name: how.restore(name) for name in whole if _is_large(graph, name) and name not in first}
    graph.replace(others, [node for nodes in first.values() for node in nodes])


def _is_large(graph: Graph, name: str) -> bool:
    tensor = graph.constants.get(name)
    return (
        tensor is not None
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) > 1
        and int(np.prod(tensor.dims)) >= SMALLEST
    )


def _is_large_matrix(graph: Graph, name: str) -> bool:
    return _is_large(graph, name) and len(graph.constants[name].dims) == 2


def _multiplied_with(graph: Graph, node: Any) -> tuple[str, bool] | None:
    """The weight that something is multiplied with, and whether its rows are turned into columns for it; None where a
    node is no such product."""
    if node.op_type != "MatMul":
        return None
    name = node.input[1]
    turn = graph.made_by(name, "Transpose")
    if turn is not None and _turns_for_products(graph, turn):
        return turn.input[0], True
    return (name, False) if _is_large_matrix(graph, name) else None


def _looks_up(graph: Graph, node: Any) -> bool:
    """Whether a node looks up rows of a weight."""
    return node.op_type == "Gather" and attribute_of(node, "axis", 0) == 0 and _is_large_matrix(graph, node.input[0])


def _turns_for_products(graph: Graph, node: Any) -> bool:
    """Whether a node does nothing but turn the rows of a weight into columns, for products."""
    return (
        node.op_type == "Transpose"
        and _is_large_matrix(graph, node.input[0])
        and list(attribute_of(node, "perm", [1, 0])) == [1, 0]
        and all(
            taker.op_type == "MatMul" and taker.input[1] == node.output[0] for taker in graph.takers[node.output[0]]
        )
    )

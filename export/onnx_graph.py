"""The graph of an ONNX file, to be rewritten: who makes a tensor, who takes it, and what to do without."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from onnx import checker, helper, numpy_helper, save_model


class Graph:
    """A view of an ONNX model's graph in which nodes are found by what they make and what they take.

    Attributes:
        maker: the node that makes a tensor, by the tensor's name.
        takers: the nodes that take it, or that have graphs of their own (If, Loop, Scan) which do.
        constants: what has a value from the start, by name: weights, under their checkpoint names, and others.
    """

    def __init__(self, model: Any) -> None:
        self.proto = model.graph
        self._index()

    def _index(self) -> None:
        self.maker = {name: node for node in self.proto.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in self.proto.initializer}
        self.takers: dict[str, list[Any]] = defaultdict(list)
        for node in self.proto.node:
            for name in taken_by(node):
                self.takers[name].append(node)

    def made_by(self, name: str, kind: str) -> Any:
        """The node that makes a tensor; None where that is not of this kind, or there is none."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == kind else None

    def value(self, name: str) -> np.ndarray | None:
        """A constant's value; None where it is none."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def keep(self, name: str, value: np.ndarray) -> str:
        """Make a constant of `value`, unless there is such a one, and return the name.

        Raises:
            ValueError: something else has the name.
        """
        if name not in self.constants and name not in self.maker:
            self.proto.initializer.append(numpy_helper.from_array(value, name))
            self.constants[name] = self.proto.initializer[-1]
        elif name in self.maker or not np.array_equal(numpy_helper.to_array(self.constants[name]), value):
            raise ValueError(f"the graph has another tensor named {name!r} already")
        return name

    def replace(self, others: dict[int, list[Any]], first: Sequence[Any] = ()) -> None:
        """Put other nodes in the place of some, given by their `id`, and `first` before all; drop what then leads to no
        output, and constants that are made by a node now."""
        candidates = [*first, *(new for node in self.proto.node for new in others.get(id(node), [node]))]
        nodes, needed = [], {output.name for output in self.proto.output}
        for node in reversed(candidates):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(taken_by(node))
        nodes.reverse()
        needed.difference_update(name for node in nodes for name in node.output)
        del self.proto.node[:]
        self.proto.node.extend(nodes)
        for place in reversed(range(len(self.proto.initializer))):
            if self.proto.initializer[place].name not in needed:
                del self.proto.initializer[place]
        del self.proto.value_info[:]  # shapes of tensors that may be gone
        self._index()


def every_node(graph: Any) -> Iterator[Any]:
    """The nodes of a graph, and of the graphs in them, as If and Loop have: those take tensors of the outer one."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from every_node(inner)


def taken_by(node: Any) -> list[str]:
    """The names of what a node takes, and of what is taken within it, each once."""
    inner = (each for attribute in node.attribute for each in (attribute.g, *attribute.graphs))
    names = [*node.input, *(name for graph in inner for each in every_node(graph) for name in each.input)]
    return [*dict.fromkeys(names)]


def attribute_of(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute, `default` where it has none."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def fuse_layer_norms(graph: Graph) -> None:
    """Put one LayerNormalization in the place of the eleven nodes that TensorFlow makes of each: that is faster, and
    its sums stay float32 where the tensors around it become float16."""
    others = {}
    for node in graph.proto.node:
        if node.op_type == "Add" and (found := _find_layer_norm(graph, node)) is not None:
            x, gamma, beta, epsilon = found
            others[id(node)] = [
                helper.make_node("LayerNormalization", [x, gamma, beta], node.output, axis=-1, epsilon=epsilon)
            ]
    graph.replace(others)


def _find_layer_norm(graph: Graph, last: Any) -> tuple[str, str, str, float] | None:
    """x, gamma, beta and epsilon where `last` is `x * scale + (beta - mean * scale)`, scale = gamma / sqrt(variance +
    epsilon), as Keras computes a layer norm."""
    for scaled, shift in permutations(last.input):
        scaling, shifting = graph.made_by(scaled, "Mul"), graph.made_by(shift, "Add")
        if scaling is None or shifting is None:
            continue
        for (x, scale), (moved, beta) in (
            (one, other) for one in permutations(scaling.input) for other in permutations(shifting.input)
        ):
            mean = _negated(graph, moved, scale)
            gamma, variance, epsilon = _reciprocal_root(graph, scale)
            weights = [graph.made_by(name, "Reshape") for name in (gamma, beta)]
            if mean is None or None in weights or not _are_moments(graph, x, mean, variance):
                continue
            if not all(_lies_along_last(graph, reshape) for reshape in weights):
                continue
            gamma, beta = (reshape.input[0] for reshape in weights)
            if all(name in graph.constants and len(graph.constants[name].dims) == 1 for name in (gamma, beta)):
                return x, gamma, beta, epsilon
    return None


def _negated(graph: Graph, moved: str, scale: str) -> str | None:
    """y where `moved` is `-y * scale`."""
    product = graph.made_by(moved, "Mul")
    if product is None or scale not in product.input:
        return None
    negation = graph.made_by(product.input[1 - list(product.input).index(scale)], "Neg")
    return None if negation is None else negation.input[0]


def _reciprocal_root(graph: Graph, scale: str) -> tuple[str, str, float]:
    """gamma, v and epsilon where `scale` is `gamma / sqrt(v + epsilon)`; empty names where it is not."""
    product = graph.made_by(scale, "Mul")
    for reciprocal, gamma in permutations(product.input) if product is not None else ():
        node = graph.made_by(reciprocal, "Reciprocal")
        node = node and graph.made_by(node.input[0], "Sqrt")
        node = node and graph.made_by(node.input[0], "Add")
        for variance, epsilon in permutations(node.input) if node is not None else ():
            if epsilon in graph.constants:
                return gamma, variance, float(graph.value(epsilon))  # type: ignore[arg-type]
    return "", "", 0.0


def _are_moments(graph: Graph, x: str, mean: str, variance: str) -> bool:
    """Whether they are the mean and the variance of x along its last axis."""
    means = graph.made_by(mean, "ReduceMean"), graph.made_by(variance, "ReduceMean")
    if None in means or not all(_reduces_last(graph, node) for node in means):
        return False
    square = graph.made_by(means[1].input[0], "Mul")
    difference = square and square.input[0] == square.input[1] and graph.made_by(square.input[0], "Sub")
    return means[0].input[0] == x and bool(difference) and list(difference.input) == [x, mean]


def _reduces_last(graph: Graph, reduction: Any) -> bool:
    """Whether it is along the last axis, and leaves it there. That is -1, as Keras has it: what else it is hangs on the
    rank, which a graph need not tell."""
    axes = graph.value(reduction.input[1])
    return axes is not None and axes.ravel().tolist() == [-1] and attribute_of(reduction, "keepdims", 1) == 1


def _lies_along_last(graph: Graph, reshape: Any) -> bool:
    """Whether a vector is given axes before its own, and none after."""
    sizes = graph.value(reshape.input[1])
    return sizes is not None and bool((sizes[:-1] == 1).all())


def save(model: Any, file: Path, external_above: int, ending: str = ".data") -> None:
    """Check an ONNX model and write it; where its constants have more bytes than `external_above`, these into a file
    beside, named like it with `ending` added.

    Raises:
        onnx.checker.ValidationError: it is not a valid one.
    """
    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > external_above
    save_model(model, file, save_as_external_data=external, location=f"{file.name}{ending}")
    checker.check_model(file, full_check=True)  # the file: a model beyond 2 GB cannot be handed to the checker

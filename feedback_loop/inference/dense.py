"""Dense layers of a converted graph in fewer bits: float32, float16, and int8 with a scale for each column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PRECISIONS = ("float32", "float16", "int8")
SMALLEST = 64
"""A matrix with fewer weights is left as it is: nothing is gained by it."""


def quantized(content: bytes, precision: str) -> bytes | None:
    """The graph with its large dense layers in that precision; None where it has none."""
    from onnx import load_from_string, numpy_helper

    model = load_from_string(content)
    graph = model.graph
    weights = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    layer: Callable[[_Layers, Any, Any], None] = {"float32": _Layers.single, "float16": _Layers.half}.get(
        precision, _Layers.byte
    )
    layers = _Layers()
    count = 0
    for node in graph.node:
        matrix = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is None or matrix.dtype != np.float64 or matrix.size < SMALLEST:
            layers.nodes.append(node)
            continue
        layer(layers, node, matrix)
        count += 1
    if not count:
        return None
    del graph.node[:]
    graph.node.extend(layers.nodes)
    graph.initializer.extend(layers.constants)
    used = {name for node in graph.node for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    smaller: bytes = model.SerializeToString()
    return smaller


class _Layers:
    """The nodes of a graph as they are written anew."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def single(self, node: Any, matrix: np.ndarray[Any, Any]) -> None:
        """In single precision."""
        self._in_single(node, self._constant(node, "weights", matrix.astype(np.float32)))

    def half(self, node: Any, matrix: np.ndarray[Any, Any]) -> None:
        """Stored in half precision, computed in single."""
        weights = self._constant(node, "weights", matrix.astype(np.float16))
        self._in_single(node, self._node("Cast", [weights], f"{node.output[0]}_wide", to=1))

    def byte(self, node: Any, matrix: np.ndarray[Any, Any]) -> None:
        """Stored as bytes, each column with its scale; computed in single: no row's answer depends on another's."""
        scales = np.maximum(np.abs(matrix).max(axis=0), 1e-30) / 127
        weights = self._constant(node, "weights", np.round(matrix / scales).astype(np.int8))
        scale = self._constant(node, "scales", scales.astype(np.float32))
        self._in_single(node, self._node("DequantizeLinear", [weights, scale], f"{node.output[0]}_wide", axis=1))

    def _in_single(self, node: Any, weights: str) -> None:
        name = node.output[0]
        values = self._node("Cast", [node.input[0]], f"{name}_single", to=1)
        product = self._node("MatMul", [values, weights], f"{name}_product")
        self._node("Cast", [product], name, to=11)

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _constant(self, node: Any, what: str, values: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        name = f"{node.output[0]}_{what}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

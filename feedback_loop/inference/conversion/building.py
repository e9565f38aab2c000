"""Nodes of a graph, written as if they were function calls."""

from __future__ import annotations

from typing import Any

import numpy as np

VERSIONS = {"": 20, "ai.onnx.ml": 3, "com.microsoft": 1}
"""The versions of the operators' domains, as skl2onnx may declare them."""


class Builder:
    """Adds nodes and constants to skl2onnx's container; every method returns the name of what it made."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def name(self, hint: str) -> str:
        """A name that no other tensor has."""
        return str(self._scope.get_unique_variable_name(hint))

    def constant(self, values: Any, kind: Any = np.float64, hint: str = "constant") -> str:
        """An array as a tensor."""
        from onnx import helper, numpy_helper

        name = self.name(hint)
        array = np.asarray(values, dtype=kind)
        if array.dtype == object:
            flat = [str(each).encode() for each in array.ravel()]
            self._container.initializers.append(helper.make_tensor(name, 8, array.shape, flat))  # 8: strings
        else:
            self._container.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        from onnx import helper

        output = output or self.name(operator.lower())
        node = helper.make_node(
            operator, list(inputs), [output], domain=domain, name=self._scope.get_unique_operator_name(operator)
        )
        for name, value in attributes.items():
            node.attribute.append(helper.make_attribute(name, value))
        self._container.nodes.append(node)
        self._container.node_domain_version_pair_sets.add((domain, VERSIONS[domain]))
        return output

    def cast(self, tensor: str, kind: Any, output: str = "") -> str:
        """The tensor in another type."""
        from onnx import helper

        return self.add("Cast", tensor, output=output, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def concat(self, tensors: list[str], output: str = "") -> str:
        """The tensors side by side."""
        if len(tensors) == 1:
            return self.add("Identity", tensors[0], output=output) if output else tensors[0]
        return self.add("Concat", *tensors, output=output, axis=1)

    def pick(self, tensor: str, columns: list[int]) -> str:
        """Some columns of a tensor."""
        return self.add("Gather", tensor, self.constant(columns, np.int64), axis=1)

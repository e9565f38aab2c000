"""Nodes of a graph, written as if they were function calls, and the last step of a model: scores to a class."""

from __future__ import annotations

from collections.abc import Callable
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
            flat = [str(word).encode() for word in array.ravel()]
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


def classifier_shape(operator: Any) -> None:
    """A class and the probabilities of all."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType

    classes = operator.raw_operator.classes_
    if isinstance(classes, list):
        raise NotImplementedError("a classifier of several outputs")
    kind = StringTensorType if classes.dtype.kind in "OUS" else Int64TensorType
    operator.outputs[0].type = kind([None])
    operator.outputs[1].type = DoubleTensorType([None, len(classes)])


def regressor_shape(outputs: Callable[[Any], int]) -> Callable[[Any], None]:
    """So many numbers as `outputs` says of an estimator."""

    def shape(operator: Any) -> None:
        from skl2onnx.common.data_types import DoubleTensorType

        operator.outputs[0].type = DoubleTensorType([None, outputs(operator.raw_operator)])

    return shape


def put_class(builder: Builder, operator: Any, index: str) -> None:
    """The class of which the tensor `index` says the place."""
    classes = operator.raw_operator.classes_
    is_word = classes.dtype.kind in "OUS"
    table = builder.constant(classes, object if is_word else np.int64, hint="classes")
    flat = builder.add("Reshape", index, builder.constant([-1], np.int64))
    builder.add("Gather", table, flat, output=operator.outputs[0].full_name, axis=0)


def put_likeliest(builder: Builder, operator: Any, scores: str) -> None:
    """The class of the highest score (of equals the first)."""
    put_class(builder, operator, builder.add("ArgMax", scores, axis=1, keepdims=0))


def put_pair(builder: Builder, operator: Any, second: str) -> str:
    """Both probabilities from that of the second class; returns them."""
    first = builder.add("Sub", builder.constant([[1.0]]), second)
    return builder.concat([first, second], output=operator.outputs[1].full_name)


def doubles(builder: Builder, operator: Any) -> str:
    """The operator's input in double precision."""
    from skl2onnx.common.data_types import DoubleTensorType

    tensor = operator.inputs[0]
    return (
        tensor.full_name if isinstance(tensor.type, DoubleTensorType) else builder.cast(tensor.full_name, np.float64)
    )

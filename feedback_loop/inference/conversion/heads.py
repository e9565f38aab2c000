"""The last step of a classifier or regression: from raw scores to probabilities and a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import Builder


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

    given = operator.inputs[0]
    return given.full_name if isinstance(given.type, DoubleTensorType) else builder.cast(given.full_name, np.float64)

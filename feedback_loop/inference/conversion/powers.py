"""Power transformations in doubles: skl2onnx mixes single precision into theirs.

Yeo and Johnson, A new family of power transformations to improve normality or symmetry, Biometrika 87 (2000),
eq. 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import Builder


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converter of power transformations."""
    from sklearn.preprocessing import PowerTransformer

    return {PowerTransformer: _transform}


def shapes() -> dict[type, Callable[[Any], None]]:
    """What it puts out."""
    from sklearn.preprocessing import PowerTransformer

    return {PowerTransformer: _transformed}


def _transformed(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, len(operator.raw_operator.lambdas_)])


def _transform(scope: Any, operator: Any, container: Any) -> None:
    builder, transformer = Builder(scope, container), operator.raw_operator
    if transformer.method != "yeo-johnson":
        raise NotImplementedError(f"PowerTransformer(method={transformer.method!r})")
    values = builder.concat([builder.cast(tensor.full_name, np.float64) for tensor in operator.inputs])
    zero, lambdas = builder.constant(0.0), np.asarray(transformer.lambdas_, dtype=np.float64)
    above = builder.add("Where", builder.add("Less", values, zero), zero, values)
    below = builder.add("Where", builder.add("Less", values, zero), builder.add("Neg", values), zero)
    moved = builder.add("Sub", _power(builder, above, lambdas), _power(builder, below, 2 - lambdas))
    output = operator.outputs[0].full_name
    if not transformer.standardize:
        builder.add("Identity", moved, output=output)
        return
    scaler = transformer._scaler  # noqa: SLF001 (scikit-learn has no public word for it)
    centred = builder.add("Sub", moved, builder.constant(scaler.mean_))
    builder.add("Div", centred, builder.constant(scaler.scale_), output=output)


def _power(builder: Builder, values: str, powers: np.ndarray[Any, Any]) -> str:
    """((1 + x)^power - 1) / power of values from zero on, where the power is zero log(1 + x)."""
    logarithm = builder.add("Log", builder.add("Add", values, builder.constant(1.0)))
    is_zero = np.abs(powers) < np.finfo(np.float64).eps
    raised = builder.add("Exp", builder.add("Mul", logarithm, builder.constant(powers)))
    divided = builder.add(
        "Div",
        builder.add("Sub", raised, builder.constant(1.0)),
        builder.constant(np.where(is_zero, 1.0, powers)),
    )
    return builder.add("Where", builder.constant(is_zero, bool), logarithm, divided)

"""Columns made into more columns, in doubles: products of them, and the bins that they fall into.

skl2onnx leaves these in single precision, which nothing beside them can be put together with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import Builder, regressor_shape


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converters of expansions."""
    from sklearn.preprocessing import KBinsDiscretizer, PolynomialFeatures

    return {KBinsDiscretizer: _bin, PolynomialFeatures: _multiply}


def shapes() -> dict[type, Callable[[Any], None]]:
    """What they put out."""
    from sklearn.preprocessing import KBinsDiscretizer, PolynomialFeatures

    return {
        KBinsDiscretizer: regressor_shape(
            lambda binned: len(binned.n_bins_) if binned.encode == "ordinal" else int(sum(binned.n_bins_))
        ),
        PolynomialFeatures: regressor_shape(lambda polynomials: int(polynomials.n_output_features_)),
    }


def _values(builder: Builder, operator: Any) -> str:
    return builder.concat([builder.cast(tensor.full_name, np.float64) for tensor in operator.inputs])


def _multiply(scope: Any, operator: Any, container: Any) -> None:
    builder, powers = Builder(scope, container), operator.raw_operator.powers_  # [outputs, columns]
    values = _values(builder, operator)
    rows = builder.add("Shape", builder.pick(values, [0]))
    one = builder.add("Expand", builder.constant([[1.0]]), rows)
    known = builder.concat([values, one])
    factors = [[column for column, power in enumerate(row) for _ in range(power)] for row in powers]
    most = max(map(len, factors))
    padded = [row + [powers.shape[1]] * (max(most, 1) - len(row)) for row in factors]
    product, *others = (builder.pick(known, list(places)) for places in zip(*padded, strict=True))
    for factor in others:
        product = builder.add("Mul", product, factor)
    builder.add("Identity", product, output=operator.outputs[0].full_name)


def _bin(scope: Any, operator: Any, container: Any) -> None:
    builder, binned = Builder(scope, container), operator.raw_operator
    counts, columns = binned.n_bins_, len(binned.n_bins_)
    edges = np.full((1, columns, max(counts)), np.inf)
    for column, all_edges in enumerate(binned.bin_edges_):
        edges[0, column, : counts[column] - 1] = all_edges[1:-1]
    place = builder.constant([2], np.int64)
    passed = builder.add(
        "GreaterOrEqual", builder.add("Unsqueeze", _values(builder, operator), place), builder.constant(edges)
    )
    numbers = builder.add("ReduceSum", builder.cast(passed, np.int64), place, keepdims=0)
    if binned.encode == "ordinal":
        builder.cast(numbers, np.float64, output=operator.outputs[0].full_name)
        return
    is_in = builder.add(
        "Equal", builder.add("Unsqueeze", numbers, place), builder.constant(np.arange(max(counts)), np.int64)
    )
    flat = builder.add("Reshape", builder.cast(is_in, np.float64), builder.constant([0, -1], np.int64))
    used = [column * max(counts) + number for column in range(columns) for number in range(counts[column])]
    builder.cast(builder.pick(flat, used), np.float64, output=operator.outputs[0].full_name)

"""Splines as piecewise polynomials: skl2onnx has no converter of them.

Between two knots a B-spline is a polynomial (de Boor, A Practical Guide to Splines, chapter IX), which is evaluated
by Horner's rule at the distance from the left knot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import Builder


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converter of splines."""
    from sklearn.preprocessing import SplineTransformer

    return {SplineTransformer: _transform}


def shapes() -> dict[type, Callable[[Any], None]]:
    """What it puts out."""
    from sklearn.preprocessing import SplineTransformer

    return {SplineTransformer: _transformed}


def _transformed(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, int(operator.raw_operator.n_features_out_)])


def _transform(scope: Any, operator: Any, container: Any) -> None:
    builder, transformer = Builder(scope, container), operator.raw_operator
    if transformer.extrapolation != "constant":
        raise NotImplementedError(f"SplineTransformer(extrapolation={transformer.extrapolation!r})")
    values = builder.concat([builder.cast(tensor.full_name, np.float64) for tensor in operator.inputs])
    is_missing = builder.add("IsNaN", values)
    edges, coefficients = _pieces(transformer)  # [features, pieces + 1], [degree + 1, features, pieces, splines]
    features, pieces = coefficients.shape[1:3]
    low, high = edges[:, 0], edges.max(axis=1, initial=-np.inf, where=np.isfinite(edges))
    inside = builder.add("Max", builder.add("Min", values, builder.constant(high)), builder.constant(low))
    inside = builder.add("Where", is_missing, builder.constant(low), inside)
    column = builder.constant([2], np.int64)
    passed = builder.add(
        "GreaterOrEqual", builder.add("Unsqueeze", inside, column), builder.constant(edges[None, :, 1:-1])
    )
    piece = builder.add("ReduceSum", builder.cast(passed, np.int64), column, keepdims=0)
    place = builder.add("Add", piece, builder.constant(np.arange(features) * pieces, np.int64))
    starts = builder.constant(np.where(np.isfinite(edges[:, :-1]), edges[:, :-1], 0.0).ravel())
    distance = builder.add("Unsqueeze", builder.add("Sub", inside, builder.add("Gather", starts, place)), column)
    tables = [builder.constant(table.reshape(features * pieces, -1)) for table in coefficients]
    result = builder.add("Gather", tables[0], place, axis=0)
    for table in tables[1:]:
        result = builder.add("Add", builder.add("Mul", result, distance), builder.add("Gather", table, place, axis=0))
    for beyond, ends, bound in (
        ("Less", _beyond(transformer, above=False), low),
        ("Greater", _beyond(transformer, above=True), high),
    ):
        if ends is not None:
            is_beyond = builder.add("Unsqueeze", builder.add(beyond, values, builder.constant(bound)), column)
            result = builder.add("Where", is_beyond, builder.constant(ends), result)
    if transformer.handle_missing == "zeros":
        result = builder.add("Where", builder.add("Unsqueeze", is_missing, column), builder.constant(0.0), result)
    flat = builder.constant([-1, int(transformer.n_features_out_)], np.int64)
    builder.add("Reshape", result, flat, output=operator.outputs[0].full_name)


def _pieces(transformer: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where each feature's pieces begin, filled up with infinity, and the coefficients, highest power first.

    The last piece begins at the last knot: where knots are the same there, the spline jumps.
    """
    from scipy.interpolate import BSpline, PPoly

    kept = transformer.bsplines_[0].c.shape[1] - (0 if transformer.include_bias else 1)
    most = max(len(np.unique(_knots(spline))) for spline in transformer.bsplines_)
    edges = np.full((len(transformer.bsplines_), most + 1), np.inf)
    coefficients = np.zeros((transformer.degree + 1, len(edges), most, kept))
    for feature, spline in enumerate(transformer.bsplines_):
        inner = np.unique(_knots(spline))
        edges[feature, : len(inner)] = inner
        coefficients[-1, feature, len(inner) - 1] = spline(inner[-1])[:kept]
        for column in range(kept if len(inner) > 1 else 0):
            piecewise = PPoly.from_spline(BSpline(spline.t, spline.c[:, column], spline.k))
            starts = np.searchsorted(piecewise.x, inner[:-1], side="right") - 1
            coefficients[:, feature, : len(starts), column] = piecewise.c[:, starts]
    return edges, coefficients


def _beyond(transformer: Any, *, above: bool) -> np.ndarray[Any, Any] | None:
    """The splines beyond an end, [features, splines]; None where all are what they are at the end.

    scikit-learn takes only the first or last `degree` of them over from there, the others are 0: where knots are the
    same at that end, that is another value than at the end itself.
    """
    at_end = np.array([spline(_knots(spline)[-1 if above else 0]) for spline in transformer.bsplines_])
    taken, splines = at_end.copy(), at_end.shape[1]
    taken[:, slice(splines - transformer.degree) if above else slice(transformer.degree, None)] = 0.0
    kept = slice(splines if transformer.include_bias else splines - 1)
    return None if np.array_equal(taken[:, kept], at_end[:, kept]) else taken[:, kept]


def _knots(spline: Any) -> np.ndarray[Any, Any]:
    """Those between which the spline was fitted; beyond them it is constant."""
    knots: np.ndarray[Any, Any] = spline.t[spline.k : -spline.k or None]
    return knots

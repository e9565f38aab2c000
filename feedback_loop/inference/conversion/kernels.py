"""Support vector machines in doubles: ONNX Runtime has single precision (or nothing) for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import (
    Builder,
    classifier_shape,
    doubles,
    put_class,
    put_likeliest,
    regressor_shape,
)


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converters of support vector machines."""
    from sklearn import svm

    return {
        svm.SVC: _classifier,
        svm.NuSVC: _classifier,
        svm.SVR: _regressor,
        svm.NuSVR: _regressor,
    }


def shapes() -> dict[type, Callable[[Any], None]]:
    """What they put out."""
    return {
        kind: regressor_shape(lambda _: 1) if convert is _regressor else classifier_shape
        for kind, convert in converters().items()
    }


def _regressor(scope: Any, operator: Any, container: Any) -> None:
    builder, model = Builder(scope, container), operator.raw_operator
    kernel = _kernel(builder, doubles(builder, operator), model)
    sums = builder.add("MatMul", kernel, builder.constant(_dense(model.dual_coef_).T))
    builder.add("Add", sums, builder.constant(model.intercept_[None, :]), output=operator.outputs[0].full_name)


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    builder, model = Builder(scope, container), operator.raw_operator
    kernel = _kernel(builder, doubles(builder, operator), model)
    sums = builder.add("MatMul", kernel, builder.constant(_pairs(model)))
    decisions = builder.add("Add", sums, builder.constant(model._intercept_[None, :]))
    zero = builder.constant([[0.0]])
    if len(model.classes_) == 2:
        put_class(builder, operator, builder.cast(builder.add("Less", decisions, zero), np.int64))
        builder.concat([decisions, builder.add("Neg", decisions)], output=operator.outputs[1].full_name)
        return
    if model.break_ties:
        raise NotImplementedError("a support vector machine that breaks ties")
    first, second = _voters(len(model.classes_))
    wins = builder.cast(builder.add("Greater", decisions, zero), np.float64)
    losses = builder.add("Sub", builder.constant([[1.0]]), wins)
    votes = builder.add(
        "Add",
        builder.add("MatMul", wins, builder.constant(first)),
        builder.add("MatMul", losses, builder.constant(second)),
        output=operator.outputs[1].full_name,
    )
    put_likeliest(builder, operator, votes)


def _kernel(builder: Builder, rows: str, model: Any) -> str:
    """The kernel of each row [N] with each support vector [M]."""
    vectors, gamma = _dense(model.support_vectors_), float(model._gamma)  # noqa: SLF001 (what "scale" came to be)
    products = builder.add("MatMul", rows, builder.constant(vectors.T, hint="vectors"))
    if model.kernel == "linear":
        return products
    if model.kernel == "rbf":
        own = builder.add("ReduceSumSquare", rows, builder.constant([1], np.int64), keepdims=1)
        theirs = builder.constant((vectors**2).sum(axis=1)[None, :])
        twice = builder.add("Mul", products, builder.constant([[2.0]]))
        distance = builder.add("Sub", builder.add("Add", own, theirs), twice)
        return builder.add("Exp", builder.add("Mul", distance, builder.constant([[-gamma]])))
    scaled = builder.add("Mul", products, builder.constant([[gamma]]))
    shifted = builder.add("Add", scaled, builder.constant([[float(model.coef0)]]))
    if model.kernel == "poly":
        return builder.add("Pow", shifted, builder.constant([[float(model.degree)]]))
    if model.kernel == "sigmoid":
        return builder.add("Tanh", shifted)
    raise NotImplementedError(f"the kernel {model.kernel!r}")


def _pairs(model: Any) -> np.ndarray[Any, Any]:
    """The coefficients [vectors, pairs] of each pair of classes, in libsvm's sign and order."""
    coefficients, counts = _dense(model._dual_coef_), model.n_support_
    ends = np.cumsum(counts)
    owner = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    pairs = list(combinations(range(len(counts)), 2))
    table = np.zeros((ends[-1], len(pairs)))
    for place, (one, other) in enumerate(pairs):
        table[owner[one], place] = coefficients[other - 1, owner[one]]
        table[owner[other], place] = coefficients[one, owner[other]]
    return table


def _voters(classes: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """For each pair, the class that a positive and the class that another decision is a vote for."""
    pairs = list(combinations(range(classes), 2))
    first, second = np.zeros((len(pairs), classes)), np.zeros((len(pairs), classes))
    for place, (one, other) in enumerate(pairs):
        first[place, one] = second[place, other] = 1
    return first, second


def _dense(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)

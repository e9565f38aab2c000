"""Which estimators we convert ourselves: those whose operators in skl2onnx compute in single precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feedback_loop.inference.conversion import encoders, kernels, powers, texts, trees

_PARTS = (encoders, kernels, powers, texts, trees)


def conversions(last: Any) -> dict[type, Callable[[Any, Any, Any], None]]:
    """The converters by the class that they are for, in a pipeline that ends so."""
    return _left(last, {kind: convert for part in _PARTS for kind, convert in part.converters().items()})


def shapes(last: Any) -> dict[type, Callable[[Any], None]]:
    """What each of them puts out."""
    return _left(last, {kind: shape for part in _PARTS for kind, shape in part.shapes().items()})


def _left(last: Any, ours: dict[type, Any]) -> dict[type, Any]:
    """Without those for a machine with probabilities: they are where libsvm stopped, which ONNX Runtime has too."""
    if len(getattr(last, "probA_", ())):
        return {kind: each for kind, each in ours.items() if not isinstance(last, kind)}
    return ours

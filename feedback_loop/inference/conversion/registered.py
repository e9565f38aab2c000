"""Which estimators we convert ourselves: those whose operators in skl2onnx compute in single precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feedback_loop.inference.conversion import encoders, trees

_PARTS = (encoders, trees)


def conversions() -> dict[type, Callable[[Any, Any, Any], None]]:
    """The converters by the class that they are for."""
    return {kind: convert for part in _PARTS for kind, convert in part.converters().items()}


def shapes() -> dict[type, Callable[[Any], None]]:
    """What each of them puts out."""
    return {kind: shape for part in _PARTS for kind, shape in part.shapes().items()}

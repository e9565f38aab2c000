"""A fitted pipeline as an ONNX graph with at most two inputs: all numbers, all words."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feedback_loop.inference.conversion import encoders, expansions, kernels, powers, splines, texts, trees
from feedback_loop.inference.conversion.graph import finish
from feedback_loop.inference.conversion.rewriting import rewritten, without_lowering
from feedback_loop.inference.conversion.votes import averaged, is_average
from feedback_loop.inference.onnx import NUMBERS, WORDS, Layout, OnnxForm
from feedback_loop.schema import Column, ColumnType

_PARTS = (encoders, expansions, kernels, powers, splines, texts, trees)
"""Which estimators we convert ourselves: those whose operators in skl2onnx compute in single precision."""

OPSET = {"": 20, "ai.onnx.ml": 3}
"""What skl2onnx writes at most."""


class CantConvert(Exception):
    """Why an estimator has no ONNX form; not an error of anybody, there are other engines."""


@dataclass(frozen=True)
class Converted:
    """A graph (`content`, as a file holds it) and how it is asked, as far as that is known before it is proven."""

    content: bytes
    form: OnnxForm


def convert(estimator: Any, features: Sequence[Column]) -> Converted:
    """The estimator's graph, not yet proven; raises CantConvert with the reason."""
    moments = [column.name for column in features if column.type is ColumnType.DATETIME]
    if moments:
        raise CantConvert(f"the column {moments[0]!r} is a datetime, for which ONNX has no type")
    try:
        return _convert(estimator, features)
    except CantConvert:
        raise
    except Exception as error:  # what skl2onnx raises depends on the estimator; whatever it is, it is the reason
        said = " ".join(str(error).split())[:300]
        raise CantConvert(f"{type(error).__name__}: {said}") from error


def _convert(estimator: Any, features: Sequence[Column]) -> Converted:
    if is_average(estimator):
        return _convert_average(estimator, features)
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
    from sklearn.base import is_classifier

    words = tuple(column.name for column in features if column.type is ColumnType.STRING)
    numbers = tuple(column.name for column in features if column.type is not ColumnType.STRING)
    if _takes_columns(estimator):
        types = [
            (column.name, StringTensorType([None, 1]) if column.name in words else DoubleTensorType([None, 1]))
            for column in features
        ]
    elif words and numbers:
        raise CantConvert("it takes words and numbers without saying (by a ColumnTransformer) which is which")
    else:
        whole = (WORDS, StringTensorType) if words else (NUMBERS, DoubleTensorType)
        types = [(whole[0], whole[1]([None, len(features)]))]
    model, lowered = without_lowering(rewritten(estimator))
    classifies = is_classifier(estimator)
    has_scores = not classifies or hasattr(estimator, "predict_proba")
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # skl2onnx warns of what the proof will find out
        converted = convert_sklearn(
            model,
            name="model",
            initial_types=types,
            target_opset=OPSET,
            options={id(model): {"zipmap": False}} if classifies else None,
            custom_conversion_functions=_ours(last, *(part.converters() for part in _PARTS)),
            custom_shape_calculators=_ours(last, *(part.shapes() for part in _PARTS)),
        )
    layout = Layout(numbers, words, lowered)
    content = finish(converted, layout, classifies=classifies, has_scores=has_scores)
    return Converted(content, OnnxForm(layout, has_scores))


def _convert_average(estimator: Any, features: Sequence[Column]) -> Converted:
    """Each member by itself: each may choose its columns as it likes."""
    members = [_convert(member, features) for member in estimator.estimators_]
    layout = members[0].form.layout
    if any(member.form.layout != layout for member in members):
        raise CantConvert("its members take a text in other letters")
    return Converted(averaged(estimator, [member.content for member in members]), OnnxForm(layout, has_scores=True))


def _takes_columns(estimator: Any) -> bool:
    """Whether the first thing that is done with the rows is to choose columns by name or place."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[0][1]
    return isinstance(estimator, ColumnTransformer) or getattr(estimator, "_preprocessor", None) is not None


def _ours(last: Any, *parts: dict[type, Any]) -> dict[type, Any]:
    """What we have by the class that it is for, in a pipeline that ends so.

    Of a machine with probabilities nothing: they are where libsvm stopped, which ONNX Runtime has too.
    """
    all_ours = {kind: ours for part in parts for kind, ours in part.items()}
    has_libsvm = len(getattr(last, "probA_", ())) > 0
    return {kind: ours for kind, ours in all_ours.items() if not (has_libsvm and isinstance(last, kind))}

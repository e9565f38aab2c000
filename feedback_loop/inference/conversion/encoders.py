"""Encoders of categories and imputers of missing values, as tables that are looked up in.

What an encoder makes of each category is asked of the encoder itself, so that all of its options (dropped and
infrequent categories, unknown and missing values) are as scikit-learn means them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import Builder
from feedback_loop.inference.conversion.graph import REFUSING
from feedback_loop.inference.onnx import MISSING_WORD


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converters of encoders and imputers."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    return {OneHotEncoder: _encode, OrdinalEncoder: _encode, SimpleImputer: _impute}


def shapes() -> dict[type, Callable[[Any], None]]:
    """What they put out."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    return dict.fromkeys((OneHotEncoder, OrdinalEncoder), _encoded) | {SimpleImputer: _imputed}


def _encoded(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    width = len(operator.raw_operator.get_feature_names_out())
    operator.outputs[0].type = DoubleTensorType([None, width])


def _encode(scope: Any, operator: Any, container: Any) -> None:
    builder = Builder(scope, container)
    parts = encoded(builder, operator.raw_operator, _columns(builder, operator))
    builder.concat(parts, output=operator.outputs[0].full_name)


def encoded(builder: Builder, encoder: Any, columns: list[tuple[str, bool]]) -> list[str]:
    """What an encoder makes of each column: tensors [N, 1], with whether they are words."""
    if len(columns) != len(encoder.categories_):
        raise NotImplementedError("an encoder that takes other columns than it is given")
    parts = []
    for place, (tensor, is_word) in enumerate(columns):
        table, refuses_unknown = _table(encoder, place)
        index = (_word_index if is_word else _number_index)(builder, tensor, encoder.categories_[place])
        if refuses_unknown:
            unknown = builder.constant([len(encoder.categories_[place])], np.int64)
            builder.add("Equal", index, unknown, output=builder.name(REFUSING))
        flat = builder.add("Reshape", index, builder.constant([-1], np.int64))
        parts.append(builder.add("Gather", builder.constant(table, hint="codes"), flat, axis=0))
    return parts


def _columns(builder: Builder, operator: Any) -> list[tuple[str, bool]]:
    """The operator's columns as tensors [N, 1], and which of them are words."""
    from skl2onnx.common.data_types import StringTensorType

    tensors = []
    for variable in operator.inputs:
        is_word, width = isinstance(variable.type, StringTensorType), variable.type.shape[1]
        if width == 1:
            tensors.append((variable.full_name, is_word))
        else:
            tensors += [(builder.pick(variable.full_name, [place]), is_word) for place in range(width)]
    return tensors


def _table(encoder: Any, place: int) -> tuple[np.ndarray[Any, Any], bool]:
    """What becomes of each category of that column and, last, of an unknown one; whether that is refused instead."""
    categories = encoder.categories_[place]
    first = [categories[0] for categories in encoder.categories_]
    rows = np.empty((len(categories) + 1, len(first)), dtype=object)
    rows[:] = first
    rows[:-1, place] = categories
    encoded = _transformed(encoder, rows[:-1], place)
    if encoder.handle_unknown == "error":
        return np.vstack([encoded, np.zeros((1, encoded.shape[1]))]), True
    rows[-1, place] = _unseen(categories)
    return np.vstack([encoded, _transformed(encoder, rows[-1:], place)]), False


def _transformed(encoder: Any, rows: np.ndarray[Any, Any], place: int) -> np.ndarray[Any, Any]:
    import copy

    plain = copy.copy(encoder)
    plain.__dict__.pop("feature_names_in_", None)
    plain.__dict__.pop("_sklearn_output_config", None)
    out = plain.transform(rows)
    dense = np.asarray(out.toarray() if hasattr(out, "toarray") else out, dtype=np.float64)
    start, end = _block(encoder, place)
    return dense[:, start:end]


def _block(encoder: Any, place: int) -> tuple[int, int]:
    """The output columns of one input column."""
    if not hasattr(encoder, "_n_features_outs"):
        return place, place + 1
    widths = encoder._n_features_outs  # noqa: SLF001 (else names would have to be parsed)
    start = int(sum(widths[:place]))
    return start, start + int(widths[place])


def _unseen(categories: np.ndarray[Any, Any]) -> Any:
    if categories.dtype.kind in "OUS":
        return max((str(category) for category in categories), key=len) + "?"
    finite = categories[np.isfinite(categories.astype(np.float64))].astype(np.float64)
    return float(finite.max() + 1) if len(finite) else 0.0


def _word_index(builder: Builder, tensor: str, categories: np.ndarray[Any, Any]) -> str:
    words = [word if isinstance(word, str) else MISSING_WORD for word in categories.tolist()]
    return builder.add(
        "LabelEncoder",
        tensor,
        domain="ai.onnx.ml",
        keys_strings=words,
        values_int64s=list(range(len(words))),
        default_int64=len(words),
    )


def _number_index(builder: Builder, tensor: str, categories: np.ndarray[Any, Any]) -> str:
    values = categories.astype(np.float64)
    if not np.isnan(values).any():
        matches = builder.cast(builder.add("Equal", tensor, builder.constant(values[None, :])), np.float32)
    else:  # scikit-learn sorts NaN last
        equal = builder.cast(builder.add("Equal", tensor, builder.constant(values[None, :-1])), np.float32)
        matches = builder.concat([equal, builder.cast(builder.add("IsNaN", tensor), np.float32)])
    # Where nothing matches, the highest of [0 … 0, ½] is the last: unknown.
    first = builder.pick(matches, [0])
    zero, half = builder.constant([0.0], np.float32), builder.constant([0.5], np.float32)
    unknown = builder.add("Add", builder.add("Mul", first, zero), half)
    return builder.add("ArgMax", builder.concat([matches, unknown]), axis=1, keepdims=1)


def _imputed(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

    imputer = operator.raw_operator
    is_word = isinstance(operator.inputs[0].type, StringTensorType)
    if imputer.add_indicator and is_word:
        raise NotImplementedError("SimpleImputer(add_indicator=True) of words")
    width = len(imputer.statistics_) + (len(imputer.indicator_.features_) if imputer.add_indicator else 0)
    operator.outputs[0].type = (StringTensorType if is_word else DoubleTensorType)([None, width])


def _impute(scope: Any, operator: Any, container: Any) -> None:
    builder, imputer = Builder(scope, container), operator.raw_operator
    columns = _columns(builder, operator)
    if any(value is None or value != value for value in imputer.statistics_.tolist()):  # noqa: PLR0124 (NaN)
        raise NotImplementedError("SimpleImputer that leaves out columns without any value")
    if imputer.missing_values is not None and imputer.missing_values == imputer.missing_values:
        raise NotImplementedError(f"SimpleImputer(missing_values={imputer.missing_values!r})")
    whole = builder.concat([tensor for tensor, _ in columns])
    output = operator.outputs[0].full_name
    if columns[0][1]:
        missing = builder.add("Equal", whole, builder.constant([MISSING_WORD], object))
        filling = builder.constant(np.asarray(imputer.statistics_, dtype=object)[None, :], object)
        builder.add("Where", missing, filling, whole, output=output)
        return
    missing = builder.add("IsNaN", whole)
    filling = builder.constant(np.asarray(imputer.statistics_, dtype=np.float64)[None, :])
    if not imputer.add_indicator:
        builder.add("Where", missing, filling, whole, output=output)
        return
    filled = builder.add("Where", missing, filling, whole)
    indicated = builder.cast(builder.pick(missing, imputer.indicator_.features_.tolist()), np.float64)
    builder.concat([filled, indicated], output=output)

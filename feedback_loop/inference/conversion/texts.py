"""Text as counts of words: cut by skl2onnx's operators, weighted in doubles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import Builder

PATTERN = r"(?u)\b\w\w+\b"
"""What scikit-learn takes for a word, unless told otherwise."""

LETTERS = r"[\p{L}\p{N}_]{2,}"
"""The same in the language of ONNX Runtime's expressions, in which `\\w` knows ASCII only."""


PADDING = "#"
"""What fills up shorter texts: no word has it."""


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converters of text."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    return {CountVectorizer: _count, TfidfVectorizer: _weigh}


def shapes() -> dict[type, Callable[[Any], None]]:
    """What they put out."""
    return dict.fromkeys(converters(), _shape)


def _shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, len(operator.raw_operator.vocabulary_)])


def _count(scope: Any, operator: Any, container: Any) -> None:
    builder = Builder(scope, container)
    builder.add("Identity", _counts(builder, operator), output=operator.outputs[0].full_name)


def _counts(builder: Builder, operator: Any) -> str:
    """How often each word (or each of several in a row) of the vocabulary is in each text."""
    model = operator.raw_operator
    _refuse_special(model)
    texts = builder.add("Reshape", operator.inputs[0].full_name, builder.constant([-1], np.int64))
    words = builder.add(
        "Tokenizer", texts, domain="com.microsoft", mark=0, mincharnum=1, pad_value=PADDING, tokenexp=LETTERS
    )
    grams = sorted(((term.split(" "), int(place)) for term, place in model.vocabulary_.items()), key=_length)
    shortest, longest = model.ngram_range
    pool = [word for gram, _ in grams for word in gram]
    starts = [sum(len(gram) for gram, _ in grams if len(gram) < length) for length in range(1, longest + 1)]
    counts = builder.add(
        "TfIdfVectorizer",
        words,
        mode="TF",
        min_gram_length=shortest,
        max_gram_length=longest,
        max_skip_count=0,
        ngram_counts=starts,
        ngram_indexes=[place for _, place in grams],
        pool_strings=pool,
    )
    doubles = builder.cast(counts, np.float64)
    return builder.cast(builder.cast(doubles, bool), np.float64) if model.binary else doubles


def _length(gram: tuple[list[str], int]) -> int:
    return len(gram[0])


def _refuse_special(model: Any) -> None:
    special = {
        "lowercase": model.lowercase,
        "analyzer": model.analyzer != "word",
        "token_pattern": model.token_pattern != PATTERN,
        "tokenizer": model.tokenizer is not None,
        "preprocessor": model.preprocessor is not None,
        "strip_accents": model.strip_accents is not None,
        "stop_words": model.stop_words is not None and model.ngram_range[1] > 1,
    }
    for name, is_special in special.items():
        if is_special:
            raise NotImplementedError(f"{type(model).__name__}({name}={getattr(model, name)!r})")


def _weigh(scope: Any, operator: Any, container: Any) -> None:
    builder, model = Builder(scope, container), operator.raw_operator
    values = _counts(builder, operator)
    one = builder.constant([[1.0]])
    if model.sublinear_tf:
        grown = builder.add("Add", builder.add("Log", builder.add("Max", values, one)), one)
        zero = builder.constant([[0.0]])
        values = builder.add("Where", builder.add("Greater", values, zero), grown, zero)
    if model.use_idf:
        values = builder.add("Mul", values, builder.constant(np.asarray(model.idf_)[None, :]))
    if model.norm is not None:
        kind = {"l1": "ReduceL1", "l2": "ReduceL2"}[model.norm]
        length = builder.add(kind, values, builder.constant([1], np.int64), keepdims=1)
        is_empty = builder.add("Equal", length, builder.constant([[0.0]]))
        values = builder.add("Div", values, builder.add("Where", is_empty, one, length))
    builder.add("Identity", values, output=operator.outputs[0].full_name)

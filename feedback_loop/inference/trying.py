"""Checks of a model before it answers anybody: does it answer as MLflow serves it, and each row by itself?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.errors import BadInput, ModelFault, Refused
from feedback_loop.inference.answers import read_answer
from feedback_loop.inference.categories import categories_of, parts_of
from feedback_loop.inference.engines import Engine, PyfuncEngine, Scored, SklearnEngine
from feedback_loop.inference.inputs import Inputs, inputs_of, made_up_table
from feedback_loop.registry import LoadedModel, input_example, mlflow_answers
from feedback_loop.schema import Column, ColumnType, Contract, arrow_type, coerce
from feedback_loop.schema.values import is_missing

Native = SklearnEngine | PyfuncEngine
"""The engines around a model as it was logged."""

ROWS = 8
"""So many known rows are scored, and as many that are made of them."""

NEAR = 1e-6
"""Numbers this near are the same: many rows are added up in another order than one."""

SURE = 1e-4
"""Probabilities of single precision add up to 1 within this."""


def make_native(loaded: LoadedModel, contract: Contract, none: Sequence[str] | None = None) -> Native:
    """The engine around the model as it is: scikit-learn's own object, else MLflow's pyfunc.

    `none` are the text columns in which a missing value is None to it; found by asking it where not given.
    """
    if loaded.estimator is None:
        assert loaded.pyfunc is not None  # a version is loaded as the one or the other
        return PyfuncEngine(loaded.pyfunc, contract, inputs_of(loaded, contract))
    none = _without_text(loaded, contract) if none is None else none
    return _sklearn(loaded, contract, inputs_of(loaded, contract, none))


def known_rows(loaded: LoadedModel, contract: Contract, known: pa.Table | None) -> pa.Table | None:
    """Features of rows that the version is known to take: its reference rows, else its input example."""
    if known is not None:
        there = set(known.column_names)
        sources = {
            column.name: column.stored if column.stored in there else column.name for column in contract.features
        }
        known = pa.table({name: known.column(source) for name, source in sources.items() if source in there})
    else:
        known = input_example(loaded, [column.name for column in contract.features])
    return None if known is None else coerce(known, contract.features).combine_chunks()


def check_model(loaded: LoadedModel, contract: Contract, engine: Native, known: pa.Table | None) -> None:
    """Raises Refused or ModelFault for a model whose answers to known rows are none, or not those of MLflow."""
    rows = (known if known is not None and known.num_rows else made_up_table(contract)).slice(0, ROWS)
    for row, scored in _alone(engine, rows, is_known=known is not None):
        if contract.probabilities:
            _check_chances(loaded, contract, engine.chances(row))
        if loaded.estimator is not None and not any(values.null_count for values in row.columns):
            _check_mlflow(loaded, row, scored)


def why_alone(engine: Engine, contract: Contract, known: pa.Table | None) -> str:
    """Why requests can't be answered together, as the rows of one; empty where they can.

    The same rows are asked alone, together, and in another order.
    """
    base = (known if known is not None and known.num_rows else made_up_table(contract)).slice(0, ROWS)
    tried = pa.concat_tables([base, _varied(base, contract)]).combine_chunks()
    try:
        answered = list(_alone(engine, tried, is_known=True))
    except ModelFault as error:
        return f"some rows have no answer of their own: {error.cause}"
    if len(answered) < 2:
        return "of the rows that were tried it takes too few to see whether one's answer hangs on the others"
    rows = pa.concat_tables([row for row, _ in answered]).combine_chunks()
    alone = [_of_row(scored, 0) for _, scored in answered]
    for order in (range(len(alone)), range(len(alone) - 1, -1, -1)):
        try:
            together = engine.score(rows.take(list(order)))
        except (BadInput, ModelFault) as error:
            return f"rows that it answers alone it does not answer together: {error.cause}"
        if not all(same(_of_row(together, at), alone[place]) for at, place in enumerate(order)):
            return "the answer to a row hangs on the others that are asked with it, or on chance"
    return ""


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, numbers within `NEAR`."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, float | int) and isinstance(other, float | int):
        is_equal = one == other or (math.isnan(one) and math.isnan(other))
        return is_equal or abs(one - other) <= NEAR * max(abs(one), abs(other), 1.0)
    return bool(one == other)


def _of_row(scored: Scored, row: int) -> tuple[Any, list[Any]]:
    return scored.answers[row], [column[row].as_py() for column in scored.outputs.columns]


def _alone(engine: Engine, rows: pa.Table, *, is_known: bool) -> Iterator[tuple[pa.Table, Scored]]:
    """Each row that the model takes, with its answer; raises the ModelFault of a known row."""
    for place in range(rows.num_rows):
        row = rows.slice(place, 1)
        try:
            yield row, engine.score(row)
        except ModelFault:
            if is_known:
                raise
        except BadInput:
            continue


def _varied(rows: pa.Table, contract: Contract) -> pa.Table:
    """Other rows: a column's values in another order, numbers spread over and beyond their range."""
    return pa.table(
        {column.name: _other_values(rows.column(column.name).to_pylist(), column) for column in contract.features}
    )


def _other_values(usual: list[Any], column: Column) -> pa.Array:
    values: list[Any] = [usual[(3 * place + 1) % len(usual)] for place in range(ROWS)]
    if column.type.is_numeric:
        numbers = [number for number in usual if number is not None and math.isfinite(number)]
        step = (max(numbers) - min(numbers)) / ROWS if numbers else 0.0
        whole = column.type in (ColumnType.INTEGER, ColumnType.LONG)
        step = max(int(step), 1) if whole else step or 1.0
        first = min(numbers, default=0) - step * (ROWS // 2)  # below the usual, and above
        values = [first + place * step for place in range(ROWS)]
    return pa.array(values, arrow_type(column.type))


def _check_chances(loaded: LoadedModel, contract: Contract, chances: np.ndarray[Any, Any]) -> None:
    sums = chances.sum(axis=1)
    wrong = not (np.isfinite(chances).all() and chances.min() >= -SURE and chances.max() <= 1 + SURE)
    if wrong or (not contract.more_labels and not np.allclose(sums, 1, rtol=0, atol=SURE)):
        raise Refused(
            f"{loaded.version} answers probabilities that are none: between {chances.min():g} and {chances.max():g}, "
            f"and together {sums[0]:g}.",
            cure="They have to lie between 0 and 1, and those of all classes have to add up to 1.",
        )


def _check_mlflow(loaded: LoadedModel, row: pa.Table, scored: Scored) -> None:
    theirs = _mlflow_answer(loaded, row)
    if theirs is None or same(theirs, scored.form.shaped(scored.answers)):
        return
    if same(theirs, _mlflow_answer(loaded, row)):  # else it answers at random
        raise Refused(
            f"{loaded.version} answers otherwise than by MLflow: it says one thing of a known row when MLflow hands "
            "it that row, and another when it gets it from here.",
            cure="Log it as a pyfunc model: that is asked by MLflow.",
        )


def _mlflow_answer(loaded: LoadedModel, row: pa.Table) -> Any:
    """What MLflow's server would say of a row; None where it refuses it."""
    try:
        answer = read_answer(mlflow_answers(loaded, row.to_pylist()), 1)
    except ModelFault:
        return None
    return answer.form.shaped(answer.rows)


def _without_text(loaded: LoadedModel, contract: Contract) -> tuple[str, ...]:
    """The text columns in which a missing value has to be None for the model, since NaN is something else to it.

    Where it takes both and tells them apart, the one that its encoders have learned decides, else the one that
    MLflow's server hands it. Raises Refused where it answers MLflow in a third way.
    """
    words = [column.name for column in contract.features if column.type is ColumnType.STRING]
    if not words:
        return ()
    known = known_rows(loaded, contract, None)
    row = (known if known is not None and known.num_rows else made_up_table(contract)).slice(0, 1)
    if not _tells_apart(loaded, contract, row, words):
        return ()
    return tuple(name for name in words if _is_none(loaded, contract, row, name))


def _tells_apart(loaded: LoadedModel, contract: Contract, row: pa.Table, names: Sequence[str]) -> bool:
    nan, none = _both(loaded, contract, _without(row, names), names)
    return not same(nan, none)


def _is_none(loaded: LoadedModel, contract: Contract, row: pa.Table, name: str) -> bool:
    missing = _without(row, [name])
    nan, none = _both(loaded, contract, missing, [name])
    if same(nan, none) or none is None:
        return False
    if nan is None:
        return True
    learned = _learned_missing(loaded.estimator)
    if len(learned) == 1:
        return learned == {"None"}
    theirs = _mlflow_answer(loaded, missing)
    if same(theirs, none[0]):
        return True
    if theirs is None or same(theirs, nan[0]):
        return False
    raise Refused(
        f"{loaded.version} answers otherwise where a text of {name!r} is missing than MLflow makes it answer, "
        "whether that is None or NaN.",
        cure="Have the model fill missing texts by itself, or log it as a pyfunc model.",
    )


def _both(loaded: LoadedModel, contract: Contract, row: pa.Table, names: Sequence[str]) -> tuple[Any, Any]:
    """What it answers (callers, and the log) where missing is NaN, and where it is None; None for what it refuses."""
    return (
        _answer(_sklearn(loaded, contract, inputs_of(loaded, contract)), row),
        _answer(_sklearn(loaded, contract, inputs_of(loaded, contract, names)), row),
    )


def _answer(engine: Engine, row: pa.Table) -> Any:
    try:
        scored = engine.score(row)
        return scored.form.shaped(scored.answers), _of_row(scored, 0)[1]
    except (BadInput, ModelFault):
        return None


def _without(row: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        place = row.column_names.index(name)
        row = row.set_column(place, name, pa.nulls(row.num_rows, pa.string()))
    return row


def _sklearn(loaded: LoadedModel, contract: Contract, inputs: Inputs) -> SklearnEngine:
    return SklearnEngine(loaded.estimator, contract, answers_with=loaded.answers_with, inputs=inputs)


def _learned_missing(estimator: Any) -> set[str]:
    """What its encoders and imputers take for a missing value: None, NaN, or both."""
    values = categories_of(estimator, is_missing)
    values += [part.missing_values for part in parts_of(estimator) if hasattr(part, "missing_values")]
    return {"None" if value is None else "NaN" for value in values if is_missing(value)}

"""The proof that a converted model answers as the original does: no proof, no use."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.errors import BadInput
from feedback_loop.inference.engines import Engine, Scored
from feedback_loop.inference.onnx import Refusals
from feedback_loop.schema import Column, ColumnType, Contract, arrow_type

SEED = 20_260_302
RANDOM_ROWS = 2_000
MOST_REFERENCE_ROWS = 5_000
EXTREMES = (0.0, -1.0, 1.0, 1e-12, 1e3, -1e6, 1e9)
BEYOND = (3.5e38, 1e300, float("inf"))
"""Numbers that some models refuse: beyond single precision, far beyond, and infinity."""

FARTHEST = 1e150
"""Random numbers are not larger: their differences would be infinite."""

UNSEEN = "an unseen category"

MOST_EDGES = 2_000

ONE_BY_ONE = 60
"""From so many columns on, which of them may be missing is asked of all at once only."""


@dataclass(frozen=True)
class Limits:
    """How far apart the two may be: numbers, and how many of the classes that are compared."""

    difference: float
    classes: float = 0


@dataclass(frozen=True)
class Proof:
    """What was compared, and how far the two were apart at most. `reason` says why it failed (empty: it holds)."""

    rows: dict[str, int]
    classes_differ: int
    max_difference: float
    tolerance: float
    reason: str = ""
    seed: int = SEED
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the converted model may be used."""
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        """Plain values, for an artifact."""
        return {"holds": self.holds, **asdict(self)}


def ask_refusals(original: Engine, contract: Contract, known: pa.Table) -> Refusals:
    """What the original refuses: it is asked with a row that it takes, of which one value is changed."""
    base = known.slice(0, 1)
    missing = list(contract.features)
    if _takes(original, _changed(base, {column.name: None for column in missing}, contract)):
        missing = []
    elif len(missing) <= ONE_BY_ONE:
        missing = [
            column for column in missing if not _takes(original, _changed(base, {column.name: None}, contract))
        ]
    words = [column for column in contract.features if column.type is ColumnType.STRING]
    if not words or _takes(original, _changed(base, {column.name: UNSEEN for column in words}, contract)):
        words = []
    elif len(words) <= ONE_BY_ONE:
        words = [column for column in words if not _takes(original, _changed(base, {column.name: UNSEEN}, contract))]
    numeric = [column for column in contract.features if column.type in (ColumnType.DOUBLE, ColumnType.FLOAT)]
    largest: dict[str, float] = {}
    for limit, value in zip((3.4e38, 3.5e38, 1e300), BEYOND, strict=True):
        fits = [
            column for column in numeric if column.type is ColumnType.DOUBLE or np.isinf(value) or value <= 3.4e38
        ]
        fits = [column for column in fits if column.name not in largest]
        if not fits or _takes(original, _changed(base, {column.name: value for column in fits}, contract)):
            continue
        singly = fits if len(fits) <= ONE_BY_ONE else []
        refused = [
            column for column in singly if not _takes(original, _changed(base, {column.name: value}, contract))
        ]
        largest |= {column.name: limit for column in refused or fits}
    return Refusals(tuple(column.name for column in missing), tuple(column.name for column in words), largest)


def label_follows(contract: Contract, scored: Scored) -> bool:
    """Whether every class answered is the one of the highest probability."""
    if len(contract.probabilities) == 0 or scored.outputs.num_rows == 0:
        return False
    columns = [scored.outputs.column(column.stored).to_numpy() for column in contract.probabilities]
    if len(columns) == 1 and contract.positive is not None:
        place = contract.classes.index(contract.positive)
        columns = [1 - columns[0], columns[0]] if place else [columns[0], 1 - columns[0]]
    likeliest = np.column_stack(columns).argmax(axis=1)
    predicted = scored.outputs.column(contract.outputs[0].stored).to_pylist()
    return bool(predicted == [contract.classes[place] for place in likeliest])


def proof_rows(
    contract: Contract, known: pa.Table, refusals: Refusals, words: Sequence[str], *, seed: int = SEED
) -> dict[str, pa.Table]:
    """Rows to compare on: the version's own, edges, and random ones within and beyond the range of its own."""
    return {
        "reference": known.slice(0, MOST_REFERENCE_ROWS),
        "edges": _edges(contract, known, refusals),
        "random": _random(contract, known, refusals, words, np.random.default_rng(seed)),
    }


def prove(
    original: Engine, converted: Engine, contract: Contract, rows: dict[str, pa.Table], limits: Limits
) -> Proof:
    """Compares the two on all rows: both refuse the same, classes are equal and numbers near."""
    differ, furthest, counts, reason = 0, 0.0, {}, ""
    for kind, table in rows.items():
        counts[kind] = table.num_rows
        for part, theirs in _answered(original, table):
            try:
                ours = converted.score(part)
            except BadInput as error:
                ours = None
                if theirs is not None:
                    reason = reason or f"{kind} rows are refused that scikit-learn takes: {error.cause}"
            if theirs is None and ours is not None:
                reason = reason or f"{kind} rows are taken that scikit-learn refuses"
            if theirs is not None and ours is not None:
                classes, distance = compare(contract, theirs, ours)
                differ, furthest = differ + classes, max(furthest, distance)
    if differ > limits.classes:
        reason = reason or f"{differ} classes differ"
    if not furthest <= limits.difference:
        reason = reason or f"answers differ by up to {furthest:.3g}, more than {limits.difference:g}"
    # No JSON holds infinity, and a bundle is one that can be read.
    return Proof(counts, differ, min(furthest, sys.float_info.max), limits.difference, reason)


def compare(contract: Contract, theirs: Scored, ours: Scored) -> tuple[int, float]:
    """How many classes differ, and how far numbers are apart at most (those above 1 in proportion)."""
    names = [column.stored for column in contract.outputs]
    differ = 0
    if contract.task.is_classification:
        ones, others = (scored.outputs.column(names[0]).to_pylist() for scored in (theirs, ours))
        differ = sum(one != other for one, other in zip(ones, others, strict=True))
        names = names[1:]
    pairs = [(theirs.outputs.column(name).to_numpy(), ours.outputs.column(name).to_numpy()) for name in names]
    if not contract.task.is_classification:
        pairs.append((np.asarray(theirs.answers), np.asarray(ours.answers)))
    elif theirs.answers and isinstance(theirs.answers[0], list):
        pairs.append((np.asarray(theirs.answers, dtype=np.float64), np.asarray(ours.answers, dtype=np.float64)))
    return differ, max((_distance(one, other) for one, other in pairs), default=0.0)


def _distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    if one.shape != other.shape:
        return float("inf")
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other) / np.maximum(np.abs(one), 1.0)
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    return float(apart.max(initial=0.0))


def _answered(engine: Engine, rows: pa.Table) -> Iterable[tuple[pa.Table, Scored | None]]:
    """The rows with their answers: all at once, or row by row where the model refuses (None) some of them."""
    if not rows.num_rows:
        return
    try:
        yield rows, engine.score(rows)
    except BadInput:
        for place in range(rows.num_rows):
            row = rows.slice(place, 1)
            try:
                yield row, engine.score(row)
            except BadInput:
                yield row, None


def _takes(engine: Engine, rows: pa.Table) -> bool:
    try:
        engine.score(rows)
    except BadInput:
        return False
    return True


def _changed(rows: pa.Table, values: dict[str, Any], contract: Contract) -> pa.Table:
    columns = {
        column.name: pa.array([values[column.name]] * rows.num_rows, arrow_type(column.type))
        if column.name in values
        else rows.column(column.name)
        for column in contract.features
    }
    return pa.table(columns)


def _edges(contract: Contract, known: pa.Table, refusals: Refusals) -> pa.Table:
    """A known row with, one at a time, each column missing, unseen or extreme; and all columns so at once."""
    values = {
        column.name: _edge_values(column, known, takes_missing=column.name not in refusals.missing)
        for column in contract.features
    }
    single = [(name, value) for name, several in values.items() for value in several][:MOST_EDGES]
    together = max((len(several) for several in values.values()), default=0)
    columns = {}
    for column in contract.features:
        usual, own = known.column(column.name)[0].as_py(), values[column.name]
        changed = [value if name == column.name else usual for name, value in single]
        changed += [own[place] if place < len(own) else usual for place in range(together)]
        columns[column.name] = pa.array(changed, arrow_type(column.type))
    return pa.table(columns)


def _edge_values(column: Column, known: pa.Table, *, takes_missing: bool) -> list[Any]:
    missing = [None] if takes_missing else []
    if column.type is ColumnType.STRING:
        return [*missing, "", UNSEEN, "ünßeen ☂ İ", " "]
    if column.type is ColumnType.BOOLEAN:
        return [*missing, True, False]
    usual = _present(known, column)
    extremes = [min(usual), max(usual)] if usual else []
    if column.type in (ColumnType.INTEGER, ColumnType.LONG):
        return [*missing, *extremes, *(int(number) for number in EXTREMES if number.is_integer())]
    return [*missing, *extremes, *EXTREMES]


def _random(
    contract: Contract, known: pa.Table, refusals: Refusals, words: Sequence[str], random: np.random.Generator
) -> pa.Table:
    columns = {}
    for column in contract.features:
        pool = () if column.name in refusals.unseen else (*words, UNSEEN)
        values = _random_values(column, known, pool, random)
        if column.name not in refusals.missing:
            values[random.random(RANDOM_ROWS) < 0.05] = None
        columns[column.name] = pa.array(values.tolist(), arrow_type(column.type))
    return pa.table(columns)


def _present(rows: pa.Table, column: Column) -> list[Any]:
    return list(rows.column(column.name).drop_null().to_pylist())


def _random_values(
    column: Column, known: pa.Table, words: Sequence[str], random: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Half of known values, half anywhere in (and somewhat beyond) their range."""
    usual = _present(known, column)
    if column.type is ColumnType.STRING:
        pool = [*dict.fromkeys(usual), *words] or [""]
        return random.choice(np.array(pool, dtype=object), RANDOM_ROWS)
    if column.type is ColumnType.BOOLEAN:
        return (random.random(RANDOM_ROWS) < 0.5).astype(object)
    numbers = np.array(usual, dtype=np.float64)
    numbers = np.clip(numbers[np.isfinite(numbers)], -FARTHEST, FARTHEST)
    numbers = numbers if len(numbers) else np.array([0.0, 1.0])
    low, high = numbers.min(), numbers.max()
    margin = (high - low) / 4 + 1.0
    spread = random.uniform(low - margin, high + margin, RANDOM_ROWS)
    values = np.where(random.random(RANDOM_ROWS) < 0.5, random.choice(numbers, RANDOM_ROWS), spread)
    if column.type in (ColumnType.INTEGER, ColumnType.LONG):
        most = 2**31 - 1 if column.type is ColumnType.INTEGER else 2**53
        return np.clip(np.round(values), -most, most).astype(np.int64).astype(object)
    return values.astype(object)

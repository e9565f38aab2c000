"""A user's own metrics: imported by their path, called with rows, and kept from doing harm.

What fails is recorded and leaves the metric out; it stops neither the join nor the evaluation.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import structlog

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.monitoring.arrays import Floats, Mask
from feedback_loop.schema import Column, Contract, OwnMetric, arrow_type

_log = structlog.get_logger(__name__)

GROUP = "feedback_loop.metrics"
"""The group of entry points that provide metrics by name."""

MOST_SUMS = 16

RowFunction = Callable[[pa.Table], float]
"""The other kind of an own metric: its value by all labelled rows at once. An audit alone has it."""


@dataclass(frozen=True)
class SumMetric:
    """A metric that follows from sums over rows: kept up to date as outcomes come, exact, at the cost of what is new.

    `rows` gives, by name, one number for each row of a table (columns by the model's names: the label, the outputs
    and the columns that the configuration gives it), also for a table of none. A row's numbers may depend on that row
    alone. Rows for which one is not finite do not count. `value` makes the metric of the sums and of how many rows
    they are of (both in units of the row that stands for most predictions); without it, it is the mean of the only
    number, and has a standard error, and bounds if no row's number can be below `least` or above `most`.
    Another `version` has all rows tallied anew; so has any change of the module's source.
    """

    rows: Callable[[pa.Table], Mapping[str, Any]]
    value: Callable[[Mapping[str, float], float], float] | None = None
    version: str = ""
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class OwnSums:
    """What a layout keeps of such a metric: the names of its sums, and by which code they are made."""

    metric: OwnMetric
    sums: tuple[str, ...]
    fingerprint: str


class MetricFailed(FeedbackLoopError):
    """A user's metric can't be found, or does not give what it should."""


@dataclass(frozen=True)
class _Imported:
    metric: SumMetric | RowFunction
    fingerprint: str


@lru_cache(maxsize=256)
def _import_metric(path: str) -> _Imported:
    """What an import path or the name of an entry point stands for, imported once."""
    module_name, _, attribute = path.partition(":")
    if not attribute:
        [*points] = metadata.entry_points(group=GROUP, name=path)
        if not points:
            raise LookupError(f"no entry point of the group {GROUP} is called {path!r}")
        module_name, attribute = points[0].module, points[0].attr
    module = import_module(module_name)
    metric = attrgetter(attribute)(module)
    if not isinstance(metric, SumMetric) and not callable(metric):
        raise TypeError(f"it is a {type(metric).__name__}, neither a SumMetric nor a function of a table")
    source = inspect.getsource(module).encode() if getattr(module, "__file__", None) else b""
    version = metric.version if isinstance(metric, SumMetric) else ""
    return _Imported(metric, hashlib.sha256(source + version.encode()).hexdigest()[:16])


def find_metric(own: OwnMetric) -> SumMetric | RowFunction:
    """The metric of that path; raises MetricFailed."""
    try:
        return _import_metric(own.path).metric
    except Exception as error:
        raise _failed(own, error) from error


@lru_cache(maxsize=64)
def sums_of(contract: Contract) -> tuple[OwnSums, ...]:
    """The sums to store for the contract's own metrics; one that fails is left out, and logged once."""
    sums = []
    for own in contract.own_metrics:
        try:
            metric = find_metric(own)
            if isinstance(metric, SumMetric):
                sums.append(OwnSums(own, _names(own, metric, contract), _import_metric(own.path).fingerprint))
        except MetricFailed as error:
            _log.warning("own_metric_failed", metric=own.name, model=contract.model, cause=error.cause)
    return tuple(sums)


def check_metrics(contract: Contract) -> None:
    """Raises MetricFailed for the first own metric that can't be found, or be asked of a table of no rows."""
    for own in contract.own_metrics:
        metric = find_metric(own)
        if isinstance(metric, SumMetric):
            _names(own, metric, contract)


def own_table(contract: Contract, rows: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The label, the outputs and these columns of rows of the log, by the model's names; absent ones are null."""
    columns_by_name = {column.name: column for column in (*contract.labels, *contract.outputs, *columns)}
    return pa.table(
        {
            name: rows.column(column.stored)
            if column.stored in rows.column_names
            else pa.nulls(rows.num_rows, arrow_type(column.type))
            for name, column in columns_by_name.items()
        }
    )


def own_numbers(
    contract: Contract, metrics: Sequence[OwnSums], rows: pa.Table
) -> Iterator[tuple[list[Floats], Mask, Mask]]:
    """For each metric, of labelled rows: the numbers by sum, which rows count, and which have failed.

    A metric of one sum has the squares of its numbers too.
    """
    for own in metrics:
        table = own_table(contract, rows, [contract.column(name) for name in own.metric.columns])
        (*numbers, marks), error = _numbers_and_error(own, table)
        failed = np.isnan(marks)
        if error is not None:
            _log.warning("own_metric_failed", metric=own.metric.name, rows=int(failed.sum()), cause=repr(error))
        with np.errstate(over="ignore"):
            squares = [numbers[0] ** 2] if len(numbers) == 1 else []
        yield [*numbers, *squares], ~failed & np.isfinite(numbers).all(axis=0), failed


def _numbers_and_error(own: OwnSums, table: pa.Table) -> tuple[Floats, Exception | None]:
    """The rows' numbers, shape (sums + 1, rows), and the first error.

    The last line is NaN for a row that fails. Such rows are searched for by halves, so that the others count, and the
    same rows fail whichever others are in the table.
    """
    try:
        metric = find_metric(own.metric)
        assert isinstance(metric, SumMetric)  # nothing else is kept
        return np.vstack([_numbers(own.metric, metric, own.sums, table), np.zeros(table.num_rows)]), None
    except Exception as error:  # noqa: BLE001 (whatever a user's code raises)
        size = table.num_rows
        if size > 1 and _is_sound(own, table.slice(0, 0)):
            halves = [_numbers_and_error(own, half) for half in (table.slice(0, size // 2), table.slice(size // 2))]
            return np.hstack([values for values, _ in halves]), next((e for _, e in halves if e is not None), error)
        return np.full((len(own.sums) + 1, size), np.nan), error


def _is_sound(own: OwnSums, empty: pa.Table) -> bool:
    """Whether it works on no rows: else it fails for all rows, and no row is at fault."""
    try:
        metric = find_metric(own.metric)
        return isinstance(metric, SumMetric) and len(_numbers(own.metric, metric, own.sums, empty)) > 0
    except Exception:  # noqa: BLE001 (the error for the rows is the one that is told)
        return False


def _names(own: OwnMetric, metric: SumMetric, contract: Contract) -> tuple[str, ...]:
    """The names of a metric's sums, by a table of no rows; raises MetricFailed."""
    columns = [contract.column(name) for name in own.columns]
    wanted = (*contract.labels, *contract.outputs, *columns)
    empty = pa.schema([(column.stored, arrow_type(column.type)) for column in wanted]).empty_table()
    try:
        table = own_table(contract, empty, columns)
        names = tuple(metric.rows(table))
        _numbers(own, metric, names, table)
    except Exception as error:
        raise _failed(own, error) from error
    if not 1 <= len(names) <= MOST_SUMS or (metric.value is None and len(names) > 1):
        raise _failed(own, ValueError(f"it has {len(names)} sums, and may have 1 (a mean) to {MOST_SUMS}"))
    return names


def _numbers(own: OwnMetric, metric: SumMetric, names: Sequence[str], table: pa.Table) -> Floats:
    numbers = metric.rows(table)
    if set(numbers) != set(names):
        raise _failed(own, ValueError(f"it gives {sorted(numbers)}, and gave {sorted(names)} before"))
    values = np.array([np.asarray(numbers[name], dtype=np.float64) for name in names])
    if values.shape != (len(names), table.num_rows):
        raise _failed(own, ValueError(f"it gives {values.shape[1:]} numbers for {table.num_rows} rows"))
    return values


def _failed(own: OwnMetric, error: Exception) -> MetricFailed:
    if isinstance(error, MetricFailed):
        return error
    cause = f"The metric {own.name!r} ({own.path}) failed: {type(error).__name__}: {error}."
    return MetricFailed(cause, cure="Mend it, or install its package (or set PYTHONPATH) where the loop runs.")

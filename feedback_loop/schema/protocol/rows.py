"""Rows on their way from a body to a model: what a body holds, and the rows of one request or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from feedback_loop.schema.column_types import arrow_type
from feedback_loop.schema.contract import Contract
from feedback_loop.schema.ids import PREDICTION_ID

NO_PARAMS: Mapping[str, Any] = {}


class Content(msgspec.Struct, frozen=True, gc=False):
    """What a body holds, before headers are looked at: columns by name, or one `row` in the columns' order.

    Columns are named by numbers where the body gave no names. `ids` is None where none were given. `params` may be
    undecoded JSON (`msgspec.Raw`).
    """

    count: int
    columns: dict[Any, Sequence[Any]]
    ids: Any = None
    params: Any = None
    row: list[Any] | None = None


class Rows:
    """Rows of one request, or of several.

    `columns` holds every feature and every key column that is no feature, each `count` values long: they are in the
    contract's types (moments are aware), None and NaN are missing. `ids` are a caller's own prediction ids,
    unchecked, and None where it gave none. `params` are the request's, made to fit the signature's; empty where it
    has none. A single row that came as one is kept as one, in `row`: columns of one value each cost more than it.
    """

    __slots__ = ("_columns", "_names", "count", "ids", "params", "row")

    def __init__(
        self,
        count: int,
        columns: Mapping[str, Sequence[Any]] | None,
        ids: list[str | None],
        params: Mapping[str, Any] = NO_PARAMS,
        *,
        names: Sequence[str] = (),
        row: Sequence[Any] | None = None,
    ) -> None:
        self.count = count
        self.ids = ids
        self.params = params
        self.row = row
        self._names = names
        self._columns = columns

    @property
    def width(self) -> int:
        """How many columns there are; a row alone is not taken apart for it."""
        return len(self.row) if self._columns is None and self.row is not None else len(self.columns)

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """By name; made when they are first asked for, where there is only a row."""
        if self._columns is None:
            assert self.row is not None  # there is the one or the other
            self._columns = {name: [value] for name, value in zip(self._names, self.row, strict=True)}
        return self._columns


def concat_rows(contract: Contract, parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other; params, which are the same for all, are the first's."""
    if len(parts) == 1:
        return parts[0]
    names = [column.name for column in (*contract.features, *contract.extra_key)]
    rows = [part.row for part in parts]
    columns: dict[str, Sequence[Any]]
    if None not in rows:
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    else:
        columns = {name: [value for part in parts for value in part.columns[name]] for name in names}
    ids = [own for part in parts for own in part.ids]
    return Rows(len(ids), columns, ids, parts[0].params)


def rows_table(contract: Contract, rows: Rows) -> pa.Table:
    """Rows in their types: features, key columns that are none, and ids. NaN is missing."""
    columns = {
        column.name: pa.array(rows.columns[column.name], arrow_type(column.type), from_pandas=True)
        for column in (*contract.features, *contract.extra_key)
    }
    return pa.table(columns | {contract.own(PREDICTION_ID): pa.array(rows.ids, pa.string())})

"""Which values of columns of segments are counted by themselves: the first that came, as many as are declared.

They are kept with the join and move with its watermark. What was logged since is looked at where a later moment is
asked about, so that the same rows are of the same segments whenever, and in however many steps, they are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from feedback_loop.clock import EPOCH
from feedback_loop.errors import NotFound
from feedback_loop.schema import OTHER, Contract, arrow_type, segment_name, with_arrivals
from feedback_loop.store import tables
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.predictions import LOGGED_AT, fetch_rows

Named = Mapping[str, Sequence[str]]
"""The values that are segments, by the name of their column."""


def segment_rule(contract: Contract) -> dict[str, Any]:
    """What decides which values they are: where it changes, all is counted anew."""
    rule: dict[str, Any] = {"segments": list(contract.segments), "segment_values": contract.segment_values}
    hashed = {each.name: each.hashed for each in map(contract.column, contract.segments) if each.hashed}
    return {**rule, "hashed": hashed} if hashed else rule


def segments_of(contract: Contract, named: Mapping[str, Collection[str]], row: Mapping[str, Any]) -> list[str]:
    """The segments of a row of the log (by stored names)."""
    values = ((name, row[contract.column(name).stored]) for name in contract.segments)
    return [
        segment_name(name, text if (text := str(value)) in named.get(name, ()) else OTHER)
        for name, value in values
        if value is not None
    ]


def with_rows(contract: Contract, named: Named, rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The values that are segments when these rows (by stored names, with when they were logged) have come too."""
    found = {}
    rows = list(rows)
    for name in contract.segments:
        stored = contract.column(name).stored
        arrivals = ((row[LOGGED_AT], str(row[stored]) if row[stored] is not None else None) for row in rows)
        found[name] = with_arrivals(named.get(name, ()), arrivals, contract.segment_values)
    return found


def named_segments(connection: Connection, contract: Contract, secret: bytes, as_of: datetime) -> Named:
    """The values that are segments of what was known as of a moment."""
    if not contract.segments:
        return {}
    table = tables.joins.c
    where = table.model == contract.model
    row = connection.execute(select(table.rule, table.segments, table.watermark).where(where)).one_or_none()
    rule = segment_rule(contract)
    named: Named = {}
    since = EPOCH
    if row is not None and {name: row.rule.get(name) for name in rule} == rule:
        named, since = row.segments, row.watermark
    is_full = all(len(named.get(name, ())) >= contract.segment_values for name in contract.segments)
    return named if is_full or as_of <= since else _with_logged(connection, contract, named, secret, since, as_of)


def _with_logged(
    connection: Connection, contract: Contract, named: Named, secret: bytes, since: datetime, until: datetime
) -> Named:
    columns = [contract.column(name) for name in contract.segments]
    types = {LOGGED_AT: UTC_MOMENT, **{each.stored: arrow_type(each.type) for each in columns}}
    rows: list[dict[str, Any]] = []
    try:
        generations = find_tables(connection, contract.model).generations
    except NotFound:
        return named
    for generation in generations:
        logged = generation.table.c.logged_at
        statement = select(*generation.table.c).where(logged > since, logged <= until)
        rows += fetch_rows(connection, generation, statement, types, columns, secret).to_pylist()
    return with_rows(contract, named, rows)

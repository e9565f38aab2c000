"""What the incremental join has counted: coverage by window, version and segment, findings, reopened windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow.compute as pc
from sqlalchemy import Connection, String, and_, cast, func, select

from feedback_loop.clock import EPOCH, Window, floor_moment
from feedback_loop.errors import NotFound
from feedback_loop.schema import OTHER, Contract, segment_name, shown_names
from feedback_loop.store import tables, watching_tables
from feedback_loop.store.engine import Store
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.predictions import labelled_in
from feedback_loop.store.segments import named_segments, segments_of

Finding = Literal["unmatched", "conflict"]
"""What may be odd: an outcome that no prediction fits, a prediction whose outcomes contradict each other."""

UNMATCHED: Finding = "unmatched"
CONFLICTING: Finding = "conflict"


@dataclass(frozen=True)
class Account:
    """Predictions of one version, role and segment (empty: all) in one window, and how many have an outcome.

    `inferred` have none, and their label is what absence means (see `with_inferred`).
    """

    window_start: datetime
    version: str
    role: str
    segment: str
    predictions: int
    labelled: int
    inferred: int = 0


def load_accounts(store: Store, model: str) -> tuple[list[Account], datetime | None]:
    """All accounts, oldest window first, and the watermark that they are as of (None: nothing was joined yet)."""
    table = tables.label_accounts
    columns = (
        table.c.bucket_start,
        table.c.version,
        table.c.role,
        table.c.segment,
        table.c.predictions,
        table.c.labelled,
    )
    with store.read() as connection:
        until = connection.execute(select(tables.joins.c.watermark).where(tables.joins.c.model == model)).scalar()
        rows = connection.execute(select(*columns).where(table.c.model == model).order_by(*columns[:4])).all()
    return [Account(*row) for row in rows if row.predictions], until


def count_by_version(store: Store, model: str) -> dict[str, int]:
    """How many predictions each version has made, at the cost of windows and of what the join has not seen yet.

    Those that were erased, or that retention has removed, are not counted.
    """
    table, joins, kept = tables.label_accounts.c, tables.joins.c, tables.retentions.c
    counts: Counter[str] = Counter()
    with store.read() as connection:
        try:
            generations = find_tables(connection, model).generations
        except NotFound:
            return {}
        until = connection.execute(select(joins.watermark).where(joins.model == model)).scalar_one_or_none()
        since = connection.execute(select(kept.kept_since).where(kept.model == model)).scalar_one_or_none()
        booked = select(table.version, func.sum(table.predictions)).where(
            table.model == model, table.segment == ALL_ROWS, table.bucket_start >= (since or EPOCH)
        )
        counts.update({row[0]: row[1] for row in connection.execute(booked.group_by(table.version))})
        for generation in generations:
            own = generation.table.c
            new = select(own.model_version, func.count()).where(own.logged_at > (until or EPOCH))
            counts.update({row[0]: row[1] for row in connection.execute(new.group_by(own.model_version))})
    return {version: count for version, count in counts.items() if count}


def versions_joined(
    store: Store, model: str, window: Window, role: str, length: timedelta, as_of: datetime
) -> list[str] | None:
    """The versions that predicted in a window in that role, sorted; None where the accounts can't tell as of then."""
    if any(floor_moment(end, length) != end for end in (window.start, window.end)):
        return None
    table, joins = tables.label_accounts.c, tables.joins.c
    within = and_(table.bucket_start >= window.start, table.bucket_start < window.end)
    mine = and_(table.model == model, table.role == role, table.predictions > 0)
    with store.read() as connection:
        found = connection.execute(select(table.version).where(mine, within).distinct()).scalars().all()
        # Read last: had the join moved on meanwhile, this would not be what was asked for.
        until = connection.execute(select(joins.watermark, joins.rule).where(joins.model == model)).one_or_none()
    is_known = until is not None and until[0] == as_of and until[1]["length_seconds"] == length.total_seconds()
    return sorted(found) if is_known else None


def spans_joined(connection: Connection, model: str, version: str) -> list[tuple[str, Window]]:
    """From when to when a version predicted in each role, as far as it is joined, in whole windows."""
    table, joins = tables.label_accounts.c, tables.joins.c
    rule = connection.execute(select(joins.rule).where(joins.model == model)).scalar_one_or_none()
    if rule is None:
        return []
    spans = select(table.role, func.min(table.bucket_start), func.max(table.bucket_start))
    mine = spans.where(table.model == model, table.version == version).group_by(table.role)
    length = timedelta(seconds=rule["length_seconds"])
    return [(role, Window(first, last + length)) for role, first, last in connection.execute(mine)]


def with_inferred(
    store: Store, contract: Contract, length: timedelta, accounts: Iterable[Account], until: datetime
) -> list[Account]:
    """The accounts of windows of that length with how many labels absence gave by `until`, the accounts' watermark.

    Absence needs no row, so none is counted for it: of a window that has matured all that has no outcome is inferred,
    and the one that is maturing at that moment is read.
    """
    if contract.join.absent_means is None:
        return list(accounts)
    matured_until, found, maturing = until - contract.join.maturity, [], None
    for each in accounts:
        inferred = 0
        if each.window_start + length <= matured_until:
            inferred = each.predictions - each.labelled
        elif each.window_start <= matured_until:
            if maturing is None:
                window = Window(each.window_start, each.window_start + length)
                maturing = _absent(store, contract, window, until)
            inferred = maturing[each.version, each.role, each.segment]
        found.append(replace(each, inferred=inferred))
    return found


def _absent(store: Store, contract: Contract, window: Window, until: datetime) -> Counter[tuple[str, str, str]]:
    """How many labels absence gave in a window, by version, role and segment."""
    columns = [contract.column(name) for name in contract.segments]
    with store.read() as connection:
        named = named_segments(connection, contract, store.secret, until)
        rows = labelled_in(connection, contract, window, store.secret, as_of=until, columns=columns)
    absent = pc.and_(pc.is_null(rows.column("revision")), pc.is_valid(rows.column(contract.label.stored)))
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows.filter(absent).to_pylist():
        segments = (ALL_ROWS, *segments_of(contract, named, row))
        counts.update((row["model_version"], row["role"], segment) for segment in segments)
    return counts


def folded_segments(store: Store, contract: Contract) -> list[str]:
    """The columns of segments with more values than are counted by themselves, by the last join."""
    table = tables.label_accounts.c
    names = {segment_name(name, OTHER): name for name in contract.segments}
    statement = select(table.segment).where(table.model == contract.model, table.segment.in_(names)).distinct()
    with store.read() as connection:
        folded = set(connection.execute(statement).scalars())
    return [name for segment, name in names.items() if segment in folded]


def load_findings(store: Store, contract: Contract, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
    """What is odd, oldest first: unmatched outcomes with their content, or predictions whose outcomes conflict.

    Columns are called as the model calls them.
    """
    table = tables.findings
    mine = and_(table.c.model == contract.model, table.c.kind == kind)
    with store.read() as connection:
        try:
            found = find_tables(connection, contract.model)
        except NotFound:
            return []
        if kind == CONFLICTING:
            statement = select(table.c.subject.label("prediction_id"), table.c.since).where(mine)
        else:
            outcomes = found.outcomes
            shown = [column for column in outcomes.c if column.name != "event_at"]
            statement = select(*shown).join(table, table.c.subject == cast(outcomes.c.outcome_id, String)).where(mine)
        ordered = statement.order_by(table.c.since, table.c.subject).limit(most)
        names = shown_names((*contract.key, *contract.labels))
        names = {stored: name for stored, name in names.items() if name not in found.outcomes.c}
        rows = connection.execute(ordered).mappings()
        return [{names.get(column, column): value for column, value in row.items()} for row in rows]


def count_findings(store: Store, model: str) -> dict[str, int]:
    """How many outcomes fit no prediction (they may be early), and how many predictions' outcomes conflict."""
    table = tables.findings
    counts = select(table.c.kind, func.count()).where(table.c.model == model).group_by(table.c.kind)
    with store.read() as connection:
        return {UNMATCHED: 0, CONFLICTING: 0} | {row[0]: row[1] for row in connection.execute(counts)}


def reopened_windows(store: Store, model: str, length: timedelta) -> list[Window]:
    """The windows of which something else is known than when they were last evaluated as matured, oldest first."""
    accounts, evaluated = tables.label_accounts, watching_tables.evaluations
    start = evaluated.c.window_start
    newest = (
        select(start, evaluated.c.window_end, func.max(evaluated.c.as_of).label("as_of"))
        .where(evaluated.c.model == model, evaluated.c.matured)
        .group_by(start, evaluated.c.window_end)
        .subquery()
    )
    touched = (
        select(newest.c.window_start, newest.c.window_end)
        .join(accounts, accounts.c.bucket_start == newest.c.window_start)
        .where(accounts.c.model == model, accounts.c.changed_at > newest.c.as_of)
        .distinct()
    )
    with store.read() as connection:
        windows = [Window(*row) for row in connection.execute(touched)]
    return sorted(window for window in windows if window.end - window.start == length)

"""Coverage as the incremental join counts it: predictions and labelled ones by window, version, role and segment.

Which values of a segment column are counted separately (the first ones logged, as many as are configured) is stored
with the join's watermark. For a later moment the rows logged since the watermark are read too. So a row is in the
same segments whenever, and in however many steps, it is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow.compute as pc
from sqlalchemy import BigInteger, Column, ColumnElement, Connection, String, and_, case, func, select, true

from feedback_loop.clock import EPOCH, Window, floor_moment
from feedback_loop.errors import NotFound
from feedback_loop.schema import ACTED, OTHER, Contract, arrow_type, segment_name, with_arrivals
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.engine import Store, prefer_indexes
from feedback_loop.store.evaluations import ALL_ROWS, evaluations
from feedback_loop.store.model_tables import ModelTables, find_tables, retentions
from feedback_loop.store.predictions import LOGGED_AT, fetch_rows, labelled_in
from feedback_loop.store.records import NewRow, many, upsert
from feedback_loop.store.schema import Json, Moment, shared_table

joins = shared_table(
    "joins",
    None,
    Column("model", String, primary_key=True),
    Column("watermark", Moment, nullable=False),  # what was recorded by then is counted
    Column("rule", Json, nullable=False),  # what the counts depend on: join rule, segments, length of a window
    Column("segments", Json, nullable=False),  # see SegmentValues
    # Subjects that had an outcome by then; null in a store that was upgraded, until the next join.
    Column("outcomes", BigInteger),
)

SegmentValues = Mapping[str, Sequence[str]]
"""The values that are counted separately, by the name of their column; all others are `OTHER`."""


def segment_rule(contract: Contract) -> dict[str, Any]:
    """What the segment values depend on: where it changes, all is counted again."""
    rule: dict[str, Any] = {"segments": list(contract.segments), "segment_values": contract.segment_values}
    hashed = {column.name: column.hashed for column in map(contract.column, contract.segments) if column.hashed}
    return {**rule, "hashed": hashed} if hashed else rule


def segments_of(contract: Contract, segments: Mapping[str, Collection[str]], row: Mapping[str, Any]) -> list[str]:
    """The names of the segments that a row of the log (by stored names) is in."""
    values = ((name, row[contract.column(name).stored]) for name in contract.segments)
    return [
        segment_name(name, text if (text := str(value)) in segments.get(name, ()) else OTHER)
        for name, value in values
        if value is not None
    ]


def with_rows(
    contract: Contract, segments: SegmentValues, rows: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """The segment values after these rows (by stored names, with `logged_at`) were logged too."""
    values = {}
    rows = list(rows)
    for name in contract.segments:
        stored = contract.column(name).stored
        arrivals = ((row[LOGGED_AT], str(row[stored]) if row[stored] is not None else None) for row in rows)
        values[name] = with_arrivals(segments.get(name, ()), arrivals, contract.segment_values)
    return values


def load_segment_values(connection: Connection, contract: Contract, secret: bytes, as_of: datetime) -> SegmentValues:
    """The segment values of the rows that were logged by a moment."""
    if not contract.segments:
        return {}
    table = joins.c
    where = table.model == contract.model
    row = connection.execute(select(table.rule, table.segments, table.watermark).where(where)).one_or_none()
    rule = segment_rule(contract)
    segments: SegmentValues = {}
    since = EPOCH
    if row is not None and {name: row.rule.get(name) for name in rule} == rule:
        segments, since = row.segments, row.watermark
    is_full = all(len(segments.get(name, ())) >= contract.segment_values for name in contract.segments)
    if is_full or as_of <= since:
        return segments
    return with_rows(contract, segments, _logged(connection, contract, secret, since, as_of))


def _logged(
    connection: Connection, contract: Contract, secret: bytes, since: datetime, until: datetime
) -> list[dict[str, Any]]:
    """The segment columns of the rows logged after one moment and by another."""
    columns = [contract.column(name) for name in contract.segments]
    types = {LOGGED_AT: UTC_MOMENT, **{column.stored: arrow_type(column.type) for column in columns}}
    rows: list[dict[str, Any]] = []
    try:
        generations = find_tables(connection, contract.model).generations
    except NotFound:
        return rows
    for generation in generations:
        logged = generation.table.c.logged_at
        statement = select(*generation.table.c).where(logged > since, logged <= until)
        rows += fetch_rows(connection, generation, statement, types, columns, secret).to_pylist()
    return rows


@dataclass(frozen=True)
class WindowCoverage:
    """How many predictions of one version, role and segment (empty: all) a window has, and how many have an outcome.

    `eligible` are those that can have one: all, or where outcomes need an action those that were acted on.
    `inferred` ones have none, which means the label `absent_means` (see `with_inferred`).
    """

    window_start: datetime
    version: str
    role: str
    segment: str
    predictions: int
    labelled: int
    eligible: int
    inferred: int = 0


coverage_counts = shared_table(
    "coverage",
    WindowCoverage,
    Column("model", String),
    # The newest moment at which a row of it changed.
    Column("changed_at", Moment, nullable=False),
    key=["model", "window_start", "version", "role", "segment"],
    without=["inferred"],
)


def load_coverage(store: Store, model: str) -> tuple[list[WindowCoverage], datetime | None]:
    """All counts, oldest window first, and the join's watermark (None: nothing was joined yet)."""
    order = ("window_start", "version", "role", "segment")
    with store.read() as connection:
        until = connection.execute(select(joins.c.watermark).where(joins.c.model == model)).scalar()
        return many(
            connection, WindowCoverage, coverage_counts.c.predictions != 0, model=model, order_by=order
        ), until


def count_by_version(store: Store, model: str) -> dict[str, int]:
    """How many predictions of each version the log has: from the counts, and from the rows since the watermark."""
    counts: Counter[str] = Counter()
    with store.read() as connection:
        try:
            generations = find_tables(connection, model).generations
        except NotFound:
            return {}
        until = connection.execute(select(joins.c.watermark).where(joins.c.model == model)).scalar_one_or_none()
        kept_since = select(retentions.c.kept_since).where(retentions.c.model == model)
        since = connection.execute(kept_since).scalar_one_or_none()
        table = coverage_counts.c
        joined = select(table.version, func.sum(table.predictions)).where(
            table.model == model, table.segment == ALL_ROWS, table.window_start >= (since or EPOCH)
        )
        counts.update({row[0]: row[1] for row in connection.execute(joined.group_by(table.version))})
        for generation in generations:
            log = generation.table.c
            new = select(log.model_version, func.count()).where(log.logged_at > (until or EPOCH))
            counts.update({row[0]: row[1] for row in connection.execute(new.group_by(log.model_version))})
    return {version: count for version, count in counts.items() if count}


def count_outcomes(store: Store, model: str) -> int:
    """How many subjects (predictions, or keys and events) have an outcome; reads only those since the watermark."""
    with store.read() as connection:
        try:
            outcomes = find_tables(connection, model).outcomes.c
        except NotFound:
            return 0
        join = connection.execute(select(joins).where(joins.c.model == model)).one_or_none()
        first = select(func.count()).where(outcomes.revision == 1)
        if join is None or join.outcomes is None:
            return int(connection.execute(first).scalar_one())
        prefer_indexes(connection)
        new: int = connection.execute(first.where(outcomes.recorded_at > join.watermark)).scalar_one()
        return int(join.outcomes) + new


def count_joined_outcomes(connection: Connection, tables: ModelTables, since: datetime, until: datetime) -> int:
    """The same number as of `until`, to which the watermark is about to move from `since`."""
    outcomes = tables.outcomes.c
    stored = select(joins.c.outcomes).where(joins.c.model == tables.model)
    counted: int | None = connection.execute(stored).scalar_one() if since > EPOCH else 0
    after = outcomes.recorded_at > since if counted is not None else true()
    new = select(func.count()).where(outcomes.revision == 1, outcomes.recorded_at <= until, after)
    return (counted or 0) + int(connection.execute(new).scalar_one())


def subtract_outcomes(connection: Connection, tables: ModelTables, where: ColumnElement[bool]) -> None:
    """Takes outcomes out of that number, in the transaction that removes them, before it does."""
    outcomes, of_model = tables.outcomes.c, joins.c.model == tables.model
    join = connection.execute(select(joins).where(of_model).with_for_update()).one_or_none()
    if join is None or join.outcomes is None:
        return
    gone = select(func.count()).where(outcomes.revision == 1, outcomes.recorded_at <= join.watermark, where)
    remaining = join.outcomes - connection.execute(gone).scalar_one()
    connection.execute(joins.update().where(of_model).values(outcomes=remaining))


def joined_versions(
    store: Store, model: str, window: Window, role: str, length: timedelta, as_of: datetime
) -> list[str] | None:
    """The versions that predicted in a window in that role, sorted.

    None where the counts can't tell: the join's watermark is not `as_of`, or its windows are of another length.
    """
    if any(floor_moment(end, length) != end for end in (window.start, window.end)):
        return None
    table = coverage_counts.c
    within = and_(table.window_start >= window.start, table.window_start < window.end)
    of_role = and_(table.model == model, table.role == role, table.predictions > 0)
    with store.read() as connection:
        versions = connection.execute(select(table.version).where(of_role, within).distinct()).scalars().all()
        join = connection.execute(select(joins).where(joins.c.model == model)).one_or_none()
    is_current = (
        join is not None and join.watermark == as_of and join.rule["length_seconds"] == length.total_seconds()
    )
    return sorted(versions) if is_current else None


def role_spans(connection: Connection, model: str, version: str) -> list[tuple[str, Window]]:
    """Each role of a version with the time from its first to its last joined prediction, in whole windows."""
    table = coverage_counts.c
    rule = connection.execute(select(joins.c.rule).where(joins.c.model == model)).scalar_one_or_none()
    if rule is None:
        return []
    spans = select(table.role, func.min(table.window_start), func.max(table.window_start))
    of_version = spans.where(table.model == model, table.version == version).group_by(table.role)
    length = timedelta(seconds=rule["length_seconds"])
    return [(role, Window(first, last + length)) for role, first, last in connection.execute(of_version)]


def with_inferred(
    store: Store, contract: Contract, length: timedelta, accounts: Iterable[WindowCoverage], until: datetime
) -> list[WindowCoverage]:
    """The counts of windows of that length with their `inferred` ones by `until`, the join's watermark.

    In a window that has matured all predictions without an outcome are inferred; the rows of the one window that is
    maturing at that moment are read.
    """
    if contract.join.absent_means is None:
        return list(accounts)
    matured_until, completed, maturing = until - contract.join.maturity, [], None
    for account in accounts:
        inferred = 0
        if account.window_start + length <= matured_until:
            inferred = account.eligible - account.labelled
        elif account.window_start <= matured_until:
            if maturing is None:
                window = Window(account.window_start, account.window_start + length)
                maturing = _count_inferred(store, contract, window, until)
            inferred = maturing[account.version, account.role, account.segment]
        completed.append(replace(account, inferred=inferred))
    return completed


def _count_inferred(
    store: Store, contract: Contract, window: Window, until: datetime
) -> Counter[tuple[str, str, str]]:
    """How many labels of a window are inferred, by version, role and segment."""
    columns = [contract.column(name) for name in contract.segments]
    with store.read() as connection:
        segments = load_segment_values(connection, contract, store.secret, until)
        rows = labelled_in(connection, contract, window, store.secret, as_of=until, columns=columns)
    absent = pc.and_(pc.is_null(rows.column("revision")), pc.is_valid(rows.column(contract.label.stored)))
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows.filter(absent).to_pylist():
        names = (ALL_ROWS, *segments_of(contract, segments, row))
        counts.update((row["model_version"], row["role"], segment) for segment in names)
    return counts


def overflowing_segments(store: Store, contract: Contract) -> list[str]:
    """The segment columns that have more values than are counted separately, by the last join."""
    table = coverage_counts.c
    names = {segment_name(name, OTHER): name for name in contract.segments}
    statement = select(table.segment).where(table.model == contract.model, table.segment.in_(names)).distinct()
    with store.read() as connection:
        with_other = set(connection.execute(statement).scalars())
    return [name for segment, name in names.items() if segment in with_other]


def reopened_windows(store: Store, model: str, length: timedelta) -> list[Window]:
    """The windows whose rows have changed since they were last evaluated as matured, oldest first."""
    counts = coverage_counts.c
    start, end = evaluations.c.window_start, evaluations.c.window_end
    evaluated = (
        select(start, end, func.max(evaluations.c.as_of).label("as_of"))
        .where(evaluations.c.model == model, evaluations.c.matured)
        .group_by(start, end)
        .subquery()
    )
    reopened = (
        select(evaluated.c.window_start, evaluated.c.window_end)
        .join(coverage_counts, counts.window_start == evaluated.c.window_start)
        .where(counts.model == model, counts.changed_at > evaluated.c.as_of)
        .distinct()
    )
    with store.read() as connection:
        windows = [Window(*row) for row in connection.execute(reopened)]
    return sorted(window for window in windows if window.end - window.start == length)


class Differences:
    """Changes of the counts by window, version, role and segment, collected in memory and then added."""

    def __init__(self, contract: Contract, length: timedelta, segments: SegmentValues) -> None:
        self._contract = contract
        self._length = length
        self._segments = {name: frozenset(values) for name, values in segments.items()}
        self._sums: dict[tuple[datetime, str, str, str], tuple[int, int, int, datetime]] = {}

    @property
    def windows(self) -> set[datetime]:
        """The starts of the windows that change."""
        return {start for start, *_ in self._sums}

    def add(self, row: dict[str, Any], sign: int, moment: datetime) -> None:
        """Adds a prediction (sign 1) or subtracts it (-1), as it is since a moment."""
        group = floor_moment(row["predicted_at"], self._length), row["model_version"], row["role"]
        has_outcome = sign if row["revision"] is not None else 0  # a label inferred from absence is not counted
        is_eligible = sign if not self._contract.join.needs_action or row[ACTED] else 0
        has_outcome = has_outcome if is_eligible else 0
        for segment in (ALL_ROWS, *segments_of(self._contract, self._segments, row)):
            predictions, labelled, eligible, changed_at = self._sums.get((*group, segment), (0, 0, 0, moment))
            counts = predictions + sign, labelled + has_outcome, eligible + is_eligible
            self._sums[*group, segment] = *counts, max(changed_at, moment)

    def save(self, connection: Connection, model: str) -> None:
        """Adds them to the stored counts; sets `changed_at` of each window, also where no count changed."""
        rows = [
            {
                "model": model,
                "window_start": start,
                "version": version,
                "role": role,
                "segment": segment,
                "predictions": predictions,
                "labelled": labelled,
                "eligible": eligible,
                "changed_at": changed_at,
            }
            for (start, version, role, segment), sums in sorted(self._sums.items())
            for predictions, labelled, eligible, changed_at in [sums]
        ]
        upsert(connection, coverage_counts, rows, changes=_added)


def _added(new: NewRow) -> dict[str, Any]:
    stored = coverage_counts.c
    return {
        "predictions": stored.predictions + new.predictions,
        "labelled": stored.labelled + new.labelled,
        "eligible": stored.eligible + new.eligible,
        "changed_at": case((stored.changed_at > new.changed_at, stored.changed_at), else_=new.changed_at),
    }

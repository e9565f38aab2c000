"""What the incremental join has counted: coverage by window, version and segment, and which windows it reopened.

Which values of columns of segments are counted by themselves (the first that came, as many as are declared) is kept
with the join and moves with its watermark. What was logged since is looked at where a later moment is asked about, so
that the same rows are of the same segments whenever, and in however many steps, they are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow.compute as pc
from sqlalchemy import Column, Connection, String, and_, case, func, select

from feedback_loop.clock import EPOCH, Window, floor_moment
from feedback_loop.errors import NotFound
from feedback_loop.schema import OTHER, Contract, arrow_type, segment_name, with_arrivals
from feedback_loop.store.arrow import UTC_MOMENT
from feedback_loop.store.engine import Store
from feedback_loop.store.evaluations import ALL_ROWS, evaluations
from feedback_loop.store.model_tables import find_tables, retentions
from feedback_loop.store.predictions import LOGGED_AT, fetch_rows, labelled_in
from feedback_loop.store.records import NewRow, many, upsert
from feedback_loop.store.schema import Json, Moment, shared_table

joins = shared_table(
    "joins",
    None,
    Column("model", String, primary_key=True),
    Column("watermark", Moment, nullable=False),  # what was recorded until then is counted
    Column("rule", Json, nullable=False),  # what it was counted by: join rule, segments, length of a bucket
    Column("segments", Json, nullable=False),  # of each of their columns, the values that are counted by themselves
)

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
    table = joins.c
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


@dataclass(frozen=True)
class WindowCoverage:
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


counted = shared_table(
    "coverage",
    WindowCoverage,
    Column("model", String),
    # The watermark that last changed what is known of its rows.
    Column("changed_at", Moment, nullable=False),
    key=["model", "window_start", "version", "role", "segment"],
    without=["inferred"],
)


def load_coverage(store: Store, model: str) -> tuple[list[WindowCoverage], datetime | None]:
    """All accounts, oldest window first, and the watermark that they are as of (None: nothing was joined yet)."""
    order = ("window_start", "version", "role", "segment")
    with store.read() as connection:
        until = connection.execute(select(joins.c.watermark).where(joins.c.model == model)).scalar()
        return many(connection, WindowCoverage, counted.c.predictions != 0, model=model, order_by=order), until


def count_by_version(store: Store, model: str) -> dict[str, int]:
    """How many predictions each version has made, at the cost of windows and of what the join has not seen yet.

    Those that were erased, or that retention has removed, are not counted.
    """
    table, joined, kept = counted.c, joins.c, retentions.c
    counts: Counter[str] = Counter()
    with store.read() as connection:
        try:
            generations = find_tables(connection, model).generations
        except NotFound:
            return {}
        until = connection.execute(select(joined.watermark).where(joined.model == model)).scalar_one_or_none()
        since = connection.execute(select(kept.kept_since).where(kept.model == model)).scalar_one_or_none()
        booked = select(table.version, func.sum(table.predictions)).where(
            table.model == model, table.segment == ALL_ROWS, table.window_start >= (since or EPOCH)
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
    table, joined = counted.c, joins.c
    within = and_(table.window_start >= window.start, table.window_start < window.end)
    mine = and_(table.model == model, table.role == role, table.predictions > 0)
    with store.read() as connection:
        found = connection.execute(select(table.version).where(mine, within).distinct()).scalars().all()
        # Read last: had the join moved on meanwhile, this would not be what was asked for.
        until = connection.execute(select(joined.watermark, joined.rule).where(joined.model == model)).one_or_none()
    is_known = until is not None and until[0] == as_of and until[1]["length_seconds"] == length.total_seconds()
    return sorted(found) if is_known else None


def spans_joined(connection: Connection, model: str, version: str) -> list[tuple[str, Window]]:
    """From when to when a version predicted in each role, as far as it is joined, in whole windows."""
    table, joined = counted.c, joins.c
    rule = connection.execute(select(joined.rule).where(joined.model == model)).scalar_one_or_none()
    if rule is None:
        return []
    spans = select(table.role, func.min(table.window_start), func.max(table.window_start))
    mine = spans.where(table.model == model, table.version == version).group_by(table.role)
    length = timedelta(seconds=rule["length_seconds"])
    return [(role, Window(first, last + length)) for role, first, last in connection.execute(mine)]


def with_inferred(
    store: Store, contract: Contract, length: timedelta, accounts: Iterable[WindowCoverage], until: datetime
) -> list[WindowCoverage]:
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
    table = counted.c
    names = {segment_name(name, OTHER): name for name in contract.segments}
    statement = select(table.segment).where(table.model == contract.model, table.segment.in_(names)).distinct()
    with store.read() as connection:
        folded = set(connection.execute(statement).scalars())
    return [name for segment, name in names.items() if segment in folded]


def reopened_windows(store: Store, model: str, length: timedelta) -> list[Window]:
    """The windows of which something else is known than when they were last evaluated as matured, oldest first."""
    accounts, evaluated = counted, evaluations
    start = evaluated.c.window_start
    newest = (
        select(start, evaluated.c.window_end, func.max(evaluated.c.as_of).label("as_of"))
        .where(evaluated.c.model == model, evaluated.c.matured)
        .group_by(start, evaluated.c.window_end)
        .subquery()
    )
    touched = (
        select(newest.c.window_start, newest.c.window_end)
        .join(accounts, accounts.c.window_start == newest.c.window_start)
        .where(accounts.c.model == model, accounts.c.changed_at > newest.c.as_of)
        .distinct()
    )
    with store.read() as connection:
        windows = [Window(*row) for row in connection.execute(touched)]
    return sorted(window for window in windows if window.end - window.start == length)


class Differences:
    """Differences by window, version, role and segment, to be added to what is stored."""

    def __init__(self, contract: Contract, length: timedelta, named: Named) -> None:
        self._contract = contract
        self._length = length
        self._named = {name: frozenset(values) for name, values in named.items()}
        self._sums: dict[tuple[datetime, str, str, str], tuple[int, int, datetime]] = {}

    @property
    def windows(self) -> set[datetime]:
        """The starts of the windows that are touched."""
        return {start for start, *_ in self._sums}

    def add(self, row: dict[str, Any], sign: int, moment: datetime) -> None:
        """Counts a prediction in (1) or out (-1) as it is known since a moment."""
        head = floor_moment(row["predicted_at"], self._length), row["model_version"], row["role"]
        labelled = sign if row["revision"] is not None else 0  # what absence means is not counted, it is known
        for segment in (ALL_ROWS, *segments_of(self._contract, self._named, row)):
            predictions, known, since = self._sums.get((*head, segment), (0, 0, moment))
            self._sums[*head, segment] = predictions + sign, known + labelled, max(since, moment)

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
                "changed_at": changed_at,
            }
            for (start, version, role, segment), (predictions, labelled, changed_at) in sorted(self._sums.items())
        ]
        upsert(connection, counted, rows, changes=_added)


def _added(new: NewRow) -> dict[str, Any]:
    stored = counted.c
    return {
        "predictions": stored.predictions + new.predictions,
        "labelled": stored.labelled + new.labelled,
        "changed_at": case((stored.changed_at > new.changed_at, stored.changed_at), else_=new.changed_at),
    }

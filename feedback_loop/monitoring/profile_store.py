"""Keeps stored profiles up to date: the rows of a run of the join are added to the tallies of their buckets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from feedback_loop.clock import EPOCH, Window, floor_moment
from feedback_loop.monitoring.profiles.fold import TIME, Cell, fold, fold_outcomes, fold_predictions, merge
from feedback_loop.monitoring.profiles.layout import Layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.profiles.tally import Tally, total
from feedback_loop.schema import Contract, Role
from feedback_loop.store import Store, profiles
from feedback_loop.store.coverage import SegmentValues, load_segment_values, role_spans
from feedback_loop.store.engine import Transaction
from feedback_loop.store.joins import News
from feedback_loop.store.predictions import labelled_in, slices
from feedback_loop.store.scans import Scan, scans_of

SLICE_ROWS = 100_000
"""So many rows are in memory at once when a window is folded from the log."""

TRIES = 3
"""How often the rows of a version that gets its reference late are read before the join is made to wait."""

HOUR = timedelta(hours=1)

PREDICTIONS, OUTCOMES = "predictions", "outcomes"
FOLDS = {PREDICTIONS: fold_predictions, OUTCOMES: fold_outcomes}
"""The parts that are kept apart."""


def fold_news(connection: Transaction, model: str, news: News) -> None:
    """Adds new predictions and new knowledge of old ones to the tallies of their versions (see `store.joins.Fold`).

    A version without a reference has no tallies: its windows are folded from the log when they are asked for.
    """
    layouts: dict[str, Layout | None] = {}
    changed: dict[tuple[str, str, str], list[Mapping[Cell, Tally]]] = {}
    signed_rows = [(news.new, PREDICTIONS, 1), (news.after, OUTCOMES, 1), (news.before, OUTCOMES, -1)]
    if news.gone is not None:
        signed_rows.append((news.gone, PREDICTIONS, -1))
    for rows, part, sign in signed_rows:
        for version, role, version_rows in _by_version(rows):
            if version not in layouts:
                layouts[version] = _layout(connection, model, version, news.segments)
            layout = layouts[version]
            if layout is not None:
                cells = FOLDS[part](layout, version_rows)
                signed = cells if sign > 0 else {cell: -tally for cell, tally in cells.items()}
                changed.setdefault((version, role, part), []).append(signed)
    for (version, role, part), parts in changed.items():
        add_tallies(connection, model, version, role, part, merge(parts))


def add_tallies(
    connection: Transaction, model: str, version: str, role: str, part: str, cells: Mapping[Cell, Tally]
) -> None:
    """Adds tallies of hours to what is kept, of those hours and of their days."""
    added: dict[profiles.Bucket, list[Tally]] = {}
    for cell, tally in cells.items():
        if not len(tally.keys):
            continue
        hour = EPOCH + cell.hour * HOUR
        for start, length in ((hour, profiles.HOUR), (floor_moment(hour, profiles.DAY), profiles.DAY)):
            added.setdefault(profiles.Bucket(part, cell.segment, start, length, cell.weight), []).append(tally)
    stored = profiles.load_tallies(connection, model, version, role, part, (bucket.start for bucket in added))
    changed = {}
    for bucket, tallies in added.items():
        before = [Tally.from_bytes(stored[bucket])] if bucket in stored else []
        changed[bucket] = total([*before, *tallies]).to_bytes()
    profiles.save_tallies(connection, model, version, role, changed, total([]).to_bytes())


def establish(store: Store, model: str, version: str, reference: Profile, known_since: datetime) -> None:
    """Makes a reference the one that a version is measured by; all that is joined of the version is tallied by it.

    The rows are read before anything is locked. Where the join has moved on meanwhile, they are read again; the last
    try reads them while it holds the lock.
    """
    stored = profiles.StoredReference(known_since, reference.digest, reference.to_bytes())
    for tries_left in reversed(range(TRIES)):
        with store.read() as connection:
            watermark = profiles.joined_until(connection, model)
            tallied = (
                {} if not tries_left else _tallied(connection, reference.layout, version, watermark, store.secret)
            )
        with store.write() as connection:
            now = profiles.joined_until(connection, model, lock=True)
            if not tries_left:
                tallied = _tallied(connection, reference.layout, version, now, store.secret)
            elif now != watermark:
                continue
            profiles.save_reference(connection, model, version, stored)
            for (role, part), cells in tallied.items():
                add_tallies(connection, model, version, role, part, cells)
            return


def _tallied(
    connection: Transaction, layout: Layout, version: str, as_of: datetime | None, secret: bytes
) -> dict[tuple[str, str], dict[Cell, Tally]]:
    """The tallies of all that is joined of a version, by role and part."""
    tallies: dict[tuple[str, str], dict[Cell, Tally]] = {}
    contract = layout.contract
    if as_of is not None:
        layout = layout.with_segments(load_segment_values(connection, contract, secret, as_of))
    for role, window in role_spans(connection, contract.model, version) if as_of is not None else ():
        for piece in slices(connection, contract.model, window, SLICE_ROWS):
            rows = labelled_in(connection, contract, piece, secret, as_of=as_of, version=version, role=role)
            for part, folded in FOLDS.items():
                tallies[role, part] = merge([tallies.get((role, part), {}), folded(layout, rows)])
    return tallies


def fold_window(
    store: Store, layout: Layout, window: Window, *, version: str, role: str, as_of: datetime, part: str | None = None
) -> dict[Cell, Tally]:
    """The tallies of a window from the log itself, as of any moment: to the bit what is kept as of that moment.

    A long window is read and folded by several processes: each holds one slice at a time and returns tallies. Of
    outcomes alone (`part`) only what they are compared with is read; segments and a user's own metrics are left out.
    """
    with store.read() as connection:
        layout = layout.with_segments(load_segment_values(connection, layout.contract, store.secret, as_of))
    columns = layout.contract.outputs if part == OUTCOMES else None
    if part == OUTCOMES:
        layout = replace(layout, own=())
    scans = scans_of(
        store, layout.contract, window, SLICE_ROWS, columns=columns, version=version, role=role, as_of=as_of
    )
    if len(scans) > 1:
        from joblib import cpu_count
        from joblib.externals.loky import ProcessPoolExecutor

        with ProcessPoolExecutor(min(cpu_count(), len(scans)), initializer=_log_to_stderr) as processes:
            return merge(processes.map(partial(fold_scan, layout.to_bytes(), part=part), scans))
    with store.read() as connection:
        rows = labelled_in(
            connection,
            layout.contract,
            window,
            store.secret,
            as_of=as_of,
            version=version,
            role=role,
            columns=columns,
        )
    return (FOLDS[part] if part is not None else fold)(layout, rows)


def champion_slices(
    store: Store, contract: Contract, window: Window, *, version: str, as_of: datetime | None, rows: int | None = None
) -> Iterator[pa.Table]:
    """A version's rows as the champion, with their outcomes as of a moment: so many at a time, in order of time."""
    with store.read() as connection:
        for piece in slices(connection, contract.model, window, rows or SLICE_ROWS):
            yield labelled_in(
                connection, contract, piece, store.secret, as_of=as_of, version=version, role=Role.CHAMPION
            )


def fold_scan(layout: bytes, scan: Scan, *, part: str | None = None) -> dict[Cell, Tally]:
    """The tallies of a slice's rows, of all hours together."""
    rows = scan.rows().drop_columns([TIME])
    return (FOLDS[part] if part is not None else fold)(Layout.from_bytes(layout), rows)


def _log_to_stderr() -> None:
    """Sends the log of a worker process to standard error: standard output is the command's.

    As JSON, which escapes control sequences that a caller may have sent.
    """
    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.JSONRenderer()]
    structlog.configure(processors, logger_factory=structlog.WriteLoggerFactory(sys.stderr))


def kept_cells(tallies: Iterable[tuple[str, float, bytes]]) -> dict[Cell, Tally]:
    """Stored tallies of a window, by segment and weight, of all hours together."""
    packed: dict[Cell, list[Tally]] = {}
    for segment, weight, tally in tallies:
        packed.setdefault(Cell(segment, 0, weight), []).append(Tally.from_bytes(tally))
    return {cell: total(tallies) for cell, tallies in packed.items()}


def _by_version(rows: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    if not rows.num_rows:
        return
    pairs = rows.select(["model_version", "role"]).group_by(["model_version", "role"]).aggregate([]).to_pylist()
    for pair in sorted(pairs, key=lambda pair: (pair["model_version"], pair["role"])):
        version_rows = rows
        if len(pairs) > 1:
            same = pc.and_(
                pc.equal(rows.column("model_version"), pair["model_version"]),
                pc.equal(rows.column("role"), pair["role"]),
            )
            version_rows = rows.filter(same)
        yield pair["model_version"], pair["role"], version_rows


def _layout(connection: Transaction, model: str, version: str, named: SegmentValues) -> Layout | None:
    stored = profiles.load_reference(connection, model, version)
    return Profile.from_bytes(stored.profile).layout.with_segments(named) if stored is not None else None

"""The reference of a version: rows that it was not trained on, with its answers and the outcomes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from feedback_loop.clock import EPOCH, Window
from feedback_loop.errors import BadInput
from feedback_loop.inference import Scorer
from feedback_loop.monitoring.drift import LEAST_ROWS
from feedback_loop.monitoring.evaluation import labelled_only, profile_of_reference
from feedback_loop.monitoring.judging import possible_weights, thinned
from feedback_loop.monitoring.profile_store import champion_slices, establish
from feedback_loop.monitoring.profiles.fold import TIME
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.outcomes import matured_until
from feedback_loop.registry import ModelVersion, Registry
from feedback_loop.schema import PREDICTION_ID, Column, ColumnType, Contract, Redaction, as_table, coerce
from feedback_loop.store import Store, profiles
from feedback_loop.store.predictions import predicted_span

STEP_ROWS = 20_000
"""The log is read in slices of at least this many rows, and not to its end for the first few of them."""

ENOUGH = LEAST_ROWS
"""A version that brought this many rows is profiled by them alone: no rows of the log are added."""

UNTIMED = b"feedback_loop.untimed"
"""Metadata of reference rows that came without times."""


def scored_rows(scorer: Scorer, rows: pa.Table) -> pa.Table:
    """Labelled rows (by the model's names) as the log would hold them, with the outputs of this scorer."""
    contract, outputs = scorer.contract, scorer.score(rows).outputs
    named = (*contract.features, *contract.labels)
    columns = {column.stored: rows.column(column.name) for column in named}
    columns |= {name: outputs.column(name) for name in outputs.column_names}
    own = {
        name: rows.column(contract.own(name))
        for name in (PREDICTION_ID, TIME)
        if contract.own(name) in rows.column_names
    }
    return pa.table({**own, **columns})


def make_reference(scorer: Scorer, frame: Any, *, text: bool = False, time_column: str = "") -> pa.Table:
    """Reference rows of what a user brought (features and label), as the log would hold them.

    When each was predicted, or would have been, is in `time_column`, else in `predicted_at`. Raises BadInput.
    """
    wanted = (*scorer.contract.features, *(replace(label, required=True) for label in scorer.contract.labels))
    table = as_table(frame)
    time = scorer.contract.own(TIME)
    if time_column and time_column not in table.column_names:
        raise BadInput.of(time_column, "is missing", cure=f"The columns are {', '.join(table.column_names)}.")
    if time_column and time_column != time:
        table = table.drop_columns([time]) if time in table.column_names else table
        table = table.append_column(time, table.column(time_column))
    extra = (Column(time, ColumnType.DATETIME),) if time in table.column_names else ()
    rows = labelled_only(scorer.contract, scored_rows(scorer, coerce(table, (*wanted, *extra), text=text)))
    return scorer.redaction.redact(rows)


class References:
    """The reference rows of versions: those kept in the registry, or else the first labelled ones of the log.

    A version that was registered elsewhere has none of its own, or too few to say anything; its first labelled
    predictions are added until there are `wanted`, so that every version is watched at last. Until then it has none,
    and windows that its rows are of are not judged by it. A complete reference is kept: the rows in memory, the
    profile in the store, where the version's tallies follow its layout. Thread-safe.
    """

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._registered: dict[tuple[str, str], pa.Table | None] = {}
        self._rows: dict[tuple[str, str], tuple[tuple[int, datetime, datetime], pa.Table]] = {}
        self.incomplete: dict[tuple[str, str], int] = {}  # rows of versions whose reference is incomplete

    def rows(
        self, redaction: Redaction, version: ModelVersion, wanted: int, matured_until: datetime, *, as_of: datetime
    ) -> pa.Table:
        """The reference rows (stored names, with `predicted_at`) as the log would hold them, in the order of time.

        They are fewer than `wanted`, or none, while the log has no more matured ones: a test of losses needs so many,
        so that those of the log are added to what a version brought. They are as known at that moment: a later
        outcome or correction changes none of them.
        """
        key = (version.model, version.version)
        cached = self._rows.get(key)
        query = (wanted, matured_until, as_of)
        if cached is not None and cached[0] == query:
            return cached[1]
        rows = self._find(redaction, version, wanted, matured_until, as_of, enough=wanted)
        if rows.num_rows >= wanted:
            self._rows[key] = query, rows
        return rows

    def profile(
        self,
        redaction: Redaction,
        version: ModelVersion,
        wanted: int,
        matured_until: datetime,
        length: timedelta,
        *,
        as_of: datetime,
        is_past: bool,
    ) -> Profile | None:
        """The profile of the reference rows as of a moment; None while there are fewer than wanted.

        The first that is complete becomes the version's, unless it is only asked for a moment that `is_past`.
        """
        contract = redaction.logged
        self.incomplete.pop((version.model, version.version), None)
        with self._store.read() as connection:
            stored = profiles.load_reference(connection, version.model, version.version)
        if stored is not None and stored.known_since <= as_of:
            profile = Profile.from_bytes(stored.profile)
            if profile.layout.is_of(contract):
                return profile
        own = self._own(redaction, version)
        is_own = own is not None and own.num_rows >= min(wanted, ENOUGH)
        rows = self._find(redaction, version, wanted, matured_until, as_of)
        if not is_own and rows.num_rows < wanted:
            self.incomplete[version.model, version.version] = rows.num_rows
            return None
        profile = profile_of_reference(contract, rows, length)
        if not is_own:
            profile = replace(profile, until=int(rows.column(TIME).cast(pa.int64())[-1].as_py()))
        if not is_past:
            known_since = min(version.created_at, as_of) if is_own else as_of
            establish(self._store, version.model, version.version, profile, known_since)
        return profile

    def rows_of_profile(
        self,
        redaction: Redaction,
        version: ModelVersion,
        wanted: int,
        maturity: timedelta,
        length: timedelta,
        *,
        as_of: datetime,
    ) -> pa.Table:
        """The very rows that `profile` is of at that moment."""
        with self._store.read() as connection:
            stored = profiles.load_reference(connection, version.model, version.version)
        known_since = stored.known_since if stored is not None and stored.known_since <= as_of else as_of
        return self._find(redaction, version, wanted, matured_until(known_since, maturity, length), known_since)

    def forget(self, model: str) -> None:
        """Forgets what is kept in memory of a model: its rows have changed."""
        caches: tuple[dict[tuple[str, str], Any], ...] = (self._registered, self._rows)
        for cache in caches:
            for key in [key for key in cache if key[0] == model]:
                del cache[key]

    def _own(self, redaction: Redaction, version: ModelVersion) -> pa.Table | None:
        """The labelled rows that are kept in the registry."""
        key = (version.model, version.version)
        if key not in self._registered:
            rows = self._registry.reference_rows(version)
            self._registered[key] = redaction.redact(rows) if rows is not None else None
        registered = self._registered[key]
        if registered is None:
            return None
        return _timed(labelled_only(redaction.logged, registered), version.trained_until)

    def _find(
        self,
        redaction: Redaction,
        version: ModelVersion,
        wanted: int,
        matured_until: datetime,
        as_of: datetime | None,
        *,
        enough: int = ENOUGH,
    ) -> pa.Table:
        own = self._own(redaction, version)
        missing = wanted - (own.num_rows if own is not None else 0)
        if own is not None and own.num_rows >= min(wanted, enough):
            return own
        logged = first_labelled(self._store, redaction.logged, version.version, missing, matured_until, as_of)
        return logged if own is None else _joined(own, logged)


def first_labelled(
    store: Store, contract: Contract, version: str, wanted: int, matured_until: datetime, as_of: datetime | None
) -> pa.Table:
    """So many of a version's first labelled rows as the champion, in the order of time: read no further than they go.

    They are the same however the log was cut to read them. Where outcomes need an action: of the rows that can be
    judged, thinned to the least chance of any row until then, since each counts as one draw.
    """
    span = predicted_span(store, contract.model, version, as_of=as_of)
    window = Window(EPOCH, EPOCH + timedelta.resolution)  # nothing, with all columns
    if span is not None and span[0] < matured_until:
        window = Window(span[0], matured_until)
    tables, most = list[pa.Table](), 0.0
    step = max(wanted, STEP_ROWS)
    for part in champion_slices(store, contract, window, version=version, as_of=as_of, rows=step):
        rows = part
        if contract.join.needs_action:
            rows = part.sort_by([(TIME, "ascending"), (PREDICTION_ID, "ascending")])
            so_far = np.maximum.accumulate([most, *possible_weights(contract, rows)])
            most = float(so_far[-1])
            rows = thinned(contract, rows, so_far[1:])
        tables.append(labelled_only(contract, rows))
        if sum(table.num_rows for table in tables) >= wanted:
            break
    ordered = pa.concat_tables(tables).sort_by([(TIME, "ascending"), (PREDICTION_ID, "ascending")])
    return ordered.slice(0, wanted)


def _timed(rows: pa.Table, moment: datetime) -> pa.Table:
    """The rows; without times they all get that moment, as of one window: they do not show how windows differ."""
    if TIME in rows.column_names:
        return rows
    times = pa.array([moment] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    return rows.append_column(TIME, times).replace_schema_metadata({UNTIMED: b"1"})


def is_untimed(rows: pa.Table) -> bool:
    """Whether reference rows came without times."""
    return UNTIMED in (rows.schema.metadata or {})


def _joined(registered: pa.Table, logged: pa.Table) -> pa.Table:
    """The registry's rows and then the log's, with the columns that both have, in the log's types."""
    names = [name for name in registered.column_names if name in logged.column_names]
    logged = logged.select(names)
    return pa.concat_tables([registered.select(names).cast(logged.schema), logged])

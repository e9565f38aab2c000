"""What a version is compared with: rows that it had not seen in training, with its answers and the outcomes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from feedback_loop.clock import EPOCH, Window
from feedback_loop.errors import BadInput
from feedback_loop.inference import Scorer
from feedback_loop.monitoring.drift import LEAST_ROWS
from feedback_loop.monitoring.evaluation import labelled_only, profile_of_reference
from feedback_loop.monitoring.profile_store import champion_slices, establish
from feedback_loop.monitoring.profiles.fold import TIME
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.outcomes import matured_until
from feedback_loop.registry import ModelVersion, Registry
from feedback_loop.schema import PREDICTION_ID, Column, ColumnType, Contract, Redaction, as_table, coerce
from feedback_loop.store import Store, profiles
from feedback_loop.store.predictions import predicted_span

STEP_ROWS = 20_000
"""Of the log so many rows are read at a time, at least: not all of its history for the first few of them."""

ENOUGH = LEAST_ROWS
"""So many rows that a version brought are its reference by themselves: nothing that is judged is added to them."""

UNTIMED = b"feedback_loop.untimed"
"""Marks reference rows whose times are none of their own."""

"""The column of rows of the log by which an erased one is found in a reference too."""


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
    predictions are added until there are `wanted`: no version stays unwatched for ever. Before that it has none, and
    windows that its rows are of are not judged by it. What is complete is kept: rows in memory, the profile in the
    store, where the version's tallies are made by it. Thread-safe.
    """

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._kept: dict[tuple[str, str], pa.Table | None] = {}
        self._rows: dict[tuple[str, str], tuple[tuple[int, datetime, datetime], pa.Table]] = {}
        self.found: dict[tuple[str, str], int] = {}  # of versions without a whole one: how many rows there are

    def rows(
        self, redaction: Redaction, version: ModelVersion, wanted: int, matured_until: datetime, *, as_of: datetime
    ) -> pa.Table:
        """The reference rows (stored names, with `predicted_at`) as the log would hold them, in the order of time.

        They are fewer than `wanted`, or none, while the log has no more matured ones: a test of losses needs so many,
        so that those of the log are added to what a version brought. They are as known at that moment: a later
        outcome or correction changes none of them.
        """
        key = (version.model, version.version)
        kept = self._rows.get(key)
        asked = (wanted, matured_until, as_of)
        if kept is not None and kept[0] == asked:
            return kept[1]
        rows = self._find(redaction, version, wanted, matured_until, as_of, enough=wanted)
        if rows.num_rows >= wanted:
            self._rows[key] = asked, rows
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
        self.found.pop((version.model, version.version), None)
        with self._store.read() as connection:
            kept = profiles.load_reference(connection, version.model, version.version)
        if kept is not None and kept.known_since <= as_of:
            profile = Profile.from_bytes(kept.profile)
            if profile.layout.is_of(contract):
                return profile
        own = self._own(redaction, version)
        is_own = own is not None and own.num_rows >= min(wanted, ENOUGH)
        rows = self._find(redaction, version, wanted, matured_until, as_of)
        if not is_own and rows.num_rows < wanted:
            self.found[version.model, version.version] = rows.num_rows
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
            kept = profiles.load_reference(connection, version.model, version.version)
        known_since = kept.known_since if kept is not None and kept.known_since <= as_of else as_of
        return self._find(redaction, version, wanted, matured_until(known_since, maturity, length), known_since)

    def forget(self, model: str) -> None:
        """Forgets what is kept in memory of a model: its rows have changed."""
        caches: tuple[dict[tuple[str, str], Any], ...] = (self._kept, self._rows)
        for cache in caches:
            for key in [key for key in cache if key[0] == model]:
                del cache[key]

    def _own(self, redaction: Redaction, version: ModelVersion) -> pa.Table | None:
        """The labelled rows that are kept in the registry."""
        key = (version.model, version.version)
        if key not in self._kept:
            found = self._registry.reference_rows(version)
            self._kept[key] = redaction.redact(found) if found is not None else None
        kept = self._kept[key]
        return _timed(labelled_only(redaction.logged, kept), version.trained_until) if kept is not None else None

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

    They are the same however the log was cut to read them.
    """
    span = predicted_span(store, contract.model, version, as_of=as_of)
    window = Window(EPOCH, EPOCH + timedelta.resolution)  # nothing, with all columns
    if span is not None and span[0] < matured_until:
        window = Window(span[0], matured_until)
    tables: list[pa.Table] = []
    step = max(wanted, STEP_ROWS)
    for rows in champion_slices(store, contract, window, version=version, as_of=as_of, rows=step):
        tables.append(labelled_only(contract, rows))
        if sum(table.num_rows for table in tables) >= wanted:
            break
    ordered = pa.concat_tables(tables).sort_by([(TIME, "ascending"), (PREDICTION_ID, "ascending")])
    return ordered.slice(0, wanted)


def _timed(rows: pa.Table, moment: datetime) -> pa.Table:
    """Rows that came without a time are one window of that moment: how windows differ, they do not tell."""
    if TIME in rows.column_names:
        return rows
    times = pa.array([moment] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    return rows.append_column(TIME, times).replace_schema_metadata({UNTIMED: b"1"})


def is_untimed(rows: pa.Table) -> bool:
    """Whether reference rows came without times."""
    return UNTIMED in (rows.schema.metadata or {})


def _joined(kept: pa.Table, logged: pa.Table) -> pa.Table:
    """Kept rows and then the log's, with the columns that both have, in the log's types."""
    names = [name for name in kept.column_names if name in logged.column_names]
    logged = logged.select(names)
    return pa.concat_tables([kept.select(names).cast(logged.schema), logged])

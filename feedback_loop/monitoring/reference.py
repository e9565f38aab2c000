"""What a version is compared with: rows that it had not seen in training, with its answers and the outcomes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from feedback_loop.clock import EPOCH, Window
from feedback_loop.inference import Scorer
from feedback_loop.monitoring.evaluation import TIME, labelled_only, profile_of_reference, profiled_columns
from feedback_loop.monitoring.profiles import Profile
from feedback_loop.registry import ModelVersion, Registry
from feedback_loop.schema import Column, ColumnType, Contract, Redaction, Role, as_table, coerce
from feedback_loop.store import Store
from feedback_loop.store.evaluations import load_profiles, save_profile
from feedback_loop.store.predictions import read_labelled

KIND = "reference"

ID = "prediction_id"
"""The column of rows of the log by which an erased one is found in a reference too."""

FORM = "form"
"""Beside a kept profile: by what each column was hashed (empty: plain)."""


def scored_rows(scorer: Scorer, rows: pa.Table) -> pa.Table:
    """Labelled rows (by the model's names) as the log would hold them, with the outputs of this scorer."""
    contract, outputs = scorer.contract, scorer.score(rows).outputs
    named = (*contract.features, contract.label)
    columns = {column.stored: rows.column(column.name) for column in named}
    columns |= {name: outputs.column(name) for name in outputs.column_names}
    own = {name: rows.column(name) for name in (ID, TIME) if name in rows.column_names}
    return pa.table({**own, **columns})


def make_reference(scorer: Scorer, frame: Any, *, text: bool = False) -> pa.Table:
    """Reference rows of what a user brought (features and label, and `predicted_at`), as the log would hold them.

    Raises BadInput.
    """
    wanted = (*scorer.contract.features, replace(scorer.contract.label, required=True))
    table = as_table(frame)
    extra = (Column(TIME, ColumnType.DATETIME),) if TIME in table.column_names else ()
    rows = labelled_only(scorer.contract, scored_rows(scorer, coerce(table, (*wanted, *extra), text=text)))
    return scorer.redaction.redact(rows)


class References:
    """The reference rows of versions: those kept in the registry, filled up with the first labelled ones of the log.

    A version that was registered elsewhere has none of its own, and one that was trained on little has few; its
    first labelled predictions are added until there are `wanted`: no version stays unwatched for ever. Rows and
    profiles are kept in memory, profiles in the store too. Thread-safe.
    """

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._kept: dict[tuple[str, str], pa.Table | None] = {}
        self._rows: dict[tuple[str, str], pa.Table] = {}
        self._profiles: dict[tuple[str, str], Profile] = {}

    def rows(self, redaction: Redaction, version: ModelVersion, wanted: int, matured_until: datetime) -> pa.Table:
        """The reference rows (stored names, with `predicted_at`) as the log would hold them, in the order of time.

        They are fewer than `wanted`, or none, while the log has no more matured ones.
        """
        key = (version.model, version.version)
        if key in self._rows:
            return self._rows[key]
        if key not in self._kept:
            found = self._registry.reference_rows(version)
            self._kept[key] = redaction.redact(found) if found is not None else None
        contract, kept = redaction.logged, self._kept[key]
        rows = _timed(labelled_only(contract, kept)) if kept is not None else None
        missing = wanted - (rows.num_rows if rows is not None else 0)
        if missing > 0:
            logged = self._from_log(contract, version, missing, matured_until)
            rows = logged if rows is None else _joined(rows, logged)
            if rows.num_rows < wanted:
                return rows  # the log may have more by the next time
        assert rows is not None  # nothing is missing of what is there
        self._rows[key] = rows
        return rows

    def profile(
        self, redaction: Redaction, version: ModelVersion, wanted: int, matured_until: datetime, length: timedelta
    ) -> Profile | None:
        """The profile of the reference rows; None while there are none."""
        key = (version.model, version.version)
        if key in self._profiles:
            return self._profiles[key]
        kept = load_profiles(self._store, version.model, version.version, KIND)
        contract = redaction.logged
        form = {column.stored: column.hashed for column in profiled_columns(contract)}
        if kept and kept[0][1].get(FORM, dict.fromkeys(kept[0][1]["columns"], "")) == form:
            self._profiles[key] = Profile.from_json(kept[0][1])
            return self._profiles[key]
        rows = self.rows(redaction, version, wanted, matured_until)
        if not rows.num_rows:
            return None
        profile = profile_of_reference(contract, rows, length)
        if key in self._rows:
            self._profiles[key] = profile
            bucket = Window(EPOCH, version.created_at)
            plain = {**profile.to_json(), FORM: form}
            save_profile(self._store, version.model, version.version, KIND, bucket, rows.num_rows, plain)
        return profile

    def forget(self, model: str) -> None:
        """Forgets what is kept in memory of a model: its rows have changed."""
        caches: tuple[dict[tuple[str, str], Any], ...] = (self._kept, self._rows, self._profiles)
        for cache in caches:
            for key in [key for key in cache if key[0] == model]:
                del cache[key]

    def _from_log(self, contract: Contract, version: ModelVersion, wanted: int, matured_until: datetime) -> pa.Table:
        window = Window(EPOCH, matured_until)
        rows = read_labelled(self._store, contract, window, version=version.version, role=Role.CHAMPION)
        return labelled_only(contract, rows).slice(0, wanted)


def _timed(rows: pa.Table) -> pa.Table:
    """Rows that came without a time count as older than all that is logged."""
    if TIME in rows.column_names:
        return rows
    times = pa.array([EPOCH] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    return rows.append_column(TIME, times)


def _joined(kept: pa.Table, logged: pa.Table) -> pa.Table:
    """Kept rows and then the log's, with the columns that both have, in the log's types."""
    names = [name for name in kept.column_names if name in logged.column_names]
    logged = logged.select(names)
    return pa.concat_tables([kept.select(names).cast(logged.schema), logged])

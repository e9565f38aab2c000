"""Erases a key everywhere: in the store, in this host's spools, in references and reports, here and in MLflow.

The erasure is recorded first, so that nothing new comes in. The store's rows are removed last, since their times are
needed to find the copies. An interrupted run is simply run again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.clock import EPOCH
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.monitoring.profile_store import fold_news
from feedback_loop.monitoring.profiles.fold import TIME
from feedback_loop.monitoring.reports import model_folder, pages_holding, snapshot_of
from feedback_loop.registry import ModelVersion, Registry
from feedback_loop.schema import PREDICTION_ID, Redaction, as_table, coerce
from feedback_loop.store import Store, erased_keys, erasure
from feedback_loop.store.payloads import ErasedPayloads

EraseSpooled = Callable[[str, erased_keys.RowFilter], int]
"""Removes the rows that the filter leaves out from a model's spools; returns how many."""

ErasePayloads = Callable[[erased_keys.Key, bool], ErasedPayloads]
"""Removes waiting calls that hold the key; with True only counts them."""

REPORTS = "reports"
"""The folder of reports among a run's artifacts."""

STAYS = (
    "what was concluded: evaluations, verdicts, references' profiles, reports of surrogates, which name nobody",
    "versions that were trained on these rows: retrain, and delete the old ones in MLflow, if they must go too",
    "files that you brought or asked for: outcomes/loaded/, outcomes/refused/, outputs of predict, backups",
    "spools whose file is damaged (*.damaged): delete them, if their rows must go too",
)
"""What an erasure does not touch."""


@dataclass(frozen=True)
class Erasure:
    """What was removed (with `dry_run`: would be), by place. `undeleted` pages must be deleted by hand.

    `payloads` are calls of other servers that waited for their answer; `unread_payloads` can't be read.
    """

    model: str
    dry_run: bool
    predictions: int
    outcomes: int
    findings: int
    spooled: int
    payloads: int
    unread_payloads: int
    reference_rows: dict[str, int]
    reports: tuple[str, ...]
    mlflow_reports: tuple[str, ...]
    undeleted: tuple[str, ...]
    stays: tuple[str, ...] = STAYS


def erased_key(redaction: Redaction, values: Mapping[str, object], *, text: bool) -> dict[str, object]:
    """The key's values as the log has them, by stored name. Raises BadInput for columns that are not of the key."""
    columns = {column.name: column for column in redaction.served.key}
    cure = f"The key of {redaction.served.model} is {', '.join(columns) or 'not configured'}."
    for name in values:
        if name not in columns:
            raise BadInput.of(name, "is not in the key", cure=cure)
    if not values:
        raise BadInput.of("key", "is missing", cure=cure)
    row = as_table({name: [value] for name, value in values.items()})
    table = coerce(row, [columns[name] for name in values], text=text)
    logged = {columns[name].stored: redaction.values(name, table.column(name))[0].as_py() for name in values}
    for name, value in logged.items():
        if value is None:
            raise BadInput.of(name, "is missing", cure=cure)
    return logged


@dataclass(frozen=True)
class Eraser:
    """Erases keys of one model."""

    store: Store
    registry: Registry
    redaction: Redaction
    reports: Path
    erase_spooled: EraseSpooled
    erase_payloads: ErasePayloads

    @property
    def model(self) -> str:
        """The model's name."""
        return self.redaction.logged.model

    def run(self, key: erased_keys.Key, now: datetime, *, dry_run: bool) -> Erasure:
        """Removes all rows with that key, or with `dry_run` counts them. After Unavailable it can be run again."""
        if not dry_run:
            erased_keys.record_key(self.store, self.model, key, now)
        waiting = self.erase_payloads(key, dry_run)
        predicted_at = erasure.find_predictions(self.store, self.model, key)
        versions = self.registry.versions(self.model)
        moments = list(predicted_at.values())
        reference_rows: dict[str, int] = {}
        for version in versions:
            gone = self._erase_reference(version, key, predicted_at, dry_run=dry_run)
            if gone.num_rows:
                reference_rows[version.version] = gone.num_rows
                moments += gone.column(TIME).to_pylist() if TIME in gone.column_names else [EPOCH]
        pages = self._erase_pages(moments, dry_run=dry_run)
        in_mlflow, undeleted = self._erase_logged_pages(versions, moments, dry_run=dry_run)
        if dry_run:
            spooled, counts = 0, erasure.count_rows(self.store, self.model, key)
        else:
            spooled = self.erase_spooled(self.model, erased_keys.row_filter(self.store, self.redaction.logged))
            counts = erasure.erase_rows(self.store, self.redaction.logged, key, now, fold_news)
        return Erasure(
            model=self.model,
            dry_run=dry_run,
            **vars(counts),
            spooled=spooled,
            payloads=waiting.erased,
            unread_payloads=waiting.unread,
            reference_rows=reference_rows,
            reports=tuple(pages),
            mlflow_reports=tuple(in_mlflow),
            undeleted=tuple(undeleted),
        )

    def _erase_reference(
        self, version: ModelVersion, key: erased_keys.Key, ids: Collection[str], *, dry_run: bool
    ) -> pa.Table:
        """Removes the reference rows of a version that have the key or these predictions' ids; returns them."""
        try:
            rows = self.registry.reference_rows(version)
        except NotFound:  # its run was deleted
            rows = None
        if rows is None:
            return pa.table({})
        logged = self.redaction.redact(rows)
        gone = pa.chunked_array([pa.array([False] * rows.num_rows, pa.bool_())])
        if set(key) <= set(logged.column_names):
            gone = erased_keys.has_key(logged, key)
        if PREDICTION_ID in rows.column_names:
            gone = pc.or_(gone, pc.is_in(rows.column(PREDICTION_ID), pa.array(list(ids), pa.string())))
        erased = rows.filter(gone)
        if erased.num_rows and not dry_run:
            self.registry.replace_reference(version, rows.filter(pc.invert(gone)))
        return erased

    def _erase_pages(self, moments: Sequence[datetime], *, dry_run: bool) -> list[str]:
        reports = pages_holding(model_folder(self.reports, self.model), self.model, moments)
        files = [file for data in reports for file in _files(data) if file.exists()]
        if not dry_run:
            for file in files:
                file.unlink()
        return [str(file) for file in files]

    def _erase_logged_pages(
        self, versions: Sequence[ModelVersion], moments: Sequence[datetime], *, dry_run: bool
    ) -> tuple[list[str], list[str]]:
        deleted: list[str] = []
        undeleted: list[str] = []
        for version in versions:
            with tempfile.TemporaryDirectory() as folder:
                self.registry.lineage.fetch_files(version, REPORTS, ".json", Path(folder))
                pages = pages_holding(Path(folder), self.model, moments)
            for page in (f"{REPORTS}/{file.name}" for data in pages for file in _both(data)):
                is_deleted = dry_run or self.registry.lineage.delete_file(version, page)
                (deleted if is_deleted else undeleted).append(f"{version}: {page}")
        return deleted, undeleted


def _both(data: Path) -> tuple[Path, Path]:
    """A report's page and its data. The data come last, since they are what is searched: a run may be interrupted."""
    return data.with_suffix(".html"), data


def _files(data: Path) -> tuple[Path, ...]:
    """The same with the report's snapshot in Evidently's workspace."""
    snapshot = snapshot_of(data)
    return (*((snapshot,) if snapshot is not None else ()), *_both(data))

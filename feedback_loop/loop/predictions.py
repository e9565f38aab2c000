"""Predictions: scored here or elsewhere, made durable, forwarded to the store, accounted for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_loop.alerts import tell_differences
from feedback_loop.capture import (
    Client,
    Drained,
    ImportResult,
    SpoolView,
    import_predictions,
    local_accounts,
    merge_accounts,
    put_aside,
)
from feedback_loop.capture.importing import CHUNK_ROWS, read_file
from feedback_loop.inference import FileResult, Scorer, predict_file
from feedback_loop.inference.batch import Job
from feedback_loop.loop.context import Context
from feedback_loop.outcomes import OnError, Receiver
from feedback_loop.registry import Reference
from feedback_loop.schema import Source
from feedback_loop.serving.places import meant_version
from feedback_loop.store import spool_accounts
from feedback_loop.store.spool_accounts import SpoolAccount, model_of
from feedback_loop.store.sql_source import Query


@dataclass(frozen=True)
class Predictions:
    """The part of the loop that puts rows into the prediction log."""

    context: Context

    def predict(self, model: str, frame: Any, *, source: Source = Source.BATCH) -> pa.Table:
        """Scores a frame and logs it; returns `prediction_id` and the outputs, one row per row, in its order.

        Where exploration is on a column `explore` says for which rows the caller acts as if there were no model;
        where intervals are, `lower` and `upper` are the ends of each row's.

        `frame` (pandas, Arrow, Polars, columns or rows) holds the features and, beside them, the key's columns.
        """
        context, moment = self.context, self.context.clock()
        scorer = context.answering(context.find(model))
        rows = scorer.rows_of(frame)
        ids = context.recorder.identify(rows, moment, scorer.contract.own("prediction_id"))
        scored = scorer.marked(scorer.score(rows), rows, ids)
        context.recorder.record(scorer, rows, scored, ids, moment, source=source)
        answers = scored.outputs.add_column(0, "prediction_id", pa.array(ids, pa.string()))
        for name, values in scored.beside.items():
            answers = answers.append_column(name, pa.array(values))
        return answers

    def predict_file(self, model: str, source: Path, target: Path, *, overwrite: bool = False) -> FileResult:
        """Scores a Parquet or CSV file into another and logs every row; resumes where an earlier run stopped."""
        wanted = meant_version(self.context.settings, model)

        def choose(begun: Job | None) -> Scorer:
            if begun is None:
                return self.context.answering(self.context.registry.find(wanted))
            version = self.context.registry.find(Reference(wanted.model, version=begun.version))
            if begun.revision is None:
                return self.context.fastest_scorer(version)
            return self.context.answering(version, begun.revision)

        def record(scorer: Scorer, rows: pa.Table, scored: Any, ids: Any, moment: datetime) -> int:
            return self.context.recorder.record(scorer, rows, scored, ids, moment, source=Source.BATCH).new

        return predict_file(
            str(wanted),
            choose,
            source,
            target,
            record=record,
            now=self.context.clock(),
            progress=self.context.progress,
            overwrite=overwrite,
        )

    def import_rows(
        self, model: str, source: Path | Query | pa.Table, *, version: str | None = None, on_error: OnError = "refuse"
    ) -> ImportResult:
        """Logs what was predicted elsewhere: a file, a query or a table (see `capture.import_predictions`)."""
        context, (chunks, total, text) = self.context, _source(source)
        with closing(chunks):  # an import that is refused half way gives the source's connection back at once
            return import_predictions(
                chunks,
                model,
                context.deployments(),
                context.log,
                now=context.clock(),
                progress=context.progress,
                total=total,
                version=version,
                on_error=on_error,
                text=text,
            )

    def capture_client(self, *, close: Callable[[], None] = lambda: None) -> Client:
        """A client for a process that serves by itself, to log what it answered; `close` is called at its end."""
        context, spool = self.context, self.context.new_spool()
        forwarder = context.forwarder(spool)
        forwarder.start()

        def end() -> None:
            forwarder.stop()
            close()

        return Client(
            context.deployments(),
            SpoolView(spool, counts=False),
            context.clock,
            bits=context.bits,
            accounts=spool,
            close=end,
            take_outcomes=Receiver(context.store, spool, context.clock).record,
        )

    def forward(self, *, rejected: bool = False) -> Drained:
        """Moves what waits in the spools of this host to the store, with `rejected` also what it refused before.

        Raises Unavailable; what could be moved is moved by then.
        """
        forwarder = self.context.forwarder()
        if rejected:
            forwarder.retry_rejected()
        return forwarder.drain()

    def accounts(self, model: str | None = None) -> list[SpoolAccount]:
        """What became of the rows of every serving process: those that the store knows of, and this host's."""
        merged = merge_accounts(spool_accounts.load_accounts(self.context.store, model=model), self.local_accounts())
        return [account for account in merged if model is None or model_of(account.model) in (model, "")]

    def put_aside(self) -> dict[str, dict[str, int]]:
        """Which models' rows the store refused for good, of this host's spools: how many, by cause."""
        return put_aside(self.context.spools)

    def local_accounts(self) -> list[SpoolAccount]:
        """What the spools on this host say themselves; needs no store."""
        return local_accounts(self.context.spools, self.context.clock())

    def watch_accounts(self, model: str) -> int:
        """Raises an alert for whatever is not as it should be in the accounts; returns how many are new."""
        context, accounts = self.context, self.accounts(model)
        return tell_differences(context.store, accounts, context.routes, context.clock(), context.settings.capture)


def _source(source: Path | Query | pa.Table) -> tuple[Generator[pa.Table], int | None, bool]:
    """The rows in chunks, how many there are where that is known, and whether they are text."""
    if isinstance(source, Path):
        return read_file(source)
    if isinstance(source, Query):
        return source.chunks(CHUNK_ROWS), None, False
    parts = range(0, source.num_rows, CHUNK_ROWS)
    return (source.slice(part, CHUNK_ROWS) for part in parts), source.num_rows, False

"""Outcomes: taken in, joined with predictions, and looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from feedback_loop.alerts import tell_bad_rows, tell_refused_file
from feedback_loop.clock import Window, format_moment
from feedback_loop.errors import Refused
from feedback_loop.loop.context import Context
from feedback_loop.monitoring import fold_news
from feedback_loop.outcomes import (
    CHUNK_ROWS,
    By,
    Coverage,
    FolderIntake,
    IntakeResult,
    OnError,
    OutcomeFile,
    Polled,
    check_outcomes,
    copied,
    coverage,
    load_folder,
    outcome_columns,
    poll_sql,
    record_outcomes,
    take_parts,
)
from feedback_loop.schema import Contract, with_booleans
from feedback_loop.store import fence, predictions, retention
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.findings import Finding, load_findings
from feedback_loop.store.joins import Joined, join_new
from feedback_loop.store.model_tables import table_columns


@dataclass(frozen=True)
class Outcomes:
    """The part of the loop that knows what really happened after a prediction.

    With `are_actions` `record` and `load` take in what callers did with the answers, as they do outcomes.
    """

    context: Context
    are_actions: bool = False

    def record(
        self, model: str, frame: Any, *, source: str = "python", on_error: OnError = "refuse", text: bool = False
    ) -> IntakeResult:
        """Takes outcomes in (see `feedback_loop.outcomes.record_outcomes`)."""
        scorer = self.context.scorer(self.context.champion(model))
        return record_outcomes(
            self.context.store,
            self._reported(scorer.contract),
            frame,
            now=self.context.clock(),
            source=source,
            on_error=on_error,
            text=text,
            redaction=scorer.redaction,
        )

    def _reported(self, contract: Contract) -> Contract:
        return contract.of_actions if self.are_actions else contract

    def load(
        self, model: str, path: Path, *, on_error: OnError = "refuse", chunk_rows: int = CHUNK_ROWS
    ) -> IntakeResult:
        """Takes a file in (Parquet, CSV, NDJSON, Arrow), part by part: it may be larger than memory.

        Where bad rows refuse it, all of it is looked at before the first part is stored. A load that is interrupted
        is made again: what is stored already changes nothing.
        """
        return self._load(model, OutcomeFile.of(path), path.name, on_error, chunk_rows)

    def load_stream(
        self, model: str, stream: IO[bytes], kind: str, name: str, *, on_error: OnError = "refuse"
    ) -> IntakeResult:
        """The same of what a stream holds, in the format `kind`: it lies in a file meanwhile."""
        with copied(stream, kind, name) as file:
            return self._load(model, file, "-", on_error)

    def _load(
        self, model: str, file: OutcomeFile, source: str, on_error: OnError, chunk_rows: int = CHUNK_ROWS
    ) -> IntakeResult:
        scorer = self.context.scorer(self.context.champion(model))
        contract = self._reported(scorer.contract)
        asked, now = fence.asked_until(self.context.store, model), self.context.clock()

        def check(rows: Any, text: bool) -> object:
            return check_outcomes(
                contract,
                rows,
                now=now,
                source=source,
                on_error=on_error,
                text=text,
                redaction=scorer.redaction,
                asked_until=asked,
            )

        return take_parts(
            lambda: file.parts(outcome_columns(contract), chunk_rows),
            check if on_error == "refuse" else None,
            lambda rows, text: self.record(model, rows, source=source, on_error=on_error, text=text),
        )

    def take_in(self, model: str) -> FolderIntake | None:
        """Takes in what lies in the model's folder of outcomes; None where none is configured.

        Each file that is refused raises an alert.
        """
        context, folder = self.context, self.context.settings.model(model).outcomes.folder
        if not folder:
            return None
        return load_folder(
            folder if "://" in folder else str(context.settings.path(folder)),
            lambda file: self._load(model, file, "folder", "refuse"),
            lambda refused: tell_refused_file(context.store, model, refused, context.routes, context.clock()),
        )

    def poll(self, model: str) -> Polled | None:
        """Takes in what the model's SQL source has that is new; None where none is configured.

        Rows that are left out raise an alert, once.
        """
        context, source = self.context, self.context.settings.model(model).outcomes.sql
        if source is None:
            return None
        contract = context.scorer(context.champion(model)).contract

        def take(rows: pa.Table) -> IntakeResult:
            rows = with_booleans(rows, (*contract.key, *contract.labels))
            return self.record(model, rows, source="sql", on_error="skip")

        source = source.model_copy(update={"url": context.settings.url(source.url)})
        polled = poll_sql(context.store, model, source, take, context.clock())
        tell_bad_rows(context.store, model, polled, context.routes, context.clock())
        return polled

    def join(self, model: str) -> Joined:
        """Takes what has come since the last time into the accounts: coverage, findings, windows to look at again."""
        context, window = self.context, self.context.settings.model(model).window
        return join_new(context.store, context.contract(model), window, context.clock(), fold_news)

    def labelled(self, model: str, window: Window, as_of: datetime | None = None) -> pa.Table:
        """The predictions of a window, each with what was known of it `as_of` a moment: the same rows for ever.

        Columns: those of `store.predictions.read_labelled`, all of the contract and of the log. Raises BadInput for a
        moment that has not come yet.
        """
        self.refuse_removed(model, window)
        context = self.context
        as_of = context.final(model, as_of)
        contract = context.contract(model)
        return predictions.read_labelled(
            context.store, contract, window, as_of=as_of, columns=table_columns(contract)
        )

    def coverage(self, model: str, by: By) -> list[Coverage]:
        """How many of the champion's predictions have an outcome, by `age`, `version` or `segment`.

        What absence means is counted apart from what was observed.
        """
        self.join(model)
        context, window = self.context, self.context.settings.model(model).window
        accounts, until = load_coverage(context.store, model)
        until = until or context.clock()
        return coverage(with_inferred(context.store, context.contract(model), window, accounts, until), by, until)

    def findings(self, model: str, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
        """Outcomes that fit no prediction (`unmatched`: they may be early), or predictions with a `conflict`."""
        self.join(model)
        return load_findings(self.context.store, self.context.contract(model), kind, most)

    def refuse_removed(self, model: str, window: Window) -> None:
        """Raises Refused for a window of which retention has removed rows."""
        since = retention.kept_since(self.context.store, model)
        if since is not None and window.start < since:
            raise Refused(
                f"Predictions of {model} from before {format_moment(since)} are gone: models.{model}.log.retention.",
                cure="What was said of that window then is kept in the evaluations; ask for one from that moment on.",
            )

"""Outcomes: taken in, joined, looked at; and what of a model's rows is kept or erased."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_loop.alerts import tell_bad_rows, tell_refused_file
from feedback_loop.clock import Window, format_moment
from feedback_loop.errors import Refused
from feedback_loop.inference import Scorer
from feedback_loop.loop.context import Context
from feedback_loop.monitoring import fold_news
from feedback_loop.outcomes import (
    CHUNK_ROWS,
    By,
    Coverage,
    FolderIntake,
    IntakeResult,
    OnError,
    Polled,
    check_outcomes,
    coverage,
    load_folder,
    outcome_parts,
    poll_sql,
    record_outcomes,
    take_parts,
)
from feedback_loop.schema import with_booleans
from feedback_loop.store import fence, predictions, privacy
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.findings import Finding, load_findings
from feedback_loop.store.joins import Joined, join_new


@dataclass(frozen=True)
class Outcomes:
    """Everything that is known of predictions after they were made."""

    context: Context

    def record(
        self, model: str, frame: Any, *, source: str = "python", on_error: OnError = "refuse", text: bool = False
    ) -> IntakeResult:
        """Takes outcomes in (see `feedback_loop.outcomes.record_outcomes`)."""
        scorer = self.context.scorer(self.context.champion(model))
        return record_outcomes(
            self.context.store,
            scorer.contract,
            frame,
            now=self.context.clock(),
            source=source,
            on_error=on_error,
            text=text,
            redaction=scorer.redaction,
        )

    def load(
        self, model: str, path: Path, *, on_error: OnError = "refuse", chunk_rows: int = CHUNK_ROWS
    ) -> IntakeResult:
        """Takes a file in (Parquet, CSV, NDJSON, Arrow), part by part: it may be larger than memory.

        Where bad rows refuse it, all of it is looked at before the first part is stored. A load that is interrupted
        is made again: what is stored already changes nothing.
        """
        scorer = self.context.scorer(self.context.champion(model))
        asked, now = fence.asked_until(self.context.store, model), self.context.clock()

        def check(rows: Any, text: bool) -> object:
            return check_outcomes(
                scorer.contract,
                rows,
                now=now,
                source=path.name,
                on_error=on_error,
                text=text,
                redaction=scorer.redaction,
                asked_until=asked,
            )

        return take_parts(
            lambda: outcome_parts(path, chunk_rows),
            check if on_error == "refuse" else None,
            lambda rows, text: self.record(model, rows, source=path.name, on_error=on_error, text=text),
        )

    def take_in(self, model: str) -> FolderIntake | None:
        """Takes in what lies in the model's folder of outcomes; None where none is configured.

        Each file that is refused raises an alert.
        """
        folder = self.context.settings.model(model).outcomes.folder
        if not folder:
            return None
        place = folder if "://" in folder else str(self.context.settings.path(folder))
        routes = self.context.routes
        return load_folder(
            place,
            lambda table, text: self.record(model, table, source="folder", text=text),
            lambda refused: tell_refused_file(self.context.store, model, refused, routes, self.context.clock()),
        )

    def poll(self, model: str) -> Polled | None:
        """Takes in what the model's SQL source has that is new; None where none is configured.

        Rows that are left out raise an alert, once.
        """
        source = self.context.settings.model(model).outcomes.sql
        if source is None:
            return None
        url = self.context.settings.url(source.url)

        contract = self.context.scorer(self.context.champion(model)).contract

        def take(rows: pa.Table) -> IntakeResult:
            rows = with_booleans(rows, (*contract.key, *contract.labels))
            return self.record(model, rows, source="sql", on_error="skip")

        polled = poll_sql(
            self.context.store, model, source.model_copy(update={"url": url}), take, self.context.clock()
        )
        tell_bad_rows(self.context.store, model, polled, self.context.routes, self.context.clock())
        return polled

    def join(self, model: str) -> Joined:
        """Takes what has come since the last time into the accounts: coverage, findings, windows to look at again."""
        contract = self.context.scorer(self.context.champion(model)).logged
        return join_new(
            self.context.store, contract, self.context.settings.model(model).window, self.context.clock(), fold_news
        )

    def labelled(self, model: str, window: Window, as_of: datetime | None = None) -> pa.Table:
        """The predictions of a window, each with what was known of it `as_of` a moment: the same rows for ever.

        Columns: those of `store.predictions.read_labelled`. Raises BadInput for a moment that has not come yet.
        """
        self.refuse_removed(model, window)
        contract = self.context.scorer(self.context.champion(model)).logged
        return predictions.read_labelled(self.context.store, contract, window, as_of=self.context.final(model, as_of))

    def coverage(self, model: str, by: By) -> list[Coverage]:
        """How many of the champion's predictions have an outcome, by `age`, `version` or `segment`.

        What absence means is counted apart from what was observed.
        """
        self.join(model)
        accounts, until = load_coverage(self.context.store, model)
        until = until or self.context.clock()
        contract = self.context.scorer(self.context.champion(model)).logged
        known = with_inferred(
            self.context.store, contract, self.context.settings.model(model).window, accounts, until
        )
        return coverage(known, by, until)

    def findings(self, model: str, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
        """Outcomes that fit no prediction (`unmatched`: they may be early), or predictions with a `conflict`."""
        self.join(model)
        return load_findings(self.context.store, self.context.scorer(self.context.champion(model)).logged, kind, most)

    def refuse_removed(self, model: str, window: Window) -> None:
        """Raises Refused for a window of which retention has removed rows."""
        since = privacy.kept_since(self.context.store, model)
        if since is not None and window.start < since:
            raise Refused(
                f"Predictions of {model} from before {format_moment(since)} are gone: models.{model}.log.retention.",
                cure="What was said of that window then is kept in the evaluations; ask for one from that moment on.",
            )


def refuse_unfit(scorer: Scorer, done: str, *, instead: str = "", of_labels: str = "") -> None:
    """Raises Refused for a version whose log does not hold what it saw, or that predicts several labels."""
    if scorer.redaction.hides_features:
        raise Refused(
            f"{scorer.version} can't be {done}: some of its features are logged hashed or not at all.",
            cure=f"Log them plain (models.{scorer.contract.model}.log.columns){instead}.",
        )
    if scorer.contract.more_labels:
        raise Refused(f"{scorer.version} can't be {done}: it predicts several labels.", cure=of_labels)

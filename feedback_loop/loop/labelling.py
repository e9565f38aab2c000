"""Outcomes: taken in, joined, looked at; and what of a model's rows is kept or erased."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_loop.alerts import route_names, tell_bad_rows, tell_refused_file
from feedback_loop.capture import erase_waiting
from feedback_loop.clock import Window, floor_moment, format_moment
from feedback_loop.errors import Refused
from feedback_loop.loop.base import Wired
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
from feedback_loop.privacy import Eraser, Erasure, erased_key
from feedback_loop.schema import with_booleans
from feedback_loop.store import fence, predictions, privacy
from feedback_loop.store.coverage import load_coverage, with_inferred
from feedback_loop.store.findings import Finding, load_findings
from feedback_loop.store.joins import Joined, join_new


class Labelling(Wired):
    """Everything that is known of predictions after they were made."""

    def record_outcomes(
        self, model: str, frame: Any, *, source: str = "python", on_error: OnError = "refuse", text: bool = False
    ) -> IntakeResult:
        """Takes outcomes in (see `feedback_loop.outcomes.record_outcomes`)."""
        scorer = self.scorer(self.champion(model))
        return record_outcomes(
            self.store,
            scorer.contract,
            frame,
            now=self.clock(),
            source=source,
            on_error=on_error,
            text=text,
            redaction=scorer.redaction,
        )

    def load_outcomes(
        self, model: str, path: Path, *, on_error: OnError = "refuse", chunk_rows: int = CHUNK_ROWS
    ) -> IntakeResult:
        """Takes a file in (Parquet, CSV, NDJSON, Arrow), part by part: it may be larger than memory.

        Where bad rows refuse it, all of it is looked at before the first part is stored. A load that is interrupted
        is made again: what is stored already changes nothing.
        """
        scorer = self.scorer(self.champion(model))
        asked, now = fence.asked_until(self.store, model), self.clock()

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
            lambda rows, text: self.record_outcomes(model, rows, source=path.name, on_error=on_error, text=text),
        )

    def take_in_outcomes(self, model: str) -> FolderIntake | None:
        """Takes in what lies in the model's folder of outcomes; None where none is configured.

        Each file that is refused raises an alert.
        """
        folder = self.settings.model(model).outcomes.folder
        if not folder:
            return None
        place = folder if "://" in folder else str(self.settings.path(folder))
        routes = route_names(self.settings.alerts)
        return load_folder(
            place,
            lambda table, text: self.record_outcomes(model, table, source="folder", text=text),
            lambda refused: tell_refused_file(self.store, model, refused, routes, self.clock()),
        )

    def poll_outcomes(self, model: str) -> Polled | None:
        """Takes in what the model's SQL source has that is new; None where none is configured.

        Rows that are left out raise an alert, once.
        """
        source = self.settings.model(model).outcomes.sql
        if source is None:
            return None
        url = self.settings.url(source.url)

        contract = self.scorer(self.champion(model)).contract

        def take(rows: pa.Table) -> IntakeResult:
            rows = with_booleans(rows, (*contract.key, *contract.labels))
            return self.record_outcomes(model, rows, source="sql", on_error="skip")

        polled = poll_sql(self.store, model, source.model_copy(update={"url": url}), take, self.clock())
        tell_bad_rows(self.store, model, polled, route_names(self.settings.alerts), self.clock())
        return polled

    def join(self, model: str) -> Joined:
        """Takes what has come since the last time into the accounts: coverage, findings, windows to look at again."""
        contract = self.scorer(self.champion(model)).logged
        return join_new(self.store, contract, self.settings.model(model).window, self.clock(), fold_news)

    def labelled(self, model: str, window: Window, as_of: datetime | None = None) -> pa.Table:
        """The predictions of a window, each with what was known of it `as_of` a moment: the same rows for ever.

        Columns: those of `store.predictions.read_labelled`. Raises BadInput for a moment that has not come yet.
        """
        self._refuse_removed(model, window)
        contract = self.scorer(self.champion(model)).logged
        return predictions.read_labelled(self.store, contract, window, as_of=self._final(model, as_of))

    def coverage(self, model: str, by: By) -> list[Coverage]:
        """How many of the champion's predictions have an outcome, by `age`, `version` or `segment`.

        What absence means is counted apart from what was observed.
        """
        self.join(model)
        accounts, until = load_coverage(self.store, model)
        until = until or self.clock()
        contract = self.scorer(self.champion(model)).logged
        known = with_inferred(self.store, contract, self.settings.model(model).window, accounts, until)
        return coverage(known, by, until)

    def findings(self, model: str, kind: Finding, most: int | None = None) -> list[dict[str, Any]]:
        """Outcomes that fit no prediction (`unmatched`: they may be early), or predictions with a `conflict`."""
        self.join(model)
        return load_findings(self.store, self.scorer(self.champion(model)).logged, kind, most)

    def prune(self, model: str) -> privacy.Pruned:
        """Removes records of before `store.history`, as far as nothing goes on from them."""
        history = self.settings.store.history
        if history is None:
            return privacy.Pruned()
        return privacy.prune_records(self.store, model, self.clock() - history)

    def retain(self, model: str) -> privacy.Retained | None:
        """Removes predictions older than the model's `log.retention`, in whole windows; None: it has none."""
        settings = self.settings.model(model)
        if settings.log.retention is None:
            return None
        since = floor_moment(self.clock() - settings.log.retention, settings.window)
        return privacy.retain(self.store, model, self.scorer(self.champion(model)).logged.join, since)

    def erase(self, model: str, key: Mapping[str, object], *, text: bool = False, dry_run: bool = False) -> Erasure:
        """Removes every row with that key, or part of a composite key, wherever it is, and says what was removed.

        Rows of it that still come from before now are left out from now on. With `text`, values are parsed. Raises
        BadInput for what is no part of the key. See `feedback_loop.privacy` for the order of things.
        """
        scorer = self.scorer(self.champion(model))
        wanted = erased_key(scorer.redaction, key, text=text)
        now = self.clock()
        eraser = Eraser(
            self.store,
            self.registry,
            scorer.redaction,
            self.reports,
            self._forwarder().erase,
            lambda key, dry_run: erase_waiting(self.store, self._deployments(), model, key, now, dry_run=dry_run),
        )
        done = eraser.run(wanted, now, dry_run=dry_run)
        self._references.forget(model)
        return done

    def _refuse_removed(self, model: str, window: Window) -> None:
        since = privacy.kept_since(self.store, model)
        if since is not None and window.start < since:
            raise Refused(
                f"Predictions of {model} from before {format_moment(since)} are gone: models.{model}.log.retention.",
                cure="What was said of that window then is kept in the evaluations; ask for one from that moment on.",
            )

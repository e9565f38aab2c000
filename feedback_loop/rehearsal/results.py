"""What a rehearsal has to tell: losses on the labelled rows, alarms, diagnoses, retrainings, promotions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.adaptation import WhatIf
from feedback_loop.clock import EPOCH, Window
from feedback_loop.inference import Scorer, why_unfit
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import Floats, row_losses
from feedback_loop.rehearsal.history import History
from feedback_loop.schema import Contract
from feedback_loop.store import conclusions, retrainings
from feedback_loop.store.conclusions import load_verdict
from feedback_loop.store.incidents import load_incidents
from feedback_loop.store.predictions import read_labelled


def why_not_fitted(champion: Scorer) -> str:
    """Why a model can't be fitted again; empty where it can."""
    if champion.loaded.estimator is None:
        return "it is not a scikit-learn model, so its pipeline can't be fitted again"
    return why_unfit(champion)


def labelled_rows(own: FeedbackLoop, contracts: dict[str, Contract], adapted: WhatIf | None = None) -> pa.Table:
    """Id, moment, labels, and the loop's own losses (`loss.<name>`) of each labelled row of the log.

    With what an adapter would have answered also the losses with it (`adapted.<name>`).
    """
    everything, parts = Window(EPOCH, own.clock() + timedelta(days=1)), []
    for version, contract in contracts.items():
        rows = read_labelled(own.store, contract, everything, version=version, columns=contract.outputs)
        rows = rows.filter(pc.is_valid(rows.column(contract.label.stored)))
        if rows.num_rows:
            kept = rows.select(["prediction_id", "predicted_at", *(label.stored for label in contract.labels)])
            for name, values in losses_of(contract, rows).items():
                kept = kept.append_column(f"loss.{name}", pa.array(values))
            changed = losses_of(contract, adapted.in_place(contract, rows)) if adapted is not None else {}
            for name, values in changed.items():
                kept = kept.append_column(f"adapted.{name}", pa.array(values))
            parts.append(kept)
    return pa.concat_tables(parts, promote_options="default").sort_by("predicted_at")


def losses_of(contract: Contract, rows: pa.Table) -> dict[str, Floats]:
    """The losses that all of these rows have: who imported probabilities alone has no errors, and the other way."""
    losses = row_losses(contract, rows)
    if rows.column(contract.outputs[0].stored).null_count:
        losses.pop("error", None)
    return {name: values for name, values in losses.items() if np.isfinite(values).all()}


def losses_with(contract: Contract, labelled: pa.Table, history: History, outputs: pa.Table) -> dict[str, Floats]:
    """The losses on the labelled rows of other `outputs`, which are in the history's order."""
    ids = history.inputs.column(history.contract.own("prediction_id")).combine_chunks()
    places = pc.index_in(labelled.column("prediction_id"), value_set=ids)
    answered = outputs.take(places)
    columns = {label.stored: labelled.column(label.stored) for label in contract.labels}
    columns |= {column.stored: answered.column(column.name) for column in contract.outputs}
    return losses_of(contract, pa.table(columns))


def story_of(own: FeedbackLoop, model: str, start: datetime) -> dict[str, Any]:
    """What happened, in the order of time, as plain values."""
    incidents = [
        (incident, load_verdict(own.store, incident.verdict_id))
        for incident in load_incidents(own.store, model)
        if incident.verdict_id is not None  # rollbacks are among the moves
    ]
    alarms: list[dict[str, Any]] = [
        {
            "at": verdict.decided_at,
            "version": verdict.version,
            "summary": verdict.summary,
            "closed_at": incident.closed_at,
            "closed_because": incident.closed_because,
        }
        for incident, verdict in incidents
    ]
    made: list[dict[str, Any]] = [
        {"at": diagnosis.as_of, "recommendation": str(diagnosis.recommendation), "summary": diagnosis.summary}
        for incident, _ in incidents
        for diagnosis in conclusions.load_diagnoses(own.store, model, incident.incident_id)
    ]
    searches: list[dict[str, Any]] = [
        {
            "at": search.started_at,
            "reason": search.reason,
            "state": search.state,
            "candidate": search.candidate,
            "summary": search.cause,
        }
        for search in retrainings.load_retrainings(own.store, model)
    ]
    moves = [
        {"at": promotion.done_at, "version": promotion.to_version, "kind": promotion.kind, "reason": promotion.reason}
        for promotion in retrainings.load_promotions(own.store, model)
        if promotion.done_at is not None and promotion.done_at > start
    ]
    story = {"alarms": alarms, "diagnoses": made, "retrainings": searches, "promotions": moves}
    return {name: sorted(values, key=lambda event: event["at"]) for name, values in story.items()}

"""The causes of a change of the mean loss, and the recommendation that follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.decisions.diagnosis.comparison import TIME, Comparison, compare, loss_name, mean_change
from feedback_loop.decisions.diagnosis.faults import suspects
from feedback_loop.decisions.diagnosis.replays import MATERIAL, Replay, Score, confirmed, dead_feature
from feedback_loop.decisions.diagnosis.split import split_change
from feedback_loop.decisions.diagnosis.words import Causes, Fault, Recommendation, causes_words
from feedback_loop.schema import Contract

LEAST_ROWS = 500
"""With fewer labelled rows on either side there is no diagnosis."""

STRUCTURE = 0.1
"""Another architecture is worth a search where a flexible learner saves so much of the reference's own loss."""

WORTH = 0.1
"""More data are worth a retraining where a learner that has them saves so much of the change."""

GONE_SHARE, GONE_AFTER = 0.99, timedelta(days=30)
"""A feature that has been missing from so many rows for so long is taken to be gone."""


def find_causes(
    contract: Contract, reference: pa.Table, current: pa.Table, score: Score, *, length: timedelta, seed: int
) -> Causes:
    """The causes by labelled rows of the reference and of now (columns by stored names, with `predicted_at`).

    `score` is the champion, `length` that of a window. Faults are repeated on the reference's rows: their cost there
    is their part of the change; the rest is split between rows that have the same faults. The same rows and seed give
    the same causes.
    """
    from threadpoolctl import threadpool_limits

    rows = reference.num_rows, current.num_rows
    if min(rows) < LEAST_ROWS:
        summary = (
            f"The reference has {rows[0]:,} labelled rows and the window {rows[1]:,}: {LEAST_ROWS} each are needed."
        )
        return Causes(Recommendation.INSUFFICIENT_DATA, summary, loss_name(contract), *rows, seed)
    compared = compare(contract, reference, current, length=length, seed=seed)
    with threadpool_limits(1):  # threads that wait for each other are slower on work as small as this
        replay = Replay(compared, score)
        faults = confirmed(replay, suspects(compared))
        broken = replay.broken(faults)
        causes = Causes(
            Recommendation.NONE,
            "",
            loss_name(contract),
            *rows,
            seed,
            mean_before=float(compared.losses[~compared.is_now].mean()),
            change=mean_change(compared),
            broken=replay.cost(faults),
            split=split_change(broken),
            faults=tuple(Fault(f.column.name, f.kind, f.share, f.what, replay.cost([f])) for f in faults),
        )
        causes = _concluded(causes, broken, score)
    return replace(causes, summary=causes_words(causes))


def _concluded(causes: Causes, broken: Comparison, score: Score) -> Causes:
    """The recommendation: to repair a broken feed first, since nothing can be learned from it; then by cost."""
    assert causes.change and causes.broken and causes.split and causes.mean_before is not None
    split, total = causes.split, causes.change.value
    if causes.broken.is_sure and causes.broken.value > MATERIAL * total:
        worst = max(causes.faults, key=lambda fault: fault.cost.value)
        is_gone = worst.kind == "missing" and worst.share > GONE_SHARE and _span(broken.current) > GONE_AFTER
        return replace(
            causes,
            recommendation=Recommendation.REPLACE if is_gone else Recommendation.REPAIR,
            feature=worst.feature,
        )
    structure = split.gain_before
    if (
        structure.is_sure
        and structure.value > STRUCTURE * causes.mean_before
        and structure.value > max(split.relation.value, total / 2)
    ):
        return replace(causes, recommendation=Recommendation.ARCHITECTURE)
    if split.relation.is_sure and split.relation.value > MATERIAL * total:
        dead = dead_feature(Replay(broken, score), split.relation.value)
        return replace(causes, recommendation=Recommendation.REPLACE if dead else Recommendation.RECENT, feature=dead)
    if causes.change.is_sure and split.gain_now.is_sure and split.gain_now.value > WORTH * total:
        return replace(causes, recommendation=Recommendation.MORE)
    return causes


def _span(rows: pa.Table) -> timedelta:
    """From the first row to the last."""
    ends = pc.min_max(rows.column(TIME)).as_py()
    span: timedelta = ends["max"] - ends["min"]
    return span

"""What a diagnosis is worth to the search that follows it: the loss after a steered search and an unsteered one.

A case's rows are laid out in time: twenty days of the reference, twenty since the change. Both searches know all but
the last five days, with the product's settings, and what each of them would put into service (the champion, where its
gate refuses) is judged on those five days: as the rows come, so what is broken stays broken; and as they would come
had the feed been repaired by then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.diagnosis_cases import DAY, DAYS, START, Case
from feedback_loop.clock import EPOCH, Window
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.decisions.diagnosis.words import Causes
from feedback_loop.inference.engines import SklearnEngine
from feedback_loop.inference.scorer import Scorer
from feedback_loop.monitoring import primary_loss
from feedback_loop.registry import LoadedModel, ModelVersion
from feedback_loop.retraining.dataset import KNOWN, OUTCOME, TIME, WEIGHT, TrainingRows
from feedback_loop.retraining.gate import non_inferiority
from feedback_loop.retraining.hints import Hints, hints_of, steered
from feedback_loop.retraining.recipes import KINDS
from feedback_loop.retraining.split import split_newest
from feedback_loop.retraining.trials import make_candidate, plans, refitted, try_plans
from feedback_loop.schema import PREDICTION_ID, make_redaction
from feedback_loop.store.conclusions import Diagnosis

CHANGED, UNTIL, END = START + DAYS * DAY, START + (2 * DAYS - 5) * DAY, START + 2 * DAYS * DAY
"""When the change was, when the searches are made, and when what follows them ends."""

SETTINGS = RetrainingSettings(jobs=1)


@dataclass(frozen=True)
class Worth:
    """Mean losses on the days after a search: of the champion, of what an unsteered search puts into service, and of
    what a steered one does.
    """

    champion: float
    unsteered: float
    steered: float


def worth(case: Case, causes: Causes, seed: int) -> tuple[Worth, Worth]:
    """The losses of a case whose causes were found to be these: as rows come, and once the feed is repaired."""
    rows, loss = _rows(case, case.current), primary_loss(case.contract)
    window, recommendation = Window(CHANGED, UNTIL), str(causes.recommendation)
    evidence = causes.evidence()
    diagnosis = Diagnosis(case.contract.model, "1", 1, window, UNTIL, recommendation, causes.summary, evidence)
    hints = hints_of(diagnosis)
    unsteered = _in_service(rows, Hints(), seed)
    scorers = (rows.champion, unsteered, unsteered if hints == Hints() else _in_service(rows, hints, seed))
    follow = [later.between(UNTIL, END) for later in (rows, _rows(case, case.repaired))]
    as_they_come, repaired = ([float(some.losses(scorer, loss).mean()) for scorer in scorers] for some in follow)
    return Worth(*as_they_come), Worth(*repaired)


def _in_service(rows: TrainingRows, hints: Hints, seed: int) -> Scorer:
    """What answers after a search: the candidate, fitted again, or the champion."""
    champion = rows.champion
    loss, own = primary_loss(champion.contract), champion.loaded.estimator
    rows = rows.between(EPOCH, UNTIL)
    split = split_newest(rows, SETTINGS, UNTIL, DAY)
    planned = plans(KINDS, own, SETTINGS, seed, steered(hints, KINDS, split.holdout))
    split = replace(split, learn=hints.sound(split.learn))

    def rescored(estimator: Any) -> Scorer:
        return _scorer(estimator, champion)

    successes, _ = try_plans(planned, split, SETTINGS, loss, rescored, lambda _: None)
    candidate = make_candidate(successes, split.holdout, loss, rescored)
    if candidate is None:
        return champion
    before, times = split.holdout.losses(champion, loss), split.holdout.decided
    gate = non_inferiority(loss, candidate.losses, before, times, margin=SETTINGS.margin, alpha=SETTINGS.alpha)
    if not gate.passed:
        return champion
    return rescored(refitted(candidate, hints.sound(rows), UNTIL, SETTINGS))


def _rows(case: Case, current: pa.Table) -> TrainingRows:
    """The rows of the reference and of now as a search takes them, a twentieth of each side on each of its days."""
    contract = case.contract
    named = [*(column.name for column in contract.features), contract.label.name]
    both = pa.concat_tables([case.reference.select(named), current.select(named)])
    sides = (case.reference.num_rows, current.num_rows)
    days = np.concatenate([np.arange(rows) * DAYS // rows + place * DAYS for place, rows in enumerate(sides)])
    moments = pa.array([START + int(day) * DAY for day in days], pa.timestamp("us", "UTC"))
    own = {
        contract.own(PREDICTION_ID): pa.nulls(len(both), pa.string()),
        contract.own(TIME): moments,
        **{name: both.column(name) for name in named},
        OUTCOME: pa.array(np.arange(len(both))),
        WEIGHT: pa.array(np.ones(len(both))),
        KNOWN: moments,
    }
    return TrainingRows(pa.table(own), _champion(case))


def _champion(case: Case) -> Scorer:
    """The case's model as the version that answers; its own training rows are from before all of these."""
    version = ModelVersion(case.contract.model, "1", None, _before(), (), {})
    loaded = LoadedModel(version, Path(), None, case.estimator, None, "predict", ())
    engine = SklearnEngine(case.estimator, case.contract)
    return Scorer(version, case.contract, engine, make_redaction(case.contract, {}, b""), model=loaded)


def _before() -> datetime:
    return START - timedelta(days=1)


def _scorer(estimator: Any, champion: Scorer) -> Scorer:
    """The champion with another estimator. All classes are known to each: there are two."""
    loaded = replace(champion.loaded, estimator=estimator)
    return replace(champion, engine=SklearnEngine(estimator, champion.contract), model=loaded)

"""How good a model is and was, and what has changed in what it is asked: figures of its newest windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from feedback_loop.clock import Window, floor_moment
from feedback_loop.errors import NotFound
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import Floats, Profile, curves
from feedback_loop.monitoring.profile_store import kept_cells
from feedback_loop.monitoring.profiles.columns import NumberColumn, WordColumn
from feedback_loop.outcomes import coverage, matured_until
from feedback_loop.plain import plain
from feedback_loop.schema import Role
from feedback_loop.store import Store, adapters, profiles, retrainings
from feedback_loop.store.conclusions import latest_verdict
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.evaluations import (
    ALL_ROWS,
    INSUFFICIENT,
    DriftValue,
    Evaluation,
    load_newest_evaluations,
    with_details,
)
from feedback_loop.store.incidents import load_incidents
from feedback_loop.store.strengths import Strength, load_strengths

WINDOWS = 90
"""So many newest windows are shown."""

FEWEST_WINDOWS, MOST_VALUES = 14, 30_000
"""Of a model with very many columns fewer windows: as many as have so many drift figures together."""

MOST_COLUMNS = 40
"""So many columns are shown in the heat map: those that strayed farthest."""

BARS = 20
"""So many groups of a column's values are told apart, or so many words."""

Z = 1.96


def recent_evaluations(store: Store, model: str) -> list[Evaluation]:
    """The newest evaluation of each of the newest windows (and versions in it), oldest window first.

    Without their drift, which of many columns takes long to read: see `load_strengths` and `with_details`.
    """
    return load_newest_evaluations(store, model, WINDOWS, details=["estimates"])


def metric_names(evaluations: Iterable[Evaluation]) -> list[str]:
    """The metrics that any of them has of any rows, and those that are only estimated."""
    names: set[str] = set()
    for evaluation in evaluations:
        names |= {value.metric for value in evaluation.metrics} | {value.metric for value in evaluation.estimates}
    return sorted(names - {INSUFFICIENT})


def metric_history(evaluations: Iterable[Evaluation], metric: str, segment: str = ALL_ROWS) -> list[dict[str, Any]]:
    """A metric over windows: its value once they have matured, with its 95% interval and bounds, and its estimate."""
    rows = []
    for evaluation in evaluations:
        of_metric = (value for value in evaluation.metrics if value.metric == metric and value.segment == segment)
        value = next(of_metric, None) if evaluation.matured else None
        of_estimate = (one for one in evaluation.estimates if one.metric == metric and one.segment == segment)
        estimate = next(of_estimate, None)
        row: dict[str, Any] = {
            "window": evaluation.window,
            "version": evaluation.version,
            "value": None,
            "standard_error": None,
            "least": None,
            "most": None,
            "rows": None,
            "predictions": evaluation.predictions,
            "coverage": evaluation.coverage,
            "matured": evaluation.matured,
            "estimate": estimate.value if estimate else None,
            "estimate_error": estimate.standard_error if estimate else None,
        }
        if value is not None:
            row |= {name: getattr(value, name) for name in ("value", "standard_error", "least", "most", "rows")}
            if segment != ALL_ROWS:
                row["coverage"] = value.coverage
        row |= _ends("", row["value"], row["standard_error"])
        row |= _ends("estimate_", row["estimate"], row["estimate_error"])
        rows.append(plain(row))
    return rows


def _ends(prefix: str, value: float | None, error: float | None) -> dict[str, float | None]:
    """The ends of a 95% interval."""
    if value is None or error is None:
        return {f"{prefix}low": None, f"{prefix}high": None}
    return {f"{prefix}low": value - Z * error, f"{prefix}high": value + Z * error}


def segment_figures(evaluations: Sequence[Evaluation], metric: str) -> list[dict[str, Any]]:
    """A metric of each segment in the newest window that has it, the largest segment first."""
    for evaluation in reversed(evaluations):
        values = [value for value in evaluation.metrics if value.metric == metric]
        if evaluation.matured and any(value.segment for value in values):
            rows = [
                {
                    **plain(value),
                    "segment": value.segment or "(all)",
                    "window": plain(evaluation.window),
                    "version": evaluation.version,
                    **_ends("", value.value, value.standard_error),
                }
                for value in values
            ]
            return sorted(rows, key=lambda row: (row["segment"] != "(all)", -row["rows"]))
    return []


def drift_matrix(store: Store, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """How far each column strayed in each window, as a multiple of what counts as drift; None where it is not known.

    `rows` has the newest window's figures by column, the farthest first.
    """
    newest = newest_drift(store, evaluations)
    drifts = newest.drift if newest else ()
    windows = min(max(MOST_VALUES // max(len(drifts), 1), FEWEST_WINDOWS), WINDOWS)
    shown = evaluations[-windows:]
    strength: dict[str, dict[datetime, tuple[float, bool]]] = {}
    peaks: dict[str, float] = {}
    for evaluation, values in zip(shown, load_strengths(store, shown), strict=True):
        for value in values:
            far = abs(value.value) / value.threshold
            peaks[value.column] = max(far, peaks.get(value.column, far))
            strength.setdefault(value.column, {})[evaluation.window.start] = far, value.drifted
    farthest = sorted(peaks, key=lambda column: -peaks[column])[:MOST_COLUMNS]
    starts = sorted({evaluation.window.start for evaluation in shown})
    return {
        "windows": plain(starts),
        "columns": farthest,
        "strength": [[strength[column].get(start, (None, False))[0] for start in starts] for column in farthest],
        "drifted": [[strength[column].get(start, (None, False))[1] for start in starts] for column in farthest],
        "rows": _farthest(drifts),
        "window": plain(newest.window) if newest else None,
        "version": newest.version if newest else None,
    }


def drift_rows(store: Store, model: str) -> list[dict[str, Any]]:
    """The newest figures of drift by column, the farthest first."""
    newest = newest_drift(store, recent_evaluations(store, model))
    return _farthest(newest.drift if newest else ())


def _farthest(drifts: Iterable[DriftValue]) -> list[dict[str, Any]]:
    rows = [dict(vars(value)) for value in drifts if value.decides or value.method == INSUFFICIENT]
    return sorted(rows, key=lambda row: -row["value"] / row["threshold"])


def newest_drift(store: Store, evaluations: Sequence[Evaluation], start: datetime | None = None) -> Evaluation | None:
    """The newest of these evaluations (of the window that begins at `start`) that has figures of drift, with them."""
    for evaluation in reversed(evaluations):
        if start in (None, evaluation.window.start) and (whole := with_details(store, evaluation)).drift:
            return whole
    return None


def marks(store: Store, model: str, since: datetime) -> dict[str, list[dict[str, Any]]]:
    """What happened to the model: versions that became its champion, incidents, and what its adapter did."""
    promoted = [promotion for promotion in retrainings.load_promotions(store, model) if promotion.done_at is not None]
    acts = ("begun", "held", "hold", "release", "stopped")
    return {
        "promotions": [
            {"at": plain(promotion.done_at), "version": promotion.to_version, "kind": promotion.kind}
            for promotion in promoted
            if promotion.done_at is not None and promotion.done_at >= since
        ],
        "incidents": [
            {"at": plain(incident.opened_at), "until": plain(incident.closed_at), "id": incident.incident_id}
            for incident in load_incidents(store, model)
            if (incident.closed_at or incident.opened_at) >= since or incident.closed_at is None
        ],
        "adapter": [
            {"at": plain(revision.made_at), "kind": str(revision.kind), "revision": revision.revision}
            for revision in reversed(adapters.load_revisions(store, model, WINDOWS))
            if revision.kind in acts and revision.made_at >= since
        ],
    }


def adapter_losses(store: Store, model: str) -> list[dict[str, Any]]:
    """The losses of raw and of served answers in each cohort that the adapter learned from, oldest first.

    A cohort whose outcomes were corrected, or came late, is learned from again: as it was the last time.
    """
    revisions = reversed(adapters.load_revisions(store, model, WINDOWS))
    by_cohort = {
        revision.cohort_start: {
            "cohort": plain(revision.cohort_start),
            "revision": revision.revision,
            "kind": str(revision.kind),
            "labelled": revision.labelled,
            "loss_raw": revision.details["loss_raw"],
            "loss_served": revision.details["loss_served"],
        }
        for revision in revisions
        if "loss_raw" in revision.details and revision.cohort_start is not None
    }
    return [by_cohort[start] for start in sorted(by_cohort)]


def coverage_by_age(loop: FeedbackLoop, model: str) -> list[dict[str, Any]]:
    """How many of the champion's predictions have an outcome, by age, as of the last join: nothing is joined here.

    Where absence means a label, all of a window count as labelled once the whole of it has matured.
    """
    settings = loop.settings.model(model)
    accounts, until = load_coverage(loop.store, model)
    until = until or loop.clock()
    if settings.join.absent_means is not None:
        matured = matured_until(until, settings.maturity, settings.window) - settings.window
        accounts = [
            replace(account, inferred=account.eligible - account.labelled)
            if account.window_start <= matured
            else account
            for account in accounts
        ]
    return [
        {**plain(group), "labelled": group.labelled, "share": group.share}
        for group in coverage(accounts, "age", until)
    ]


def current_profile(store: Store, model: str, version: str, window: Window) -> tuple[Profile, Profile] | None:
    """The profiles of a version's reference and of a window of whole hours; None where it has no reference."""
    hours = Window(floor_moment(window.start, profiles.HOUR), floor_moment(window.end, profiles.HOUR))
    stored = profiles.load_window(store, model, version, Role.CHAMPION, hours)
    if stored.reference is None:
        return None
    reference = Profile.from_bytes(stored.reference.profile)
    return reference, Profile.of(reference.layout, kept_cells(stored.tallies))


def calibration(store: Store, model: str, version: str, window: Window) -> dict[str, list[dict[str, Any]]]:
    """By class: tenths of the probabilities, with their mean and the rate of the class; empty without outcomes."""
    both = current_profile(store, model, version, window)
    return {name: plain(list(curve.calibration)) for name, curve in curves(both[1]).items()} if both else {}


def column_detail(store: Store, model: str, version: str, window: Window, column: str) -> dict[str, Any]:
    """The shares of a column's values in the reference and in a window, in the same groups; raises NotFound."""
    both = current_profile(store, model, version, window)
    if both is None or column not in both[0].columns:
        raise NotFound("column in the profile", column, cure=f"The columns of {model}: on its page, under drift.")
    reference, current = both[0].columns[column], both[1].columns[column]
    figures: dict[str, tuple[float | None, float | None]]
    if isinstance(reference, NumberColumn) and isinstance(current, NumberColumn):
        groups, before, now = _number_groups(reference, current)
        figures = {"mean": (float(reference.mean), float(current.mean) if current.rows else None)}
    else:
        assert isinstance(reference, WordColumn)
        assert isinstance(current, WordColumn)
        groups, before, now = _word_groups(reference, current)
        figures = {"new values": (reference.new, current.new)}
    figures["missing"] = _share(reference), _share(current)
    return {
        "groups": groups,
        "reference": _shares(before),
        "current": _shares(now),
        "rows": {"reference": reference.rows, "current": current.rows},
        "figures": figures,
    }


def column_strength(store: Store, evaluations: Sequence[Evaluation], column: str) -> list[tuple[str, Strength]]:
    """How far a column strayed in each of these windows, by its start."""
    return [
        (plain(evaluation.window.start), value)
        for evaluation, values in zip(evaluations, load_strengths(store, evaluations), strict=True)
        for value in values
        if value.column == column
    ]


def _number_groups(reference: NumberColumn, current: NumberColumn) -> tuple[list[str], Floats, Floats]:
    """Groups of about equal weight of the reference; a column of few values has a group for each."""
    edges, count = reference.edges, len(reference.counts)
    starts = np.arange(count) if reference.layout.are_values and count <= BARS else reference.group_starts(BARS)
    before, now = np.add.reduceat(reference.counts, starts), np.add.reduceat(current.counts, starts)
    ends = [int(start) - 1 for start in starts[1:]]
    names = [f"≤ {edges[end]:.4g}" for end in ends]
    last = f"> {edges[ends[-1]]:.4g}" if ends else "all"
    return [*names, last], before, now


def _word_groups(reference: WordColumn, current: WordColumn) -> tuple[list[str], Floats, Floats]:
    """The most frequent words, all others together, and new ones."""
    words = list(reference.layout.words[:BARS])
    before, now = (
        np.append(column.counts[: len(words)], [column.counts[len(words) : -1].sum(), column.new])
        for column in (reference, current)
    )
    return [*words, "(others)", "(new)"], before, now


def _shares(counts: Floats) -> list[float]:
    whole = float(counts.sum())
    return [float(count) / whole if whole else 0.0 for count in counts]


def _share(column: NumberColumn | WordColumn) -> float | None:
    """The share of values that are missing."""
    rows = column.rows + column.missing
    return column.missing / rows if rows else None


def newest_version(evaluations: Sequence[Evaluation]) -> str:
    """The version that the newest window with predictions is about; a window without any is about none."""
    return next((one.version for one in reversed(evaluations) if one.version), "")


def whole_window(evaluations: Sequence[Evaluation], version: str) -> Window | None:
    """From the first to the last of a version's windows that have matured."""
    windows = [one.window for one in evaluations if one.version == version and one.matured]
    return Window(windows[0].start, max(window.end for window in windows)) if windows else None


def model_figures(loop: FeedbackLoop, model: str, metric: str, segment: str = ALL_ROWS) -> dict[str, Any]:
    """All that the page of a model shows, of its newest windows, as plain values. An unknown metric has no values."""
    store = loop.store
    evaluations = recent_evaluations(store, model)
    names = metric_names(evaluations)
    chosen = metric or _default_metric(loop, model, names)
    since = evaluations[0].window.start if evaluations else loop.clock()
    version = newest_version(evaluations)
    window = whole_window(evaluations, version)
    return {
        "metric": chosen,
        "metrics": names,
        "segment": segment,
        "segments": sorted({value.segment for one in evaluations for value in one.metrics}),
        "history": metric_history(evaluations, chosen, segment),
        "by_segment": segment_figures(evaluations, chosen),
        "drift": drift_matrix(store, evaluations),
        "marks": marks(store, model, since),
        "adapter": adapter_losses(store, model),
        "coverage": coverage_by_age(loop, model),
        "calibration": calibration(store, model, version, window) if window else {},
        "calibration_window": plain(window) if window else None,
        "version": version,
    }


def around(loop: FeedbackLoop, model: str, metric: str, start: datetime, end: datetime) -> dict[str, Any]:
    """A metric over the windows that overlap a time, with what happened to the model then."""
    shown = [
        one for one in recent_evaluations(loop.store, model) if one.window.end > start and one.window.start < end
    ]
    names = metric_names(shown)
    chosen = metric if metric in names else next(iter(names), "")
    since = shown[0].window.start if shown else start
    return {
        "metric": chosen,
        "segment": ALL_ROWS,
        "history": metric_history(shown, chosen),
        "marks": marks(loop.store, model, since),
    }


def _default_metric(loop: FeedbackLoop, model: str, names: Sequence[str]) -> str:
    """The loss that the model is judged by, if its windows have it."""
    verdict = latest_verdict(loop.store, model)
    loss = str(verdict.evidence.get("loss", "")) if verdict is not None else ""
    return loss if loss in names else next(iter(names), "")

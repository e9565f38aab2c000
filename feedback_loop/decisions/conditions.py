"""Conditions: a user's own threshold on any value of an evaluation, for a number of windows in a row.

They state no error rate, and are reported besides verdicts, never in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from feedback_loop.clock import Window
from feedback_loop.config_policy import ConditionSettings
from feedback_loop.store import Store
from feedback_loop.store.evaluations import Evaluation, load_evaluations, newest_evaluations

ESTIMATED = "estimated_"
"""The prefix of the name of a metric that is estimated before outcomes exist."""


@dataclass(frozen=True)
class ConditionState:
    """The state of a condition: whether its threshold has been crossed for enough windows, and the newest value.

    `unknown`: no window has such a value; `known` says which there are.
    """

    condition: ConditionSettings
    state: Literal["within", "crossed", "unknown"]
    window: Window | None = None
    value: float | None = None
    since: Window | None = None  # the first of the windows beyond the threshold, where it is crossed
    known: tuple[str, ...] = ()


def load_condition_states(
    store: Store, model: str, version: str, conditions: Sequence[ConditionSettings]
) -> list[ConditionState]:
    """The state of each condition by the stored evaluations of a version."""
    if not conditions:
        return []
    newest = _READ_PER_WINDOW * max(condition.windows for condition in conditions)
    evaluations = {  # matured windows may be much older than the newest ones
        evaluation.evaluation_id: evaluation
        for matured in (True, False)
        for evaluation in load_evaluations(store, model, version=version, matured=matured, newest=newest)
    }
    of_windows = newest_evaluations(
        sorted(evaluations.values(), key=lambda evaluation: (evaluation.window.end, evaluation.as_of))
    )
    return [judge_condition(condition, of_windows) for condition in conditions]


_READ_PER_WINDOW = 20
"""Evaluations read per window that a condition needs: several may be of one window, some lack the value."""


def judge_condition(condition: ConditionSettings, evaluations: Sequence[Evaluation]) -> ConditionState:
    """Judges evaluations of one version, the oldest window first, one of each window.

    A window without the value (nothing predicted, no outcome yet) neither counts nor interrupts.
    """
    values = [
        (evaluation.window, value)
        for evaluation in evaluations
        if (value := value_of(condition, evaluation)) is not None
    ]
    if not values:
        return ConditionState(
            condition, "unknown", known=tuple(sorted({name for e in evaluations for name in names_of(e)}))
        )
    window, value = values[-1]
    beyond: list[Window] = []
    for value_window, number in reversed(values):
        if not condition.is_beyond(number):
            break
        beyond.append(value_window)
    crossed = len(beyond) >= condition.windows
    return ConditionState(
        condition, "crossed" if crossed else "within", window, value, beyond[-1] if crossed else None
    )


def value_of(condition: ConditionSettings, evaluation: Evaluation) -> float | None:
    """The evaluation's value of the condition's metric, for its column or segment; None where it has none."""
    metric, segment = condition.metric, condition.segment
    checks = [
        check.value for check in evaluation.quality if (check.column, check.check) == (condition.column, metric)
    ]
    if metric == "drift" and condition.column:
        checks = [drift.value for drift in evaluation.drift if drift.column == condition.column and drift.decides]
    if condition.column or (checks and not segment):
        return checks[0] if checks else None
    if metric.startswith(ESTIMATED):
        name = metric.removeprefix(ESTIMATED)
        return next((e.value for e in evaluation.estimates if (e.metric, e.segment) == (name, segment)), None)
    if not segment and metric == "drifted_share":
        return evaluation.drifted_share
    if not evaluation.matured:  # its outcomes have not all come
        return None
    return evaluation.coverage if metric == "coverage" and not segment else evaluation.metric(metric, segment)


def names_of(evaluation: Evaluation) -> set[str]:
    """The metrics of an evaluation that a condition may be on."""
    shares = {"coverage", "drifted_share"} if evaluation.predictions else set()
    checks = {check.check for check in evaluation.quality} | ({"drift"} if evaluation.drift else set())
    estimates = {f"{ESTIMATED}{estimate.metric}" for estimate in evaluation.estimates}
    return shares | checks | estimates | {metric.metric for metric in evaluation.metrics}

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from feedback_loop.clock import Window
from feedback_loop.config import PolicySettings
from feedback_loop.decisions import Baseline, Cohort, judge, monitored_loss, next_step
from feedback_loop.decisions.monitors import (
    scaled,
)
from feedback_loop.store.verdicts import State
from tests.builders import binary_contract, regression_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_regression_losses_are_measured_by_the_reference():
    reference = np.arange(1.0, 101.0)
    assert scaled("absolute_error", np.array([0.0, 49.5, 1e9]), reference) == pytest.approx([0, 0.4995, 1], abs=1e-3)
    assert scaled("brier", np.array([0.3]), reference).tolist() == [0.3]


def test_the_loss_that_is_watched_fits_the_task():
    settings = PolicySettings()
    assert monitored_loss(binary_contract(), settings) == "brier"
    assert monitored_loss(binary_contract(probabilities=False), settings) == "error"
    assert monitored_loss(regression_contract(), settings) == "absolute_error"
    assert monitored_loss(binary_contract(), PolicySettings(loss="error")) == "error"


def baseline(count=5000, level=0.2, seed=0):
    random = np.random.default_rng(seed)
    windows = np.arange(count, dtype=np.int64) * 10 // count
    return Baseline("brier", random.beta(2, 8, count) * level / 0.2, windows, 1)


def cohort(day, losses, predictions=None):
    start = START + day * DAY
    return Cohort(Window(start, start + DAY), np.asarray(losses), predictions or len(losses))


def judged(cohorts, *, base=None, settings=None, previous=None, drifted_share=None):
    return judge(
        "m",
        "1",
        cohorts,
        base or baseline(),
        settings or PolicySettings(),
        previous=previous,
        drifted_share=drifted_share,
        now=START + 9 * DAY,
    )


def test_an_unchanged_model_is_ok():
    verdict = judged([cohort(0, np.random.default_rng(1).beta(2, 8, 1000))])
    assert verdict.state is State.OK
    assert "brier 0.20" in verdict.summary
    assert verdict.window == Window(START, START + DAY)


def test_a_worse_model_is_degraded_and_the_evidence_says_by_how_much():
    verdict = judged([cohort(0, np.random.default_rng(1).beta(5, 5, 2000))])
    assert verdict.state is State.DEGRADED
    change = verdict.evidence["change"]
    assert change["alarmed_at"] <= 2000
    assert change["lately"] == pytest.approx(0.5, abs=0.02)
    assert change["alpha"] == pytest.approx(0.025)
    assert "once in" in verdict.summary


def test_too_small_a_reference_is_said_with_the_number_that_is_missing():
    verdict = judged([cohort(0, [0.1] * 50)], base=baseline(4000))
    assert verdict.state is State.INSUFFICIENT_DATA
    assert "1,000 are missing" in verdict.summary
    assert verdict.evidence["missing_reference"] == 1000


def test_a_cohort_without_outcomes_is_not_judged():
    assert judged([cohort(0, [], predictions=40)]).state is State.INSUFFICIENT_DATA


def test_losses_that_have_grown_but_not_above_the_reference_only_warn():
    random = np.random.default_rng(3)
    good, worse = random.beta(2, 30, 4000), random.beta(2, 9, 4000)
    verdict = judged([cohort(0, good), cohort(1, worse)])
    assert verdict.evidence["change"]["alarmed_at"] is not None
    assert verdict.state is State.WARNING


def test_drift_alone_only_warns():
    losses = np.random.default_rng(1).beta(2, 8, 1000)
    assert judged([cohort(0, losses)], drifted_share=0.6).state is State.WARNING
    assert judged([cohort(0, losses)], drifted_share=0.4).state is State.OK


def test_the_fixed_threshold_acts_only_where_it_is_the_rule():
    losses = np.random.default_rng(1).beta(2, 8, 200) * 1.25
    verdict = judged([cohort(0, losses)])
    assert verdict.evidence["threshold"]["crossed"]
    assert verdict.state is State.OK
    assert judged([cohort(0, losses)], settings=PolicySettings(rule="threshold")).state is State.DEGRADED


def test_the_threshold_does_not_judge_a_handful():
    verdict = judged([cohort(0, [0.9] * 199)], settings=PolicySettings(rule="threshold"))
    assert "threshold" not in verdict.evidence


def test_verdict_after_verdict_is_the_same_as_all_at_once():
    random = np.random.default_rng(5)
    days = [cohort(day, random.beta(2, 7, 200)) for day in range(6)]
    at_once = judged(days)
    one_by_one = None
    for day in days:
        one_by_one = judged([day], previous=one_by_one)
    assert one_by_one.monitor == at_once.monitor
    assert one_by_one.state == at_once.state


def verdict_of(state):
    return SimpleNamespace(state=state)


def retraining(days_ago, state="promoted"):
    return SimpleNamespace(state=state, started_at=START + (100 - days_ago) * DAY)


def step(state, *retrainings, champion_days=5, settings=None):
    return next_step(
        verdict_of(state) if state else None,
        settings or PolicySettings(),
        retrainings=retrainings,
        champion_since=START + (100 - champion_days) * DAY,
        now=START + 100 * DAY,
    )


def test_an_alarm_retrains_once_the_last_retraining_is_past_the_cooldown():
    assert step(State.DEGRADED) == "alarm"
    assert step(State.DEGRADED, retraining(13)) is None
    assert step(State.DEGRADED, retraining(14)) == "alarm"
    assert step(State.DEGRADED, retraining(13, "refused")) is None
    assert step(State.WARNING) is None


def test_the_slow_schedule_counts_from_the_champion_and_the_last_try():
    assert step(State.OK, champion_days=27) is None
    assert step(State.OK, champion_days=28) == "refresh"
    assert step(State.OK, retraining(27, "refused"), champion_days=60) is None
    assert step(State.OK, retraining(28, "refused"), champion_days=60) == "refresh"
    assert step(None, champion_days=28) == "refresh"
    assert step(None, champion_days=999, settings=PolicySettings(refresh=None)) is None


def test_a_retraining_that_failed_is_tried_again_ever_later():
    assert step(State.DEGRADED, retraining(0.9, "failed")) is None
    assert step(State.DEGRADED, retraining(1, "failed")) == "alarm"
    assert step(State.DEGRADED, retraining(4, "failed"), retraining(1.9, "failed")) is None
    assert step(State.DEGRADED, retraining(4, "failed"), retraining(2, "failed")) == "alarm"
    many = [retraining(50 - place, "failed") for place in range(40)]
    assert step(State.DEGRADED, *many, retraining(13, "failed")) is None
    assert step(State.DEGRADED, *many, retraining(14, "failed")) == "alarm"


@pytest.mark.parametrize("state", ["abandoned", "running"])
def test_a_retraining_whose_process_died_does_not_count(state):
    assert step(State.DEGRADED, retraining(0.1, state)) == "alarm"
    assert step(State.OK, retraining(0.1, state), champion_days=28) == "refresh"

"""When a verdict leads to a retraining: cooldowns, the slow schedule, the budget, failures."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions import next_step, spent_until
from feedback_loop.store.conclusions import State

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def verdict_of(state, **evidence):
    return SimpleNamespace(state=state, evidence=evidence)


def retraining(days_ago, state="promoted", reason="alarm"):
    return SimpleNamespace(state=state, reason=reason, started_at=START + (100 - days_ago) * DAY)


def step(state, *retrainings, champion_days=5, settings=None, **evidence):
    return next_step(
        verdict_of(state, **evidence) if state else None,
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


def test_drift_and_estimates_retrain_only_where_that_is_allowed():
    blind = PolicySettings(allow_blind_retraining=True)
    assert step(State.WARNING, drifted_share=0.6) is None
    assert step(State.WARNING, drifted_share=0.6, settings=blind) == "blind"
    assert step(State.WARNING, estimate={"above": True}, settings=blind) == "blind"
    assert step(State.WARNING, estimate={"above": False}, drifted_share=None, settings=blind) is None
    assert step(State.DEGRADED, drifted_share=0.6, settings=blind) == "alarm"
    assert step(State.WARNING, retraining(3), drifted_share=0.6, settings=blind) is None


def test_a_budget_bounds_the_retrainings_of_ninety_days():
    two = PolicySettings(budget=2)
    used = [retraining(80), retraining(30, "refused", "refresh")]
    assert step(State.DEGRADED, *used, settings=two) is None
    assert step(State.OK, *used, champion_days=99, settings=two) is None
    assert step(State.DEGRADED, retraining(91), retraining(30), settings=two) == "alarm"
    assert step(State.DEGRADED, retraining(80), retraining(30, reason="manual"), settings=two) == "alarm"
    assert step(State.DEGRADED, settings=PolicySettings(budget=0)) is None


def test_a_search_that_could_not_be_made_waits_a_day_and_costs_neither_cooldown_nor_budget():
    one = PolicySettings(budget=1)
    assert step(State.DEGRADED, retraining(0.9, "not_made"), settings=one) is None
    assert step(State.DEGRADED, retraining(1, "not_made"), settings=one) == "alarm"
    assert step(State.DEGRADED, retraining(13, "refused"), retraining(1, "not_made")) is None
    assert step(State.DEGRADED, retraining(14, "refused"), retraining(1, "not_made")) == "alarm"
    assert step(State.OK, retraining(1, "not_made"), champion_days=28) == "refresh"


def test_a_spent_budget_says_until_when():
    now = START + 100 * DAY
    used = [retraining(91), retraining(80), retraining(40, "not_made"), retraining(30, "refused", "refresh")]
    assert spent_until(used, PolicySettings(budget=2), now) == START + (100 - 80 + 90) * DAY
    assert spent_until(used, PolicySettings(budget=3), now) is None
    assert spent_until(used, PolicySettings(), now) is None
    assert spent_until([], PolicySettings(budget=0), now) > now + 1000 * DAY


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

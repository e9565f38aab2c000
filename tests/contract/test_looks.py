"""Looks at a stored log, one after the other: every monitor that is ever begun has its own share of alpha."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from feedback_loop.clock import windows_between
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import Baseline, decide
from feedback_loop.decisions.cohorts import LogReader
from feedback_loop.decisions.losses import Losses, watched_of
from feedback_loop.outcomes import record_outcomes
from feedback_loop.store.conclusions import State, latest_verdict, monitors_begun
from feedback_loop.store.incidents import close_incident, open_incident
from feedback_loop.store.predictions import PredictionLog
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ALPHA = 0.04


class Life:
    """A model that is looked at once a day; policies, promotions and incidents come between."""

    def __init__(self, store):
        self.store, self.contract, self.day = store, binary_contract(), 0
        self.policy = {"reference": 1000, "alpha": ALPHA}

    def look(self, version="1", *, since=None, wrong=False):
        """The verdict on another day of predictions, which are all wrong or all right."""
        first, count = START + self.day * DAY, 300
        moments = [first + place * DAY / count for place in range(count)]
        names = {"customer": list(range(self.day * count, (self.day + 1) * count)), "month": ["m"] * count}
        said = {"prediction": [False] * count, "probability": [0.05] * count, "model_version": [version] * count}
        said["plan"] = ["basic", "plus", "pro"] * (count // 3)
        PredictionLog(self.store).append(
            self.contract, prediction_rows(self.contract, moments, **names, **said), first
        )
        self.day += 1
        now = START + (self.day + 1) * DAY
        record_outcomes(self.store, self.contract, {**names, "churned": [wrong] * count}, now=now, source="t")
        settings = ModelSettings(task="binary", label="churned", maturity="1d", policy=self.policy)
        watched = watched_of(self.contract, settings.policy)
        losses = Losses({watched[0].loss: np.tile([0.04, 0.04, 0.04, 0.64], 250)})
        reference = Baseline(watched, losses, np.repeat(np.arange(4), 250))
        options = {"since": since, "routes": ("log",), "now": now}
        return decide(self.store, self.contract, version, settings, lambda _: reference, **options)


def test_windows_of_minutes_are_read_a_day_at_a_time_and_are_what_they_are_one_by_one(store):
    life = Life(store)
    life.look(), life.look(wrong=True)
    reader = LogReader(store, life.contract, "1")
    windows = list(windows_between(START + 5 * DAY / 24, START + 2 * DAY, timedelta(minutes=5)))
    now = START + 5 * DAY
    together = reader.cohorts(windows, now)
    assert [cohort.window for cohort in together] == windows
    assert 0 < sum(cohort.predictions for cohort in together) < 600
    for window, cohort in list(zip(windows, together, strict=True))[::40]:
        alone = reader.cohort(window, now)
        assert alone.predictions == cohort.predictions
        assert all((alone.losses.by_loss[name] == losses).all() for name, losses in cohort.losses.by_loss.items())
        assert {name: rows.tolist() for name, rows in alone.losses.members.items()} == {
            name: rows.tolist() for name, rows in cohort.losses.members.items()
        }


def alphas(verdict):
    return sum(pair["alpha"] for pair in verdict.monitor["pairs"])


def test_every_monitor_that_is_ever_begun_counts_in_the_models_alpha(store, monkeypatch):
    life = Life(store)
    seen = [life.look(), life.look()]
    assert [each.begun for each in seen] == [1, 1]
    life.policy["alpha"] = 0.039  # a policy that is edited, …
    seen.append(life.look())
    life.policy["alpha"] = ALPHA  # … and edited back
    seen.append(life.look())
    monkeypatch.setattr("feedback_loop.decisions.panel.MADE_OF", "what another release makes monitors of")
    seen.append(life.look())
    seen += [life.look(wrong=True) for _ in range(3)]
    assert seen[-1].state is State.DEGRADED
    close_incident(store, open_incident(store, "churn").incident_id, "a cause that is gone", START + life.day * DAY)
    life.look()  # of before it was closed
    seen += [life.look(), life.look("2", since=START + life.day * DAY)]
    ordinals = [each.monitor["ordinal"] for each in seen]
    assert ordinals == [1, 1, 2, 3, 4, 4, 4, 4, 5, 6]
    spent = {each.monitor["ordinal"]: alphas(each) for each in seen}
    assert spent == pytest.approx({k: (0.039 if k == 2 else ALPHA) / (k * (k + 1)) for k in range(1, 7)})
    assert sum(spent.values()) < ALPHA
    assert latest_verdict(store, "churn").begun == 6
    assert [monitors_begun(store, "churn", START + day * DAY) for day in (0, 3, 5, 99)] == [0, 1, 2, 6]


def test_a_reference_that_is_still_too_small_has_begun_no_monitor(store):
    life = Life(store)
    life.policy["reference"] = 2000
    assert [life.look().begun, life.look().begun] == [0, 0]
    life.policy["reference"] = 1000
    assert life.look().monitor["ordinal"] == 1

"""Decisions over a real log: what corrections change, which segments are watched, what a verdict was made of."""

import json
from datetime import timedelta

import numpy as np
import pytest
from typer.testing import CliRunner

from feedback_loop.cli import app
from feedback_loop.clock import Window
from feedback_loop.errors import ConfigError
from feedback_loop.store import conclusions
from feedback_loop.store.conclusions import State
from tests.builders import churn_loop, customers, play_days

DAY = timedelta(days=1)

BY_PLAN = """
[[models.churn.policy.watch]]
segment = "plan=pro"
[[models.churn.policy.watch]]
segment = "plan=basic"
loss = "error"
weight = 2
"""


@pytest.fixture
def watching(tmp_path, clock):
    made = churn_loop(tmp_path, clock, more=BY_PLAN)
    yield made
    made.close()


def test_an_outcome_that_is_corrected_after_its_look_changes_the_evaluation_and_not_the_monitor(loop, clock):
    first_day = f"{clock():%Y-%m-%d}"
    window = Window(clock() - DAY, clock() + DAY)
    play_days(loop, clock, 4)
    told = loop.decide("churn")
    before = loop.evaluate("churn", window)
    rows = customers(300, 10, month=first_day)
    turned = {name: rows[name] for name in ("customer", "month")} | {"churned": ~rows["churned"]}
    clock.set(clock() + timedelta(hours=1))
    assert loop.record_outcomes("churn", turned).counts.corrected == 300
    assert loop.decide("churn") is None  # there is nothing new to consume
    assert conclusions.latest_verdict(loop.store, "churn") == told
    clock.set(clock() + DAY)
    follow = loop.decide("churn")
    consumed = [pair["monitors"]["change"]["seen"] for pair in (told.monitor["pairs"][0], follow.monitor["pairs"][0])]
    assert consumed == [900, 1200]  # only the new cohort's labels were added: the bets of before stay made
    parts = follow.monitor["pairs"][0]["seen"]["parts"]
    assert parts[: len(told.monitor["pairs"][0]["seen"]["parts"])] == told.monitor["pairs"][0]["seen"]["parts"]
    assert loop.evaluate("churn", window)[0].metrics != before[0].metrics


def test_segments_are_watched_beside_all_rows_and_share_alpha(watching, clock):
    play_days(watching, clock, 4)
    verdict = watching.decide("churn")
    pairs = verdict.evidence["watched"]
    assert [each["name"] for each in pairs] == ["brier", "brier of plan=pro", "error of plan=basic"]
    # A third of 2,000 reference rows are of each plan: too few to watch it.
    assert [each["missing_reference"] > 0 for each in pairs] == [False, True, True]
    assert pairs[0]["monitors"]["change"]["alpha"] == pytest.approx(0.05 / 2 / 4)
    assert pairs[0]["labels"] == 900
    assert 250 < pairs[1]["labels"] < 350
    assert verdict.state is State.OK


def test_a_plan_that_became_worse_is_named_in_the_verdict(loop, clock):
    for day in range(5):
        month = f"{clock():%Y-%m-%d}"
        rows = customers(400, 50 + day, month=month)
        broken = rows["plan"] == "pro"
        rows["churned"] = np.where(broken, ~rows["churned"], rows["churned"])
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + DAY)
        loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
    verdict = loop.decide("churn")
    assert verdict.state is State.DEGRADED
    assert [each["segment"] for each in verdict.evidence["carriers"]] == ["plan=pro"]
    assert "Carried by plan=pro" in verdict.summary


def test_a_verdict_keeps_the_e_value_of_now_beside_the_highest_and_status_tells_both(loop, clock, tmp_path):
    config = ["--config", str(tmp_path / "feedback_loop.toml")]
    play_days(loop, clock, 4, harder=0.065)
    worse = loop.decide("churn").evidence["watched"][0]["monitors"]["change"]
    assert worse["once_in"] >= worse["e_value"] > 2
    play_days(loop, clock, 4, seed=300)
    told = json.loads(CliRunner().invoke(app, ["decide", "churn", "--json", *config]).stdout)
    kept = conclusions.latest_verdict(loop.store, "churn")
    assert kept.evidence == told["evidence"]
    better = kept.evidence["watched"][0]["monitors"]["change"]
    assert better["once_in"] >= worse["once_in"] > better["e_value"]
    status = CliRunner().invoke(app, ["status", *config]).output
    assert f"once in {better['once_in']:,.0f} times (e-value now: {better['e_value']:.2g})" in status


def test_a_loss_that_the_model_does_not_tell_is_refused_by_its_name(loop, monkeypatch, clock):
    play_days(loop, clock, 2)
    clock.set(clock() + DAY)
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__LOSS", "squared_error")
    from feedback_loop.loop import FeedbackLoop

    other = FeedbackLoop.open(loop.settings.home / "feedback_loop.toml", clock=clock)
    with pytest.raises(ConfigError, match=r"its answers tell brier, error, log_loss"):
        other.decide("churn")
    other.close()

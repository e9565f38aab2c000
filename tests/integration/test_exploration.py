"""A lender's loop through the product: explored keys, actions, coverage, figures of all, gates, status and report."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from feedback_loop.clock import ManualClock, Window
from feedback_loop.cycle import run_cycle
from feedback_loop.monitoring import row_losses
from feedback_loop.retraining import training_rows
from feedback_loop.views.status import model_status
from tests.builders import churn_loop, customers

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS, PER_DAY = 12, 400
MORE = """
[models.churn.exploration]
share = 0.15
acts_below = 0.5
"""


@pytest.fixture
def lender(tmp_path, monkeypatch):
    """Twelve days on which those below a half are acted on, and the explored ones; and all that happened."""
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__OUTCOMES__SELECTION", "acted")
    clock = ManualClock(START)
    loop = churn_loop(tmp_path, clock, more=MORE)
    truth = []
    for day in range(DAYS):
        rows = customers(PER_DAY, day, month=f"{clock():%Y-%m-%d}")
        answers = loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        explore, chance = (answers.column(name).to_numpy(zero_copy_only=False) for name in ("explore", "probability"))
        acted = explore | (chance < 0.5)
        truth.append(answers.append_column("churned", [rows["churned"]]))
        clock.set(clock() + timedelta(hours=1))
        key = {name: rows[name][acted] for name in ("customer", "month")}
        loop.record_actions("churn", key)
        clock.set(clock() + DAY - timedelta(hours=1))
        loop.record_outcomes("churn", {**key, "churned": rows["churned"][acted]})
    yield loop, truth
    loop.close()


def test_figures_are_those_of_all_and_each_job_of_a_turn_knows_what_can_be_seen(lender, tmp_path):
    loop, truth = lender
    contract = loop.context.contract("churn")
    states = {outcome.job: outcome.state for outcome in run_cycle(loop, "churn")}
    assert set(states.values()) == {"succeeded"}
    (coverage,) = loop.outcomes.coverage("churn", "version")
    assert coverage.predictions == DAYS * PER_DAY
    assert coverage.eligible == coverage.observed < 0.75 * DAYS * PER_DAY
    whole = Window(START, START + DAYS * DAY)
    (kept,) = loop.evaluate("churn", whole)
    (from_log,) = loop.evaluate("churn", whole, from_log=True)
    assert kept.metrics == from_log.metrics
    (kept_day,) = loop.evaluate("churn", Window(whole.end - DAY, whole.end))
    (day,) = loop.evaluate("churn", Window(whole.end - DAY, whole.end), from_log=True)
    assert kept_day.estimates == day.estimates != ()
    true = np.concatenate([row_losses(contract, day)["log_loss"] for day in truth]).mean()
    (loss,) = [value for value in kept.metrics if (value.metric, value.segment) == ("log_loss", "")]
    assert abs(loss.value - true) < 3 * loss.standard_error
    assert kept.metric("effective_rows") < 0.5 * kept.labelled

    effect = model_status(loop, "churn")["exploration"]
    assert effect["explored"]["outcome"] > effect["rest"]["outcome"] + 0.1
    assert effect["outcome_difference"]["p_value"] < 0.01
    paths = loop.report("churn", whole, "whole", tmp_path / "reports")
    report = next(path for path in paths if path.name == "whole-validation.json")
    told = json.loads(report.read_text())["exploration"]
    assert told["explored"]["rows"] + told["rest"]["rows"] == coverage.observed

    champion = loop.context.scorer(loop.champion("churn"))
    rows = training_rows(loop.store, champion, until=whole.end, as_of=loop.clock(), history=None)
    assert len(rows) == coverage.observed  # what was acted on is learned from as it is
    assert rows.weights is None
    by_day = [row_losses(contract, day)["log_loss"] for day in truth]
    spread = np.concatenate(by_day).std() / np.sqrt(len(rows.for_judging))
    assert abs(rows.for_judging.losses(champion, "log_loss").mean() - true) < 3 * spread
    assert len(rows.for_judging) < 0.5 * len(rows)


def test_a_search_learns_from_what_was_acted_on_and_is_judged_as_if_all_had_been(lender):
    loop, truth = lender
    losses = [row_losses(loop.context.contract("churn"), day)["log_loss"] for day in truth]
    result = loop.retrain("churn")
    assert any(trial.loss is not None for trial in result.trials)
    of_all = np.concatenate(losses[-result.gate.days :])
    assert 50 < result.gate.rows < 0.3 * len(of_all)
    assert abs(result.gate.champion - of_all.mean()) < 4.5 * of_all.std() / np.sqrt(result.gate.rows)

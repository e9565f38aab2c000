"""Metrics that a user asks for, through the whole loop: of queries, and of one's own making."""

import json
import shutil
from datetime import timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import windows
from tests.builders import customers, play_days, register_churn, write_config

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request, tmp_path, empty_mlflow, clock, monkeypatch):
    """Opens a loop with these settings of the model beside the usual ones."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    url = "sqlite:///store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    loops = []

    def open_with(more="", **settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"FEEDBACK_LOOP_MODELS__CHURN__{name.upper()}", value)
        loop = FeedbackLoop.open(write_config(tmp_path, store=url, more=more), clock=clock)
        if not loops:
            version = register_churn(loop.registry, clock())
            loop.promote("churn", version.version, reason="first")
        loops.append(loop)
        return loop

    yield open_with
    for loop in loops:
        loop.close()


def told(evaluations):
    """An evaluation as the command prints it, but for when it was first stored."""
    return json.dumps([{**vars(each), "evaluation_id": None, "revision": None} for each in evaluations], default=repr)


def metrics(evaluation):
    return {each.metric: each for each in evaluation.metrics if not each.segment}


def test_queries_are_ranked_alike_by_a_scheduled_run_an_audit_and_as_of_the_past(opened, clock, monkeypatch):
    loop, start = opened(query="month"), clock()
    play_days(loop, clock, 3, per_day=60)
    rows = customers(40, 99, month="open")
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
    clock.set(clock() + HOUR)
    window = Window(start, clock())
    assert loop.evaluate("churn", window)  # the reference is established
    with monkeypatch.context() as patch:
        patch.setattr(windows, "fold_window", lambda *_, **__: pytest.fail("all of the rows were read"))
        [kept] = loop.evaluate("churn", window)
    found = metrics(kept)
    assert {name: found[name].rows for name in ("ndcg", "ndcg@10", "mrr")} == {"ndcg": 3, "ndcg@10": 3, "mrr": 3}
    assert found["mrr"].coverage == 0.75
    assert found["ndcg"].least < found["ndcg"].value < found["ndcg"].most
    assert told(loop.evaluate("churn", window, kept.as_of, from_log=True)) == told([kept])
    clock.set(clock() + DAY)
    loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
    [late] = loop.evaluate("churn", window)
    assert metrics(late)["mrr"].rows == 4
    assert told(loop.evaluate("churn", window, kept.as_of)) == told([kept])

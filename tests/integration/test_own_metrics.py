"""Metrics that a user asks for, through the whole loop: of queries, and of one's own making."""

import shutil
from datetime import timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import profile_store, window_evaluation
from tests.builders import customers, play_days, register_churn, told, write_config

pytestmark = pytest.mark.usefixtures("warm_children")
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.statistics)])
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
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("all of the rows were read"))
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


METRICS = """
import numpy as np
from feedback_loop import SumMetric

def gains(rows):
    took = np.asarray(rows.column("prediction").to_numpy(zero_copy_only=False), dtype=float)
    left = np.asarray(rows.column("churned").to_numpy(zero_copy_only=False), dtype=float)
    loyal = rows.column("customer").to_numpy() % 3
    return {"gain": took * (left * 30 - 10) + rows.column("age").to_numpy() / 7 + loyal}

def choosy(rows):
    if (rows.column("age").to_numpy() > 85).any():
        raise ValueError("too old")
    return {"one": np.ones(rows.num_rows)}

profit = SumMetric(gains)
choosy = SumMetric(choosy)

def oldest(rows):
    return max(rows.column("age").to_pylist())
"""

SETTINGS = """
[models.churn.metrics]
profit = {{ path = "{module}:profit", columns = ["age", "customer"] }}
choosy = {{ path = "{module}:choosy", columns = ["age"] }}
oldest = "{module}:oldest"
lost = "no_such_module:lost"
"""


def test_own_metrics_are_kept_audited_and_asked_again_to_the_bit(opened, clock, tmp_path, monkeypatch):
    module = f"kept_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{module}.py").write_text(METRICS)
    monkeypatch.syspath_prepend(tmp_path)
    loop, start = opened(SETTINGS.format(module=module)), clock()
    play_days(loop, clock, 3, per_day=100)
    window = Window(start, clock())
    assert loop.evaluate("churn", window)  # the reference is established
    corrected = customers(100, 10, month=f"{start:%Y-%m-%d}")
    changed = {**{name: corrected[name] for name in ("customer", "month")}, "churned": ~corrected["churned"]}
    clock.set(clock() + HOUR)
    loop.record_outcomes("churn", changed)
    with monkeypatch.context() as patch:
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        [kept] = loop.evaluate("churn", window)
    assert metrics(kept)["profit"].rows == 300
    assert metrics(kept)["profit"].standard_error > 0
    failed = {each.column: each.value for each in kept.quality if each.failed and each.check == "own_metric"}
    assert failed.keys() == {"choosy", "lost"}
    assert 0 < failed["choosy"] < failed["lost"] == 1
    assert "oldest" not in metrics(kept)
    with monkeypatch.context() as patch:
        patch.setattr(profile_store, "SLICE_ROWS", 100)  # by several processes
        [audited] = loop.evaluate("churn", window, kept.as_of, from_log=True)
    more = [each for each in audited.metrics if each.metric == "oldest"]
    assert [each.value > 80 for each in more] == [True]
    others = tuple(each for each in audited.metrics if each.metric != "oldest")
    assert told([kept]) == told([type(kept)(**{**vars(audited), "metrics": others})])
    clock.set(clock() + DAY)
    loop.record_outcomes("churn", {name: corrected[name] for name in ("customer", "month", "churned")})
    [now] = loop.evaluate("churn", window)
    assert metrics(now)["profit"].value != metrics(kept)["profit"].value
    assert told(loop.evaluate("churn", window, kept.as_of)) == told([kept])


def test_a_metric_that_comes_later_has_all_joined_rows_tallied_for_it(opened, clock, tmp_path, monkeypatch):
    module = f"late_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{module}.py").write_text(METRICS)
    monkeypatch.syspath_prepend(tmp_path)
    loop, start = opened(), clock()
    play_days(loop, clock, 2, per_day=100)
    window = Window(start, clock())
    [before] = loop.evaluate("churn", window)
    assert "profit" not in metrics(before)
    clock.set(clock() + HOUR)
    loop = opened(SETTINGS.format(module=module))
    assert loop.evaluate("churn", window)
    with monkeypatch.context() as patch:
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        [after] = loop.evaluate("churn", window)
    assert metrics(after)["profit"].rows == 200

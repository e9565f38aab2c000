"""Estimates through the whole loop: before outcomes, beside what came, with their past error; kept as read."""

import json
import shutil
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from feedback_loop.clock import Window
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import estimate_calibration, window_evaluation
from feedback_loop.store.evaluations import load_evaluations
from feedback_loop.store.past_estimates import load_past_estimates
from feedback_loop.views.status import model_status
from tests.builders import customers, register_churn, register_model, told, write_config

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
FEATURES = ("customer", "month", "age", "plan")


def whole_day(moment):
    start = moment.replace(hour=0)
    return Window(start, start + DAY)


@pytest.fixture
def loop(loop_on_each):
    return loop_on_each


def predict(loop, clock, seed, count=400):
    rows = customers(count, seed, month=f"{clock():%Y-%m-%d}")
    loop.predict("churn", {name: rows[name] for name in FEATURES})
    return rows


def tell(loop, rows):
    loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})


def estimated(evaluation):
    return {each.metric: each for each in evaluation.estimates}


def test_a_window_is_estimated_before_its_outcomes_and_realised_beside_it(loop, clock):
    first = whole_day(clock())
    early = predict(loop, clock, 1)
    clock.set(first.end + HOUR)
    [before] = loop.evaluate("churn", first)
    assert (before.labelled, before.metric("accuracy"), before.matured) == (0, None, False)
    accuracy = estimated(before)["accuracy"]
    assert (accuracy.rows, accuracy.calibrated_on, accuracy.method) == (400, 2000, "cbpe")
    tell(loop, early)
    clock.set(first.end + 2 * DAY)
    [after] = loop.evaluate("churn", first)
    assert after.matured
    realised = after.metric("accuracy")
    assert abs(accuracy.value - realised) < 4 * accuracy.standard_error
    assert estimated(after)["accuracy"].value == accuracy.value  # what came later is of no window before this one
    [past] = [each for each in load_past_estimates(loop.store, "churn", 30) if each.metric == "accuracy"]
    assert (past.window, past.estimate, past.realised) == (first, accuracy.value, realised)
    assert loop.judging.past_errors("churn")["accuracy"].error == pytest.approx(abs(accuracy.value - realised))
    shown = next(e for e in model_status(loop, "churn")["evaluation"]["estimates"] if e["metric"] == "accuracy")
    assert (shown["value"], shown["realised"], shown["past"]["windows"]) == (accuracy.value, realised, 1)
    [*_, stored] = load_evaluations(loop.store, "churn")
    assert sorted(stored.estimates, key=str) == sorted(after.estimates, key=str)
    runs = loop.registry._mlflow.client.search_runs(
        [loop.registry._mlflow.experiment_id], "tags.`feedback_loop.kind` = 'monitoring'"
    )
    assert runs[0].data.metrics["estimated_accuracy"] == accuracy.value
    assert runs[0].data.metrics["accuracy"] == realised


def test_matured_windows_are_learned_from_and_both_ways_say_the_same_for_ever(loop, clock, monkeypatch):
    monkeypatch.setattr(estimate_calibration, "WANTED_ROWS", 900)
    days = []
    for seed in range(5):
        days.append(whole_day(clock()))
        rows = predict(loop, clock, seed)
        clock.set(clock() + DAY)
        tell(loop, rows)
    window = days[-1]
    loop.evaluate("churn", days[0])  # the reference is established
    with monkeypatch.context() as patch:
        for module in (window_evaluation, estimate_calibration):
            patch.setattr(module, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        [kept] = loop.evaluate("churn", window)
    # Of the days before it those that have matured: newest first, until there are 900 rows.
    assert {each.calibrated_on for each in kept.estimates} == {2000 + 3 * 400}
    as_of = kept.as_of
    assert told(loop.evaluate("churn", window, as_of, from_log=True)) == told([kept])
    corrected = customers(400, 2, month=f"{days[2].start:%Y-%m-%d}")
    clock.set(clock() + HOUR)
    tell(loop, {**corrected, "churned": ~corrected["churned"]})
    [now] = loop.evaluate("churn", window)
    assert estimated(now)["outcome_rate"].value != estimated(kept)["outcome_rate"].value
    assert told(loop.evaluate("churn", window, as_of)) == told([kept])
    assert told(loop.evaluate("churn", window, now.as_of, from_log=True)) == told([now])


def test_only_what_had_matured_by_then_and_came_before_is_learned_from(loop, clock):
    start = whole_day(clock())
    rows = predict(loop, clock, 1)
    tell(loop, rows)
    clock.set(clock() + DAY)
    predict(loop, clock, 2)
    second = whole_day(clock())
    clock.set(second.end)
    [found] = loop.evaluate("churn", second, clock())
    assert {each.calibrated_on for each in found.estimates} == {2400}
    [found] = loop.evaluate("churn", second, second.end - HOUR)
    assert {each.calibrated_on for each in found.estimates} == {2000}  # a day is not over since the first ended
    [found] = loop.evaluate("churn", start, clock())
    assert {each.calibrated_on for each in found.estimates} == {2000}


def test_a_version_without_reference_is_estimated_by_its_matured_rows(tmp_path, empty_mlflow, clock):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    made = FeedbackLoop.open(write_config(tmp_path), clock=clock)
    version = register_churn(made.registry, clock(), reference=1)
    made.promote("churn", version.version, reason="first")
    first = whole_day(clock())
    rows = predict(made, clock, 1)
    tell(made, rows)
    [alone] = made.evaluate("churn", first)
    assert {(each.metric, each.value) for each in alone.estimates} == {("insufficient_data", 100.0)}
    clock.set(first.end + 2 * DAY)
    later = whole_day(clock())
    predict(made, clock, 2)
    clock.set(later.end)
    [found] = made.evaluate("churn", later)
    assert "accuracy" in estimated(found)
    assert told(made.evaluate("churn", later, found.as_of, from_log=True)) == told([found])
    made.close()


CONFIG = """\
[store]
url = {store}
[registry]
tracking_uri = "sqlite:///mlflow.db"
[models.price]
task = "regression"
label = "paid"
key = ["order"]
key_types = {{ order = "long" }}
maturity = "1d"
[models.price.policy]
reference = 1000
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.statistics)])
def price_loop(request, tmp_path, empty_mlflow, clock):
    from sklearn.linear_model import LinearRegression

    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    url = "sqlite:///store.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    (tmp_path / "feedback_loop.toml").write_text(CONFIG.format(store=json.dumps(url)))
    made = FeedbackLoop.open(tmp_path / "feedback_loop.toml", clock=clock)
    held = pd.DataFrame(orders(2000, 0))
    model = LinearRegression().fit(held[["size", "age"]], held["paid"])
    times = pd.to_datetime([clock() - timedelta(days=10)] * 2000, utc=True)
    features = held[["size", "age"]]
    reference = held[["size", "age", "paid"]].assign(
        prediction=model.predict(features), predicted_at=times.as_unit("us")
    )
    options = {"now": clock(), "trained_until": clock() - timedelta(days=5)}
    version = register_model(made.registry, "price", model, features, reference, **options)
    made.promote("price", version.version, reason="first")
    yield made
    made.close()


def orders(count, seed, *, old=0.0):
    """Orders whose price is the harder to tell the older they are."""
    random = np.random.default_rng(seed)
    size, age = random.uniform(0, 10, count), random.uniform(old, 1, count)
    paid = 3 * size + 5 + age * random.normal(size=count)
    return {"order": np.arange(count) + 10_000 * seed, "size": size, "age": age, "paid": paid}


def test_the_loss_of_a_regression_is_estimated_and_realised_beside_it(price_loop, clock, monkeypatch):
    first = whole_day(clock())
    rows = orders(600, 1, old=0.7)
    price_loop.predict("price", {name: rows[name] for name in ("order", "size", "age")})
    clock.set(first.end + HOUR)
    with monkeypatch.context() as patch:
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        [before] = price_loop.evaluate("price", first)
    found = estimated(before)
    assert {(each.rows, each.calibrated_on, each.method) for each in found.values()} == {(600, 2000, "dle")}
    assert told(price_loop.evaluate("price", first, before.as_of, from_log=True)) == told([before])
    price_loop.record_outcomes("price", {name: rows[name] for name in ("order", "paid")})
    clock.set(first.end + 2 * DAY)
    [after] = price_loop.evaluate("price", first)
    for metric in ("mae", "rmse"):
        assert abs(found[metric].value - after.metric(metric)) < 3 * found[metric].standard_error
        assert found[metric].value > 1.3 * {"mae": 0.4, "rmse": 0.577}[metric]  # what it is of the reference
    assert set(price_loop.judging.past_errors("price")) == {"mae", "rmse"}
    assert told(price_loop.evaluate("price", first, before.as_of)) == told([before])

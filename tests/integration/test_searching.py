"""What a search learns from: which rows, with what weights, by which hints; and that they can be had again."""

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_loop.clock import Window
from feedback_loop.config_policy import RetrainingSettings
from feedback_loop.cycle import run_cycle
from feedback_loop.errors import NotFound, Refused
from feedback_loop.registry.run_owners import this_process
from feedback_loop.registry.runs import OWNER, Runs
from feedback_loop.retraining import training_rows
from feedback_loop.retraining.dataset import WEIGHT
from feedback_loop.retraining.hints import Hints, hints_of, likeness, steered
from feedback_loop.retraining.recipes import KINDS, Columns
from feedback_loop.retraining.split import split_newest
from feedback_loop.retraining.trials import plans
from feedback_loop.run_tags import run_tags
from feedback_loop.store.conclusions import Diagnosis
from tests.builders import churn_loop, customers, play_days, prediction_rows

DAY = timedelta(days=1)
SURE, UNSURE = {"value": 0.1, "error": 0.01}, {"value": 0.1, "error": 0.09}


@pytest.fixture
def champion(loop):
    return loop.scorer(loop.champion("churn"))


def rows_of(loop, champion, clock, **more):
    return training_rows(loop.store, champion, until=clock(), as_of=clock(), history=None, **more)


def test_rows_of_one_outcome_count_as_of_the_first_of_them(loop, clock):
    champion = loop.scorer(loop.champion("churn"))
    rows = customers(50, 3)
    for _ in range(3):
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + DAY)
    loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
    play_days(loop, clock, 2, per_day=40)
    found = training_rows(loop.store, champion, until=clock(), as_of=clock(), history=None)
    assert len(found) == 230
    assert len(set(found.outcomes)) == 130
    assert len(set(found.decided.astype("datetime64[D]"))) == 3


def test_outcomes_that_name_their_prediction_are_shared_by_none(loop, clock):
    champion = loop.scorer(loop.champion("churn"))
    rows = customers(20, 3)
    features = {name: rows[name] for name in ("customer", "month", "age", "plan")}
    ids = [loop.predict("churn", features).column("prediction_id").to_pylist() for _ in range(2)]
    loop.record_outcomes("churn", {"prediction_id": [*ids[0], *ids[1]], "churned": [True] * 40})
    clock.set(clock() + DAY)
    found = training_rows(loop.store, champion, until=clock(), as_of=clock(), history=None)
    assert len(set(found.outcomes)) == 40


def test_each_call_is_one_row_whoever_else_scored_it(loop, clock):
    play_days(loop, clock, 1, per_day=30)
    champion = loop.scorer(loop.champion("churn"))
    for role, rows in (("shadow", 30), ("canary", 10)):
        shown = customers(rows, 10, month="another" if role == "canary" else "2026-03-02")
        made = champion.score(champion.rows_of(shown))
        moments = [clock() - DAY] * rows
        stored = {**{name: shown[name] for name in ("customer", "month", "age", "plan")}, **made.values()}
        loop.context.log.append(
            champion.logged,
            prediction_rows(champion.logged, moments, role=[role] * rows, model_version=["2"] * rows, **stored),
            clock(),
        )
        loop.record_outcomes("churn", {name: shown[name] for name in ("customer", "month", "churned")})
    found = training_rows(loop.store, champion, until=clock() + DAY, as_of=clock(), history=None)
    assert len(found) == 40


def test_the_history_ends_where_the_log_begins(loop, clock, tmp_path):
    began = clock()
    play_days(loop, clock, 2, per_day=30)
    known = pd.DataFrame(customers(50, 1))[["age", "plan", "churned"]]
    known["predicted_at"] = [pd.Timestamp(began) + (place - 40) * pd.Timedelta("1h") for place in range(50)]
    pq.write_table(pa.Table.from_pandas(known, preserve_index=False), tmp_path / "history.parquet")
    champion = loop.scorer(loop.champion("churn"))

    def rows(path):
        return training_rows(loop.store, champion, until=clock(), as_of=clock(), history=path)

    found = rows(tmp_path / "history.parquet")
    assert len(found) == 100
    assert found.left_out[0].startswith("10 rows of the history are from after 2026-03-02")
    pq.write_table(pa.Table.from_pandas(known.drop(columns="plan")), tmp_path / "older.parquet")
    found = rows(tmp_path / "older.parquet")
    assert len(found) == 60
    assert found.left_out == ("The 50 rows of the history have no plan, and were left out.",)


def test_of_too_many_rows_the_newest_are_taken_in_full_and_the_others_drawn_with_their_weight(loop, clock, champion):
    play_days(loop, clock, 6, per_day=40)
    everything = rows_of(loop, champion, clock)
    few = rows_of(loop, champion, clock, most=100, seed=7)
    assert len(few) == 100
    weights = few.table.column(WEIGHT).to_numpy()
    assert weights.sum() == pytest.approx(len(everything))
    assert (weights == 1).sum() == 50
    newest = np.sort(everything.times)[-50:]
    assert (few.times[weights == 1] >= newest[0]).all()
    assert few.digest == rows_of(loop, champion, clock, most=100, seed=7).digest
    assert few.digest != rows_of(loop, champion, clock, most=100, seed=8).digest
    assert few.left_out == (f"Of {len(everything) - 50:,} older rows 50 were drawn, each of which stands for 3.8.",)
    assert few.weights is not None
    assert everything.weights is None


def test_a_trial_learns_only_from_rows_whose_outcome_was_known_when_its_holdout_begins(loop, clock, champion):
    outcomes = []
    for day in range(10):
        shown = customers(60, seed=day, month=f"{clock():%Y-%m-%d}")
        loop.predict("churn", {name: shown[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + DAY)
        late = clock() + (4 * DAY if day in (2, 6) else timedelta(hours=1))  # so long until it becomes true
        values = {name: shown[name] for name in ("customer", "month", "churned")}
        outcomes.append({**values, "occurred_at": [late] * 60, "recorded_at": [late + DAY] * 60})
    clock.set(clock() + 10 * DAY)
    for values in outcomes:
        loop.record_outcomes("churn", values)
    settings = RetrainingSettings(min_rows=20, recent="10d")
    old = replace(champion, version=replace(champion.version, tags={}, created_at=clock() - 99 * DAY))
    rows = training_rows(loop.store, old, until=clock(), as_of=clock(), history=None)
    split = split_newest(rows, settings, clock(), DAY)
    assert len(split.learn) == len(rows) - len(split.holdout) - 2 * 60  # those of day 6, and of the last day
    assert split.left_out == ("120 rows have outcomes that were not known when the held-out ones began: left out.",)


def test_outcomes_that_are_loaded_at_once_were_known_when_they_had_had_their_chance(loop, clock, champion):
    shown = [customers(30, seed=day) for day in range(5)]
    for day, rows in enumerate(shown):
        rows["month"] = [str(day)] * 30
        loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
        clock.set(clock() + DAY)
    clock.set(clock() + 9 * DAY)
    for rows in shown:
        loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
    rows = rows_of(loop, champion, clock, maturity=DAY)
    assert len(rows.known_before(clock() - 11 * DAY)) == 60


def test_the_rows_of_a_version_can_be_had_again_and_where_they_are_others_that_is_said(loop, clock):
    play_days(loop, clock, 4)
    play_days(loop, clock, 8, harder=0.45, seed=100)
    result = loop.retrain("churn", promotes=False)
    assert result.state == "passed", result.summary
    version = loop.find(f"churn/{result.candidate}")
    source = loop.registry.lineage.training_source(version)
    play_days(loop, clock, 2, seed=200)  # what has come since is none of it
    again = loop.training_rows(version)
    assert again.num_rows == source["rows"]
    assert {"age", "plan", "churned", "predicted_at", WEIGHT} <= set(again.column_names)
    loop.erase("churn", {"customer": 3})
    with pytest.raises(Refused, match="are not the same"):
        loop.training_rows(version)
    with pytest.raises(NotFound):
        loop.training_rows(loop.find("churn/1"))


def test_each_trial_is_a_run_within_the_search_in_mlflow(loop, clock):
    play_days(loop, clock, 4)
    play_days(loop, clock, 8, harder=0.45, seed=100)
    result = loop.retrain("churn", promotes=False)
    client = loop.registry.lineage._mlflow.client
    runs = client.search_runs([loop.registry.lineage._mlflow.experiment_id], "tags.`feedback_loop.kind` = 'trial'")
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
    (search,) = (client.get_run(parent) for parent in parents)
    made = client.get_run(loop.find(f"churn/{result.candidate}").run_id)
    assert search.data.tags["feedback_loop.retraining"] == made.data.tags["feedback_loop.retraining"]
    assert {run.info.status for run in (search, *runs)} <= {"FINISHED", "FAILED"}
    by_window = {run.data.params["window"]: run for run in runs}
    assert set(by_window) == {trial.name for trial in result.trials}
    for trial in result.trials:
        run = by_window[trial.name]
        assert (run.info.status == "FAILED") == (trial.cause is not None)
        assert run.data.metrics.get("holdout_loss") == trial.loss


def test_a_turn_ends_the_runs_of_processes_that_have_died_and_no_others(loop, clock):
    connection = loop.registry._mlflow
    other = Runs(connection)  # as another process begins them
    ids = [other.start("search churn", clock(), {"feedback_loop.model": "churn"}) for _ in range(2)]
    dead = replace(this_process("x"), process=2**22 + 1)
    connection.client.set_tag(ids[0], OWNER, str(dead))
    outcomes = {outcome.job: outcome.result for outcome in run_cycle(loop, "churn")}
    assert outcomes["reconcile"]["ended_runs"] == [ids[0]]
    assert [connection.client.get_run(run).info.status for run in ids] == ["KILLED", "RUNNING"]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_search_that_is_stopped_ends_its_run(loop, clock, error, status):
    lineage = loop.registry.lineage
    with run_tags(incident=4):
        variables = lineage.variables("")
        with pytest.raises(error), lineage.search("churn", clock()) as run:
            raise error
    run = loop.registry._mlflow.client.get_run(run)
    assert (run.info.status, run.data.tags["feedback_loop.incident"]) == (status, "4")
    assert json.loads(variables["FEEDBACK_LOOP_RUN_TAGS"]) == {"feedback_loop.incident": "4"}


def diagnosed(recommendation, *, relation=UNSURE, inputs=UNSURE, faults=(), feature="", now):
    evidence = {
        "change": SURE,
        "split": {"relation": relation, "inputs": inputs},
        "faults": [{"feature": fault} for fault in faults],
        "feature": feature,
    }
    return Diagnosis("churn", "1", 1, Window(now - 3 * DAY, now), now, recommendation, "", evidence)


@pytest.mark.parametrize(
    ("recommendation", "more", "windows", "without", "is_left_out"),
    [
        ("none", {}, set(), (), False),
        ("repair", {"faults": ("age",)}, {"all"}, ("age",), True),
        ("replace", {"faults": ("age", "plan"), "feature": "plan"}, {"all"}, ("plan",), False),
        ("recent", {"relation": SURE}, {"since the change"}, (), False),
        ("none", {"inputs": SURE}, {"all"}, (), False),
    ],
)
def test_a_diagnosis_adds_trials_that_say_why_and_takes_away_broken_rows(
    recommendation, more, windows, without, is_left_out, loop, clock, champion
):
    play_days(loop, clock, 6, per_day=40)
    rows = rows_of(loop, champion, clock)
    hints = hints_of(diagnosed(recommendation, now=clock(), **more))
    added = steered(hints, KINDS, rows)
    assert {steering.window for _, steering in added} == windows
    assert {steering.without for _, steering in added} <= {without}
    assert all(steering.why.startswith("the diagnosis: ") for _, steering in added)
    assert (len(hints.sound(rows)) < len(rows)) is is_left_out
    assert (
        all((clock() - 3 * DAY).replace(tzinfo=None) > when.item() for when in hints.sound(rows).times) is is_left_out
    )
    if not windows:
        assert hints == Hints()
    mistrusted = (Window(clock() - 6 * DAY, clock() - 5 * DAY), Window(clock() - 4.5 * DAY, clock() - 4 * DAY))
    careful = hints_of(diagnosed(recommendation, now=clock(), **more), mistrusted)
    has_changed = recommendation == "recent"  # those rows are of the world as it is now
    assert (len(careful.sound(rows)) < len(hints.sound(rows))) is not has_changed
    assert ("stopped the adapter" in careful.words) is not has_changed
    for plan in plans((), champion.loaded.estimator, RetrainingSettings(), 0, added):
        learned = plan.rows_of(rows, clock())
        job = plan.job(learned)
        if plan.recipe != "own":
            taken = {name for _, _, names in job.estimator.steps[0][1].transformers for name in names}
            assert taken == {"age", "plan"} - set(without)
        if plan.window == "since the change":
            assert len(learned) < len(rows)
        assert (job.weights is not None) is (plan.steering.today is not None)


def test_rows_like_todays_weigh_more(loop, clock, champion):
    play_days(loop, clock, 6, per_day=60)
    rows = rows_of(loop, champion, clock)
    ages = rows.table.column("age").to_numpy()
    today = replace(rows, table=rows.table.filter(pa.array(ages > np.median(ages))))
    weights = likeness(rows, today, Columns(("plan",), ("age",)), 0)
    assert weights.mean() == pytest.approx(1)
    assert weights[ages > np.median(ages)].mean() > 3 * weights[ages < np.median(ages)].mean()


def test_an_outline_says_rows_trials_and_time_and_trains_nothing(loop, clock):
    play_days(loop, clock, 4)
    play_days(loop, clock, 8, harder=0.45, seed=100)
    outlined = loop.outline_retraining("churn")
    result = loop.retrain("churn", promotes=False)
    assert [(trial.window, trial.rows) for trial in outlined.trials] == [
        (trial.name, trial.rows) for trial in result.trials
    ]
    assert [trial.seconds is None for trial in outlined.trials] == [trial.loss is None for trial in result.trials]
    assert outlined.held_out == result.gate.rows
    assert outlined.seconds > 0


SPACE = """
[models.churn.retraining.search_space]
kinds = ["boosting"]
trials = 2
feature_selection = true
parameters.boosting.learning_rate = { low = 0.01, high = 0.3, log = true }
"""


def test_a_search_space_adds_trials_that_compete_with_the_fixed_ones(tmp_path, clock):
    loop = churn_loop(tmp_path, clock, more=SPACE)
    play_days(loop, clock, 4)
    play_days(loop, clock, 8, harder=0.45, seed=100)
    outlined = loop.outline_retraining("churn").trials[-1]
    assert (outlined.recipe, outlined.window, outlined.why) == ("boosting", "tuned", "2 trials of the search space")
    result = loop.retrain("churn", promotes=False)
    tuned = [trial for trial in result.trials if trial.name.endswith(", tuned")]
    assert len(tuned) >= 2
    assert all(trial.why.startswith("the search space: learning_rate = 0.") for trial in tuned)
    assert result.state == "passed", result.summary
    loop.close()

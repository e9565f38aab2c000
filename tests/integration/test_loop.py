"""The whole loop from Python: a small made-up task, a real MLflow store, a clock that is set."""

from datetime import timedelta

import pandas as pd
import pyarrow.compute as pc
import pytest

from feedback_loop.capture import Spool
from feedback_loop.clock import Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.cycle import cycle, month_before, run_cycle
from feedback_loop.errors import BadInput, Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.serving import tell_proxied
from feedback_loop.store import conclusions, ledger, predictions, retrainings
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.conclusions import State
from feedback_loop.store.evaluations import load_evaluations
from feedback_loop.store.incidents import load_incidents
from feedback_loop.views.doctor import doctor
from feedback_loop.views.status import loop_status
from tests.builders import churn_loop, customers, open_loop, play_days, prediction_rows, register_churn

DAY = timedelta(days=1)
FEATURES = ("customer", "month", "age", "plan")

pytestmark = pytest.mark.usefixtures("warm_children")


def test_predictions_are_answered_and_logged(loop):
    rows = customers(20, 3)
    answers = loop.predict("churn", pd.DataFrame(rows))
    assert answers.column_names == ["prediction_id", "prediction", "probability"]
    assert answers.num_rows == 20
    assert predictions.count_predictions(loop.store, "churn") == {("1", "champion", "batch"): 20}
    contract = loop.scorer(loop.champion("churn")).contract
    window = Window(loop.clock() - DAY, loop.clock() + DAY)
    logged = predictions.read_labelled(loop.store, contract, window)
    by_id = dict(
        zip(logged.column("prediction_id").to_pylist(), logged.column("probability").to_pylist(), strict=True)
    )
    assert by_id == dict(
        zip(answers.column("prediction_id").to_pylist(), answers.column("probability").to_pylist(), strict=True)
    )


def test_a_callers_own_ids_are_kept_and_a_retry_is_no_second_row(loop):
    rows = {name: customers(3, 3)[name] for name in FEATURES}
    ids = loop.predict("churn", rows).column("prediction_id").to_pylist()
    again = loop.predict("churn", {**rows, "prediction_id": ids})
    assert again.column("prediction_id").to_pylist() == ids
    assert predictions.count_predictions(loop.store, "churn") == {("1", "champion", "batch"): 3}
    with pytest.raises(BadInput, match="given to several rows"):
        loop.predict("churn", {**rows, "prediction_id": [ids[0]] * 3})


def test_a_good_model_stays_a_cycle_is_made_once_and_status_tells_all_of_it(loop, clock):
    play_days(loop, clock, 6)
    with loop.runner.leased("churn"), pytest.raises(Refused, match="Another run"):
        run_cycle(loop, "churn")
    outcomes = run_cycle(loop, "churn")
    assert {each.state for each in outcomes} == {"succeeded"}
    assert {each.state for each in run_cycle(loop, "churn")} == {"skipped"}
    assert len(ledger.load_runs(loop.store, "churn")) == len(cycle(loop, "churn"))
    verdict = conclusions.latest_verdict(loop.store, "churn")
    assert verdict.state is State.OK
    assert loop.champion("churn").version == "1"
    state = loop_status(loop)["models"]["churn"]
    assert [state[name] for name in ("champion", "predictions", "outcomes")] == ["1", 1800, 1800]
    assert (state["unmatched_outcomes"], state["incident"]) == (0, None)
    assert (state["verdict"]["state"], state["evaluation"]["coverage"]) == ("ok", 1.0)


def mlflow_tells_it(loop, incident):
    """The monitoring run has the verdict, the search and the promotion are runs about the incident, with links."""
    connection = loop.registry._mlflow
    runs = connection.client.search_runs([connection.experiment_id], order_by=["attributes.start_time DESC"])
    newest = {run.data.tags["feedback_loop.kind"]: run for run in reversed(runs)}
    watched = newest["monitoring"].data
    assert (watched.tags["feedback_loop.verdict"], watched.metrics["verdict"]) == ("degraded", 2)
    assert watched.tags["feedback_loop.incident"] == str(incident.incident_id)
    assert watched.tags["mlflow.note.content"].startswith("**degraded**: ")
    assert newest["search"].data.tags["feedback_loop.incident"] == str(incident.incident_id)
    promoted, version = newest["promotion"], loop.champion("churn")
    assert promoted.info.run_name == "promotion churn version 2"
    assert [promoted.data.tags[f"feedback_loop.{name}"] for name in ("from_version", "retraining")] == ["1", "1"]
    assert promoted.data.tags["feedback_loop.training_run"] == version.run_id
    assert promoted.data.tags["feedback_loop.incident"] == str(incident.incident_id)
    loop.context.forget(version)
    assert loop.champion("churn").tags["feedback_loop.promotion_run"] == promoted.info.run_id


def test_a_model_that_has_become_worse_is_found_retrained_gated_and_replaced(loop, clock):
    play_days(loop, clock, 4)
    run_cycle(loop, "churn")
    play_days(loop, clock, 12, harder=0.45, seed=100)
    outcomes = {each.job: each for each in run_cycle(loop, "churn")}
    assert outcomes["decide"].result["state"] == "degraded"
    incident = load_incidents(loop.store, "churn")[0]
    assert incident.closed_at is None
    assert sorted(outcomes["explain"].result["reports"]) == [
        f"incident-1-{kind}" for kind in ("drift.html", "drift.json", "validation.html", "validation.json")
    ]
    (search,) = retrainings.load_retrainings(loop.store, "churn")
    assert (search.reason, search.incident_id, search.state) == ("alarm", incident.incident_id, "promoted")
    assert loop.champion("churn").version == search.candidate == "2"
    opened, advice = load_alerts(loop.store, [incident.incident_id])  # what has happened, then what to do
    assert (opened.subject, advice.subject.rsplit(":", 2)[0]) == ("incident:1", "incident:1:diagnosis")
    assert {(alert.route, alert.state) for alert in (opened, advice)} == {("log", "pending")}
    assert loop.deliver_alerts().sent >= 1
    mlflow_tells_it(loop, incident)
    # The new version does well on the world as it is now, but two windows are no evidence yet.
    play_days(loop, clock, 4, harder=0.45, seed=200)
    run_cycle(loop, "churn")
    # It was compared on 900 rows; where 1,000 are wanted, its first 100 labelled predictions are added.
    judged = conclusions.latest_verdict(loop.store, "churn", "2")
    assert (judged.state, judged.evidence["labels"]) == (State.OK, 600)
    assert load_incidents(loop.store, "churn")[0].closed_at is None
    play_days(loop, clock, 6, harder=0.45, seed=300, per_day=1500)
    run_cycle(loop, "churn")
    closed = load_incidents(loop.store, "churn")[0]
    assert closed.closed_because.startswith("version 2 has taken over and does well: brier 0.2")
    assert [each.title for each in load_alerts(loop.store, [1])] == [
        opened.title,
        advice.title,
        "churn has recovered",
    ]


def test_an_evaluation_asked_again_as_of_then_gives_the_same_numbers(loop, clock):
    play_days(loop, clock, 3)
    window, then = Window(clock() - 3 * DAY, clock()), clock()
    first = loop.evaluate("churn", window, then)
    clock.set(clock() + 5 * DAY)
    late = customers(300, 12, month=f"{clock() - 6 * DAY:%Y-%m-%d}")
    corrected = {name: late[name] for name in ("customer", "month")} | {"churned": ~late["churned"]}
    assert loop.record_outcomes("churn", corrected).counts.corrected == 300
    loop.promote("churn", register_churn(loop.registry, clock(), seed=9).version)
    assert loop.evaluate("churn", window, then) == first
    assert loop.evaluate("churn", window)[0].metrics != first[0].metrics


def test_a_late_outcome_or_a_correction_reopens_exactly_the_windows_that_it_touches(loop, clock):
    play_days(loop, clock, 5)
    first = {each.window: each for each in loop.evaluate("churn") if each.matured}
    assert len(first) == 4
    touched = Window(clock() - 3 * DAY - timedelta(hours=4), clock() - 2 * DAY - timedelta(hours=4))
    assert touched in first
    clock.set(clock() + timedelta(hours=1))
    assert loop.evaluate("churn") == []
    key = {"customer": [7], "month": [f"{touched.start + timedelta(hours=4):%Y-%m-%d}"]}
    window = Window(touched.start, touched.end)
    before = loop.labelled("churn", window).filter(pc.field("customer") == 7).column("churned")[0].as_py()
    loop.record_outcomes("churn", {**key, "churned": [not before]})
    clock.set(clock() + timedelta(hours=1))
    again = loop.evaluate("churn")
    assert [(each.window, each.revision) for each in again] == [(touched, first[touched].revision + 1)]
    assert again[0].metric("accuracy") != first[touched].metric("accuracy")
    history = load_evaluations(loop.store, "churn", within=touched)
    assert [(each.revision, each.metric("accuracy")) for each in history[-2:]] == [
        (each.revision, each.metric("accuracy")) for each in (first[touched], again[0])
    ]
    # A retry says nothing new, so nothing is looked at again; another model's clock or a promotion neither.
    loop.record_outcomes("churn", {**key, "churned": [not before]})
    clock.set(clock() + timedelta(hours=1))
    assert loop.evaluate("churn") == []


def test_rows_that_were_labelled_then_are_the_same_rows_for_ever(loop, clock):
    play_days(loop, clock, 3)
    window, then = Window(clock() - 5 * DAY, clock() + DAY), clock()
    answer = loop.labelled("churn", window, then)
    clock.set(clock() - timedelta(hours=1))  # a clock that is set back
    play_days(loop, clock, 2, seed=12)
    assert loop.labelled("churn", window, then).equals(answer)
    assert loop.labelled("churn", window).num_rows > answer.num_rows


def test_coverage_is_shown_by_age_version_and_segment(loop, clock):
    play_days(loop, clock, 3)
    loop.predict("churn", {name: customers(100, 5, month="later")[name] for name in FEATURES})
    [version] = loop.outcomes.coverage("churn", "version")
    assert (version.group, version.predictions, version.labelled) == ("1", 1000, 900)
    assert {each.group: each.share for each in loop.outcomes.coverage("churn", "age")} == {
        "up to 1 d": 0.0,
        "up to 2 d": 1.0,
        "up to 7 d": 1.0,
    }
    segments = {each.group: each.predictions for each in loop.outcomes.coverage("churn", "segment")}
    assert segments.pop("all") == sum(segments.values()) == 1000


def test_each_window_is_evaluated_when_it_closes_and_when_it_has_matured(loop, clock):
    play_days(loop, clock, 3)
    found = loop.evaluate("churn")
    assert [(each.matured, each.predictions) for each in found] == [(True, 300), (True, 300), (False, 300)]
    assert loop.evaluate("churn") == []
    clock.set(clock() + DAY)
    assert [(each.matured, each.predictions) for each in loop.evaluate("churn")] == [(True, 300), (False, 0)]


def test_a_look_consumes_each_cohort_once(loop, clock):
    play_days(loop, clock, 1)
    assert loop.decide("churn") is None  # nothing is mature
    play_days(loop, clock, 2, seed=11)
    first = loop.decide("churn")
    assert first.evidence["labels"] == 600
    assert loop.decide("churn") is None
    clock.set(clock() + DAY)
    assert loop.decide("churn").evidence["labels"] == 300


def test_too_little_to_learn_from_is_a_refusal_and_on_record(loop, clock):
    play_days(loop, clock, 2, per_day=20)
    clock.set(clock() + DAY)
    result = loop.retrain("churn")
    assert result.state == "not_made"
    assert "100 are needed" in result.summary
    assert retrainings.load_retrainings(loop.store, "churn")[0].cause == result.summary
    assert loop.champion("churn").version == "1"


def test_a_candidate_may_be_made_without_being_promoted(loop, clock):
    play_days(loop, clock, 12, harder=0.3)
    result = loop.retrain("churn", promotes=False)
    assert (result.state, result.candidate) == ("passed", "2")
    assert loop.champion("churn").version == "1"
    trained = loop.registry.versions("churn")[1]
    assert loop.registry.reference_rows(trained).num_rows == result.gate.rows
    assert trained.tags["feedback_loop.champion_before"] == "1"


def test_a_run_or_an_experiment_that_was_deleted_in_mlflow_stops_no_evaluation(loop, clock):
    play_days(loop, clock, 3)
    client = loop.registry._mlflow.client
    evaluated = len(loop.evaluate("churn"))
    assert evaluated
    for kind in ("run", "experiment"):
        experiment = loop.registry._mlflow.experiment_id
        runs = client.search_runs([experiment], "tags.`feedback_loop.kind` = 'monitoring'")
        assert [run.info.run_name for run in runs] == ["monitor churn version 1"]
        if kind == "run":
            client.delete_run(runs[0].info.run_id)
        else:
            client.delete_experiment(experiment)
        play_days(loop, clock, 1, seed=50)
        assert loop.evaluate("churn")
    anew = client.get_experiment(loop.registry._mlflow.experiment_id)
    assert anew.name == "feedback-loop-2"
    assert len(client.search_runs([anew.experiment_id])) == 1


def test_the_doctor_names_rows_that_were_put_aside_and_their_cause(loop, clock):
    spool = Spool(loop.settings.path("spool"), CaptureSettings(), lambda _: LogSettings())
    contract = loop.scorer(loop.champion("churn")).logged
    spool.append(contract, prediction_rows(contract, [clock()], model_version=[None]), clock())
    assert loop.forward().rejected == 1
    (failed,) = [check for check in doctor(loop) if not check.ok]
    assert failed.name == "spools"
    assert failed.detail.startswith("1 rows of churn are put aside: ")
    assert "model_version" in failed.detail
    assert "[SQL" not in failed.detail  # nor the row
    spool.close()


def test_a_version_without_a_reference_is_judged_by_its_own_first_rows(loop, clock):
    run = loop.champion("churn")
    adopted = loop.models.register("churn", f"runs:/{run.run_id}/churn")
    loop.promote("churn", adopted.version)
    play_days(loop, clock, 2)
    clock.set(clock() + DAY)
    verdict = loop.decide("churn")
    assert verdict.state is State.INSUFFICIENT_DATA
    assert "400 are missing" in verdict.summary
    play_days(loop, clock, 5, seed=50)
    verdict = loop.decide("churn")
    assert verdict.state is State.OK
    assert verdict.evidence["watched"][0]["reference"] > 0
    # The 1,000 rows of the reference end on the fourth day: none of them is judged.
    assert verdict.evidence["watched"][0]["labels"] == 2 * 300


def test_a_reference_can_be_brought_with_a_version(loop, clock):
    held = pd.DataFrame(customers(1500, 77))[["age", "plan", "churned"]]
    source = str(loop.registry.load(loop.champion("churn")).path)
    version = loop.models.register("churn", source, reference=held)
    loop.promote("churn", version.version)
    play_days(loop, clock, 2)
    clock.set(clock() + DAY)
    assert loop.decide("churn").state is State.OK
    with pytest.raises(BadInput, match="churned: is missing"):
        loop.models.register("churn", source, reference=held.drop(columns="churned"))


def test_a_job_that_fails_is_recorded_and_does_not_stop_the_others(loop, clock, tmp_path):
    play_days(loop, clock, 3)
    folder = tmp_path / "outcomes"
    folder.rmdir() if folder.exists() else None
    folder.write_text("a file where a folder should be")
    outcomes = {each.job: each for each in run_cycle(loop, "churn")}
    assert outcomes["outcomes"].state == "failed"
    assert "File exists" in outcomes["outcomes"].cause
    assert outcomes["decide"].state == "succeeded"
    failed = loop_status(loop)["models"]["churn"]["failed_jobs"]
    assert [each["job"] for each in failed] == ["outcomes"]


def test_a_loop_that_only_watches_changes_nothing(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__MODE", "observe")
    loop = churn_loop(tmp_path, clock)
    play_days(loop, clock, 2)
    clock.set(clock() + 40 * DAY)
    outcomes = {each.job: each.result for each in run_cycle(loop, "churn")}
    assert outcomes["retrain"] == {"proposed": None}
    assert loop.champion("churn").version == "1"
    loop.close()


def test_outcomes_in_a_folder_are_taken_in_once_and_moved_aside(loop, clock, tmp_path):
    play_days(loop, clock, 1)
    folder = tmp_path / "outcomes"
    folder.mkdir(exist_ok=True)
    rows = pd.DataFrame(customers(5, 10, month="2026-03-02"))[["customer", "month", "churned"]]
    rows.to_csv(folder / "good.csv", index=False)
    rows.assign(churned="perhaps").to_csv(folder / "wrong.csv", index=False)
    (folder / ".still-being-written.csv").write_text("customer,mo")
    found = loop.outcomes.take_in("churn")
    assert (found.loaded, list(found.refused)) == (1, ["wrong.csv"])
    assert (folder / "loaded" / "good.csv").exists()
    assert "perhaps" in (folder / "refused" / "wrong.csv.cause.txt").read_text()
    assert loop.outcomes.take_in("churn").loaded == 0


def test_the_doctor_finds_a_healthy_loop_healthy_and_names_what_is_not(loop):
    assert all(check.ok for check in doctor(loop))
    tell_proxied(loop.settings.path(loop.settings.serving.cache), "x-forwarded-for")
    nobody = loop.settings.model("churn").model_copy(update={"alias": "nobody"})
    broken = loop.settings.model_copy(update={"models": {"churn": nobody}})
    failed = {check.name: check for check in doctor(FeedbackLoop(broken, clock=loop.clock)) if not check.ok}
    assert sorted(failed) == ["model churn", "serving"]
    assert "nobody" in failed["model churn"].detail
    assert "x-forwarded-for" in failed["serving"].detail
    assert "require_key" in failed["serving"].cure


def test_the_month_before_is_a_whole_calendar_month(now):
    assert str(month_before(now)) == "[2026-02-01, 2026-03-01)"
    assert str(month_before(now.replace(month=1))) == "[2025-12-01, 2026-01-01)"


def test_ids_and_everything_after_them_depend_on_the_seed_only(tmp_path, clock):
    import random

    from tests.builders import write_config

    loop = churn_loop(tmp_path, clock)
    loop.close()
    rows = {name: customers(5, 3)[name] for name in FEATURES}
    ids = []
    for _ in range(2):
        again = open_loop(write_config(tmp_path), clock, bits=random.Random(5).getrandbits)
        ids.append(again.predict("churn", rows).column("prediction_id").to_pylist())
        again.close()
    assert ids[0] == ids[1]

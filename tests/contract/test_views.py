"""What pages, programs and commands read of the store, on both databases."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.config import load_settings
from feedback_loop.errors import BadInput, NotFound
from feedback_loop.loop import FeedbackLoop
from feedback_loop.outcomes import record_outcomes
from feedback_loop.plain import plain
from feedback_loop.schema import JoinRule, Which, make_redaction
from feedback_loop.store import erased_keys, ledger, retrainings
from feedback_loop.store.approvals import Approval, ask, vote
from feedback_loop.store.coverage import count_outcomes, joins
from feedback_loop.store.erasure import erase_rows
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import PredictionLog
from feedback_loop.store.retention import retain
from feedback_loop.store.retrainings import Check, Trial
from feedback_loop.store.rollouts import Rollout, begin_rollout, save_progress
from feedback_loop.views.approvals import approval_story, list_approvals
from feedback_loop.views.jobs import model_jobs
from feedback_loop.views.policy import model_policy, try_policy
from feedback_loop.views.predictions import logged_predictions
from feedback_loop.views.versions import model_versions, version_life
from tests.builders import binary_contract, prediction_rows, write_config

NOW = datetime(2026, 3, 15, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CONTRACT = binary_contract()


@pytest.fixture
def loop(store, tmp_path):
    """A loop over the store; its registry is empty, and nothing here needs it."""
    url = store.url.render_as_string(hide_password=False)
    made = FeedbackLoop(load_settings(write_config(tmp_path, store=url)), clock=ManualClock(NOW))
    yield made
    made.close()


def predict(loop, moment, *customers, contract=CONTRACT, **columns):
    count = len(customers)
    rows = prediction_rows(contract, [moment] * count, customer=customers, month=["m"] * count, **columns)
    PredictionLog(loop.store).append(contract, rows, moment)
    return rows.column("prediction_id").to_pylist()


def learn(loop, moment, contract=CONTRACT, **columns):
    frame = {name: [value] for name, value in columns.items()}
    record_outcomes(loop.store, contract, frame, now=moment, source="t")


def test_a_prediction_is_found_by_its_key_with_every_outcome_as_of_a_moment(loop):
    first, _ = predict(loop, NOW - 3 * DAY, 1, 2, age=[30.0, None], plan=["pro", "pro"], prediction=[True, False])
    (again,) = predict(loop, NOW - DAY, 1)
    learn(loop, NOW - 2 * DAY, customer=1, month="m", churned=True)
    learn(loop, NOW - HOUR, customer=1, month="m", churned=False)
    learn(loop, NOW - HOUR, prediction_id=first, churned=True)
    newest, oldest = logged_predictions(loop, "churn", {"customer": "1"})
    assert [newest["prediction_id"], oldest["prediction_id"]] == [again, first]
    assert oldest["key"] == {"customer": 1, "month": "m"}
    assert oldest["values"] == {"prediction": True, "probability": None, "age": 30.0, "plan": "pro"}
    assert [(one["named_by"], one["revision"], one["labels"]["churned"]) for one in oldest["revisions"]] == [
        ("id", 1, True),
        ("key", 1, True),
        ("key", 2, False),
    ]
    assert (oldest["outcome"], oldest["labels"], oldest["is_conflict"]) == ("observed", {"churned": True}, True)
    assert (newest["labels"], newest["is_conflict"]) == ({"churned": False}, False)
    (before,) = logged_predictions(loop, "churn", {"customer": "1"}, as_of=NOW - 2 * DAY)
    assert [one["labels"] for one in before["revisions"]] == [{"churned": True}]
    (same,) = logged_predictions(loop, "churn", prediction_id=first)
    assert same == oldest
    assert sorted(row["outcome"] for row in logged_predictions(loop, "churn")) == ["none", "observed", "observed"]
    assert len(logged_predictions(loop, "churn", newest=1)) == 1
    json.dumps(logged_predictions(loop, "churn"), allow_nan=False)


def test_a_prediction_of_a_clock_that_is_ahead_is_found_as_of_the_moment_it_was_logged(loop):
    ahead = prediction_rows(CONTRACT, [NOW - DAY + 20 * HOUR], customer=[7], month=["m"])
    PredictionLog(loop.store).append(CONTRACT, ahead, NOW - DAY)
    predict(loop, NOW - HOUR, 8)
    assert [row["key"]["customer"] for row in logged_predictions(loop, "churn", as_of=NOW - DAY)] == [7]
    assert logged_predictions(loop, "churn", as_of=NOW - 2 * DAY) == []


def test_what_was_erased_is_found_for_no_moment(loop):
    predict(loop, NOW - 3 * DAY, 1, 2)
    learn(loop, NOW - 2 * DAY, customer=1, month="m", churned=True)
    erased_keys.record_key(loop.store, "churn", {"customer": 1}, NOW)
    erase_rows(loop.store, CONTRACT, {"customer": 1}, NOW)
    assert logged_predictions(loop, "churn", {"customer": "1"}) == []
    assert logged_predictions(loop, "churn", {"customer": "1"}, as_of=NOW - DAY) == []
    assert [row["key"]["customer"] for row in logged_predictions(loop, "churn", as_of=NOW - DAY)] == [2]


def test_a_hashed_key_is_found_by_its_plain_value_and_shown_hashed(loop):
    secret = b"s" * 32
    redaction = make_redaction(CONTRACT, {"customer": "hash"}, secret)
    rows = prediction_rows(CONTRACT, [NOW - DAY], customer=[7], month=["m"])
    PredictionLog(loop.store).append(redaction.logged, redaction.redact(rows), NOW - DAY)
    with pytest.raises(BadInput, match="hashed with another key"):
        logged_predictions(loop, "churn", {"customer": "7"})
    settings = loop.settings.model_copy(
        update={"capture": loop.settings.capture.model_validate({"hash_key": secret.decode()})}
    )
    with_key = FeedbackLoop(settings, clock=loop.clock)
    (row,) = logged_predictions(with_key, "churn", {"customer": "07"})  # a `long`: as the caller's own 7
    assert len(row["key"]["customer"]) == 32
    assert logged_predictions(with_key, "churn", {"customer": "8"}) == []
    with_key.close()


def test_a_question_that_makes_no_sense_is_refused_and_an_empty_log_has_no_answer(loop):
    assert logged_predictions(loop, "churn", {"customer": "x"}) == []
    predict(loop, NOW - DAY, 1)
    for key, options, words in (
        ({"customer": "x"}, {}, "customer"),
        ({"age": "1"}, {}, "not in the key"),
        ({"month": ""}, {}, "missing"),
        ({}, {"as_of": NOW + DAY}, "future"),
        ({}, {"prediction_id": "x"}, "not a UUID"),
        ({}, {"newest": 0}, "Ask for 1 to"),
    ):
        with pytest.raises(BadInput, match=words):
            logged_predictions(loop, "churn", key, **options)
    with pytest.raises(NotFound):
        logged_predictions(loop, "nobody")


def promoted(loop, before, after, moment, **more):
    intended = retrainings.intend_promotion(
        loop.store, "churn", kind="promotion", from_version=before, to_version=after, reason="r", now=moment, **more
    )
    retrainings.end_promotion(loop.store, intended, now=moment)


def test_a_version_has_its_whole_life_from_trial_to_retirement(loop):
    store = loop.store
    promoted(loop, None, "1", NOW - 9 * DAY)
    number = retrainings.start_retraining(
        store, "churn", reason="alarm", champion="1", incident_id=None, now=NOW - 8 * DAY
    )
    trial = Trial("90 d", NOW - 99 * DAY, NOW - 9 * DAY, 500, 0.3, chosen=True)
    gates = [Check("loss", passed=True, summary="it is better")]
    retrainings.note_retraining(store, number, candidate="2", gate={"summary": "g"}, trials=[trial], gates=gates)
    retrainings.finish_retraining(store, number, state="promoted", now=NOW - 7 * DAY)
    rollout = Rollout(0, "churn", "shadow", "2", "1", 3, NOW - 7 * DAY, NOW - 7 * DAY, "running", {}, 0.0, number)
    begun = begin_rollout(store, rollout)
    assert [(life.version, life.state) for life in model_versions(store, "churn")] == [
        ("2", "shadow"),
        ("1", "champion"),
    ]
    save_progress(store, begun, state="passed", ended_at=NOW - 4 * DAY, ended_because="better")
    promoted(loop, "1", "2", NOW - 4 * DAY, retraining_id=number)
    predict(loop, NOW - 3 * DAY, 1, 2, model_version=["2", "10"])
    lives = {life.version: life for life in model_versions(store, "churn")}
    assert list(lives) == ["10", "2", "1"]
    assert {name: life.state for name, life in lives.items()} == {"10": "predicted", "2": "champion", "1": "retired"}
    assert (lives["1"].promoted_at, lives["1"].retired_at) == (NOW - 9 * DAY, NOW - 4 * DAY)
    assert (lives["2"].reason, lives["2"].predictions, lives["2"].retired_at) == ("alarm", 1, None)
    life = version_life(store, "churn", "2")
    assert [one["name"] for one in life["retraining"]["trials"]] == ["90 d"]
    assert [one["summary"] for one in life["retraining"]["gates"]] == ["it is better"]
    assert [one["stage"] for one in life["rollouts"]] == ["shadow"]
    assert [event["kind"] for event in life["events"]] == ["trial", "shadow", "passed", "promotion"]
    assert [one["state"] for one in version_life(store, "churn", "1")["promotions"]] == ["done", "done"]
    with pytest.raises(NotFound):
        version_life(store, "churn", "3")


def test_an_approval_says_who_is_asked_how_many_are_missing_and_until_when(loop):
    question = Approval(0, "churn", "2", "1", None, 2, NOW - DAY, NOW + DAY, "open", {"summary": "Better."})
    asked = ask(loop.store, question, ["ops", "mail"])
    vote(loop.store, asked.approval_id, voter="Ada", approves=True, reason="yes", now=NOW)
    story = approval_story(loop, asked.approval_id)
    assert (story["missing"], story["has_expired"], story["expires_in_seconds"]) == (1, False, 86400.0)
    assert [one["voter"] for one in story["votes"]] == ["ada"]
    assert [(one["route"], one["state"]) for one in story["asked_on"]] == [("ops", "pending"), ("mail", "pending")]
    assert list_approvals(loop) == [{name: story[name] for name in story if name not in ("asked_on", "votes")}]
    loop.clock.set(NOW + 2 * DAY)
    assert list_approvals(loop)[0]["has_expired"] is True
    vote(loop.store, asked.approval_id, voter="bo", approves=False, reason="no", now=NOW)
    assert list_approvals(loop) == []
    (ended,) = list_approvals(loop, "churn", closed=True)
    assert (ended["state"], ended["missing"], ended["expires_in_seconds"]) == ("rejected", 0, None)
    with pytest.raises(NotFound):
        list_approvals(loop, "nobody")


def test_jobs_say_what_is_due_what_runs_and_how_runs_ended(loop):
    store = loop.store
    done = ledger.begin_run(store, "join", "churn", NOW - DAY, "host:1", NOW - DAY)
    ledger.end_run(store, done, state="succeeded", now=NOW - DAY + HOUR, result={"rows": 1})
    failed = ledger.begin_run(store, "retrain", "churn", NOW - DAY, "host:1", NOW - DAY)
    ledger.end_run(store, failed, state="failed", now=NOW - DAY, cause="no rows")
    ledger.begin_run(store, "join", "churn", NOW, "host:2", NOW)
    with loop.runner.leased("churn"):
        jobs = model_jobs(loop, "churn")
    cycle, report = jobs["schedules"]
    assert (cycle["name"], cycle["last"], cycle["next"]) == ("cycle", plain(NOW - DAY), plain(NOW))
    assert "retrain" in cycle["jobs"]
    assert report["last"] is None
    assert jobs["holder"] == loop.runner.holder
    assert [(job["job"], job["alive"], job["usual_seconds"]) for job in jobs["running"]] == [("join", False, 3600.0)]
    assert [(job["job"], job["cause"]) for job in jobs["failed"]] == [("retrain", "no rows")]
    assert [(run["job"], run["state"], run["seconds"]) for run in jobs["runs"]] == [
        ("join", "running", None),
        ("retrain", "failed", 0.0),
        ("join", "succeeded", 3600.0),
    ]
    assert any("jobs of the loop fail" in trouble["title"] for trouble in jobs["troubles"])
    assert model_jobs(loop, "churn", newest=1)["runs"] == jobs["runs"][:1]


def test_a_policy_is_shown_with_its_meaning_and_as_lines_of_the_file(loop):
    shown = model_policy(loop, "churn")
    settings = {setting["name"]: setting for setting in shown["settings"]}
    assert (settings["alpha"]["value"], settings["maturity"]["value"]) == (0.05, "1d")
    assert (settings["reference"]["value"], settings["reference"]["default"]) == (1000, 5000)
    assert "false retraining" in settings["alpha"]["says"]
    assert "[models.churn.policy]" in shown["toml"].splitlines()
    assert "budget" not in shown["toml"]


def test_a_policy_that_can_not_be_is_refused_with_the_nearest_right_one(loop):
    with pytest.raises(BadInput, match=r"proposed: policy\.alpha"):
        try_policy(loop, "churn", {"alpha": 2})
    with pytest.raises(BadInput, match=r"Did you mean policy\.alpha"):
        try_policy(loop, "churn", {"alpa": 0.1})
    with pytest.raises(NotFound, match="logged prediction"):
        try_policy(loop, "churn", {"alpha": 0.1})


def test_outcomes_are_counted_since_the_last_join_and_still_each_subject_once(loop):
    """Whatever is joined, corrected, erased or removed by retention, it is what a count of all would give."""
    store, contract = loop.store, binary_contract(join=JoinRule(which=Which.FIRST))

    def counted():
        with store.read() as connection:
            whole = connection.exec_driver_sql("SELECT count(*) FROM outcomes_churn WHERE revision = 1").scalar_one()
        assert count_outcomes(store, "churn") == whole
        return whole

    assert count_outcomes(store, "churn") == 0
    early = predict(loop, NOW - 9 * DAY, 1, 2, 3, 4, contract=contract)
    for customer in (1, 2, 3):
        learn(loop, NOW - 8 * DAY, contract, customer=customer, month="m", churned=True)
    assert counted() == 3
    join_new(store, contract, DAY, NOW - 7 * DAY)
    with store.write() as connection:  # as in a store that was just upgraded
        connection.execute(joins.update().values(outcomes=None))
    assert counted() == 3
    learn(loop, NOW - 6 * DAY, contract, customer=1, month="m", churned=False)
    learn(loop, NOW - 6 * DAY, contract, prediction_id=early[3], churned=True)
    assert counted() == 4
    join_new(store, contract, DAY, NOW - 5 * DAY)
    predict(loop, NOW - 2 * DAY, 5, contract=contract)
    learn(loop, NOW - DAY, contract, customer=5, month="m", churned=True)
    assert counted() == 5
    erase_rows(store, contract, {"customer": 2}, NOW)
    erase_rows(store, contract, {"customer": 5}, NOW)
    assert counted() == 3
    join_new(store, contract, DAY, NOW)
    retain(store, "churn", contract.join, NOW - 3 * DAY)
    assert counted() == 0
    join_new(store, binary_contract(segments=()), DAY, NOW + DAY)  # by another rule: all over again
    assert counted() == 0

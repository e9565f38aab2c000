"""Retention, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import JoinRule, Which, prediction_id
from feedback_loop.store import findings, ledger, retention
from feedback_loop.store.alerts import raise_alert, save_attempt
from feedback_loop.store.conclusions import State, Verdict, load_verdicts
from feedback_loop.store.coverage import count_outcomes
from feedback_loop.store.incidents import due_alerts, record_verdict
from feedback_loop.store.ledger import last_made, load_runs
from feedback_loop.store.predictions import PredictionLog, count_predictions, read_labelled
from tests.builders import binary_contract, prediction_rows

CUT = datetime(2026, 3, 15, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(CUT - 400 * DAY, CUT + 400 * DAY)


def contract_of(**rule):
    return binary_contract(join=JoinRule(**rule))


def predict(store, contract, day, customer, log=None, **columns):
    """One prediction, so many days after the cut."""
    moment = CUT + day * DAY
    rows = prediction_rows(contract, [moment], customer=[customer], month=["m"], **columns)
    (log or PredictionLog(store)).append(contract, rows, moment)
    return rows.column("prediction_id")[0].as_py()


def learn(store, contract, day, *, churned=True, **subject):
    frame = {**{name: [value] for name, value in subject.items()}, "churned": [churned]}
    if "customer" in subject:
        frame["month"] = ["m"]
    record_outcomes(store, contract, frame, now=CUT + day * DAY, source="t")


def labels(store, contract, **options):
    rows = read_labelled(store, contract, WHOLE, **options)
    return dict(zip(rows.column("customer").to_pylist(), rows.column("churned").to_pylist(), strict=True))


def retain(store, contract, cut=CUT):
    return retention.retain(store, contract.model, contract.join, cut)


def test_what_is_older_goes_and_what_is_not_stays_with_its_numbers(store):
    contract = contract_of()
    for day, customer in ((-200, 1), (-40, 2), (-1, 3), (0, 4), (5, 5)):
        predict(store, contract, day, customer)
        learn(store, contract, day + 1, customer=customer)
    then = CUT + 7 * DAY
    before = {key: value for key, value in labels(store, contract, as_of=then).items() if key >= 4}
    assert retention.kept_since(store, "churn") is None
    done = retain(store, contract)
    # The outcome of the third was recorded at the cut: it goes with the next run.
    assert (done.predictions, done.outcomes, done.partitions) == (3, 2, 2 if store.is_postgresql else 0)
    assert labels(store, contract, as_of=then) == before == {4: True, 5: True}
    assert retention.kept_since(store, "churn") == CUT
    again = retain(store, contract)
    assert (again.predictions, again.outcomes, again.partitions) == (0, 0, 0)
    assert retain(store, contract, CUT + DAY).outcomes == 1
    assert retain(store, contract, CUT - 100 * DAY).kept_since == CUT + DAY


def test_a_model_without_predictions_has_nothing_to_remove(store):
    assert retain(store, contract_of()).predictions == 0


def test_more_rows_than_a_batch_are_removed(store, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 7)
    contract = contract_of()
    moments = [CUT + (minute - 50) * timedelta(minutes=1) for minute in range(60)]
    rows = prediction_rows(contract, moments, customer=range(60), month=["m"] * 60)
    PredictionLog(store).append(contract, rows, CUT)
    assert retain(store, contract).predictions == 50
    assert count_predictions(store, "churn") == {("1", "champion", "batch"): 10}


def test_an_early_outcome_waits_and_an_old_one_without_a_prediction_goes(store):
    contract = contract_of()
    predict(store, contract, 1, 9)
    learn(store, contract, 1, customer=7)
    learn(store, contract, -1, customer=8)
    learn(store, contract, -1, prediction_id=prediction_id(CUT - DAY))
    assert retain(store, contract).outcomes == 2
    predict(store, contract, 2, 7)
    assert labels(store, contract)[7] is True


def test_an_outcome_with_a_late_correction_is_not_torn_apart(store):
    contract = contract_of()
    predict(store, contract, -5, 1)
    learn(store, contract, -4, customer=1)
    learn(store, contract, 3, customer=1, churned=False)
    assert retain(store, contract).outcomes == 0
    assert count_outcomes(store, "churn") == 1
    assert retain(store, contract, CUT + 4 * DAY).outcomes == 2
    assert count_outcomes(store, "churn") == 0


def test_an_outcome_of_a_key_that_is_predicted_again_stays(store):
    contract = contract_of()
    predict(store, contract, -5, 1)
    learn(store, contract, -4, customer=1)
    predict(store, contract, 1, 1)
    before = labels(store, contract)
    assert retain(store, contract).outcomes == 0
    assert labels(store, contract) == before == {1: True}


@pytest.mark.parametrize("horizon", [None, 30 * DAY])
def test_the_first_predictions_outcome_does_not_fall_to_a_later_one(store, horizon):
    contract = contract_of(which=Which.FIRST, horizon=horizon)
    predict(store, contract, -2, 1)
    predict(store, contract, 1, 1)
    predict(store, contract, 1, 2)
    for customer in (1, 2):
        frame = {"customer": [customer], "month": ["m"], "churned": [True], "occurred_at": [CUT + 2 * DAY]}
        record_outcomes(store, contract, frame, now=CUT + 3 * DAY, source="t")
    window = Window(CUT, CUT + 9 * DAY)
    before = read_labelled(store, contract, window).column("churned").to_pylist()
    assert retain(store, contract).predictions == 1
    assert read_labelled(store, contract, window).column("churned").to_pylist() == before
    assert sorted(before, key=str) == [None, True]


def test_an_event_of_a_past_horizon_goes_although_its_key_is_predicted_again(store):
    contract = contract_of(horizon=2 * DAY)
    predict(store, contract, -5, 1)
    frame = {"customer": [1], "month": ["m"], "churned": [True], "occurred_at": [CUT - 4 * DAY]}
    record_outcomes(store, contract, frame, now=CUT - 3 * DAY, source="t")
    predict(store, contract, 1, 1)
    assert retain(store, contract).outcomes == 1
    assert labels(store, contract) == {1: None}


def test_every_generation_is_cleared(store):
    from feedback_loop.schema import Column, ColumnType

    contract = contract_of()
    changed = replace(contract, features=(Column("age", ColumnType.STRING), contract.features[1]))
    predict(store, contract, -5, 1)
    predict(store, changed, -4, 2)
    predict(store, changed, 1, 3)
    assert retain(store, changed).predictions == 2


def test_findings_about_rows_that_are_gone_go_too(store):
    contract = contract_of()
    gone, stays = predict(store, contract, -5, 1), predict(store, contract, 5, 2)
    learn(store, contract, -5, customer=8)
    learn(store, contract, 5, customer=9)
    with store.write() as connection:
        ids = connection.exec_driver_sql("SELECT outcome_id FROM outcomes_churn ORDER BY recorded_at").scalars().all()
        subjects = [("conflict", gone), ("conflict", stays), *(("unmatched", str(outcome)) for outcome in ids)]
        connection.execute(
            findings.findings.insert(),
            [{"model": "churn", "kind": kind, "subject": subject, "since": CUT} for kind, subject in subjects],
        )
    assert retain(store, contract).findings == 2
    with store.read() as connection:
        left = connection.execute(findings.findings.select()).all()
    assert {row.subject for row in left} == {stays, str(ids[1])}


def test_a_dropped_month_keeps_no_row_of_after_the_cut_from_staying(store):
    contract, log = contract_of(), PredictionLog(store)
    old_id = prediction_id(CUT - 40 * DAY)
    predict(store, contract, -40, 1, log)
    predict(store, contract, 3, 2, log, prediction_id=[old_id])  # an older id that its caller brought
    assert retain(store, contract).predictions == 1
    assert labels(store, contract) == {2: None}


def test_a_writer_that_knew_a_dropped_month_makes_it_again(store):
    contract, log = contract_of(), PredictionLog(store)
    predict(store, contract, -40, 1, log)
    assert retain(store, contract).predictions == 1
    predict(store, contract, -39, 2, log)
    assert labels(store, contract) == {2: None}
    assert retain(store, contract).predictions == 1


def test_records_that_nothing_goes_on_from_go_with_their_age(store):
    old, late = CUT - 9 * DAY, CUT + DAY
    for day in range(3):  # three runs of each job, all of them old, and one that never ended
        for job in ("join", "decide"):
            run(store, job, old + day * DAY, "succeeded")
    run(store, "evaluate", old, "running")
    ordinary = [judge(store, day, "1", State.OK) for day in range(4)]
    opens = judge(store, 4, "1", State.DEGRADED, ["log"])
    judge(store, 5, "1", State.OK)
    judge(store, 0, "2", State.OK)
    raise_alert(store, "drift:old", "old", "words", ["log", "ops"], old)
    for alert in due_alerts(store, CUT)[:2]:
        save_attempt(store, replace(alert, state="sent", attempts=1, next_attempt_at=old), sent_at=old)
    done = retention.prune_records(store, "churn", CUT)
    assert done == retention.Pruned(job_runs=4, alerts=1, verdicts=4)
    left = load_verdicts(store, "churn")
    assert (len(left), {verdict.version for verdict in left}) == (3, {"1", "2"})
    ids = {verdict.verdict_id for verdict in left}
    assert opens.verdict_id in ids
    assert not ids & {verdict.verdict_id for verdict in ordinary}
    assert sorted((run.job, run.state) for run in load_runs(store, "churn")) == [
        ("decide", "succeeded"),
        ("evaluate", "running"),
        ("join", "succeeded"),
    ]
    assert last_made(store, "churn", ["decide"]) == [old + 2 * DAY]
    assert retention.prune_records(store, "churn", late) == retention.Pruned()


def run(store, job, at, state):
    values = {"job": job, "model": "churn", "scheduled_at": at, "started_at": at, "holder": "me", "state": state}
    values["finished_at"] = at if state != "running" else None
    with store.write() as connection:
        connection.execute(ledger.job_runs.insert().values(**values))


def judge(store, day, version, state, routes=()):
    window = Window(CUT - (9 - day) * DAY, CUT - (8 - day) * DAY)
    verdict = Verdict("churn", version, window.end, window, state, "words", {}, {"since": "then"})
    return record_verdict(store, verdict, routes)[0]

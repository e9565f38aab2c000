"""Evaluations, retrainings, promotions, jobs and keys, on both databases."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput, NotFound, Refused
from feedback_loop.store import conclusions, keys, ledger, records, retrainings, serving_state, spool_accounts
from feedback_loop.store.evaluations import (
    INSUFFICIENT,
    DriftValue,
    EstimateValue,
    Evaluation,
    MetricValue,
    QualityValue,
    SliceValue,
    evaluated_until,
    load_evaluations,
    load_newest_evaluations,
    newest_evaluations,
    save_evaluation,
    with_details,
)
from feedback_loop.store.keys import Scope
from feedback_loop.store.past_estimates import load_past_estimates
from feedback_loop.store.serving_state import TrafficPlan, VersionNames
from feedback_loop.store.strengths import load_strengths

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
WINDOW = Window(START, START + DAY)


def evaluation(**changes):
    made = Evaluation(
        model="churn",
        version="1",
        window=WINDOW,
        as_of=START + DAY,
        matured=False,
        predictions=10,
        labelled=8,
        metrics=(
            MetricValue("accuracy", 0.75, 8, 0.1, "", 0.8, 0.6, 0.8),
            MetricValue("accuracy", 0.5, 4, None, "plan=pro"),
        ),
        drift=(
            DriftValue("age", "psi", 0.3, 0.1, None, drifted=True, rows=10, binning="values"),
            DriftValue("age", "wasserstein_normed", 0.3, 0.1, 1e-9, drifted=True, rows=10, decides=True),
        ),
    )
    return replace(made, **changes)


def test_an_evaluation_comes_back_as_it_was(store):
    """With its metrics and its JSON, in which PostgreSQL writes large numbers as integers."""
    values = [1e300, sys.float_info.max, 5e-324, 0.1 + 0.2, -0.0, 3.0]
    made = evaluation(
        drift=tuple(DriftValue(f"c{n}", "psi", v, v, None, drifted=False, rows=10**9) for n, v in enumerate(values)),
        quality=(QualityValue("", "late", 1e22, 0.0, failed=True, rows=10),),
        estimates=(EstimateValue("error", 1e16, 10, "cbpe", 100, standard_error=1e300),),
        slices=(SliceValue("plan=é", "error", 1.0, 0.0, 10, 1e-300, 3),),
        notes=("one", "two"),
    )
    saved = save_evaluation(store, made)
    [loaded] = load_evaluations(store, "churn")
    assert loaded == saved == replace(made, evaluation_id=saved.evaluation_id)
    assert all(type(value.value) is float for value in (*loaded.drift, *loaded.quality, *loaded.estimates))


def test_a_record_comes_back_as_it_was_with_its_window_words_and_tuples(store):
    made = conclusions.Diagnosis("churn", "1", None, WINDOW, START, "recent", "why", {"share": 0.5})
    identifier = records.add(store, made)
    assert records.one(store, conclusions.Diagnosis, model="churn") == replace(made, diagnosis_id=identifier)
    assert records.one(store, conclusions.Diagnosis, model="another") is None
    keys.create_key(store, "scraper", START, [Scope.READ], ["churn"])
    key = keys.ApiKey("scraper", (Scope.READ,), ("churn",), START, None)
    assert records.many(store, keys.ApiKey) == [key]
    assert records.one(store, keys.ApiKey, revoked_at=None).scopes[0] is Scope.READ
    account = spool_accounts.SpoolAccount(
        "s", "churn", "h", *[2**40] * 8, None, spool_accounts.SpoolState.OPEN, START
    )
    records.put(store, account)
    records.put(store, replace(account, stored=7, waiting_since=START))
    [found] = records.many(store, spool_accounts.SpoolAccount)
    assert found == replace(account, stored=7, waiting_since=START)
    assert found.state is spool_accounts.SpoolState.OPEN


def test_records_are_changed_and_removed_by_what_they_are(store):
    runs = [begin(store, START + day * DAY) for day in range(4)]
    table = ledger.job_runs
    assert records.change(store, ledger.JobRun, {"cause": "odd"}, table.c.run_id > runs[1], job="evaluate") == 2
    newest = records.many(store, ledger.JobRun, order_by=table.c.run_id.desc(), newest=3)
    assert [(run.run_id, run.cause) for run in newest[:2]] == [(runs[3], "odd"), (runs[2], "odd")]
    with store.write() as connection:  # all of it within a transaction
        assert records.remove(connection, ledger.JobRun, cause="odd") == 2
        assert records.many(connection, ledger.JobRun, cause="odd") == []


def test_an_evaluation_is_stored_once_and_one_as_of_a_later_moment_beside_it(store):
    first = save_evaluation(store, evaluation())
    assert save_evaluation(store, evaluation()).evaluation_id == first.evaluation_id
    later = save_evaluation(store, evaluation(as_of=START + 2 * DAY, matured=True, labelled=10))
    stored = load_evaluations(store, "churn")
    assert [evaluation.labelled for evaluation in stored] == [8, 10]
    assert newest_evaluations(stored) == load_newest_evaluations(store, "churn", 5) == [later]
    assert evaluated_until(store, "churn", matured=True) == WINDOW.end
    assert evaluated_until(store, "other", matured=False) is None


def test_the_newest_evaluations_are_the_last_windows(store):
    for day in range(5):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        save_evaluation(store, evaluation(window=window))
    newest = load_evaluations(store, "churn", newest=2)
    assert [evaluation.window.start for evaluation in newest] == [START + 3 * DAY, START + 4 * DAY]
    assert load_newest_evaluations(store, "churn", 2) == newest
    assert load_newest_evaluations(store, "other", 2) == []
    assert len(load_evaluations(store, "churn", within=Window(START, START + 2 * DAY))) == 2


def test_the_first_estimate_of_a_window_is_held_against_what_was_realised_last(store):
    def looked(day, hours, estimate, realised, *, matured, **changes):
        window = Window(START + day * DAY, START + (day + 1) * DAY)
        values = (EstimateValue("accuracy", estimate, 10, "cbpe", 100), EstimateValue("f1", 0.5, 10, "cbpe", 100))
        metrics = (MetricValue("accuracy", realised, 10), MetricValue("accuracy", 0.1, 5, segment="plan=pro"))
        changes = {"estimates": values, "metrics": metrics, "window": window, "matured": matured} | changes
        save_evaluation(store, evaluation(as_of=window.end + timedelta(hours=hours), **changes))

    lacking = (EstimateValue(INSUFFICIENT, 90.0, 10, "cbpe", 100),)
    looked(0, 30, 0.85, 0.8, matured=True)
    looked(0, 40, 0.84, 0.7, matured=True)  # a correction
    looked(0, 10, 0.91, 0.6, matured=False)
    looked(0, 2, 0.9, 0.5, matured=False)  # stored last, of an earlier moment
    looked(1, 2, 0.8, 0.8, matured=False)
    looked(1, 30, 0.8, 0.6, matured=True)
    looked(2, 2, 0.7, 0.7, matured=False)  # has not matured
    looked(3, 30, 0.7, 0.7, matured=True)  # was not looked at before
    short = {"estimates": lacking, "metrics": (MetricValue(INSUFFICIENT, 90.0, 10),)}
    looked(4, 2, 0, 0, matured=False, **short)
    looked(4, 30, 0, 0, matured=True, **short)
    looked(0, 2, 0.1, 0.9, matured=False, version="2")
    found = [(e.window.start, e.metric, e.estimate, e.realised) for e in load_past_estimates(store, "churn", 30)]
    assert found == [(START, "accuracy", 0.9, 0.7), (START + DAY, "accuracy", 0.8, 0.6)]
    assert [e.window.start for e in load_past_estimates(store, "churn", 2)] == [START + DAY]
    assert load_past_estimates(store, "another", 30) == []


def intend(store, from_version, to_version):
    return retrainings.intend_promotion(
        store, "churn", kind="promotion", from_version=from_version, to_version=to_version, reason="r", now=START
    )


def promoted(store, from_version, to_version):
    made = intend(store, from_version, to_version)
    retrainings.end_promotion(store, made, now=START)
    return made


def test_whoever_compared_with_an_older_champion_is_refused(store):
    promoted(store, None, "1")
    promoted(store, "1", "2")
    with pytest.raises(Refused, match="is version 2 by now, not 1"):
        intend(store, "1", "3")


def test_nobody_overtakes_a_promotion_that_has_begun(store):
    promoted(store, None, "1")
    intend(store, "1", "2")
    with pytest.raises(Refused, match="has begun and not ended"):
        intend(store, "1", "3")


def test_promotions_form_a_chain_without_those_that_failed(store):
    promoted(store, None, "1")
    failed = intend(store, "1", "2")
    retrainings.give_up_promotion(store, failed, "the registry has it no longer", now=START)
    promoted(store, "1", "3")
    chain = retrainings.load_promotions(store, "churn")
    assert [(step.ordinal, step.from_version, step.to_version, step.state) for step in chain] == [
        (1, None, "1", "done"),
        (2, "1", "2", "failed"),
        (3, "1", "3", "done"),
    ]


def start(store, champion="1"):
    return retrainings.start_retraining(
        store, "churn", reason="alarm", champion=champion, incident_id=None, now=START
    )


def test_a_retraining_keeps_its_trials_and_its_end(store):
    trial = retrainings.Trial("all", START, START + DAY, 100, 0.5, chosen=True)
    number = start(store)
    retrainings.note_retraining(store, number, trials=[replace(trial, chosen=False)])
    retrainings.note_retraining(store, number, gate={"passed": True}, trials=[trial])
    retrainings.note_retraining(store, number, candidate="2")
    retrainings.finish_retraining(store, number, state="promoted", now=START + DAY)
    (found,) = retrainings.load_retrainings(store, "churn")
    assert (found.state, found.candidate, found.gate) == ("promoted", "2", {"passed": True})
    assert retrainings.load_trials(store, number) == [trial]


def test_a_search_that_could_not_be_made_is_one_record_however_often_it_is_tried(store):
    first = start(store)
    retrainings.finish_retraining(store, first, state="not_made", now=START, cause="too few rows")
    assert start(store) == first
    (found,) = retrainings.load_retrainings(store, "churn")
    assert (found.state, found.cause, found.finished_at) == ("running", None, None)
    retrainings.note_retraining(store, first, gate={"passed": True})
    retrainings.finish_retraining(store, first, state="not_made", now=START, cause="the registry is away")
    assert start(store) != first  # what the first one had found stays on record


def test_a_retraining_whose_process_died_is_abandoned_when_the_next_begins(store):
    start(store)
    start(store)
    assert [search.state for search in retrainings.load_retrainings(store, "churn")] == ["abandoned", "running"]


def begin(store, scheduled_at=START, now=START):
    return ledger.begin_run(store, "evaluate", "churn", scheduled_at, "me", now)


def test_a_run_is_made_once_whether_it_succeeds_or_fails(store):
    ended = {"succeeded": ({"rows": 1}, None), "failed": (None, "it broke")}
    for day, (state, (result, cause)) in enumerate(ended.items()):
        due = START + day * DAY
        ledger.end_run(store, begin(store, due), state=state, now=due + MINUTE, result=result, cause=cause)
        assert begin(store, due) is None
        assert ledger.last_made(store, "churn", ["evaluate"]) == [due]
        run = ledger.load_runs(store, "churn")[0]
        assert (run.state, run.result, run.cause, run.finished_at) == (state, result, cause, due + MINUTE)


def test_a_run_whose_process_died_is_made_again_or_stays_abandoned(store):
    begin(store)
    assert ledger.last_made(store, "churn", ["evaluate"]) == [None]
    assert begin(store, now=START + MINUTE) is not None
    assert [run.state for run in ledger.load_runs(store, "churn")] == ["running"]
    begin(store, scheduled_at=START + DAY, now=START + DAY)
    assert [run.state for run in ledger.load_runs(store, "churn")] == ["running", "abandoned"]


def test_a_key_is_seen_once_and_only_its_digest_is_kept(store):
    key = keys.create_key(store, "caller", START)
    assert [keys.digest(key)] == [valid.digest for valid in keys.valid_keys(store)]
    with store.read() as connection:
        row = connection.exec_driver_sql("SELECT * FROM fl_api_keys").one()
    assert key not in map(str, row)
    with pytest.raises(Refused, match="There is a key named 'caller' already"):
        keys.create_key(store, "caller", START)


def test_a_key_is_for_the_models_and_the_scopes_that_are_named(store):
    keys.create_key(store, "all", START)
    keys.create_key(store, "two", START, [Scope.READ], models=["tip", "churn"])
    assert [(key.models, key.scopes) for key in keys.valid_keys(store)] == [
        (None, {"predict", "outcomes"}),
        ({"churn", "tip"}, {"read"}),
    ]
    assert [key.models for key in keys.load_keys(store)] == [None, ("churn", "tip")]
    with pytest.raises(Refused, match="no model"):
        keys.create_key(store, "none", START, models=[])
    with pytest.raises(Refused, match="good for nothing"):
        keys.create_key(store, "none", START, [])


def test_a_revoked_key_is_not_valid(store):
    keys.create_key(store, "caller", START)
    keys.revoke_key(store, "caller", START + DAY)
    assert keys.valid_keys(store) == []
    assert keys.load_keys(store)[0].revoked_at == START + DAY
    with pytest.raises(NotFound):
        keys.revoke_key(store, "caller", START + DAY)


def test_versions_that_bear_one_number_have_names_of_their_own(store):
    names = VersionNames(store)
    assert names.name("churn", "1", START) == "1"
    assert VersionNames(store).name("churn", "1", START + DAY) == "1.2"
    assert names.name("churn", "1", START + 2 * DAY) == "1.3"
    assert names.name("churn", "2", START + DAY) == "2"
    assert [VersionNames(store).name("churn", "1", START + number * DAY) for number in range(3)] == [
        "1",
        "1.2",
        "1.3",
    ]
    assert names.name("price", "1", START + DAY) == "1"


def test_processes_that_see_a_version_at_once_give_it_one_name(store):
    with ThreadPoolExecutor(4) as pool:
        moments = [START + DAY * (number % 3) for number in range(12)]
        found = list(pool.map(lambda moment: (moment, VersionNames(store).name("churn", "1", moment)), moments))
    assert len(set(found)) == 3
    assert {name for _, name in found} == {"1", "1.2", "1.3"}


def test_a_models_traffic_is_the_last_that_was_set(store):
    assert serving_state.load_traffic(store, "churn") == TrafficPlan()
    serving_state.save_traffic(store, "churn", TrafficPlan(("challenger",)), START)
    wanted = TrafficPlan(("other",), "challenger", 0.05)
    serving_state.save_traffic(store, "churn", wanted, START + DAY)
    assert serving_state.load_traffic(store, "churn") == wanted
    assert serving_state.load_traffic(store, "price") == TrafficPlan()


@pytest.mark.parametrize("wrong", [((), "c", 1.5), ((), "c", 0.0), ((), None, 0.5), (("c",), "c", 0.5)])
def test_traffic_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadInput):
        TrafficPlan(*wrong)


def test_a_version_that_can_not_be_loaded_opens_one_incident(store):
    assert serving_state.open_load_incident(store, "churn", "3", "no proof", START)
    assert not serving_state.open_load_incident(store, "churn", "3", "no proof", START + DAY)
    [incident] = serving_state.find_load_incidents(store, "churn")
    assert (incident.version, incident.cause, incident.opened_at, incident.closed_at) == (
        "3",
        "no proof",
        START,
        None,
    )
    assert serving_state.close_load_incidents(store, "churn", START + DAY, "version 4 answers") == 1
    assert serving_state.find_load_incidents(store, "churn")[0].closed_because == "version 4 answers"
    assert serving_state.close_load_incidents(store, "churn", START + DAY, "again") == 0
    assert serving_state.open_load_incident(
        store, "churn", "3", "no proof still", START + 2 * DAY
    )  # it was wanted again
    assert serving_state.close_load_incidents(store, "churn", START + 2 * DAY, "version 4 answers", {"3"}) == 0
    assert [
        (incident.cause, incident.closed_at) for incident in serving_state.find_load_incidents(store, "churn")
    ] == [("no proof still", None)]


def test_of_an_evaluation_only_the_details_that_are_asked_for_are_read(store):
    drift = (
        DriftValue("age", "psi", 3, 1, None, drifted=True, rows=9, decides=True),
        DriftValue("age", "ks", 0.2, 0.1, 0.5, drifted=False, rows=9),
    )
    estimates = (EstimateValue("accuracy", 1, 9, "cbpe", 9),)
    saved = save_evaluation(store, evaluation(drift=drift, estimates=estimates, metrics=(MetricValue("f1", 1.0, 9),)))
    [some] = load_newest_evaluations(store, "churn", 5, details=["estimates"])
    assert (some.drift, some.estimates, some.metrics) == ((), estimates, saved.metrics)
    [none] = load_evaluations(store, "churn", details=[])
    assert (none.drift, none.estimates, none.metrics) == ((), (), saved.metrics)
    [whole] = load_evaluations(store, "churn")
    assert with_details(store, none) == with_details(store, some) == whole
    [[strength]] = load_strengths(store, [none])
    assert (strength.column, strength.method, strength.value, strength.drifted) == ("age", "psi", 3.0, True)


def test_a_job_fails_from_the_first_failed_run_since_it_last_succeeded(store):
    def ran(job, *states, model="churn"):
        for day, state in enumerate(states):
            due = START + day * DAY
            run = ledger.begin_run(store, job, model, due, "me", due)
            if state != "running":
                ledger.end_run(store, run, state=state, now=due, cause=state)

    ran("join", "failed", "succeeded", "failed", "cancelled", "failed", "running")
    ran("decide", "failed", "failed", "succeeded")
    ran("adapt", "succeeded", "failed", model="another")
    ran("volume", "failed")
    assert [(run.job, run.scheduled_at) for run in ledger.failing_runs(store, "churn")] == [
        ("join", START + 2 * DAY),
        ("volume", START),
    ]
    assert ledger.last_made(store, "churn", ["decide", "adapt", "join"]) == [START + 2 * DAY, None, START + 4 * DAY]
    assert ledger.last_made(store, "churn", ["join"], until=START + 2 * DAY) == [START + 2 * DAY]
    assert ledger.last_made(store, "churn", []) == []

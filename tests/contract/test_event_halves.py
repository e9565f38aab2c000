"""What others predicted, told as events of two halves, in both databases."""

import json
import threading
from datetime import timedelta
from itertools import permutations

import pytest

from feedback_loop.capture import (
    Deployments,
    EventIntake,
    erase_waiting,
)
from feedback_loop.errors import BadInput, NotFound, Unavailable
from feedback_loop.store import Store, payloads
from feedback_loop.store.payloads import ErasedPayloads, Half, PayloadAccount
from feedback_loop.store.predictions import PredictionLog, count_predictions
from tests.contract.external import DAY, NOW, find, rows

REQUEST = json.dumps({"instances": [{"age": 30, "plan": "pro", "customer": 1}, {"age": 40, "plan": "pro"}]}).encode()
ANSWER = json.dumps({"predictions": [0.9, 0.2]}).encode()


def halves(event="call-1", request=REQUEST, answer=ANSWER, moment=NOW - timedelta(minutes=5)):
    return Half(event, True, request, "application/json", moment), Half(event, False, answer, "", NOW)


@pytest.fixture
def events(store, deployments, clock):
    return EventIntake(store, deployments, PredictionLog(store), clock, timedelta(hours=1))


def test_in_any_order_and_twice_a_pair_is_logged_exactly_once(store, events):
    request, answer = halves()
    seen = set()
    for place, order in enumerate(set(permutations([request, request, answer, answer]))):
        call = f"call-{place}"
        became = [events.take("churn", Half(call, *_rest(half))) for half in order]
        assert became.count("logged") == 1
        seen.add(tuple(became))
    assert ("waiting", "logged", "known", "known") in seen
    assert ("waiting", "waiting", "logged", "known") in seen
    assert count_predictions(store, "churn") == {("1", "champion", "external"): 12}
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=6)
    assert {row["predicted_at"] for row in rows(store)} == {NOW - timedelta(minutes=5)}
    assert sorted({row["probability"] for row in rows(store)}) == [0.2, 0.9]


def _rest(half):
    return half.is_request, half.body, half.content_type, half.moment


def test_a_pairs_ids_come_from_its_event_so_that_another_store_has_the_same(store, events, clock, tmp_path):
    from feedback_loop.store import migrate

    other = Store(f"sqlite:///{tmp_path}/other.db")
    migrate.prepare(other)
    elsewhere = EventIntake(other, Deployments(find, DAY), PredictionLog(other), clock, timedelta(hours=1))
    for intake, order in ((events, halves()), (elsewhere, halves()[::-1])):
        for half in order:
            intake.take("churn", half)
    assert [row["prediction_id"] for row in rows(store)] == [row["prediction_id"] for row in rows(other)]
    other.close()


def test_who_counts_what_bodies_become_is_told(events):
    told = []
    request, answer = halves()
    for half in (request, answer):
        events.take("churn", half, None, lambda *sizes: told.append(sizes))
    assert [(size, rows) for size, rows, _ in told] == [(len(half.body), 2) for half in (request, answer)]
    assert all(columns > 0 for *_, columns in told)


def test_the_first_half_outlives_the_process_that_took_it(store, deployments, clock, events):
    request, answer = halves()
    assert events.take("churn", request) == "waiting"
    again = Store(store.url.render_as_string(hide_password=False))
    another = EventIntake(again, deployments, PredictionLog(again), clock, timedelta(hours=1))
    assert another.take("churn", answer) == "logged"
    again.close()
    assert len(rows(store)) == 2


def test_a_pair_that_could_not_be_stored_is_stored_by_the_next_sweep(store, deployments, clock):
    class Away:
        is_away = True

        def append(self, contract, table, now):
            if self.is_away:
                raise Unavailable("database", "away")
            return PredictionLog(store).append(contract, table, now)

    sink = Away()
    events = EventIntake(store, deployments, sink, clock, timedelta(hours=1))
    request, answer = halves()
    events.take("churn", request)
    with pytest.raises(Unavailable):
        events.take("churn", answer)
    clock.set(NOW + timedelta(minutes=1))
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(waiting=1)
    sink.is_away = False
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=1)
    assert len(rows(store)) == 2
    assert events.take("churn", answer) == "known"


def test_a_half_whose_other_half_never_comes_expires_and_is_counted(store, events, clock):
    request, answer = halves()
    events.take("churn", request)
    events.take("churn", Half("call-2", *_rest(answer)))
    clock.set(NOW + timedelta(minutes=59))
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(waiting=2)
    clock.set(NOW + timedelta(minutes=61))
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(expired=2)
    events.sweep("churn")
    assert payloads.load_account(store, "churn") == PayloadAccount(expired=2)
    assert count_predictions(store, "churn") == {}


def test_the_bodies_of_a_pair_are_gone_once_it_is_logged_and_its_trace_after_a_while(store, events, clock):
    for half in (*halves(), halves()[0]):
        events.take("churn", half)

    def kept():
        with store.read() as connection:
            return connection.exec_driver_sql("SELECT request, answer FROM fl_payloads").all()

    assert kept() == [(None, None)]
    clock.set(NOW + timedelta(hours=2))
    events.sweep("churn")
    assert kept() == []
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=1)


def test_halves_that_do_not_fit_each_other_are_refused_and_counted(store, events):
    request, answer = halves(answer=b'{"predictions": [0.9]}')
    events.take("churn", request)
    with pytest.raises(BadInput, match="there are 1 for 2 rows"):
        events.take("churn", answer)
    assert payloads.load_account(store, "churn") == PayloadAccount(refused=1)
    assert count_predictions(store, "churn") == {}


@pytest.mark.parametrize(
    "half",
    [
        Half("call", True, b'{"instances": [[1]]}'),
        Half("call", False, b'{"predictions": ["yes"]}'),
        Half("call", True, REQUEST, "", NOW + 2 * DAY),
    ],
)
def test_a_half_that_does_not_fit_the_model_is_refused_and_does_not_wait(store, events, half):
    with pytest.raises(BadInput):
        events.take("churn", half)
    assert payloads.load_account(store, "churn") == PayloadAccount()


def test_a_request_that_waits_is_erased_with_the_key_that_it_holds(store, deployments, events):
    """The request of customers 1 and 2 waits, another's too, and one that nothing can read any more."""
    request, answer = halves("theirs")
    other = json.dumps({"dataframe_records": [{"age": 30.0, "plan": "pro", "customer": 3, "month": "m"}]}).encode()
    events.take("churn", request)
    events.take("churn", Half("another's", is_request=True, body=other))
    payloads.save_half(store, "churn", Half("odd", is_request=True, body=b"{"), None, NOW)
    events.take("churn", Half("an answer", *_rest(answer)))
    for dry_run, left in ((True, 4), (False, 3)):
        done = erase_waiting(store, deployments, "churn", {"customer": 1}, NOW, dry_run=dry_run)
        assert (done, payloads.load_account(store, "churn").waiting) == (ErasedPayloads(erased=1, unread=1), left)
    assert [pair.event for pair in payloads.open_requests(store, "churn")] == ["another's", "odd"]
    assert [events.take("churn", half) for half in (answer, request)] == ["known", "known"]
    assert rows(store) == []


def test_open_requests_are_all_found_however_many_there_are(store, monkeypatch):
    monkeypatch.setattr(payloads, "PAGE", 3)
    names = [f"call-{number}" for number in range(7)]
    for name in names:
        payloads.save_half(store, "churn", Half(name, is_request=True, body=b"{}"), None, NOW)
    assert [pair.event for pair in payloads.open_requests(store, "churn")] == names


def test_the_version_is_the_one_that_the_sender_said(store, events):
    request, answer = halves()
    events.take("churn", answer, "7")
    events.take("churn", request)
    assert {row["model_version"] for row in rows(store)} == {"7"}
    with pytest.raises(NotFound):
        events.take("churn", request, "9")


def test_many_halves_at_once_are_paired_once_each(store, deployments, clock):
    failures = []

    def work(half_of):
        own = Store(store.url.render_as_string(hide_password=False))
        events = EventIntake(own, deployments, PredictionLog(own), clock, timedelta(hours=1))
        try:
            for place in range(15):
                events.take("churn", halves(f"call-{place}")[half_of])
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        own.close()

    threads = [threading.Thread(target=work, args=[half_of]) for half_of in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert payloads.load_account(store, "churn") == PayloadAccount(logged=15)
    assert count_predictions(store, "churn") == {("1", "champion", "external"): 30}

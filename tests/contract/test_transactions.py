"""What the databases hold when several write at once, and which values they take: the same for both."""

import math
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text

from feedback_loop.clock import Window
from feedback_loop.errors import BadInput, Refused, Unavailable
from feedback_loop.store import Store, conclusions, coverage, evaluations, incidents, joins, keys, outcomes
from feedback_loop.store import engine as engine_module
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.evaluations import Evaluation, MetricValue, load_evaluations, save_evaluation
from feedback_loop.store.predictions import PredictionLog
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
WINDOW = Window(START, START + DAY)


class Meanwhile:
    """Another process that does something while this one is in the middle of a transaction: it may have to wait."""

    def __init__(self, store, work):
        self._store = Store(store.url.render_as_string(hide_password=False))
        self._outcome = []
        self._thread = threading.Thread(target=self._run, args=(work,))

    def begin(self):
        self._thread.start()
        self._thread.join(0.3)  # it is as far as it comes

    def end(self):
        self._thread.join()
        self._store.close()
        [(answer, error)] = self._outcome
        if error is not None:
            raise error
        return answer

    def _run(self, work):
        try:
            self._outcome.append((work(self._store), None))
        except Exception as error:  # noqa: BLE001 (raised again by whoever waits)
            self._outcome.append((None, error))


def verdict(version="1", **changes):
    values = {"state": State.DEGRADED, "summary": "words", "evidence": {"n": 1}, "monitor": {"state": None}}
    return Verdict("churn", version, START + 2 * DAY, WINDOW, **(values | changes))


def evaluation(*metrics):
    return Evaluation("churn", "1", WINDOW, START + DAY, matured=False, predictions=2, labelled=2, metrics=metrics)


def test_of_two_first_joins_at_once_the_second_finds_what_the_first_has_taken_in(store):
    contract = binary_contract()
    PredictionLog(store).append(contract, prediction_rows(contract, [START]), START)

    def join(own):
        return joins.join_new(own, contract, HOUR, START + DAY)

    other = Meanwhile(store, join)
    first = joins.join_new(store, contract, HOUR, START + DAY, lambda *_: other.begin())
    assert (first.predictions, other.end().predictions) == (1, 0)


def test_of_two_that_find_a_model_worse_at_once_one_opens_the_incident_and_both_verdicts_stand(store):
    other = Meanwhile(store, lambda own: incidents.record_verdict(own, verdict("2"), ["log"]))
    own = {name: value for name, value in vars(verdict()).items() if name not in ("window", "verdict_id")}
    with store.write() as connection:
        row = conclusions.verdicts.insert().values(**own, window_start=WINDOW.start, window_end=WINDOW.end)
        [identifier] = connection.execute(row).inserted_primary_key
        words = {"model": "churn", "version": "1", "verdict_id": identifier, "why": "words"}
        incidents.begin_in(connection, **words, recovery=None, routes=["log"], now=START)
        other.begin()
    saved, opened = other.end()
    assert (saved.version, opened) == ("2", None)
    assert {verdict.version for verdict in conclusions.load_verdicts(store, "churn")} == {"1", "2"}
    assert incidents.open_incident(store, "churn").version == "1"


def test_two_evaluations_of_a_window_at_once_as_of_different_moments_are_two_revisions(store):
    later = replace(evaluation(), as_of=START + 2 * DAY)
    other = Meanwhile(store, lambda own: save_evaluation(own, later))
    with store.write() as connection:
        values = {"model": "churn", "version": "1", "window_start": WINDOW.start, "window_end": WINDOW.end}
        values |= {
            "matured": False,
            "predictions": 2,
            "labelled": 2,
            "notes": [],
            "details": {"drift": [], "quality": [], "estimates": [], "slices": []},
            "revision": 1,
            "as_of": START + DAY,
        }
        connection.execute(evaluations.evaluations.insert().values(**values))
        other.begin()
    assert other.end().revision == 2
    assert save_evaluation(store, later).revision == 2
    assert [evaluation.revision for evaluation in load_evaluations(store, "churn")] == [1, 2]


def test_of_two_that_save_a_sources_watermark_for_the_first_time_the_later_one_stands(store):
    other = Meanwhile(store, lambda own: outcomes.save_watermark(own, "churn", "feed", 2, START))
    with store.write() as connection:
        values = {"model": "churn", "source": "feed", "taken_at": START, "watermark": {"is_time": False, "value": 1}}
        connection.execute(outcomes.outcome_sources.insert().values(**values))
        other.begin()
    other.end()
    assert outcomes.load_watermark(store, "churn", "feed") == 2


def test_a_row_that_no_constraint_lets_in_is_not_taken_for_one_that_is_there_already(store):
    twice = MetricValue("accuracy", 0.5, 2), MetricValue("accuracy", 0.6, 2)
    with pytest.raises(Refused, match=r"metric_values|metric"):
        save_evaluation(store, evaluation(*twice))
    assert load_evaluations(store, "churn") == []


def test_what_is_read_in_one_transaction_is_of_one_moment(store):
    def count(connection):
        return connection.execute(select(func.count()).select_from(conclusions.verdicts)).scalar_one()

    with store.read() as connection:
        before = count(connection)
        incidents.record_verdict(store, verdict())
        assert (before, count(connection)) == (0, 0)
    with store.read() as connection:
        assert count(connection) == 1


def test_numbers_that_json_has_no_word_for_are_null(store):
    evidence = {"watched": {"brier": math.nan, "all": [math.inf, -math.inf, 0.5, (math.nan,)]}}
    incidents.record_verdict(store, verdict(evidence=evidence))
    expected = {"watched": {"brier": None, "all": [None, None, 0.5, [None]]}}
    assert conclusions.latest_verdict(store, "churn").evidence == expected


def test_a_moment_without_a_time_zone_is_refused(store):
    with pytest.raises(BadInput, match="has no time zone"):
        keys.create_key(store, "one", datetime(2026, 3, 1))  # noqa: DTZ001
    assert keys.load_keys(store) == []


def test_a_refusal_which_callers_are_told_does_not_say_where_the_database_is(store):
    with pytest.raises(Refused) as unknown, store.write() as connection:
        connection.execute(text("SELECT nothing_that_is_there(1)"))
    with pytest.raises(Refused) as twice, store.write() as connection:
        connection.execute(coverage.joins.insert(), [{"model": "m", "watermark": START, "rule": {}}] * 2)
    for refused in (unknown, twice):
        assert str(refused.value).startswith("The database ")
        assert "://" not in str(refused.value)
        assert str(store.url.database) not in str(refused.value)


def test_a_thread_that_gets_no_connection_in_time_is_told_that_the_database_is_unavailable(store, monkeypatch):
    monkeypatch.setattr(engine_module, "MOST_CONNECTIONS", engine_module.POOLED)
    other = Store(store.url.render_as_string(hide_password=False))
    other.engine.pool._timeout = 0.01
    with ExitStack() as stack:
        for _ in range(engine_module.POOLED):
            stack.enter_context(other.read())
        with pytest.raises(Unavailable, match="None of 5 connections"), other.write():
            pass
    with other.write():
        pass
    other.close()


def test_a_connection_that_is_in_use_when_its_store_is_closed_is_closed_once_it_is_given_back(store):
    with store.read() as connection:
        held = connection.connection.dbapi_connection
        store.close()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    with pytest.raises(Exception, match="closed"):
        held.execute("SELECT 1")
    with store.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_threads_that_ask_for_a_store_first_at_the_same_time_share_its_connections(store, monkeypatch):
    """An engine that another has replaced at once would keep its connections, which nobody closes."""
    all_there, make = threading.Barrier(2), engine_module._make_engine
    made = []

    def slowly(of):
        made.append(make(of))
        with suppress(threading.BrokenBarrierError):  # one alone waits in vain
            all_there.wait(1)
        return made[-1]

    monkeypatch.setattr(engine_module, "_make_engine", slowly)
    threads = [threading.Thread(target=lambda: store.engine) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1

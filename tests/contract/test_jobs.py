"""Runs of jobs on both databases: cancelled by a person, and made whatever the clock does."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.errors import Cancelled, NotFound, Refused
from feedback_loop.scheduling import Chain, Job, Runner, Scheduler, parse_schedule
from feedback_loop.store import leases, serving_state
from feedback_loop.store.ledger import ask_cancel, asked_runs, begin_run, drop_asked, end_run, load_runs, want_run
from feedback_loop.store.serving_state import TrafficPlan

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@pytest.fixture
def often(monkeypatch):
    """Leases are renewed, and what a person asks is noticed, at once."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)


def cancelled(store):
    """Asks for the end of what runs, as a person does from another process."""

    def ask():
        [run] = load_runs(store, newest=1)
        ask_cancel(store, run.run_id, by="ada", reason="it takes too long", now=NOW)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()


def long_job(store, *, swallows=False):
    """Works on and on in steps, each of which looks at the store."""
    cancelled(store)
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            serving_state.load_traffic(store, "churn")
        except Cancelled:
            if not swallows:
                raise
            return "half of it"
        time.sleep(0.01)
    return "all of it"


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("swallows", [False, True])
def test_a_job_that_is_cancelled_ends_at_its_next_step_writes_nothing_more_and_the_turn_goes_on(store, swallows):
    def job():
        result = long_job(store, swallows=swallows)
        serving_state.save_traffic(store, "churn", TrafficPlan(("challenger",)), NOW)
        return result

    chain = [Job("retrain", job), Job("retention", lambda: "done")]
    outcomes = Runner(store, ManualClock(NOW), MINUTE).run("churn", chain, NOW)
    assert [(outcome.job, outcome.state) for outcome in outcomes] == [
        ("retrain", "cancelled"),
        ("retention", "succeeded"),
    ]
    last, first = load_runs(store)
    assert (first.state, last.state) == ("cancelled", "succeeded")
    assert "cancelled by ada: it takes too long" in first.cause
    assert (first.cancel_asked_by, first.cancel_reason, first.cancel_asked_at) == ("ada", "it takes too long", NOW)
    assert serving_state.load_traffic(store, "churn") == TrafficPlan()
    again = Runner(store, ManualClock(NOW), MINUTE).run("churn", [Job("retrain", int)], NOW)
    assert [outcome.state for outcome in again] == ["skipped"]  # that run was made, well or not
    with pytest.raises(Refused, match="it is cancelled"):
        ask_cancel(store, first.run_id, by="ada", reason="again", now=NOW)


def test_a_job_that_was_done_before_it_noticed_has_succeeded(sqlite_store):
    outcomes = Runner(sqlite_store, ManualClock(NOW), MINUTE).run(
        "churn", [Job("retrain", lambda: cancelled(sqlite_store))], NOW
    )
    assert [outcome.state for outcome in outcomes] == ["succeeded"]
    with pytest.raises(NotFound):
        ask_cancel(sqlite_store, 99, by="ada", reason="none such", now=NOW)


class Life:
    """A scheduler of one chain, of which runs are counted by the moments at which they were due."""

    def __init__(self, store, schedule="1d"):
        self.store, self.clock, self.made = store, ManualClock(NOW), []
        jobs = tuple(Job(name, lambda: None) for name in ("first", "second"))
        self.chain = Chain("churn", parse_schedule(schedule, "cycle"), jobs)
        self.scheduler = self.another()

    def another(self):
        return Scheduler(self.store, self.clock, Runner(self.store, self.clock, MINUTE), [self.chain], lambda: None)

    def at(self, moment, scheduler=None):
        """Has the scheduler look at a moment, twice; returns how many runs it has made."""
        self.clock.set(moment)
        before = len(load_runs(self.store, job="first"))
        for _ in range(2):
            (scheduler or self.scheduler).fire(self.chain)
        return len(load_runs(self.store, job="first")) - before


def test_a_clock_that_jumps_ahead_and_is_set_back_makes_one_run_and_loses_none(store):
    life = Life(store)
    assert life.at(NOW) == 0  # one that has never run waits for its next time
    assert [life.at(NOW + day * DAY) for day in (1, 2)] == [1, 1]
    assert life.at(NOW + 700 * DAY) == 1
    assert [life.at(NOW + day * DAY) for day in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert life.at(NOW + 3 * DAY) == 0
    moments = [run.scheduled_at for run in load_runs(store, job="first")]
    assert len(moments) == len(set(moments)) == 5
    assert life.at(NOW + 700 * DAY) == 0  # that one was made then


def test_a_scheduler_that_was_started_by_a_clock_far_ahead_runs_once_it_is_right(sqlite_store):
    life = Life(sqlite_store)
    life.clock.set(NOW + 700 * DAY)
    ahead = life.another()
    assert [life.at(NOW + day * DAY, ahead) for day in (0, 1, 2)] == [0, 1, 1]


def test_two_schedulers_through_a_leap_day_and_both_clock_changes_make_each_run_once(sqlite_store):
    for start in (datetime(2028, 2, 27, 12, tzinfo=UTC), datetime(2028, 3, 24, 12, tzinfo=UTC)):
        life = Life(sqlite_store, "30 2 * * *")
        life.clock.set(start)
        both = [life.scheduler, life.another()]
        counts = [
            sum(life.at(start + hour * timedelta(hours=1), one) for one in both) for hour in range(0, 24 * 5, 3)
        ]
        assert sum(counts) >= 5
        assert max(counts) == 1
    moments = sorted(run.scheduled_at for run in load_runs(sqlite_store, job="second"))
    assert datetime(2028, 2, 29, 2, 30, tzinfo=UTC) in moments
    assert datetime(2028, 3, 26, 2, 30, tzinfo=UTC) in moments  # an hour that clocks in Berlin have not


def test_the_store_is_asked_only_where_something_may_be_due(sqlite_store):
    life = Life(sqlite_store)
    life.at(NOW + DAY)
    for minute in range(600):
        life.clock.set(NOW + DAY + minute * MINUTE)
        assert not life.scheduler._may_be_due(life.chain)
    life.clock.set(NOW + 2 * DAY)
    assert life.scheduler._may_be_due(life.chain)


def test_what_a_person_asked_for_is_open_until_it_ends(store):
    asked = {"by": "ada", "begun": 0}
    first = want_run(store, "retrain by hand", "churn", asked, NOW)
    second = want_run(store, "retrain by hand", "churn", asked, NOW + MINUTE)
    begin_run(store, "retrain by hand", "sales", NOW, "a", NOW)  # nobody asked for this one

    def left(since=NOW):
        return [(run.scheduled_at, run.state, run.asked) for run in asked_runs(store, "retrain by hand", since)]

    assert left() == [(NOW, "wanted", asked), (NOW + MINUTE, "wanted", asked)]
    begun = begin_run(store, "retrain by hand", "churn", NOW, "a", NOW, {**asked, "begun": 1})
    assert begun != first.run_id
    assert (NOW, "running", {**asked, "begun": 1}) in left()
    assert not drop_asked(store, begun, state="cancelled", now=NOW, cause="it runs")
    end_run(store, begun, state="abandoned", now=NOW, cause="its process ended")
    assert (NOW, "abandoned", {**asked, "begun": 1}) in left()
    assert [moment for moment, _, _ in left(NOW + MINUTE)] == [NOW + MINUTE]
    again = begin_run(store, "retrain by hand", "churn", NOW, "b", NOW, {**asked, "begun": 2})
    end_run(store, again, state="succeeded", now=NOW, result={})
    assert begin_run(store, "retrain by hand", "churn", NOW, "c", NOW) is None
    assert drop_asked(store, second.run_id, state="cancelled", now=NOW, cause="not now")
    assert left() == []

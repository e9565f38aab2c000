"""Retrainings that people ask for on a page: what becomes of them when the process that they asked ends."""

import signal
import threading
from datetime import timedelta
from functools import partial

import pytest

from feedback_loop import cycle
from feedback_loop.cycle import BY_HAND, left_by_hand, make_scheduler, retrain_as_asked
from feedback_loop.dashboard.searching import start_retraining
from feedback_loop.errors import Refused
from feedback_loop.store.ledger import begin_run, find_run, load_runs, want_run
from tests.builders import churn_loop
from tests.integration.processes import call, end, free_port, kill_all, running, wait_until
from tests.integration.test_mlflow_searches import begin_search, degraded  # noqa: F401 (a fixture)

ASKED = {"by": "ada", "promotes": True, "despite_diagnosis": True, "begun": 0}


def newest(loop):
    return load_runs(loop.store, "churn", newest=1, job=BY_HAND)[0]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_scheduler_goes_on_with_a_search_whose_pages_ended(warm, degraded, tmp_path, ending):  # noqa: F811
    loop, port, log = degraded, free_port(), tmp_path / "pages.log"
    config = ["--config", str(tmp_path / "feedback_loop.toml")]
    lease = {"FEEDBACK_LOOP_SCHEDULER__LEASE": "3s"}
    slow = {"FEEDBACK_LOOP_MODELS__CHURN__RETRAINING__TRAINER": '["sleep", "120"]'}
    pages = [warm / "feedback-loop", "dashboard", "--port", str(port), *config]
    with running(pages, log, **lease, **slow) as process:
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, process, log)
        begin_search(port, "")
        wait_until(lambda: newest(loop).state == "running", process, log)
        if ending == signal.SIGTERM:
            end(process, ending)
        else:
            kill_all(process, log)
    begun = newest(loop)
    assert begun.state == ("abandoned" if ending == signal.SIGTERM else "running")
    assert begun.asked["begun"] == 1
    with running([warm / "feedback-loop", "scheduler", *config], tmp_path / "scheduler.log", **lease) as process:
        wait_until(lambda: newest(loop).state not in ("running", "abandoned"), process, tmp_path / "scheduler.log")
    made = newest(loop)
    assert made.state == "succeeded", made.cause
    assert (made.scheduled_at, made.asked["begun"]) == (begun.scheduled_at, 2)
    assert made.holder != begun.holder
    assert made.result["asked_by"] == begun.asked["by"]
    assert len(load_runs(loop.store, "churn", job=BY_HAND)) == 1


@pytest.fixture
def loop(tmp_path, clock):
    loop = churn_loop(tmp_path, clock)
    yield loop
    loop.close()


def test_what_was_asked_for_is_left_until_it_ends_and_not_made_twice(loop, clock):
    run = want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    assert [left.run_id for left in left_by_hand(loop)] == [run.run_id]
    with pytest.raises(Refused, match="at this very moment"):
        want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    with loop.runner.leased("churn"), pytest.raises(Refused, match="Another run is at work"):
        retrain_as_asked(loop, run)
    [outcome] = retrain_as_asked(loop, run)  # no outcomes are there, so the search is not made, which is a result
    assert (outcome.state, outcome.result["asked_by"]) == ("succeeded", "ada")
    assert left_by_hand(loop) == []
    [again] = retrain_as_asked(loop, run)
    assert again.state == "skipped"


def test_what_runs_in_a_living_process_is_not_left(loop, clock):
    run = want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    with loop.runner.leased("churn"):
        begin_run(loop.store, BY_HAND, "churn", run.scheduled_at, "another", clock(), {**ASKED, "begun": 1})
        assert left_by_hand(loop) == []
    [left] = left_by_hand(loop)  # now it has died
    assert left.asked["begun"] == 1


def test_one_whose_process_died_too_late_is_not_begun_again_and_not_written_with_each_look(loop, clock, monkeypatch):
    run = want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    begin_run(loop.store, BY_HAND, "churn", run.scheduled_at, "another", clock(), {**ASKED, "begun": 1})
    clock.set(clock() + cycle.ASKED_AGE + timedelta(seconds=1))
    monkeypatch.setattr(loop.store, "write", None)  # nothing is written
    assert left_by_hand(loop) == []


def test_what_is_too_old_or_has_ended_its_processes_is_not_begun_again(loop, clock):
    run = want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    clock.set(clock() + cycle.ASKED_AGE + timedelta(seconds=1))
    assert left_by_hand(loop) == []
    old = find_run(loop.store, run.run_id)
    assert (old.state, "ask again" in old.cause) == ("failed", True)
    deadly = want_run(loop.store, BY_HAND, "churn", {**ASKED, "begun": cycle.BEGUN_AT_MOST}, clock())
    assert left_by_hand(loop) == []
    assert find_run(loop.store, deadly.run_id).state == "failed"


def test_who_asked_may_cancel_before_anybody_begins(loop, clock):
    run = want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    cancelled = loop.jobs.cancel(run.run_id, reason="not now", by="ada")
    assert cancelled.state == "cancelled"
    assert find_run(loop.store, run.run_id).cause == "ada has cancelled it: not now"
    assert left_by_hand(loop) == []
    with pytest.raises(Refused, match="does not run: it is cancelled"):
        loop.jobs.cancel(run.run_id, reason="again")


def test_what_nobody_began_gives_way_to_who_asks_anew(loop, clock):
    left = want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    clock.set(clock() + timedelta(minutes=1))
    start_retraining(loop, "churn", by="grace", promotes=False, despite_diagnosis=True)
    for thread in threading.enumerate():
        if thread.name == "retrain churn":
            thread.join()
    assert find_run(loop.store, left.run_id).cause == "grace has asked anew"
    assert (newest(loop).state, newest(loop).asked["by"]) == ("succeeded", "grace")


def test_two_schedulers_make_it_once(loop, clock):
    want_run(loop.store, BY_HAND, "churn", ASKED, clock())
    asked = [make_scheduler(loop)._asked() for _ in range(2)]
    threads = [threading.Thread(target=partial(make_scheduler(loop).fire_asked, each)) for [each] in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [run] = load_runs(loop.store, "churn", job=BY_HAND)
    assert (run.state, run.asked["begun"]) == ("succeeded", 1)

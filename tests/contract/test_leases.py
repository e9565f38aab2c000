"""Leases on both databases: threads, processes, clocks that are wrong, runs that stall or are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from feedback_loop.clock import ManualClock
from feedback_loop.errors import LeaseLost, Refused, Unavailable
from feedback_loop.scheduling import Chain, Job, Runner, Scheduler, parse_schedule
from feedback_loop.store import Store, leases, ledger, serving_state
from feedback_loop.store.leases import hold, take_lease
from feedback_loop.store.serving_state import TrafficPlan

pytestmark = pytest.mark.usefixtures("warm_children")
NOW = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
YEARS = timedelta(days=4000)


def elsewhere(work):
    """What another thread finds: it holds none of this one's leases."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def expire(store, name):
    with store.write() as connection:
        past = {"expires_at": datetime(2001, 1, 1, tzinfo=UTC)}
        connection.execute(leases.leases.update().where(leases.leases.c.name == name).values(**past))


def stall(store, name="model:churn"):
    """What a database sees of a run that stands still for longer than its lease."""
    elsewhere(lambda: expire(store, name))


def take_over(store, name="model:churn"):
    """Another run begins, since this one stood still for too long."""
    stall(store, name)
    return elsewhere(lambda: take_lease(store, name, "another", MINUTE))


def write(store, model="churn"):
    serving_state.save_traffic(store, model, TrafficPlan(("challenger",)), NOW)


def is_written(store, model="churn"):
    return serving_state.load_traffic(store, model) != TrafficPlan()


def test_a_lease_is_one_runs_and_not_its_threads_or_processs(store):
    with hold(store, "m", MINUTE, busy="busy"):
        message = rf"busy .*:{os.getpid()}, until \d{{4}}-.*Z unless it is renewed"
        with pytest.raises(Refused, match=message), hold(store, "m", MINUTE, busy="busy"):
            pass
        with hold(store, "another", MINUTE, busy="busy"):
            pass
    with hold(store, "m", MINUTE, busy="busy") as again:
        assert again.fence == 2


def test_who_ends_first_takes_no_lease_from_another(store):
    first = take_lease(store, "m", "a", MINUTE)
    stall(store, "m")
    second = take_lease(store, "m", "b", MINUTE)
    leases.drop_lease(store, first)
    assert take_lease(store, "m", "c", MINUTE) is None
    leases.drop_lease(store, second)
    assert take_lease(store, "m", "c", MINUTE).fence == 3


def test_of_threads_with_clocks_years_apart_one_at_a_time_works_on_each_of_two_models(store):
    inside, most, made = {"churn": 0, "fraud": 0}, [0], []

    def work(number):
        runner = Runner(store, ManualClock(NOW + number * YEARS), MINUTE)
        for turn in range(6):
            model = ("churn", "fraud")[(number + turn) % 2]

            def step(model=model):
                inside[model] += 1
                most.append(inside[model])
                write(store, model)
                inside[model] -= 1

            try:
                outcomes = runner.run(model, [Job("step", step)], NOW + turn * MINUTE)
                made.extend((model, turn) for run in outcomes if run.state == "succeeded")
            except Refused:
                pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(made) == len(set(made)) > 2
    runs = [(run.model, run.scheduled_at) for run in ledger.load_runs(store) if run.state == "succeeded"]
    assert len(runs) == len(set(runs)) == len(made)


COUNTS = """
import sys, time
from datetime import timedelta
from pathlib import Path
from feedback_loop.errors import Refused
from feedback_loop.store import Store
from feedback_loop.store.leases import hold

store, file, made = Store(sys.argv[1]), Path(sys.argv[2]), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    try:
        with hold(store, "model:churn", timedelta(minutes=1), busy="busy"):
            seen = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(seen + 1))
            made += 1
    except Refused:
        time.sleep(0.001)
print(made, flush=True)
"""


def started(source, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "ready"
    return process


def url_of(store):
    return store.url.render_as_string(hide_password=False)


def test_processes_never_work_on_one_model_at_once(store, tmp_path):
    count = tmp_path / "count"
    count.write_text("0")
    processes = [started(COUNTS, url_of(store), str(count)) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    made = [int(process.communicate(timeout=200)[0]) for process in processes]
    assert sum(made) == int(count.read_text()) > 20


HOLDS = """
import sys, time
from datetime import timedelta
from feedback_loop.store import Store
from feedback_loop.store.leases import hold
with hold(Store(sys.argv[1]), "model:churn", timedelta(seconds=1.5), busy="busy"):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_run_that_is_killed_keeps_others_out_for_no_longer_than_its_lease(store):
    process = started(HOLDS, url_of(store))
    runner = Runner(store, ManualClock(NOW + YEARS), MINUTE)  # a clock by which everything has expired long ago
    with pytest.raises(Refused), runner.leased("churn"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    died = time.monotonic()
    while (taken := take_lease(store, "model:churn", "me", MINUTE)) is None and time.monotonic() < died + 60:
        time.sleep(0.05)
    assert taken.fence == 2


def test_while_it_works_a_lease_is_renewed(store):
    with hold(store, "m", timedelta(seconds=1), busy="busy"):
        ends = time.monotonic() + 2.2
        while time.monotonic() < ends:
            assert take_lease(store, "m", "another", MINUTE) is None
            time.sleep(0.1)
        write(store)
    assert is_written(store)


def test_a_run_that_stalled_writes_nothing_once_another_has_begun(store):
    with hold(store, "model:churn", MINUTE, busy="busy"):
        assert take_over(store).fence == 2
        with pytest.raises(LeaseLost):
            write(store)
    assert not is_written(store)
    assert take_lease(store, "model:churn", "a third", MINUTE) is None  # it is the other's still


def test_a_run_that_stalled_and_that_nobody_followed_goes_on(store):
    with hold(store, "model:churn", MINUTE, busy="busy"):
        stall(store)
        write(store)
        assert (
            elsewhere(lambda: take_lease(store, "model:churn", "another", MINUTE)) is None
        )  # with that write it was renewed
    assert is_written(store)


def test_a_chain_whose_lease_is_lost_stops_and_leaves_the_rest_to_the_next(store):
    runner, ran = Runner(store, ManualClock(NOW), MINUTE), []

    def loses():
        ran.append("loses")
        assert take_over(store).fence == 2

    chain = [Job("loses", loses), Job("after", lambda: ran.append("after"))]
    with pytest.raises(LeaseLost):
        runner.run("churn", chain, NOW)
    assert ran == ["loses"]
    assert [(run.job, run.state) for run in ledger.load_runs(store)] == [("loses", "running")]
    stall(store)
    chain[0] = Job("loses", lambda: ran.append("again"))
    assert [run.state for run in runner.run("churn", chain, NOW)] == ["succeeded", "succeeded"]
    assert ran == ["loses", "again", "after"]


def test_a_renewal_that_fails_stops_the_work_at_its_next_look_at_the_store(sqlite_store, tmp_path):
    def goes_on():
        try:
            serving_state.load_traffic(sqlite_store, "churn")
        except LeaseLost:
            return False
        except Unavailable:
            return True
        return True

    ends = time.monotonic() + 60
    with hold(sqlite_store, "m", timedelta(seconds=0.3), busy="busy"):
        sqlite_store.close()
        (tmp_path / "store.db").rename(tmp_path / "away.db")
        (tmp_path / "store.db").mkdir()  # a database that can't be opened
        while goes_on() and time.monotonic() < ends:
            time.sleep(0.05)
    assert time.monotonic() < ends


def wait_for_the_end_of(connection, name):
    """Until a lease is over by the database's time."""
    is_over = leases.leases.c.expires_at <= leases._moment(connection)
    until = time.monotonic() + 60
    while not connection.execute(sa.select(is_over).where(leases.leases.c.name == name)).scalar_one():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_lease_outlasts_a_writer_that_kept_its_renewal_waiting(sqlite_store):
    other = Store(url_of(sqlite_store))

    def is_in_the_way():
        with other.write() as connection:  # SQLite has one writer at a time
            wait_for_the_end_of(connection, "m")
        return take_lease(other, "m", "another", MINUTE)  # before anybody who waits notices that it may write

    with hold(sqlite_store, "m", timedelta(seconds=1), busy="busy") as lease:
        assert elsewhere(is_in_the_way) is None
        write(sqlite_store)
    assert is_written(sqlite_store)
    other.close()
    assert take_lease(sqlite_store, "m", "another", MINUTE).fence == lease.fence + 1


def test_a_lease_outlasts_its_own_runs_long_transaction(sqlite_store):
    with hold(sqlite_store, "m", timedelta(seconds=1), busy="busy"), ThreadPoolExecutor(1) as pool:
        with sqlite_store.write() as connection:
            taken = pool.submit(take_lease, sqlite_store, "m", "another", MINUTE)
            wait_for_the_end_of(connection, "m")
        assert taken.result() is None
        write(sqlite_store)
    assert is_written(sqlite_store)


def test_a_lease_that_was_given_back_is_taken_at_once_and_one_that_ran_out_after_a_grace(store, monkeypatch):
    paused = []
    monkeypatch.setattr(leases.time, "sleep", paused.append)
    with hold(store, "m", MINUTE, busy="busy"):
        pass
    assert (take_lease(store, "m", "another", MINUTE).fence, paused) == (2, [])
    expire(store, "m")
    assert take_lease(store, "m", "a third", MINUTE).fence == 3
    assert paused == ([] if store.is_postgresql else [leases.GRACE_SECONDS])


def test_another_store_of_the_same_process_is_nobodys_business(store, tmp_path):
    from feedback_loop.store import migrate

    other = Store(f"sqlite:///{tmp_path}/other.db")
    migrate.prepare(other)
    with hold(store, "model:churn", MINUTE, busy="busy"):
        write(other)
    assert is_written(other)
    other.close()


@contextmanager
def handlers_and_threads_as_before(ends):
    """Puts a scheduler's signal handlers back, and waits for its threads, whose jobs end with that event."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    others = set(threading.enumerate())
    try:
        yield
    finally:
        ends.set()
        for thread in set(threading.enumerate()) - others:
            thread.join(10)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_job_that_does_not_end_is_abandoned_when_the_scheduler_is_stopped_and_is_due_again(store):
    begun, never = threading.Event(), threading.Event()
    clock = ManualClock(NOW)

    def hang():
        begun.set()
        never.wait(60)

    runner, daily = Runner(store, clock, MINUTE), parse_schedule("1d", "cycle")
    chain = Chain("churn", daily, (Job("decide", hang),))
    scheduler = Scheduler(store, clock, runner, [chain], lambda: None)
    clock.set(NOW + timedelta(days=1))

    def stop():
        begun.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    with handlers_and_threads_as_before(never):
        threading.Thread(target=stop).start()
        assert not scheduler.serve(grace_seconds=0.2)
        [run] = ledger.load_runs(store, "churn")
        assert (run.state, run.cause) == ("abandoned", "the scheduler was stopped before it ended")
        assert leases.holder_of(store, "model:churn") is None
        again = Runner(store, clock, MINUTE).run("churn", [Job("decide", int)], run.scheduled_at)
        assert [run.state for run in again] == ["succeeded"]


def test_a_run_whose_lease_was_given_back_for_it_writes_nothing_more_and_holds_nothing(store):
    with hold(store, "model:churn", MINUTE, busy="Busy.") as lease:
        elsewhere(lambda: leases.drop_lease(store, lease))  # by who ends a process whose job can't be stopped
        with pytest.raises(LeaseLost):
            write(store, "churn")
    assert leases.holder_of(store, "model:churn") is None
    assert not is_written(store, "churn")
    with hold(store, "model:churn", MINUTE, busy="Busy."):
        pass


def test_models_whose_long_jobs_keep_their_own_chains_waiting_keep_no_other_model_waiting(sqlite_store):
    clock, never, made = ManualClock(NOW), threading.Event(), threading.Event()
    daily, busy = parse_schedule("1d", "cycle"), [f"busy-{number}" for number in range(4)]
    long = [Chain(model, daily, (Job(job, lambda: never.wait(60)),)) for job in "abc" for model in busy]
    chains = [*long, Chain("churn", daily, (Job("decide", made.set),))]
    scheduler = Scheduler(
        sqlite_store, clock, Runner(sqlite_store, clock, MINUTE), chains, lambda: None, look_seconds=0.01
    )
    clock.set(NOW + timedelta(days=1))

    def stop():
        made.wait(20)
        os.kill(os.getpid(), signal.SIGTERM)

    with handlers_and_threads_as_before(never):
        threading.Thread(target=stop).start()
        assert not scheduler.serve(grace_seconds=0.2)
        assert made.is_set()
    # What waited behind those that ran when it was stopped was not begun.
    runs = ledger.load_runs(sqlite_store)
    assert sorted((run.model, run.job) for run in runs) == [*((model, "a") for model in busy), ("churn", "decide")]

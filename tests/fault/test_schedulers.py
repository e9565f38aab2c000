"""Two schedulers on one store, and a killer: each scheduled run is made, and made once."""

import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise

import pytest

from feedback_loop.config import SchedulerSettings
from feedback_loop.scheduling.scheduler import LOOK_SECONDS
from feedback_loop.store import Store, ledger
from tests.integration.processes import end, running, wait_until

INTERVAL = timedelta(seconds=20)
"""Long enough for some kills in a row to be taken over: the next moment would be made in the place of this one."""

SCHEDULER = """
import os, sys, time
from datetime import timedelta
from sqlalchemy import text
from feedback_loop.clock import system_clock
from feedback_loop.scheduling import Chain, Job, Runner, Scheduler, parse_schedule
from feedback_loop.store import Store
from feedback_loop.store.ledger import load_runs

url, seconds = sys.argv[1], int(sys.argv[2])
store = Store(url)

def work(model, job):
    run = load_runs(store, model, newest=1, job=job)[0]
    values = {"job": job, "model": model, "due": run.scheduled_at.isoformat(), "pid": os.getpid()}
    for at in ("begun", "ended"):
        with store.write() as connection:
            insert = text("INSERT INTO made VALUES (:at, :what, :job, :model, :due, :pid)")
            connection.execute(insert, values | {"at": time.time(), "what": at})
        time.sleep(0.1 if at == "begun" else 0)

def chain(model):
    jobs = tuple(Job(name, lambda name=name: work(model, name)) for name in ("first", "second"))
    return Chain(model, parse_schedule(f"{seconds}s", "cycle"), jobs)

runner = Runner(store, system_clock, timedelta(seconds=1.5))
scheduler = Scheduler(store, system_clock, runner, [chain(model) for model in "abc"], lambda: None, look_seconds=0.1)
print("ready", os.getpid(), flush=True)
scheduler.serve()
"""


class Arena:
    """A store with two schedulers, of which one after the other is killed."""

    def __init__(self, url, folder, python, stack, seed):
        self.store, self.folder, self.random, self.killed = Store(url), folder, random.Random(seed), {}
        self._command = [python, "-c", SCHEDULER, url, str(int(INTERVAL.total_seconds()))]
        self._stack, self._count = stack, 0
        stack.callback(self.store.close)
        with self.store.write() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE made (at FLOAT, what TEXT, job TEXT, model TEXT, due TEXT, pid INT)"
            )
        self.processes = [self._start(), self._start()]

    def _start(self):
        self._count += 1
        log = self.folder / f"scheduler-{self.store.kind}-{self._count}.log"
        process = self._stack.enter_context(running(self._command, log))
        ready = wait_until(lambda: re.search(rb"^ready (\d+)\n", log.read_bytes()), process, log)
        return process, int(ready[1])  # a warm process's own pid is not that of what was started

    def kill(self):
        """Kills one of them, rather one that is at work, and starts another in its place."""
        at_work = self._at_work()
        working = [started for started in self.processes if started[1] in at_work]
        process, pid = victim = self.random.choice(working or self.processes)
        os.kill(pid, signal.SIGKILL)
        self.killed[pid] = time.time()
        process.wait()
        self.processes[self.processes.index(victim)] = self._start()

    def wait_for_the_rest(self):
        """Until what kills have cut off is made: on a busy machine that takes longer than on a quiet one."""
        process, log = self.processes[0][0], self.folder / f"scheduler-{self.store.kind}-1.log"
        wait_until(lambda: not any(run.state == "abandoned" for run in ledger.load_runs(self.store)), process, log)

    def made(self):
        """What jobs did, in the order of time: (at, what, job, model, due, pid)."""
        with self.store.read() as connection:
            return connection.exec_driver_sql("SELECT at, what, job, model, due, pid FROM made ORDER BY at").all()

    def _at_work(self):
        counts = Counter(row.pid if row.what == "begun" else -row.pid for row in self.made())
        return {pid for pid in counts if pid > 0 and counts[pid] > counts[-pid]}

    def stop(self):
        for process, _ in self.processes:
            assert end(process) == 0


@contextmanager
def arenas(urls, folder, python):
    with ExitStack() as stack:
        yield [Arena(url, folder, python, stack, seed) for seed, url in enumerate(urls)]


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.statistics)])
def test_two_schedulers_and_a_killer_make_each_run_once(sqlite_url, postgres_url, warm, tmp_path, seconds):
    with arenas([sqlite_url, postgres_url], tmp_path, warm / "python") as both:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for arena in both:
                arena.kill()
            time.sleep(both[0].random.uniform(0.5, 4.0))
        time.sleep(INTERVAL.total_seconds())  # what the last kill left is taken over by now
        for arena in both:
            arena.wait_for_the_rest()
            runs, made = ledger.load_runs(arena.store), arena.made()
            arena.stop()
            check_ledger(runs, seconds)
            check_effects(made, arena.killed)


def check_ledger(runs, seconds):
    """Every moment from the first to the last is there, for each job of each model, and has succeeded."""
    due = defaultdict(list)
    for run in runs:
        assert run.state in ("succeeded", "running"), run
        if run.state == "succeeded":
            due[run.model, run.job].append(run.scheduled_at)
    assert len(due) == 6
    for moments in due.values():
        assert len(moments) >= seconds / INTERVAL.total_seconds() - 1
        assert {later - earlier for earlier, later in pairwise(sorted(moments))} == {INTERVAL}


def check_effects(made, killed):
    """A model's jobs never run in two processes at once; what is done twice was done by a process that was killed."""
    under_way, done = {}, {}
    for at, what, job, model, due, pid in made:
        if what == "begun":
            before = under_way.get(model)
            assert before is None or killed.get(before, at) < at, (model, due, before, pid)
            under_way[model] = pid
        else:
            assert under_way.pop(model) == pid
            assert done.get((job, model, due)) in {None, *killed}, (job, model, due)
            done[job, model, due] = pid


def test_by_default_another_scheduler_takes_over_within_half_a_minute():
    assert SchedulerSettings().lease.total_seconds() + LOOK_SECONDS < 25

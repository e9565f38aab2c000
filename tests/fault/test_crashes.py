"""Real processes killed with real signals: what was acknowledged is there, once, and work goes on."""

import json
import resource
import subprocess
import tempfile
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import cycle
from feedback_loop.errors import Unavailable
from feedback_loop.store import Store, coverage, leases, ledger, migrate, predictions, retrainings
from feedback_loop.views.status import spool_status
from tests.builders import churn_loop, copy_home, open_loop, play_days, register_churn, write_config
from tests.integration.processes import call, free_port, kill_all, postgres_server, running, server, wait_until
from tests.once import once

pytestmark = pytest.mark.usefixtures("warm_children")
RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}


class Callers:
    """Callers that send one row after the other and keep what was acknowledged."""

    def __init__(self, port, count=8):
        self.acknowledged = []
        self.refused = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self):
        while not self._stop.is_set():
            try:
                status, answer, _ = call(
                    self._port, "POST", "/invocations", {"dataframe_records": [RECORD]}, timeout=60
                )
            except OSError:
                return  # the server is gone: nothing was acknowledged
            (self.acknowledged if status == 200 else self.refused).append(
                answer["prediction_ids"][0] if status == 200 else status
            )

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def stored(store):
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT prediction_id FROM predictions_churn").scalars().all()
    return [str(row) for row in rows]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_server_that_is_killed_under_load_loses_nothing_it_acknowledged(kind, request, mlflow_uri, tmp_path, warm):
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else "sqlite:///store.db"
    loop = open_loop(write_config(tmp_path, store=url), ManualClock(datetime.now(UTC)))
    loop.promote("churn", register_churn(loop.registry, loop.clock()).version)
    acknowledged = []
    for pause in (0.2, 0.7):
        with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log", warm=warm) as (port, process):
            callers = Callers(port)
            wait_until(lambda callers=callers: len(callers.acknowledged) > 50, process, tmp_path / "server.log")
            time.sleep(pause)
            kill_all(process, tmp_path / "server.log")
            callers.stop()
            acknowledged += callers.acknowledged
    loop.forward()  # what the last one left; the second server has found what the first left
    assert [account.state for account in loop.accounts("churn")] == ["ended"] * 2
    assert {account.missing for account in loop.accounts("churn")} == {0}
    there = stored(loop.store)
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(there)
    assert len(there) == len(set(there))
    # At most what each caller had in flight at each kill may be there without its answer having arrived.
    assert len(there) - len(acknowledged) <= 2 * 8
    loop.close()


def test_a_database_that_goes_away_is_no_callers_business_and_all_is_there_when_it_is_back(
    mlflow_uri, tmp_path, warm
):
    with tempfile.TemporaryDirectory(prefix="fl-away-") as folder, postgres_server(folder) as database:
        loop = open_loop(write_config(tmp_path, store=database.get_uri()), ManualClock(datetime.now(UTC)))
        loop.promote("churn", register_churn(loop.registry, loop.clock()).version)
        log = tmp_path / "server.log"
        with server(tmp_path / "feedback_loop.toml", log=log, warm=warm) as (port, process):
            callers = Callers(port, 4)
            wait_until(lambda: len(callers.acknowledged) > 20, process, log)
            database.stop()
            before = len(callers.acknowledged)
            wait_until(lambda: len(callers.acknowledged) > before + 100, process, log)
            assert waiting(loop) >= 100
            assert '"rows wait"' in log.read_text()
            outcome = {"customer": 1, "month": "2026-03", "churned": True}
            said = [call(port, "POST", "/models/churn/outcomes", [outcome])[:2] for _ in range(2)]
            assert said == [(202, {"received": 1, "waiting": 1})] * 2
            assert waiting_outcomes(loop) == 2
            database.start()
            callers.stop()
            wait_until(lambda: not waiting(loop), process, log)
            assert sorted(callers.acknowledged) == sorted(stored(loop.store))
        assert callers.refused == []
        account, of_outcomes = loop.accounts("churn")
        assert (of_outcomes.spooled, of_outcomes.stored) == (2, 2)
        assert coverage.count_outcomes(loop.store, "churn") == 1
        rows = len(callers.acknowledged)
        assert (account.state, account.answered, account.spooled, account.stored) == ("ended", rows, rows, rows)
        loop.close()


def waiting_outcomes(loop):
    return spool_status(loop, loop.predictions.local_accounts())["outcomes"]["waiting"]


def waiting(loop):
    return sum(account.waiting for account in loop.predictions.local_accounts())


def test_a_disk_that_is_full_is_a_503_and_nothing_is_acknowledged_that_is_not_there(tmp_path, warm):
    """A quota on the process's files stands for the disk: SQLite's writes to the spool really fail."""
    clock = ManualClock(datetime.now(UTC))
    loop = churn_loop(tmp_path, clock)
    loop.close()
    port, log = free_port(), tmp_path / "server.log"
    config = str(tmp_path / "feedback_loop.toml")
    limit = 200_000  # of each file: some hundred rows of the write-ahead log
    script = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"sys.argv = ['feedback-loop', 'serve', 'churn', '--config', {config!r}, '--port', '{port}'];"
        "from feedback_loop.cli import main; main()"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with running([warm / "python", "-c", script], log) as process:
        wait_until(lambda: call(port, "GET", "/ping")[0] == 200, process, log)
        callers = Callers(port, 4)
        wait_until(lambda: len(callers.refused) > 10, process, log)
        status, answer, headers = call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})
        assert (status, headers["retry-after"]) == (503, "1")
        assert answer["message"] == "The spool takes nothing at the moment. Nothing was logged."
        callers.stop()
        assert call(port, "GET", "/ping")[0] == 200
    assert set(callers.refused) == {503}
    loop = open_loop(tmp_path / "feedback_loop.toml", clock)
    loop.forward()
    assert len(callers.acknowledged) > 5
    assert sorted(callers.acknowledged) == sorted(stored(loop.store))
    loop.close()


DIES = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from feedback_loop.clock import ManualClock
from feedback_loop.cycle import cycle
from feedback_loop.loop import FeedbackLoop
from feedback_loop.promotion import fence
from feedback_loop.registry import Registry
from feedback_loop.retraining import retrain

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, config, now = sys.argv[1:4]
if where == "in training":
    retrain.try_plans = die
elif where == "before the alias":
    Registry.set_alias = die
elif where == "after the alias":
    fence.end_promotion = die
clock = ManualClock(datetime.fromisoformat(now))
loop = FeedbackLoop.open(Path(config), clock=clock)
loop.runner.run("churn", cycle(loop, "churn"), clock())
"""


def degraded(clock, home):
    """Sixteen days, a model that has become worse in them, and a turn of the cycle up to its retraining."""
    with closing(churn_loop(home, made := ManualClock(clock()))) as loop:
        play_days(loop, made, 4)
        play_days(loop, made, 12, harder=0.45, seed=100)
        before = takewhile(lambda job: job.name != "retrain", cycle(loop, "churn"))
        loop.runner.run("churn", [*before], made())


@pytest.mark.parametrize("where", ["in training", "before the alias", "after the alias"])
def test_a_scheduler_that_dies_in_a_retraining_leaves_nothing_half_done(warm, tmp_path, clock, where):
    copy_home(once("degraded", partial(degraded, clock)), tmp_path)
    clock.set(clock() + timedelta(days=16))
    loop, scheduled = open_loop(write_config(tmp_path), clock), clock()
    command = [warm / "python", "-c", DIES, where, str(tmp_path / "feedback_loop.toml"), scheduled.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr[-2000:]
    # The next scheduler waits for the dead one's leases, then makes what is left of that very run.
    with loop.store.write() as connection:
        connection.execute(leases.leases.update().values(expires_at=datetime(2001, 1, 1, tzinfo=UTC)))
    clock.set(scheduled + timedelta(seconds=1))
    outcomes = {each.job: each for each in loop.runner.run("churn", cycle(loop, "churn"), scheduled)}
    assert outcomes["decide"].state == "skipped"
    assert outcomes["retrain"].state == "succeeded"
    history = retrainings.load_promotions(loop.store, "churn")
    # Whether an alias that is where it was was ever moved, and back by a person, nobody knows: it is left there.
    ended = {"in training": [("done", "2")], "before the alias": [("failed", "2"), ("done", "3")]}
    assert [(each.state, each.to_version) for each in history[1:]] == ended.get(where, [("done", "2")])
    assert loop.champion("churn").version == history[-1].to_version
    searches = [each.state for each in retrainings.load_retrainings(loop.store, "churn")]
    assert searches == (["running"] if where == "after the alias" else ["abandoned", "promoted"])
    assert {run.state for run in ledger.load_runs(loop.store, "churn")} == {"succeeded"}
    runs = loop.registry._mlflow.client.search_runs([loop.registry._mlflow.experiment_id])
    killed = [run.data.tags["feedback_loop.kind"] for run in runs if run.info.status == "KILLED"]
    assert killed == (["search"] if where == "in training" else [])
    assert "RUNNING" not in {run.info.status for run in runs}
    loop.close()


def test_two_schedulers_at_once_make_every_run_once(warm, tmp_path):
    clock = ManualClock(datetime.now(UTC))
    loop = churn_loop(tmp_path, clock, more='[models.churn.schedule]\ncycle = "1s"\nreport = "never"\n')
    command = [str(warm / "feedback-loop"), "scheduler", "--config", str(tmp_path / "feedback_loop.toml")]
    logs = [tmp_path / "one.log", tmp_path / "other.log"]

    def chains(log):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "chain"]

    with running(command, logs[0]) as one, running(command, logs[1]):
        wait_until(lambda: sum(len(chains(log)) for log in logs) >= 12, one, logs[0])
    runs = [
        run for run in ledger.load_runs(loop.store, "churn") if run.job == "retention" and run.state == "succeeded"
    ]
    moments = [run.scheduled_at for run in runs]
    assert len(moments) == len(set(moments)) >= 10
    told = [line["due"] for log in logs for line in chains(log) if line["decide"] == "succeeded"]
    assert len(told) == len(set(told))
    loop.close()


def test_a_store_whose_file_was_cut_off_is_refused_and_not_written_over(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/store.db")
    migrate.prepare(store)
    store.close()
    path = tmp_path / "store.db"
    path.write_bytes(path.read_bytes()[:5000])
    before = path.read_bytes()
    with pytest.raises(Unavailable, match="restore it from a backup"):
        predictions.predicted_span(store, "churn")
    store.close()
    assert path.read_bytes()[:5000] == before

"""Processes killed with -9 under load, on each store: what was acknowledged is there, and once.

One process imports the package and forks a child for each round, so that a round takes as long as what it does. A
child answers (spools and acknowledges) from several threads, forwards, takes outcomes in and joins. It is killed from
outside at a random moment, or kills itself at a commit point: just before or just after one of the package's own. All
the while another process drains the same spools, its clock an hour behind.
"""

import json
import os
import random
import subprocess
import sys
from datetime import timedelta

import pytest

from feedback_loop.capture import Forwarder
from feedback_loop.clock import Window, system_clock
from feedback_loop.config import CaptureSettings
from feedback_loop.store import Store, joins, spool_accounts
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract
from tests.fault.mother import POINTS
from tests.fault.outage import outage
from tests.integration.processes import running

THREADS = 3
ID_LENGTH = 36
WHOLE = timedelta(days=2)


def orders(kind, rounds):
    """Half of the rounds die at random, the others at each commit point in turn, before it and after it."""
    chance = random.Random(0)
    for number in range(rounds):
        point = None
        if number % 2:
            point = list(POINTS)[number // 2 % len(POINTS)]
            if point == "copy" and kind == "sqlite":  # which has none
                point = "insert"
        yield {
            "point": point,
            "when": "before" if number // 2 // len(POINTS) % 2 else "after",
            "count": chance.randint(1, 4),
            "seconds": chance.uniform(0.02, 0.4),
            "threads": THREADS,
        }


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        ("sqlite", 60),
        ("postgresql", 44),  # each commit point, before it and after it
        pytest.param("sqlite", 1000, marks=pytest.mark.statistics),
        pytest.param("postgresql", 200, marks=pytest.mark.statistics),
    ],
)
def test_processes_that_are_killed_under_load_lose_nothing_and_double_nothing(kind, rounds, request, tmp_path):
    url = request.getfixturevalue("postgres_url" if kind == "postgresql" else "sqlite_url")
    store, contract, folder = Store(url), binary_contract(), tmp_path / "spool"
    path, log = tmp_path / "acknowledged", tmp_path / "drain.log"
    command = [sys.executable, "-m", "tests.fault.mother", url, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as mother:
        assert mother.stdout.readline() == "ready\n"
        died = []
        with running([*command, "drain"], log, **environment) as drain:
            for order in orders(kind, rounds):
                mother.stdin.write(json.dumps(order) + "\n")
                mother.stdin.flush()
                died.append((order["point"], json.loads(mother.stdout.readline())))
            assert drain.poll() is None, log.read_text()
        mother.stdin.close()
    # Every one was killed with -9; nearly all at their commit point, where they had one and came to it in time.
    assert {status for _, status in died} <= {9, None}
    assert len([point for point, status in died if status is None]) <= rounds // 20, died
    assert {point for point, status in died if status == 9} >= {order["point"] for order in orders(kind, rounds)}
    settings = CaptureSettings()
    forwarder = Forwarder(folder, PredictionLog(store), store, system_clock, settings)
    drained = forwarder.drain()
    assert (drained.rejected, drained.damaged) == (0, [])
    assert list(folder.glob("*.spool")) == []

    acknowledged = [name for name in path.read_text().split() if len(name) == ID_LENGTH]
    now = system_clock()
    rows = read_labelled(store, contract, Window(now - WHOLE, now + WHOLE))
    there = rows.column("prediction_id").to_pylist()
    assert len(acknowledged) > 10 * rounds
    assert set(acknowledged) - set(there) == set()
    assert len(there) == len(set(there))
    # What is there beyond that was durable, but its process died before it could say so.
    assert len(there) - len(acknowledged) <= rounds * THREADS * 50
    known = spool_accounts.load_accounts(store)
    assert {account.missing for account in known} == {0}
    accounts = [each for each in known if each.model == "churn"]
    assert sum(account.spooled for account in accounts) == sum(account.stored for account in accounts) == len(there)
    assert all(account.answered <= account.spooled for account in accounts)
    with store.read() as connection:
        spooled = connection.exec_driver_sql(
            "SELECT count(*) FROM outcomes_churn WHERE source = 'spool'"
        ).scalar_one()
    assert sum(each.stored for each in known if each.model == "churn:outcomes") == spooled >= rounds // 2

    # And the join, killed as often, has counted each of them once.
    joins.join_new(store, contract, timedelta(hours=1), system_clock())
    counted, until = load_coverage(store, "churn")
    final = read_labelled(store, contract, Window(now - WHOLE, now + WHOLE), as_of=until)
    assert sum(each.predictions for each in counted if not each.segment) == len(there)
    labelled = final.num_rows - final.column("churned").null_count
    assert sum(each.labelled for each in counted if not each.segment) == labelled
    store.close()


def test_a_database_that_is_away_is_not_noticed_by_callers_and_gets_all_of_it_when_it_is_back(tmp_path):
    found = outage(5, tmp_path)
    assert found["acknowledged while it was away"] > 100
    assert found["acknowledged and not stored"] == found["stored twice"] == found["missing by the accounts"] == 0

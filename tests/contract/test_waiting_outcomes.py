"""Outcomes that come while the store is away: durable on this host, then in the store, once and in order."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from feedback_loop.capture import (
    Client,
    Deployed,
    Deployments,
    Forwarder,
    Quiet,
    Spool,
    SpoolView,
    local_accounts,
    notices,
    outcomes_wait,
)
from feedback_loop.capture.drain import Backoffs, Drained
from feedback_loop.capture.outcomes import OutcomeForwarder
from feedback_loop.clock import ManualClock, Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import BadInput, Unavailable
from feedback_loop.outcomes import IntakeResult, Receiver, load_folder, record_outcomes, take_parts
from feedback_loop.schema import ACTED, ACTION_PROPENSITY, JoinRule, Redaction
from feedback_loop.store import Store, erased_keys, fence, outcomes, spool_accounts
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import C, T, binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WHOLE = Window(START - timedelta(days=400), START + timedelta(days=400))
CONTRACT = binary_contract()


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def away(store, tmp_path):
    """A store of the same kind that nobody reaches."""
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    made = Store(nowhere if store.is_postgresql else f"sqlite:///{tmp_path}/nowhere/store.db")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def new_spool(folder):
    """Makes spools as each process has one, in any order of their names; closes them."""
    made = []

    def new(log=None):
        made.append(Spool(folder, CaptureSettings(), lambda _: log or LogSettings()))
        return made[-1]

    yield new
    for each in made:
        each.close()


@pytest.fixture
def predicted(store):
    rows = prediction_rows(CONTRACT, [START] * 3, customer=[1, 2, 3], month=["m"] * 3)
    PredictionLog(store).append(CONTRACT, rows, START)
    return rows.column("prediction_id").to_pylist()


def send(store, spool, clock, customer=1, churned=True, *, contract=CONTRACT, on_error="refuse", **more):
    rows = [{"customer": customer, "month": "m", "churned": churned, **more}]
    redaction = Redaction(contract, contract)
    return Receiver(store, spool, clock).take(contract, rows, source="http", on_error=on_error, redaction=redaction)


def drain(folder, store, clock, own=None):
    return Forwarder(folder, PredictionLog(store), store, clock, CaptureSettings(), own).drain()


def labels(store, contract=CONTRACT):
    return read_labelled(store, contract, WHOLE).sort_by("customer").column("churned").to_pylist()


def revisions(store):
    """What was said of customer 1, in order, and when that was recorded and occurred."""
    with store.read() as connection:
        said = "SELECT churned, recorded_at, occurred_at FROM outcomes_churn WHERE customer = 1 ORDER BY revision"
        return [tuple(row) for row in connection.exec_driver_sql(said)]


def test_outcomes_are_taken_while_the_store_is_away_and_are_in_it_when_it_is_back(
    store, away, folder, new_spool, clock, predicted
):
    spool = new_spool(LogSettings(durability="off"))  # what is true of predictions is not of outcomes
    assert send(away, spool, clock) == (202, {"received": 1, "waiting": 1})
    assert send(away, spool, clock, 3, False) == (202, {"received": 1, "waiting": 1})
    (account,) = local_accounts(folder, clock())
    assert (account.model, account.spooled, account.waiting) == ("churn:outcomes", 2, 2)
    with pytest.raises(Unavailable):
        drain(folder, away, clock, spool)
    assert drain(folder, store, clock, spool).stored == 2
    assert labels(store) == [True, None, False]
    (account,) = spool_accounts.load_accounts(store, model="churn")
    assert (account.spooled, account.stored, account.waiting, account.missing) == (2, 2, 0, 0)
    assert not list(notices(account, clock(), MINUTE))
    assert send(store, spool, clock, 2)[1]["new"] == 1
    spool.close()
    assert len(drain(folder, store, clock).ended) == 1


def test_files_of_a_folder_wait_where_they_are_while_the_store_is_away(store, away, tmp_path, clock, predicted):
    folder = tmp_path / "in"
    folder.mkdir()
    for customer in (1, 2):
        (folder / f"{customer}.csv").write_text(f"customer,month,churned\n{customer},m,true\n")

    def into(store):
        def take(rows, text):
            return record_outcomes(store, CONTRACT, rows, now=clock(), source="folder", text=text)

        return lambda file: take_parts(lambda: file.parts(None), None, take)

    with capture_logs() as logs:
        found = load_folder(str(folder), into(away))
    assert (found.loaded, found.waiting, found.refused) == (0, 2, {})
    assert [(entry["event"], entry["files"]) for entry in logs] == [("files of outcomes wait", 2)]
    assert {path.name for path in folder.iterdir()} == {"1.csv", "2.csv"}
    found = load_folder(str(folder), into(store))
    assert (found.loaded, found.waiting, found.counts.new) == (2, 0, 2)
    assert labels(store) == [True, True, None]


def test_a_file_that_can_not_be_opened_is_not_refused_for_it(tmp_path):
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("customer\n1\n")

    def load(file):
        (tmp_path / "2.csv").unlink()  # whoever put it there takes it back
        return IntakeResult(outcomes.Intake())

    with pytest.raises(Unavailable, match=r"2\.csv"):
        load_folder(str(tmp_path), load)
    assert {path.name for path in tmp_path.iterdir()} == {"loaded"}


def test_a_client_of_python_spools_outcomes_as_a_server_does(store, away, folder, new_spool, clock, predicted):
    spool = new_spool()

    def find(model, version):
        return Deployed(Redaction(CONTRACT, CONTRACT), "1", 1.0)

    def client(store):
        take = Receiver(store, spool, clock).record
        return Client(
            Deployments(find, MINUTE), SpoolView(spool, counts=False), clock, accounts=spool, take_outcomes=take
        )

    def record(store, customer, **more):
        return client(store).record_outcomes(
            "churn", {"customer": [customer], "month": ["m"], "churned": [True]}, **more
        )

    assert record(away, 1) == {"received": 1, "waiting": 1}
    assert record(store, 2) == {"received": 1, "waiting": 1}  # behind the other
    assert record(away, None, on_error="skip")["waiting"] == 0
    assert drain(folder, store, clock, spool).stored == 2
    assert labels(store) == [True, True, None]
    assert record(store, 3)["new"] == 1


def test_what_a_contract_can_tell_is_refused_while_the_store_is_away_too(away, new_spool, clock):
    spool = new_spool()
    with pytest.raises(BadInput, match="does not fit the type"):
        send(away, spool, clock, churned=7)
    with pytest.raises(BadInput, match="names no prediction"):
        send(away, spool, clock, customer=None)
    status, said = send(away, spool, clock, customer=None, on_error="skip")
    assert (status, said["waiting"], [each["row"] for each in said["skipped"]]) == (202, 0, [0])
    assert spool.path is None


def test_nothing_is_acknowledged_where_the_spool_takes_nothing_either(away, folder, clock):
    full = Spool(folder, CaptureSettings(max_bytes=1), lambda _: LogSettings(on_full="drop"))
    with pytest.raises(Unavailable, match="spool"):
        send(away, full, clock)
    assert full.counts()["churn:outcomes"].refused == 1
    full.close()


def test_an_outcome_waits_behind_those_that_wait_although_the_store_is_there(
    store, away, folder, new_spool, clock, predicted
):
    first, second = new_spool(), new_spool()
    send(away, first, clock)
    clock.set(clock() + MINUTE)
    assert send(store, second, clock, churned=False)[0] == 202
    drain(folder, store, clock)
    assert [said for said, *_ in revisions(store)] == [True, False]
    assert send(store, second, clock)[0] == 200


def test_corrections_taken_by_several_processes_come_in_their_order(store, away, folder, new_spool, clock, predicted):
    ours = [new_spool() for _ in range(3)]
    said = [bool(turn % 2) for turn in range(12)]
    for turn, churned in enumerate(said):
        send(away, ours[turn * 5 % 3], clock, churned=churned)
        clock.set(clock() + MINUTE)
    drain(folder, store, clock)
    assert [each for each, *_ in revisions(store)] == said


def test_an_outcome_that_comes_to_a_quiet_spool_is_not_overtaken_by_one_that_comes_after_it_to_another(
    store, away, folder, new_spool, clock, predicted
):
    first, second, quiet = new_spool(), new_spool(), Quiet()
    for spool in (first, second):
        spool.count("churn", answered=1)
        spool.flush()
        os.utime(spool.path, (1, 1))
        os.utime(f"{spool.path}-wal", (1, 1))
    assert not outcomes_wait(folder, "churn", quiet)
    assert quiet.has(first.path)

    def spools():
        yield first.path, None
        send(away, first, clock, churned=True)
        clock.set(clock() + MINUTE)
        send(away, second, clock, churned=False)
        yield second.path, None

    forwarding = OutcomeForwarder(store, clock)
    forwarding.forward(spools(), quiet, Drained(), Backoffs(CaptureSettings()), set(), None)
    drain(folder, store, clock)
    assert [said for said, *_ in revisions(store)] == [True, False]


def test_what_was_stored_and_not_taken_out_of_its_spool_changes_nothing_when_it_comes_again(
    store, away, folder, new_spool, clock, predicted, tmp_path
):
    """As where whoever forwards is killed between the two, or where two do it at once."""
    spool = new_spool()
    for churned in (True, False, True):
        send(away, spool, clock, churned=churned)
    spool.close()
    shutil.copytree(folder, tmp_path / "before")
    assert drain(folder, store, clock).stored == 3
    clock.set(clock() + MINUTE)
    record_outcomes(store, CONTRACT, {"customer": [1], "month": ["m"], "churned": [False]}, now=clock(), source="csv")
    before = revisions(store)
    shutil.copytree(tmp_path / "before", folder, dirs_exist_ok=True)
    drain(folder, store, clock)
    assert not list(folder.iterdir())
    assert revisions(store) == before
    assert [said for said, *_ in before] == [True, False, True, False]


def test_an_outcome_occurred_by_when_it_was_taken_and_is_recorded_when_the_store_learns_of_it(
    store, away, folder, new_spool, clock, predicted
):
    spool = new_spool()
    send(away, spool, clock)
    clock.set(clock() + MINUTE)
    fence.close(store, "churn", clock())  # as of now the model was asked: that answer stays
    drain(folder, store, clock)
    ((_, recorded, occurred),) = revisions(store)
    assert read_labelled(store, CONTRACT, WHOLE, as_of=clock()).column("churned").null_count == 3
    assert str(recorded) > str(occurred)
    send(store, spool, clock, occurred_at=START.isoformat())
    assert len(revisions(store)) == 1


def test_what_the_store_can_not_hold_is_put_aside_and_what_is_behind_it_goes_on(
    store, away, folder, new_spool, clock, predicted
):
    spool, other = new_spool(), replace(CONTRACT, key=(C("else", T.LONG),))
    send(away, spool, clock)
    rows = [{"else": 1, "churned": True}]
    redaction = Redaction(other, other)
    Receiver(away, spool, clock).take(other, rows, source="http", on_error="refuse", redaction=redaction)
    send(away, spool, clock, 2)
    done = drain(folder, store, clock, spool)
    assert (done.stored, done.rejected) == (2, 1)
    assert labels(store) == [True, True, None]
    (account,) = spool_accounts.load_accounts(store, model="churn")
    assert [each.kind for each in notices(account, clock(), MINUTE)] == ["rejected"]


def test_an_erased_key_goes_from_the_outcomes_that_wait_too(store, away, folder, new_spool, clock, predicted):
    spool = new_spool()
    send(away, spool, clock)
    send(away, spool, clock, 2)
    erased_keys.record_key(store, "churn", {"customer": 1, "month": "m"}, clock())
    forwarder = Forwarder(folder, PredictionLog(store), store, clock, CaptureSettings(), spool)
    assert forwarder.erase("churn", erased_keys.row_filter(store, CONTRACT)) == 1
    drain(folder, store, clock, spool)
    assert labels(store)[1:] == [True, None]
    assert not revisions(store)


def test_events_of_a_key_are_told_apart_by_their_time(store, away, folder, new_spool, clock):
    contract = replace(CONTRACT, join=JoinRule(horizon=timedelta(days=1)))
    spool = new_spool()
    for hour in (1, 2):
        occurred = (START + timedelta(hours=hour)).isoformat()
        send(away, spool, clock, contract=contract, occurred_at=occurred)
    with pytest.raises(BadInput, match="occurred_at"):
        send(away, spool, clock, contract=contract)
    drain(folder, store, clock, spool)
    assert len(revisions(store)) == 2


CHILD = """
import os, sys
from pathlib import Path
from feedback_loop.store import Store
from tests.contract.test_waiting_outcomes import *

spool = Spool(Path(sys.argv[1]), CaptureSettings(), lambda _: LogSettings())
for customer in range(10**6):
    assert send(Store("sqlite:////nowhere/store.db"), spool, lambda: START, customer)[0] == 202
    os.write(2, (str(customer) + chr(10)).encode())
"""


def test_what_a_killed_process_acknowledged_is_stored_once(store, folder, clock):
    command = [sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        acknowledged = [int(process.stderr.readline()) for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stderr if line.endswith("\n")]
    drain(folder, store, clock)
    with store.read() as connection:
        said = connection.exec_driver_sql("SELECT customer FROM outcomes_churn").scalars().all()
    assert len(said) == len(set(said))
    assert set(acknowledged) <= set(said)
    assert len(said) <= len(acknowledged) + 1
    assert not list(folder.iterdir())


def test_actions_wait_like_outcomes_and_go_to_their_own_table(store, away, folder, new_spool, clock, predicted):
    spool, rows = new_spool(), [{"customer": 1, "month": "m", "propensity": 0.25}]
    take = Receiver(away, spool, clock).take
    redaction = Redaction(CONTRACT, CONTRACT)
    status, said = take(CONTRACT.of_actions, rows, source="http", on_error="refuse", redaction=redaction)
    assert (status, said) == (202, {"received": 1, "waiting": 1})
    assert send(away, spool, clock)[0] == 202
    drain(folder, store, clock, spool)
    acted = replace(CONTRACT, join=replace(CONTRACT.join, needs_action=True))
    first = read_labelled(store, acted, WHOLE).sort_by("customer").to_pylist()[0]
    assert (first["churned"], first[ACTED], first[ACTION_PROPENSITY]) == (True, True, 0.25)

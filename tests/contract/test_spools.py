"""From the spools into the store, on both databases: everything, once, whatever lies in the way."""

import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.alerts import tell_differences
from feedback_loop.capture import (
    Forwarder,
    Recorder,
    Spool,
    local_accounts,
    locks,
    merge_accounts,
    notices,
    put_aside,
    spool_file,
)
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.clock import Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import Unavailable
from feedback_loop.store import Store, predictions, spool_accounts
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.incidents import due_alerts
from feedback_loop.store.predictions import PredictionLog
from feedback_loop.store.spool_accounts import SpoolAccount, SpoolState
from tests.builders import C, T, binary_contract, prediction_rows, regression_contract

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONTRACT = binary_contract()
OTHER = regression_contract()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def spool(folder):
    made = new_spool(folder)
    yield made
    made.close()


@pytest.fixture
def postgres_store(postgres_url):
    made = Store(postgres_url)
    yield made
    made.close()


def new_spool(folder):
    return Spool(folder, CaptureSettings(), lambda _: LogSettings())


def forwarder(folder, store, own=None, **settings):
    return Forwarder(folder, PredictionLog(store), store, lambda: NOW, CaptureSettings(**settings), own)


def rows(count, contract=CONTRACT, **columns):
    return prediction_rows(contract, [NOW] * count, **columns)


def fill(spool, groups=20, each=3, contract=CONTRACT):
    """So many groups; returns their ids."""
    found = []
    for _ in range(groups):
        table = rows(each, contract)
        spool.append(contract, table, NOW)
        spool.count(contract.model, answered=each)
        found += table.column("prediction_id").to_pylist()
    return sorted(found)


def stored(store, contract=CONTRACT):
    window = Window(NOW - MINUTE, NOW + MINUTE)
    found = predictions.read_labelled(store, contract, window).column("prediction_id").to_pylist()
    return sorted(found)


def account_of(store, model="churn"):
    (found,) = spool_accounts.load_accounts(store, model=model)
    return found


def test_everything_gets_into_the_store_once_and_out_of_the_spool(store, folder, spool):
    ids, others = fill(spool), fill(spool, contract=OTHER)
    mine = forwarder(folder, store, spool)
    done = mine.drain()
    assert (done.stored, done.rejected, done.ended, done.damaged) == (120, 0, [], [])
    assert mine.drain().stored == 0
    assert (stored(store), stored(store, OTHER)) == (ids, others)
    found = account_of(store)
    assert (found.answered, found.spooled, found.stored, found.waiting, found.missing) == (60, 60, 60, 0, 0)
    assert (found.state, list(notices(found, NOW, MINUTE))) == (SpoolState.OPEN, [])


def test_models_that_take_turns_are_stored_together_and_a_version_with_more_columns_too(store, folder, spool):
    grown = binary_contract(features=(*CONTRACT.features, C("new", T.LONG)))
    ids = []
    for _ in range(5):
        for contract in (CONTRACT, OTHER, grown):
            ids += fill(spool, 1, 2, contract) if contract.model == "churn" else fill(spool, 1, 2, contract)[:0]
    assert forwarder(folder, store, spool).drain().stored == 30
    assert stored(store) == sorted(ids)
    assert len(stored(store, OTHER)) == 10


def test_rows_that_the_store_has_already_are_counted_as_stored(store, folder, spool):
    table = rows(5)
    PredictionLog(store).append(CONTRACT, table, NOW)
    spool.append(CONTRACT, table, NOW)
    assert forwarder(folder, store, spool).drain().stored == 5
    assert len(stored(store)) == 5
    assert account_of(store).missing == 0


def test_two_forwarders_on_one_spool_store_and_count_once(store, folder, spool):
    ids = fill(spool, 60)
    done = []
    both = [threading.Thread(target=lambda: done.append(forwarder(folder, store).drain().stored)) for _ in range(2)]
    for thread in both:
        thread.start()
    fill_more = fill(spool, 20)
    for thread in both:
        thread.join()
    done.append(forwarder(folder, store, spool).drain().stored)
    assert sum(done) == 240
    assert stored(store) == sorted(ids + fill_more)
    found = account_of(store)
    assert (found.spooled, found.stored, found.waiting) == (240, 240, 0)


def test_a_spool_whose_owner_is_gone_is_drained_and_done_away_with(store, folder, spool):
    ids = fill(spool)
    name = spool.path.name.removesuffix(".spool")
    spool.close()
    done = forwarder(folder, store).drain()
    assert (done.stored, done.ended) == (60, [f"{name}.spool"])
    assert stored(store) == ids
    assert list(folder.iterdir()) == []
    found = account_of(store)
    assert (found.spool, found.state, found.answered, found.stored) == (name, SpoolState.ENDED, 60, 60)


def test_a_spool_whose_owner_lives_is_left_to_it_unless_a_row_gets_old(store, folder, spool):
    fill(spool)
    other = forwarder(folder, store)
    assert other.drain(spares=MINUTE).stored == 0
    assert other.drain(spares=timedelta()).stored == 60
    assert spool.path.exists()


def test_a_spool_that_held_nothing_is_not_opened_again_until_it_is_written(store, folder, spool, monkeypatch):
    opened, connect = [], spool_file.connect
    monkeypatch.setattr(spool_file, "connect", lambda path, **how: opened.append(path) or connect(path, **how))
    fill(spool, groups=1)
    moving = forwarder(folder, store, spool)

    def settle(moment):
        for path in folder.iterdir():
            os.utime(path, (moment, moment))  # written long ago

    assert moving.drain().stored == 3
    settle(1)
    for expected in (2, 0, 0):  # for outcomes, and for predictions
        opened.clear()
        assert moving.drain().stored == 0
        assert len(opened) == expected
    fill(spool, groups=1)
    settle(2)
    assert moving.drain().stored == 3


def test_rows_wait_while_the_store_is_away_and_come_when_it_is_back(store, folder, spool):
    ids = fill(spool)
    away = Store("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Unavailable):
        forwarder(folder, away, spool).drain()
    (waiting,) = local_accounts(folder, NOW)
    assert (waiting.spooled, waiting.stored, waiting.waiting) == (60, 0, 60)
    forwarder(folder, store, spool).drain()
    assert stored(store) == ids


def test_in_the_background_rows_come_by_themselves_and_the_end_leaves_nothing(store, folder, spool):
    background = forwarder(folder, store, spool, forward_every=timedelta(milliseconds=20))
    background.start()
    ids = fill(spool, 5)
    arrived = threading.Event()
    for _ in range(500):
        if folder.exists() and not local_accounts(folder, NOW)[0].waiting:
            break
        arrived.wait(0.01)
    assert stored(store) == ids
    more = fill(spool, 5)
    background.stop()
    assert stored(store) == sorted(ids + more)
    assert list(folder.iterdir()) == []
    assert account_of(store).state is SpoolState.ENDED


def test_a_row_that_the_store_can_not_hold_keeps_none_back(store, folder, spool):
    first = fill(spool, 3)
    bad = rows(5, age=[1.0] * 5)
    poisoned = bad.set_column(
        bad.column_names.index("model_version"), bad.schema.field("model_version"), [["1", "1", None, "1", "1"]]
    )
    spool.append(CONTRACT, poisoned, NOW)
    last = fill(spool, 3)
    done = forwarder(folder, store, spool).drain()
    assert (done.stored, done.rejected) == (22, 1)
    ids = poisoned.column("prediction_id").to_pylist()
    assert stored(store) == sorted([*first, *last, *(ids[place] for place in (0, 1, 3, 4))])
    found = account_of(store)
    assert (found.rejected, found.waiting, found.missing) == (1, 0, 0)
    (notice,) = notices(found, NOW, MINUTE)
    assert (notice.kind, notice.words[:6]) == ("rejected", "1 rows")
    with SpoolFile.open(spool.path) as file:
        assert file.retry_rejected() == 1
    assert forwarder(folder, store, spool).drain().rejected == 1


@pytest.mark.parametrize("text", ["a\0b", "".join(chr(0x4E00 + place * 7) for place in range(2800))])
def test_texts_that_postgresql_can_not_hold_or_index_keep_none_back(postgres_store, folder, spool, text):
    store = postgres_store
    spool.append(CONTRACT, rows(3, customer=[1, 2, 3], month=["a", text, "b"]), NOW)
    ids = fill(spool, 2)
    done = forwarder(folder, store, spool).drain()
    assert (done.stored, done.rejected) == (8, 1)
    assert set(ids) < set(stored(store))


def test_a_model_whose_key_has_changed_is_put_aside_and_others_go_on(store, folder, spool):
    fill(spool, 2)
    forwarder(folder, store, spool).drain()
    fill(spool, 4, contract=binary_contract(key=("customer",)))
    last = fill(spool, 1, contract=OTHER)
    done = forwarder(folder, store, spool).drain()
    assert (done.stored, done.rejected) == (3, 12)
    assert stored(store, OTHER) == last


def test_a_model_that_no_table_can_hold_is_put_aside_whole_and_others_go_on(store, folder, spool):
    wide = regression_contract(model="wide", features=[C(f"f{place}", T.DOUBLE) for place in range(2100)])
    fill(spool, 3, 20, wide)
    ids = fill(spool, 1)
    done = forwarder(folder, store, spool).drain()
    assert (done.stored, done.rejected) == (3, 60)
    assert stored(store) == ids
    (cause,) = put_aside(folder)["wide"]
    assert cause.startswith("No prediction of 'wide' can be logged: each has 2,1")


def test_no_model_waits_for_one_whose_table_is_away_and_that_one_comes_when_it_is_back(store, folder, spool):
    before = fill(spool, 1)
    fill(spool, 1, contract=OTHER)
    forwarder(folder, store, spool).drain()
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE predictions_churn RENAME TO elsewhere")
    waiting, going = fill(spool, 2), fill(spool, 2, contract=OTHER)
    with pytest.raises(Unavailable):
        forwarder(folder, store, spool).drain()
    assert set(going) < set(stored(store, OTHER))
    behind = threading.Event()
    background = forwarder(folder, store, spool, forward_every=timedelta(milliseconds=5), max_backoff=10 * MINUTE)
    background._backoffs.failed("churn")  # so often that it would be left alone for minutes
    background._backoffs._failures["churn"] = 30
    background.start()
    fill(spool, 1)
    late = fill(spool, 1, contract=OTHER)
    for _ in range(500):
        if set(late) < set(stored(store, OTHER)):
            break
        behind.wait(0.01)
    assert set(late) < set(stored(store, OTHER))
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO predictions_churn")
    background.stop()
    assert {*before, *waiting} < set(stored(store))
    assert account_of(store).waiting == 0


def test_bytes_that_are_not_those_that_were_written_are_put_aside(store, folder, spool):
    ids = fill(spool, 3)
    with SpoolFile.open(spool.path) as file:
        file._connection.execute("UPDATE groups SET body = zeroblob(length(body)) WHERE seq = 2")
    done = forwarder(folder, store, spool).drain()
    assert (done.stored, done.rejected) == (6, 3)
    assert set(stored(store)) < set(ids)
    assert account_of(store).missing == 0


def test_what_is_left_of_a_damaged_spool_is_stored_the_file_kept_and_all_of_it_told(store, folder, spool):
    ids = fill(spool, 200, 10)
    first = new_spool(folder)
    others = fill(first, 2)
    with SpoolFile.open(spool.path) as file:
        file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = spool.path
    spool.close()
    first.close()
    torn = bytearray(path.read_bytes())
    middle = len(torn) // 2 // 4096 * 4096
    torn[middle : middle + 8 * 4096] = b"\xff" * (8 * 4096)
    path.write_bytes(torn)
    done = forwarder(folder, store).drain()
    assert done.damaged == [path.name]
    there = set(stored(store))
    assert set(others) < there < {*ids, *others}
    assert len(there) > 1000
    assert [each.name for each in folder.iterdir()] == [f"{path.name}.damaged"]
    found = {each.state: each for each in spool_accounts.load_accounts(store)}
    damaged = found[SpoolState.DAMAGED]
    assert (damaged.spooled, damaged.waiting) == (2000, 0)
    assert damaged.missing == 2000 - (len(there) - 6)
    kinds = [notice.kind for notice in notices(damaged, NOW, MINUTE)]
    assert kinds == ["damaged", "difference"]
    assert forwarder(folder, store).drain().spools == 0


def test_rows_whose_log_was_torn_off_are_told_though_the_store_never_heard_of_them(store, folder, spool):
    ids = fill(spool, 1) + fill(spool, 200)
    path, size = spool.path, spool.path.stat().st_size
    log = path.with_name(path.name + "-wal")
    kept = {each: each.read_bytes() for each in (path, log, locks.lock_of(path))}
    spool.close()
    for each, content in kept.items():  # as a kill would have left them
        each.write_bytes(content)
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size // 2)
    done = forwarder(folder, store).drain()
    lost = set(ids) - set(stored(store))
    assert 0 < len(lost) < len(ids)
    assert (done.damaged, done.ended) == ([path.name], [])
    found = account_of(store)
    assert (found.state, found.spooled, found.missing) == (SpoolState.DAMAGED, 603, len(lost))
    assert [notice.kind for notice in notices(found, NOW, MINUTE)] == ["damaged", "difference"]
    assert (folder / f"{path.name}.damaged").stat().st_size >= size


def test_what_waits_and_what_is_gone_is_counted_in_the_file_and_not_guessed(store, folder, spool):
    fill(spool, 4)
    with SpoolFile.open(spool.path) as file:
        file._connection.execute("DELETE FROM groups WHERE seq < 3")
    gauges, counts = spool.gauges(), spool.counts()["churn"]
    assert (counts.spooled, gauges.waiting["churn"], gauges.stored["churn"]) == (12, 6, 0)


def test_a_connection_that_is_cut_in_the_middle_of_a_copy_loses_and_doubles_nothing(
    postgres_store, postgres_url, folder, spool
):
    import psycopg

    store = postgres_store
    PredictionLog(store).append(CONTRACT, rows(1), NOW)
    ids = fill(spool, 10, 4000)
    stop, cut = threading.Event(), []

    def cutter():
        statement = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'active' AND query LIKE 'COPY%'"
        )
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            while not stop.is_set() and len(cut) < 3:
                cut.extend(connection.execute(statement).fetchall())

    thread = threading.Thread(target=cutter)
    thread.start()
    failures = 0
    for _ in range(100):
        try:
            forwarder(folder, store, spool).drain()
            break
        except Unavailable:
            failures += 1
    stop.set()
    thread.join()
    assert 0 < failures <= len(cut)
    assert set(ids) < set(stored(store))
    assert len(stored(store)) == 40_001
    assert account_of(store).stored == 40_000


def made_account(**changes):
    values = {"answered": 10, "spooled": 10, "stored": 10, "refused": 0, "dropped": 0, "unsampled": 0}
    rest = {"waiting": 0, "rejected": 0, "waiting_since": None, "state": SpoolState.OPEN, "updated_at": NOW}
    return SpoolAccount(**{"spool": "host-1-ab", "model": "churn", "host": "host", **values, **rest, **changes})


def test_accounts_only_go_forward_and_an_ended_one_stays(store):
    spool_accounts.save_accounts(store, [made_account()])
    spool_accounts.save_accounts(store, [made_account(stored=5, waiting=5)])
    assert account_of(store) == made_account()
    more = made_account(spooled=20, stored=12, waiting=8, waiting_since=NOW - MINUTE)
    spool_accounts.save_accounts(store, [more])
    assert account_of(store) == more
    assert spool_accounts.end_accounts(store, "host-1-ab", [replace(more, stored=20, waiting=0)], NOW)[0].stored == 20
    ended = replace(more, stored=20, waiting=0, waiting_since=None, state=SpoolState.ENDED)
    spool_accounts.save_accounts(store, [ended])
    spool_accounts.save_accounts(store, [more])
    assert account_of(store) == ended


def test_a_spool_that_forgot_rows_is_called_damaged_when_it_ends(store):
    spool_accounts.save_accounts(store, [made_account(spooled=20, stored=12, waiting=8), made_account(model="price")])
    last = made_account(spooled=15, stored=15, state=SpoolState.ENDED)
    ended = {each.model: each for each in spool_accounts.end_accounts(store, "host-1-ab", [last], NOW)}
    assert (ended["churn"].state, ended["churn"].missing) == (SpoolState.DAMAGED, 5)
    assert ended["price"].state is SpoolState.DAMAGED


def test_a_difference_is_told_once_on_every_route_and_again_when_there_is_more(store):
    settings = CaptureSettings(alert_after=MINUTE)
    old = NOW - 2 * MINUTE
    bad = made_account(spooled=30, stored=11, waiting=8, waiting_since=old, refused=3, dropped=2, rejected=1)

    def tell(account):
        return tell_differences(store, [account], ["log", "ops"], NOW, settings)

    assert tell(made_account()) == 0
    assert tell(bad) == 2 * 5
    assert tell(bad) == 0
    assert tell(replace(bad, refused=4)) == 2
    alerts = due_alerts(store, NOW)
    assert {alert.incident_id for alert in alerts} == {None}
    prefix = "spool:host-1-ab:churn:"
    assert [alert.subject.removeprefix(prefix) for alert in alerts if alert.route == "log"] == [
        "difference:10",
        "rejected:1",
        "dropped:2",
        "refused:3",
        f"waiting:{old.isoformat()}",
        "refused:4",
    ]
    assert "10 rows are lost" in alerts[0].body
    assert load_alerts(store, [], about="spool:") == alerts


def test_the_spools_own_file_is_believed_before_the_store_until_it_has_ended():
    mine = made_account(stored=5, waiting=5)
    assert merge_accounts([made_account(spooled=5, stored=5)], [mine]) == [mine]
    ended = made_account(state=SpoolState.ENDED)
    assert merge_accounts([ended], [mine]) == [ended]
    assert merge_accounts([], [mine]) == [mine]


def test_the_recorder_writes_to_a_spool_as_it_does_to_the_store(spool):
    assert Recorder(spool).identify(rows(2), NOW)


def test_what_a_process_left_that_died_while_it_made_its_spool_is_swept_away(store, folder, spool):
    fill(spool, 1)
    lost = folder / "host-1-abcd.spool"
    locks.lock_of(lost).touch()
    lost.with_suffix(".new").touch()
    forwarder(folder, store, spool).drain()
    assert not locks.lock_of(lost).exists()
    assert not lost.with_suffix(".new").exists()
    assert spool.path.exists()

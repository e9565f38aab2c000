"""From the spools into the store, on both databases: everything, once, whatever lies in the way."""

import threading
from contextlib import closing
from datetime import timedelta

import pytest

from feedback_loop.capture import (
    Recorder,
    local_accounts,
    locks,
    notices,
    spool_file,
)
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.errors import Unavailable
from feedback_loop.store import Store, spool_accounts
from feedback_loop.store.predictions import PredictionLog
from feedback_loop.store.spool_accounts import SpoolState
from tests.builders import C, T, binary_contract
from tests.spools import CONTRACT, MINUTE, NOW, OTHER, account_of, fill, forwarder, new_spool, rows, settle, stored


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

    assert moving.drain().stored == 3
    settle(folder, 1)
    for expected in (2, 0, 0):  # for outcomes, and for predictions
        opened.clear()
        assert moving.drain().stored == 0
        assert len(opened) == expected
    fill(spool, groups=1)
    settle(folder, 2)
    assert moving.drain().stored == 3


@pytest.mark.parametrize("spares", [None, MINUTE])
def test_rows_whose_commit_waits_for_the_disk_while_the_spool_is_looked_at_are_not_forgotten(
    store, folder, spool, spares
):
    fill(spool, groups=1)
    moving = forwarder(folder, store)
    with closing(spool_file.connect(spool.path)) as writer:
        before = writer.execute("SELECT * FROM groups").fetchall()
        assert moving.drain().stored == 3
        writer.execute("PRAGMA wal_checkpoint(RESTART)")  # what is written next makes the log no longer
        with spool_file.transaction(writer):
            settle(folder, 1)  # its log was written some seconds ago
            assert moving.drain(spares=spares).stored == 0
            writer.executemany("INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)", before)
    settle(folder, 1)
    assert moving.drain().stored == 3


def test_accounts_that_change_while_a_spool_is_looked_at_reach_the_store(store, folder, spool, monkeypatch):
    save = spool_accounts.save_accounts

    def save_late(*accounts):
        save(*accounts)
        monkeypatch.setattr(spool_accounts, "save_accounts", save)
        spool.count("churn", answered=5)
        spool.flush()
        settle(folder, 1)

    fill(spool, groups=1)
    settle(folder, 1)
    moving = forwarder(folder, store)
    monkeypatch.setattr(spool_accounts, "save_accounts", save_late)
    moving.drain()
    moving.drain()
    assert account_of(store).answered == 8


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

"""Whatever happens to a spool, in whatever order: what was committed is stored once, and the accounts add up."""

import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from feedback_loop.capture import Forwarder, Spool, local_accounts, notices
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.clock import Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import BadInput
from feedback_loop.store import Store, predictions, spool_accounts
from feedback_loop.store.predictions import PredictionLog
from tests.builders import binary_contract, prediction_rows, regression_contract
from tests.streams import examples

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
CONTRACT, OTHER = binary_contract(), regression_contract()
FROM_NOW_ON = examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def new_spool(folder):
    return Spool(folder, CaptureSettings(), lambda _: LogSettings())


def forwarder(folder, store, own=None):
    return Forwarder(folder, PredictionLog(store), store, lambda: NOW, CaptureSettings(), own)


def ids_of(rows):
    return rows.column("prediction_id").to_pylist()


def stored(store, contract=CONTRACT):
    return ids_of(predictions.read_labelled(store, contract, Window(NOW, NOW + timedelta(seconds=1))))


@pytest.fixture(scope="module")
def module_store(prepared_sqlite, tmp_path_factory):
    made = Store(f"sqlite:///{shutil.copy(prepared_sqlite, tmp_path_factory.mktemp('store'))}")
    PredictionLog(made).append(CONTRACT, prediction_rows(CONTRACT, [NOW]), NOW)
    yield made
    made.close()


@FROM_NOW_ON
@given(data=st.data())
def test_a_spool_that_is_torn_anywhere_gives_what_was_committed_first_or_is_called_damaged(data, module_store):
    sizes = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=12), label="rows of each group")
    checkpoints = data.draw(st.sets(st.integers(0, 11)), label="checkpointed after")
    drained = data.draw(st.integers(0, len(sizes)), label="drained after so many")
    with tempfile.TemporaryDirectory() as name:
        whole, torn = Path(name, "whole"), Path(name, "torn")
        torn.mkdir()
        spool = new_spool(whole)
        groups = []
        for number, size in enumerate(sizes):
            rows = prediction_rows(
                CONTRACT, [NOW] * size, plan=[random.Random(row).randbytes(99).hex() for row in range(size)]
            )
            spool.append(CONTRACT, rows, NOW)
            groups.append(ids_of(rows))
            if number + 1 == drained:
                forwarder(whole, module_store, spool).drain()
            if number in checkpoints:
                with SpoolFile.open(spool.path) as file:
                    file._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        # By another process: to open and close the file in this one would drop its locks.
        copied = [spool.path.with_name(spool.path.name + suffix) for suffix in ("", "-wal", ".lock")]
        subprocess.run(["cp", *(str(path) for path in copied), str(torn)], check=True)
        path = torn / spool.path.name
        spool.close()
        victim = data.draw(st.sampled_from([path, path.with_name(path.name + "-wal")]), label="torn")
        length = victim.stat().st_size
        os.truncate(victim, length * data.draw(st.integers(0, 10**6), label="at millionths") // 10**6)
        readable = {each for number in numbers_before_the_tear(path) for each in groups[number - 1]}
        healthy = new_spool(torn)
        behind = prediction_rows(CONTRACT, [NOW])
        healthy.append(CONTRACT, behind, NOW)
        done = forwarder(torn, module_store, healthy).drain()
        healthy.close()
        everything = {identifier for group in groups for identifier in group}
        there = set(stored(module_store))
        gone = everything - there
        event("damaged" if done.damaged else "rejected" if done.rejected else "whole")
        assert set(ids_of(behind)) < there  # no other spool waits for it
        assert readable <= there
        if not done.rejected:  # what SQLite finds nothing wrong with is put aside by its checksum
            assert done.damaged == ([path.name] if gone else done.damaged)
            assert done.ended == ([] if done.damaged else [path.name])
        kept = [each.name for each in torn.iterdir() if each.name.startswith(path.name + ".damaged")]
        assert bool(kept) == bool(done.damaged)
        accounts = [each for each in spool_accounts.load_accounts(module_store) if each.spool == path.stem]
        if done.rejected:
            accounts = [each for each in local_accounts(torn, NOW) if each.spool == path.stem]
        (account,) = accounts
        assert account.state == ("damaged" if done.damaged else "open" if done.rejected else "ended")
        assert account.missing + account.rejected == len(gone)  # whatever is lost is told, to the row
        if gone:
            assert {notice.kind for notice in notices(account, NOW, timedelta(1))} & {"difference", "rejected"}


def numbers_before_the_tear(path):
    """The groups that are read of a copy, one after the other, up to where something is wrong with one."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(path.name + suffix), name)
        with suppress(sqlite3.DatabaseError, BadInput), SpoolFile.open(Path(name) / path.name) as file:
            for group in file.read(2**62, 2**62):
                file.load_contracts([group.contract])
                file.unpack([group])
                found.append(group.seq)
    return found


class SpoolMachine(RuleBasedStateMachine):
    """Appends, answers, drains by several at once, retries, and crashes; on SQLite."""

    template: Path

    @initialize()
    def begin(self):
        self.home = Path(tempfile.mkdtemp(prefix="fl-spool-"))
        shutil.copy(self.template, self.home / "store.db")
        self.store = Store(f"sqlite:///{self.home}/store.db")
        self.folder = self.home / "spool"
        self.spool = new_spool(self.folder)
        self.committed = [(CONTRACT, []), (OTHER, [])]

    @rule(which=st.sampled_from([0, 1]), count=st.integers(1, 5), again=st.booleans())
    def append(self, which, count, again):
        contract, committed = self.committed[which]
        rows = prediction_rows(contract, [NOW] * count)
        for _ in range(1 + again):  # a caller that tries again gives the same ids
            self.spool.append(contract, rows, NOW)
            self.spool.count(contract.model, answered=count)
        committed.extend(ids_of(rows))

    @rule()
    def drain_own(self):
        forwarder(self.folder, self.store, self.spool).drain()

    @rule()
    def drain_from_elsewhere(self):
        forwarder(self.folder, self.store).drain()

    @rule()
    def two_read_and_both_settle(self):
        if self.spool.path is None:
            return
        with SpoolFile.open(self.spool.path, self.spool.guard) as one, SpoolFile.open(self.spool.path) as other:
            same = list(one.read(one.last(), 7))
            log = PredictionLog(self.store)
            for file in (one, other):
                file.load_contracts(group.contract for group in same)
                for group in same:
                    log.append(*file.unpack([group]), NOW)
            assert one.settle(same) == sum(group.rows for group in same)
            assert other.settle(same) == 0

    @rule()
    def store_and_crash_before_it_is_settled(self):
        if self.spool.path is not None:
            with SpoolFile.open(self.spool.path) as file:
                for group in list(file.read(file.last(), 5)):
                    file.load_contracts([group.contract])
                    PredictionLog(self.store).append(*file.unpack([group]), NOW)
            self.crash()

    @rule()
    def crash(self):
        if self.spool._file is not None:
            self.spool._let_go(self.spool._file)  # nothing is brought to the disk that was not there
        self.spool = new_spool(self.folder)

    @rule()
    def end(self):
        self.spool.close()
        self.spool = new_spool(self.folder)

    @invariant()
    def accounts_add_up(self):
        for account in local_accounts(self.folder, NOW):
            assert account.missing == 0
            assert account.answered <= account.spooled

    @invariant()
    def nothing_is_twice_or_from_nowhere(self):
        for contract, committed in self.committed:
            there = stored(self.store, contract)
            assert len(there) == len(set(there))
            assert set(there) <= set(committed)

    def teardown(self):
        if not hasattr(self, "home"):
            return
        forwarder(self.folder, self.store, self.spool).drain()
        for contract, committed in self.committed:
            assert sorted(stored(self.store, contract)) == sorted(set(committed))
        self.spool.close()
        forwarder(self.folder, self.store).drain(spares=timedelta(0))
        accounts = spool_accounts.load_accounts(self.store)
        assert {account.missing for account in accounts} <= {0}
        assert {str(account.state) for account in accounts} <= {"ended"}
        assert not self.folder.exists() or not list(self.folder.iterdir())
        self.store.close()
        shutil.rmtree(self.home)


def test_any_order_of_appends_drains_retries_and_crashes_stores_everything_once(prepared_sqlite):
    from hypothesis.stateful import run_state_machine_as_test

    SpoolMachine.template = prepared_sqlite
    run_state_machine_as_test(SpoolMachine, settings=settings(max_examples=20, stateful_step_count=15))

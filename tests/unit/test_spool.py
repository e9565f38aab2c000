"""A spool on a real disk: durable before it returns, bounded, shared by threads, and never the end of a server."""

import os
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from feedback_loop.capture import Spool, locks, spool_file
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import BadInput, Unavailable
from feedback_loop.schema import Contract, JoinRule, Which, as_table, coerce
from tests.builders import C, T, binary_contract, multiclass_contract, prediction_rows, regression_contract
from tests.warm import FRESH

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
CONTRACT = binary_contract()


def rows(count=1, contract=CONTRACT, **columns):
    return prediction_rows(contract, [NOW] * count, **columns)


def make_spool(folder, *, durability="committed", on_full="refuse", **settings):
    log = LogSettings(durability=durability, on_full=on_full)
    return Spool(folder, CaptureSettings(**settings), lambda _: log)


@pytest.fixture
def spool(tmp_path):
    made = make_spool(tmp_path / "spool")
    yield made
    made.close()


def waiting(path):
    with SpoolFile.open(path) as file:
        groups = list(file.read(file.last(), 10**9))
        file.load_contracts({group.contract for group in groups})
        return [file.unpack([group]) for group in groups]


def account(path, model="churn"):
    with SpoolFile.open(path) as file:
        (found,) = [each for each in file.accounts(NOW) if each.model == model]
    return found


def test_rows_come_back_as_they_were_with_the_contract_that_they_are_of(spool):
    given = rows(3, age=[1.5, None, 3.0], plan=["ä", None, ""], customer=[1, 2, None])
    assert spool.append(CONTRACT, given, NOW) == 3
    ((contract, found),) = waiting(spool.path)
    assert contract == CONTRACT
    assert found == given
    assert (account(spool.path).spooled, account(spool.path).waiting) == (3, 3)


@pytest.mark.parametrize(
    "contract",
    [
        binary_contract(),
        binary_contract(join=JoinRule(timedelta(hours=6), Which.LAST, True, timedelta(days=3))),
        binary_contract(classes=("no", "yes"), label_type=T.STRING, join=JoinRule(absent_means="no")),
        multiclass_contract((1, 2, 3)),
        multiclass_contract(("ä", "b.c", "d")),
        regression_contract(),
    ],
)
def test_another_process_reads_the_same_contract(contract):
    assert msgspec.json.decode(msgspec.json.encode(contract), type=Contract) == contract


def test_what_was_appended_is_there_after_a_kill(tmp_path):
    code = (
        "import os, signal; from tests.unit.test_spool import *; from pathlib import Path\n"
        f"spool = make_spool(Path({str(tmp_path)!r}))\n"
        "for number in range(5): spool.append(CONTRACT, rows(2), NOW)\n"
        "spool.count('churn', answered=8)\n"
        "spool.append(CONTRACT, rows(2), NOW)\n"
        "spool.count('churn', answered=1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([FRESH, "-c", code], check=False).returncode == -9
    (path,) = tmp_path.glob("*.spool")
    found = account(path)
    assert (found.spooled, found.waiting, found.answered) == (12, 12, 8)
    assert sum(table.num_rows for _, table in waiting(path)) == 12


def test_the_owner_holds_its_lock_for_its_life(spool):
    spool.append(CONTRACT, rows(), NOW)
    path, lock = spool.path, locks.lock_of(spool.path)
    assert locks.take_lock(lock, creates=False) is None
    spool.close()
    descriptor = locks.take_lock(lock, creates=False)
    assert descriptor is not None
    os.close(descriptor)
    assert account(path).spooled == 1


def test_threads_share_commits_and_none_is_forgotten(spool):
    each, count = 40, 8

    def work(number):
        for place in range(each):
            spool.append(CONTRACT, rows(1, customer=[number * each + place]), NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [table.column("customer").to_pylist() for _, table in waiting(spool.path)]
    assert sorted(value for values in found for value in values) == list(range(each * count))
    assert spool.counts()["churn"].spooled == account(spool.path).spooled == each * count


def test_several_models_and_contracts_share_a_file(spool):
    other = regression_contract()
    grown = binary_contract(features=(C("age", T.DOUBLE), C("plan", T.STRING), C("new", T.LONG)))
    spool.append(CONTRACT, rows(2), NOW)
    spool.append(other, rows(3, other), NOW)
    spool.append(grown, rows(4, grown), NOW)
    spool.append(binary_contract(), rows(1), NOW)
    assert [(contract, table.num_rows) for contract, table in waiting(spool.path)] == [
        (CONTRACT, 2),
        (other, 3),
        (grown, 4),
        (CONTRACT, 1),
    ]
    assert (account(spool.path).spooled, account(spool.path, "price").spooled) == (7, 3)


def test_no_rows_are_no_group(spool):
    assert spool.append(CONTRACT, rows(0), NOW) == 0
    assert spool.path is None


def test_a_full_spool_refuses_and_takes_rows_again_once_there_is_room(tmp_path):
    spool = make_spool(tmp_path, max_bytes=200_000)
    taken = 0
    cause = ""
    while not cause:
        try:
            taken += spool.append(CONTRACT, rows(100, plan=[os.urandom(20).hex() for _ in range(100)]), NOW)
        except Unavailable as error:
            cause = str(error)
    assert "capture.max_bytes is 200,000" in cause
    assert 1000 < taken < 10_000
    assert spool.counts()["churn"].refused == 100
    with SpoolFile.open(spool.path, spool.guard) as file:
        groups = list(file.read(file.last(), taken // 2))
        file.settle(groups)
    assert spool.append(CONTRACT, rows(100), NOW) == 100
    found = account(spool.path)
    assert found.spooled == taken + 100 == found.stored + found.waiting
    assert found.refused == 100
    spool.close()


def test_a_full_spool_drops_and_counts_where_that_is_wanted(tmp_path):
    spool = make_spool(tmp_path, on_full="drop", max_bytes=100_000)
    given = [spool.append(CONTRACT, rows(100), NOW) for _ in range(60)]
    assert set(given) == {100, 0}
    path = spool.path
    spool.close()
    found = account(path)
    assert (found.spooled, found.dropped, found.refused) == (sum(given), 6000 - sum(given), 0)


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from tests.unit.test_spool import *

folder = Path(sys.argv[1])
with small_disk(folder, "24m"):
    spool = make_spool(folder / "spool")
    taken = spool.append(CONTRACT, rows(100), NOW)
    ballast = folder / "ballast"
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={ballast}"], capture_output=True, text=True)
    print(filled.stderr)
    for _ in range(5):
        try:
            taken += spool.append(CONTRACT, rows(100), NOW)
        except Unavailable as error:
            print(error)
    ballast.unlink()
    taken += spool.append(CONTRACT, rows(100), NOW)
    found = account(spool.path)
    assert (found.waiting, found.spooled, found.refused) == (taken, taken, 500), found
    spool.close()
print("taken", taken)
"""


def test_a_disk_that_is_really_full_refuses_and_is_used_again_once_it_is_not(tmp_path):
    """In a name space of its own, where whoever runs the test may mount a small disk."""
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", FRESH, "-c", FULL_DISK, str(tmp_path / "disk")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert done.stdout.count("its disk has less than") == 5
    assert done.stdout.endswith("taken 200\n")


def test_a_folder_that_can_not_be_made_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    spool = make_spool(tmp_path / "file" / "spool")
    with pytest.raises(Unavailable, match="Not a directory"):
        spool.append(CONTRACT, rows(), NOW)
    (tmp_path / "file").unlink()
    assert spool.append(CONTRACT, rows(), NOW) == 1
    assert account(spool.path).refused == 1
    spool.close()


def test_a_damaged_file_of_a_living_process_is_given_up_for_a_new_one(spool):
    spool.append(CONTRACT, rows(10), NOW)
    first = spool.path
    with closing(sqlite3.connect(first)) as connection:
        connection.execute("DROP TABLE groups")
    with pytest.raises(Unavailable, match="damaged"):
        spool.append(CONTRACT, rows(), NOW)
    assert spool.append(CONTRACT, rows(3), NOW) == 3
    assert spool.path != first
    assert account(spool.path).spooled == 3
    assert locks.take_lock(locks.lock_of(first), creates=False) is not None


def test_a_file_that_was_taken_away_is_replaced(spool):
    spool.append(CONTRACT, rows(), NOW)
    shutil.rmtree(spool.folder)
    with pytest.raises(Unavailable, match="No such file"):
        spool.append(CONTRACT, rows(), NOW)
    assert spool.append(CONTRACT, rows(2), NOW) == 2
    assert account(spool.path).waiting == 2


def test_buffered_rows_survive_the_process_and_nothing_is_logged_where_that_is_wanted(tmp_path):
    for durability, taken in (("buffered", 5), ("off", 0)):
        folder = tmp_path / durability
        spool = make_spool(folder, durability=durability)
        assert spool.append(CONTRACT, rows(5), NOW) == taken
        spool.count("churn", answered=5)
        spool.close()
        (path,) = folder.glob("*.spool")
        found = account(path)
        assert (found.spooled, found.waiting, found.unsampled, found.answered) == (taken, taken, 5 - taken, 5)


def test_nothing_is_taken_after_the_end(spool):
    spool.append(CONTRACT, rows(), NOW)
    spool.close()
    with pytest.raises(Unavailable, match="it is closed"):
        spool.append(CONTRACT, rows(), NOW)


def test_a_rejected_group_is_kept_and_can_be_tried_again(spool):
    spool.append(CONTRACT, rows(4), NOW)
    with SpoolFile.open(spool.path, spool.guard) as file:
        (group,) = file.read(file.last(), 100)
        assert file.settle([group], [(group, "why")]) == 0
        assert file.settle([group], [(group, "why")]) == 0
        found = account(spool.path)
        assert (found.stored, found.waiting, found.rejected, found.missing) == (0, 0, 4, 0)
        assert file.retry_rejected() == 4
    assert account(spool.path).waiting == 4
    assert [table.num_rows for _, table in waiting(spool.path)] == [4]


def test_a_text_with_a_nul_is_refused_at_the_door_with_its_row():
    columns = (C("plan", T.STRING), C("age", T.DOUBLE))
    with pytest.raises(BadInput, match="row 1: plan: holds a NUL") as refused:
        coerce(as_table({"plan": ["a", "b\0c", None, "\0"], "age": [1.0, 2.0, 3.0, 4.0]}), columns)
    assert [problem.row for problem in refused.value.problems] == [1, 3]
    assert coerce(as_table({"plan": [], "age": []}), columns).num_rows == 0


def test_a_new_file_gets_another_name_where_a_sweep_has_its_lock(tmp_path, monkeypatch):
    """Whoever looks for what a dead process left half made holds, for a moment, the lock that was just created."""
    real, swept = locks.take_lock, []

    def take_lock(lock, *, creates):
        if not swept:
            swept.append(real(lock, creates=creates))
        return real(lock, creates=creates)

    monkeypatch.setattr(locks, "take_lock", take_lock)
    spool = Spool(tmp_path / "spool", CaptureSettings(), lambda _: LogSettings())
    assert spool.append(CONTRACT, rows(3), NOW) == 3
    spool.close()
    os.close(swept[0])


def holding(folder, text):
    return [each.name for each in folder.iterdir() if text.encode() in each.read_bytes()]


def without(table):
    return table.filter([month != "a-person-of-Ulm" for month in table.column("month").to_pylist()])


@pytest.mark.parametrize("place", ["waiting", "forwarded", "rejected"])
def test_who_is_erased_is_in_no_byte_of_any_file_whatever_became_of_the_rows(spool, place):
    for months in (["a-person-of-Ulm", "b"], ["a-person-of-Ulm"], ["c"]):
        spool.append(CONTRACT, rows(len(months), month=months), NOW)
    with SpoolFile.open(spool.path) as file:
        groups = list(file.read(file.last(), 10**9))
        if place == "forwarded":
            file.settle(groups)
        if place == "rejected":
            for group in groups:
                file.settle([group], [(group, "no")])
        assert holding(spool.folder, "a-person-of-Ulm")
        assert file.erase("churn", without) == (0 if place == "forwarded" else 2)
    assert holding(spool.folder, "a-person-of-Ulm") == []
    spool.append(CONTRACT, rows(2), NOW)  # its owner goes on
    assert account(spool.path).waiting == (4 if place == "waiting" else 2)


def test_an_erasure_that_a_reader_is_in_the_way_of_says_so_and_is_made_again(spool, monkeypatch):
    monkeypatch.setattr(spool_file, "BUSY_SECONDS", 0.05)
    spool.append(CONTRACT, rows(1, month=["a-person-of-Ulm"]), NOW)
    with SpoolFile.open(spool.path) as file, closing(spool_file.connect(spool.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM groups").fetchall()
        with pytest.raises(sqlite3.OperationalError):
            file.erase("churn", without)
        reader.execute("COMMIT")
        file.erase("churn", without)
    assert holding(spool.folder, "a-person-of-Ulm") == []

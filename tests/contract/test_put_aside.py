"""What the store can't hold is put aside, and keeps nothing else back."""

import threading
from datetime import timedelta

import pytest

from feedback_loop.capture import (
    notices,
    put_aside,
)
from feedback_loop.capture.spool_file import SpoolFile
from feedback_loop.errors import Unavailable
from tests.builders import C, T, binary_contract, regression_contract
from tests.spools import CONTRACT, MINUTE, NOW, OTHER, account_of, fill, forwarder, rows, stored


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

"""Erasure in the store, on both databases."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sqlalchemy import inspect, select, table, text

from feedback_loop.clock import Window
from feedback_loop.errors import ConfigError
from feedback_loop.monitoring import fold_news
from feedback_loop.monitoring.profile_store import establish, fold_window, kept_cells
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType, canonical, keyed_digest, prediction_id
from feedback_loop.store import Store, erased_keys, erasure, fence, findings, migrate, profiles
from feedback_loop.store.arrow import insert_rows
from feedback_loop.store.coverage import load_coverage
from feedback_loop.store.erasure import erase_rows
from feedback_loop.store.evaluations import (
    EstimateValue,
    Evaluation,
    MetricValue,
    QualityValue,
    SliceValue,
    load_evaluations,
    save_evaluation,
)
from feedback_loop.store.joins import join_new
from feedback_loop.store.model_tables import find_tables
from feedback_loop.store.predictions import PredictionLog, count_predictions, read_labelled
from tests.builders import binary_contract, prediction_rows

NOW = datetime(2026, 3, 15, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(NOW - 400 * DAY, NOW + 400 * DAY)
CONTRACT = binary_contract()


def predict(store, moment, *customers, contract=CONTRACT, month="m", **columns):
    count = len(customers)
    rows = prediction_rows(contract, [moment] * count, customer=customers, month=[month] * count, **columns)
    return rows, PredictionLog(store).append(contract, rows, moment)


def learn(store, moment, contract=CONTRACT, **columns):
    frame = {name: values if isinstance(values, list) else [values] for name, values in columns.items()}
    return record_outcomes(store, contract, frame, now=moment, source="t").counts


def erase(store, now=NOW, **key):
    erased_keys.record_key(store, "churn", key, now)
    would = erasure.count_rows(store, "churn", key)
    done = erase_rows(store, CONTRACT, key, now)
    assert replace(done, findings=0) == would
    return done


def customers(store):
    return sorted(read_labelled(store, CONTRACT, WHOLE).column("customer").to_pylist())


def outcomes(store):
    with store.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM outcomes_churn").scalar_one()


def test_a_key_is_removed_with_all_that_is_known_of_it(store):
    rows, _ = predict(store, NOW - DAY, 1, 2)
    first, second = rows.column("prediction_id").to_pylist()
    learn(store, NOW, customer=[1, 2], month=["m", "m"], churned=[True, True])
    learn(store, NOW, customer=1, month="m", churned=False)
    learn(store, NOW, prediction_id=[first, second], churned=[True, True])
    found = [("conflict", first), ("conflict", second)]
    with store.write() as connection:
        connection.execute(
            findings.findings.insert(),
            [{"model": "churn", "kind": kind, "subject": subject, "since": NOW} for kind, subject in found],
        )
    assert erasure.find_predictions(store, "churn", {"customer": 1}) == {first: NOW - DAY}
    assert erase(store, customer=1, month="m") == erasure.Erased(predictions=1, outcomes=3, findings=1)
    assert (customers(store), outcomes(store)) == ([2], 2)
    assert erase(store, customer=1, month="m") == erasure.Erased()


def test_a_part_of_a_key_removes_all_that_share_it(store):
    predict(store, NOW - DAY, 1, 2, month="m1")
    predict(store, NOW - DAY, 1, 3, month="m2")
    learn(store, NOW, customer=[1, 3], month=["m2", "m2"], churned=[True, True])
    assert erase(store, customer=1) == erasure.Erased(predictions=2, outcomes=1)
    assert customers(store) == [2, 3]


def test_every_generation_is_searched(store):
    changed = replace(CONTRACT, features=(Column("age", ColumnType.STRING), CONTRACT.features[1]))
    predict(store, NOW - DAY, 1)
    predict(store, NOW - DAY, 1, 2, contract=changed)
    assert erase(store, customer=1).predictions == 2


def test_rows_of_before_that_come_later_stay_out_and_rows_of_after_come_in(store):
    predict(store, NOW - DAY, 1)
    erase(store, customer=1)
    _, new = predict(store, NOW, 1, 2)
    assert (new, customers(store)) == (1, [2])
    _, new = predict(store, NOW + timedelta.resolution, 1)
    assert (new, customers(store)) == (1, [1, 2])
    kept = erased_keys.row_filter(store, CONTRACT)(prediction_rows(CONTRACT, [NOW, NOW], customer=[1, 5]))
    assert kept.column("customer").to_pylist() == [5]


def test_erased_again_it_stays_out_until_then(store):
    erase(store, customer=1)
    predict(store, NOW + DAY, 1)
    assert erase(store, NOW + 2 * DAY, customer=1).predictions == 1
    assert predict(store, NOW + DAY, 1)[1] == 0


def test_outcomes_of_before_that_come_later_are_counted_and_not_stored(store):
    rows, _ = predict(store, NOW - DAY, 1, 2)
    first, second = rows.column("prediction_id").to_pylist()
    erase(store, customer=1)
    late = {"customer": [1, 1, 2], "month": ["m", "other", "m"], "churned": [True] * 3}
    counts = learn(store, NOW + DAY, **late, occurred_at=[NOW, NOW, NOW])
    assert (counts.received, counts.new, counts.erased) == (3, 1, 2)
    counts = learn(store, NOW + DAY, prediction_id=[first, second], churned=[True, True])
    assert (counts.received, counts.new, counts.erased, counts.unmatched) == (2, 1, 1, 0)
    counts = learn(store, NOW + DAY, customer=1, month="m", churned=True, occurred_at=NOW + timedelta.resolution)
    assert (counts.new, counts.erased) == (1, 0)
    # Without a moment it may be the file of before, brought again: only what says that it is of after is.
    counts = learn(store, NOW + DAY, customer=1, month="n", churned=True)
    assert (counts.received, counts.new, counts.erased) == (1, 0, 1)
    counts = learn(store, NOW + DAY, customer=1, month="n", churned=True, recorded_at=NOW + DAY / 2)
    assert (counts.new, counts.erased) == (1, 0)


def test_no_digest_can_be_made_without_the_databases_own_secret(store, tmp_path):
    """Whoever sees a digest can't try keys: its key is drawn by the database that keeps it."""
    erase(store, customer=1)
    guess = keyed_digest(json.dumps([["customer"], canonical([1])]), b"")
    other = Store(f"sqlite:///{tmp_path}/other.db")
    migrate.prepare(other)
    erase(other, customer=1)
    found = [digests_in(database) for database in (store, other)]
    other.close()
    assert len(found[0]) == len(found[1]) == 1
    assert found[0] != found[1]
    assert guess not in found[0] | found[1]


def digests_in(store):
    with store.read() as connection:
        return set(connection.execute(select(erased_keys.erasures.c.digest)).scalars())


def test_accounts_and_profiles_go_down_with_the_person(store):
    """To the bit what they are had the person never been there; a segment that nobody else has goes by name, too."""
    everybody = list(range(1, 41))
    rows = prediction_rows(
        CONTRACT,
        [NOW - 3 * DAY + timedelta(hours=person) for person in everybody],
        customer=everybody,
        month=["m"] * 40,
        age=[person / 3 for person in everybody],
        plan=["only-ada" if person == 7 else "ab"[person % 2] for person in everybody],
        prediction=[person % 3 == 0 for person in everybody],
        probability=[person % 10 / 10 for person in everybody],
    )
    PredictionLog(store).append(CONTRACT, rows, NOW)
    learn(store, NOW, customer=everybody, month=["m"] * 40, churned=[person % 2 == 0 for person in everybody])
    join_new(store, CONTRACT, DAY, NOW, fold_news)
    joined = read_labelled(store, CONTRACT, WHOLE)
    reference = joined.filter(pc.not_equal(joined.column("customer"), 7))
    layout = make_layout(CONTRACT, reference)
    establish(store, "churn", "1", Profile.of(layout, fold(layout, reference)), NOW)
    metrics = (MetricValue("error", 0.1, 1, segment="plan=only-ada"), MetricValue("error", 0.1, 39, segment="plan=a"))
    estimates = (
        EstimateValue("error", 0.1, 1, "cbpe", 9, segment="plan=only-ada"),
        EstimateValue("error", 0.1, 9, "cbpe", 9),
    )
    slices = (SliceValue("plan=only-ada", "error", 0.9, 0.1, 1, 0.01, 3),)
    quality = (QualityValue("age", "missing", 0.0, 0.0, failed=False, rows=40),)
    evaluation = Evaluation("churn", "1", WHOLE, NOW, True, 40, 40, metrics, (), quality, estimates, slices)
    save_evaluation(store, evaluation)
    assert not nowhere(store, "only-ada")
    erased_keys.record_key(store, "churn", {"customer": 7}, NOW)
    assert erase_rows(store, CONTRACT, {"customer": 7}, NOW, fold_news).predictions == 1
    accounts, _ = load_coverage(store, "churn")
    assert {account.segment for account in accounts} == {"", "plan=a", "plan=b"}
    assert sum(account.predictions for account in accounts if not account.segment) == 39
    assert sum(account.labelled for account in accounts if account.segment) == 39
    kept = profiles.load_window(store, "churn", "1", "champion", WHOLE)
    whole = fold_window(store, layout, WHOLE, version="1", role="champion", as_of=kept.watermark)
    assert Profile.of(layout, kept_cells(kept.tallies)) == Profile.of(layout, whole)
    assert Profile.of(layout, whole).rows() == 39
    assert nowhere(store, "only-ada")
    [left] = load_evaluations(store, "churn")
    assert [value.segment for value in (*left.metrics, *left.estimates, *left.slices)] == ["plan=a", ""]
    assert left.quality == quality
    predict(store, NOW + DAY, 50, plan=["late"])
    join_new(store, CONTRACT, DAY, NOW + DAY, fold_news)
    assert load_coverage(store, "churn")[0][-1].segment == "plan=late"


def nowhere(store, word):
    """Whether no table holds a word in any of its columns."""
    with store.read() as connection:
        names = inspect(connection).get_table_names()
        rows = [row for name in names for row in connection.execute(select(text("*")).select_from(table(name)))]
    return not any(word in str(tuple(row)) for row in rows)


def test_the_key_itself_is_nowhere(store):
    predict(store, NOW - DAY, 123456789)
    erase(store, customer=123456789)
    with store.read() as connection:
        rows = connection.execute(erased_keys.erasures.select()).all()
    assert len(rows) == 2  # of the key, and of the id
    assert "123456789" not in json.dumps([list(map(str, row)) for row in rows])
    assert predict(store, NOW - DAY, 123456789)[1] == 0


def test_with_a_hash_key_the_digest_can_not_be_guessed_and_another_key_is_refused(store):
    url = store.url.render_as_string(hide_password=False)
    keyed, other = Store(url, b"a long random text"), Store(url, b"another")
    predict(keyed, NOW - DAY, 1)
    erase(keyed, customer=1)
    assert predict(keyed, NOW - DAY, 1, 2)[1] == 1
    for wrong in (store, other):
        with pytest.raises(ConfigError, match="FEEDBACK_LOOP_CAPTURE__HASH_KEY"):
            predict(wrong, NOW - DAY, 3)
        with pytest.raises(ConfigError, match="could come back unseen"):
            learn(wrong, NOW, customer=1, month="m", churned=True)
    assert customers(keyed) == [2]
    keyed.close()
    other.close()


def test_what_was_erased_before_there_was_a_hash_key_stays_erased(store):
    predict(store, NOW - DAY, 1)
    erase(store, customer=1)
    keyed = Store(store.url.render_as_string(hide_password=False), b"a long random text")
    assert predict(keyed, NOW - DAY, 1, 2)[1] == 1
    keyed.close()


def test_a_key_of_which_nothing_is_there_yet_is_erased_too(store):
    assert erase(store, customer=1) == erasure.Erased()
    assert predict(store, NOW, 1, 2)[1] == 1


def test_writers_that_are_at_work_meanwhile_bring_nothing_back(store):
    """Eight writers store rows of before while they are erased: none is there in the end."""
    url, failures, begun = store.url.render_as_string(hide_password=False), [], threading.Barrier(9)

    def write(number):
        own = Store(url)
        try:
            begun.wait()
            log = PredictionLog(own)
            for turn in range(10):
                ids = [prediction_id(NOW - DAY) for _ in range(2)]
                columns = {"customer": [1, 100 * number + turn + 2], "month": ["m", "m"], "prediction_id": ids}
                log.append(CONTRACT, prediction_rows(CONTRACT, [NOW - DAY] * 2, **columns), NOW)
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        own.close()

    predict(store, NOW - DAY, 1)
    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    assert erase_quietly(store).predictions >= 1
    for thread in threads:
        thread.join()
    assert failures == []
    assert count_predictions(store, "churn") == {("1", "champion", "batch"): 80}
    assert 1 not in customers(store)


def test_a_writer_that_looked_before_the_erasure_is_waited_for(store):
    predict(store, NOW - DAY, 2)
    rows = prediction_rows(CONTRACT, [NOW - DAY], customer=[1], month=["m"])
    stamped = rows.append_column("logged_at", pa.array([NOW], pa.timestamp("us", "UTC")))
    done = []
    eraser = threading.Thread(target=lambda: done.append(erase_quietly(store)))
    with store.write() as connection:
        fence.enter(connection, "churn", NOW)
        kept = erased_keys.without_erased(connection, b"", CONTRACT, stamped)
        eraser.start()
        eraser.join(0.3)
        assert done == []
        assert (
            insert_rows(connection, find_tables(connection, "churn").generations[0].table, kept, "prediction_id") == 1
        )
    eraser.join()
    assert done == [erasure.Erased(predictions=1)]
    assert customers(store) == [2]


def erase_quietly(store):
    erased_keys.record_key(store, "churn", {"customer": 1}, NOW)
    return erase_rows(store, CONTRACT, {"customer": 1}, NOW)


def test_a_sqlite_file_holds_nothing_of_a_removed_row(sqlite_store, tmp_path):
    contract = binary_contract(key_types={})
    predict(sqlite_store, NOW - DAY, "a-person-of-Ulm", "another", contract=contract)
    learn(sqlite_store, NOW, contract, customer=["a-person-of-Ulm"], month="m", churned=True)
    assert erase(sqlite_store, customer="a-person-of-Ulm").outcomes == 1
    files = list(tmp_path.glob("store.db*"))
    assert any(b"another" in file.read_bytes() for file in files)
    assert not any(b"a-person-of-Ulm" in file.read_bytes() for file in files)

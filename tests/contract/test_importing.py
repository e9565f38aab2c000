"""What others predicted, imported in bulk from files and queries, in both databases."""

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from feedback_loop.capture import (
    Deployments,
    import_predictions,
)
from feedback_loop.capture.importing import CHUNK_ROWS
from feedback_loop.errors import BadInput, NotFound, Unavailable
from feedback_loop.progress import Silent
from feedback_loop.schema import Column, ColumnType, as_table, coerce, moment_of, prediction_id
from feedback_loop.store import Store, erased_keys
from feedback_loop.store.erasure import erase_rows
from feedback_loop.store.predictions import PredictionLog, count_predictions
from feedback_loop.store.sql_source import Query
from tests.builders import binary_contract
from tests.contract.external import DAY, NOW, column, rows


def answered(count, first=0):
    """A table of what was answered, a minute apart."""
    return pa.table(
        {
            "customer": list(range(first, first + count)),
            "month": ["m"] * count,
            "age": [30.0 + place % 50 for place in range(count)],
            "plan": ["pro"] * count,
            "prediction": [place % 2 == 0 for place in range(count)],
            "probability": [0.5] * count,
            "predicted_at": [NOW - timedelta(minutes=count - place) for place in range(count)],
            "latency_us": [7] * count,
            "unrelated": ["x"] * count,
        }
    )


def bring(store, deployments, *chunks, **options):
    return import_predictions(
        iter(chunks), "churn", deployments, PredictionLog(store), now=NOW, progress=Silent(), **options
    )


def test_every_row_of_every_chunk_is_there_and_a_second_run_changes_nothing(store, deployments):
    chunks = answered(300), answered(200, first=300)
    first = bring(store, deployments, *chunks)
    assert (first.rows, first.logged, first.known, first.skipped, first.versions) == (500, 500, 0, 0, ("1",))
    before = rows(store)
    second = bring(store, deployments, *chunks)
    assert (second.rows, second.logged, second.known) == (500, 0, 500)
    assert rows(store) == before
    assert column(store, "customer") == list(range(500))
    assert {(row["source"], row["latency_us"], row["model_version"]) for row in before} == {("external", 7, "1")}
    assert all(moment_of(row["prediction_id"]) == row["predicted_at"] for row in before)


def test_an_import_that_was_interrupted_is_run_again_and_every_row_is_there_once(store, deployments):
    class Breaking:
        def __init__(self):
            self.log, self.batches = PredictionLog(store), 0

        def append_counted(self, contract, table, now):
            self.batches += 1
            if self.batches == 2:
                raise Unavailable("database", "it went away")
            return self.log.append_counted(contract, table, now)

    table = answered(CHUNK_ROWS + 50)
    with pytest.raises(Unavailable):
        import_predictions(iter([table]), "churn", deployments, Breaking(), now=NOW, progress=Silent())
    assert count_predictions(store, "churn") == {("1", "champion", "external"): CHUNK_ROWS}
    again = bring(store, deployments, table)
    assert (again.logged, again.known) == (50, CHUNK_ROWS)


def test_an_import_without_the_key_is_refused_with_the_column_that_is_nearest(store, deployments):
    table = answered(3).rename_columns(
        ["custmer" if name == "customer" else name for name in answered(1).column_names]
    )
    with pytest.raises(BadInput, match="customer: is missing") as caught:
        bring(store, deployments, table, on_error="skip")
    assert "Is custmer meant to be customer?" in caught.value.cure
    with pytest.raises(BadInput, match="There is month, age, "):
        bring(store, deployments, table.drop_columns(["custmer", "unrelated"]))
    own = pa.array([prediction_id(NOW - DAY), None, prediction_id(NOW - DAY)])
    with pytest.raises(BadInput, match="row 1: customer: is missing, and the row has no prediction_id"):
        bring(store, deployments, table.append_column("prediction_id", own))
    done = bring(store, deployments, table.append_column("prediction_id", own), on_error="skip")
    assert (done.logged, done.skipped) == (2, 1)


def test_an_import_counts_what_was_erased_and_what_is_not_in_the_sample(store, deployments):
    assert bring(store, deployments, answered(50)).logged == 50
    erased_keys.record_key(store, "churn", {"customer": 7}, NOW)
    assert erase_rows(store, binary_contract(), {"customer": 7}, NOW).predictions == 1
    again = bring(store, deployments, answered(50))
    assert (again.rows, again.logged, again.known, again.erased, again.unsampled) == (50, 0, 49, 1, 0)
    sampled = Deployments(lambda *_: replace(deployments.find("churn"), sample=0.5), DAY)
    done = bring(store, sampled, answered(400, first=1000))
    assert (done.known, done.erased, done.logged + done.unsampled) == (0, 0, 400)
    assert done.unsampled > 0


def test_rows_of_a_query_whose_values_are_of_another_kind_are_left_out(store, deployments):
    rows = answered(4).to_pylist()
    rows[1]["age"], rows[2]["predicted_at"] = "old", 5
    done = bring(store, deployments, as_table(rows), on_error="skip")
    assert (done.logged, [(each.row, each.field) for each in done.problems]) == (2, [(1, "age"), (2, "predicted_at")])


def test_rows_say_their_own_version_and_id(store, deployments):
    own = [prediction_id(NOW - DAY), None, None]
    table = answered(3).append_column("model_version", pa.array([7, None, 8]))
    table = table.append_column("prediction_id", pa.array(own))
    assert bring(store, deployments, table, version="3").versions == ("3", "7", "8")
    assert column(store, "model_version") == ["7", "3", "8"]
    assert column(store, "prediction_id")[0] == own[0]


def test_without_a_key_rows_are_told_apart_by_what_they_hold(store, deployments):
    table = answered(3).drop_columns(["customer", "month"])
    for name in ("customer", "month"):
        table = table.append_column(name, pa.nulls(3))
    same_moment = table.set_column(table.column_names.index("predicted_at"), "predicted_at", [[NOW - DAY] * 3])
    assert bring(store, deployments, same_moment).logged == 3
    assert bring(store, deployments, same_moment).logged == 0
    keyed = answered(1)
    other = keyed.set_column(keyed.column_names.index("age"), "age", [[99.0]])
    assert bring(store, deployments, keyed).logged == 1
    assert bring(store, deployments, other).logged == 0  # the same key, moment and version: the same prediction


def test_text_gives_the_same_rows_as_typed_values(sqlite_store, deployments):
    typed = answered(20)
    texts = pa.table({name: [str(value) for value in typed.column(name).to_pylist()] for name in typed.column_names})
    assert bring(sqlite_store, deployments, typed).logged == 20
    assert bring(sqlite_store, deployments, texts, text=True).logged == 0


def test_zeros_and_ones_are_booleans_where_a_database_has_none(sqlite_store, deployments):
    table = answered(4)
    numbers = table.set_column(table.column_names.index("prediction"), "prediction", [[1, 0, 1, None]])
    bring(sqlite_store, deployments, numbers)
    assert column(sqlite_store, "prediction") == [True, False, True, None]


def bad(table, name, row, value):
    values = table.column(name).to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_bad_row_refuses_all_unless_it_may_be_left_out(store, deployments):
    second = bad(bad(answered(100, first=100), "predicted_at", 3, None), "probability", 5, 1.5)
    second = second.append_column("model_version", pa.array(["9" if row == 7 else "1" for row in range(100)]))
    with pytest.raises(BadInput) as caught:
        bring(store, deployments, answered(100), second)
    found = {(problem.row, problem.field) for problem in caught.value.problems}
    assert found == {(103, "predicted_at"), (105, "probability"), (107, "model_version")}
    assert caught.value.total == 3
    assert "--on-error skip" in caught.value.cure
    assert count_predictions(store, "churn") == {}
    result = bring(store, deployments, answered(100), second, on_error="skip")
    assert (result.rows, result.logged, result.known, result.skipped) == (200, 197, 0, 3)
    assert {(problem.row, problem.field) for problem in result.problems} == found
    assert set(range(200)) - set(column(store, "customer")) == {103, 105, 107}


def test_more_bad_rows_than_can_be_told_are_all_left_out_and_counted(sqlite_store, deployments):
    table = answered(500)
    odd = [1.5 if row % 2 else 0.5 for row in range(500)]
    table = table.set_column(table.column_names.index("probability"), "probability", [odd])
    result = bring(sqlite_store, deployments, table, on_error="skip")
    assert (result.logged, result.skipped, len(result.problems)) == (250, 250, 100)
    with pytest.raises(BadInput) as caught:
        bring(sqlite_store, deployments, table)
    assert (caught.value.total, len(caught.value.problems)) == (250, 100)


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        (["predicted_at"], "predicted_at: is missing"),
        (["age"], "age: is missing"),
        (["prediction", "probability"], "none of the columns prediction, probability"),
    ],
)
def test_a_column_that_is_missing_is_never_left_out(sqlite_store, deployments, dropped, said):
    with pytest.raises(BadInput) as caught:
        bring(sqlite_store, deployments, answered(3).drop_columns(dropped), on_error="skip")
    assert said in str(caught.value)
    assert count_predictions(sqlite_store, "churn") == {}


def test_a_version_that_is_not_registered_is_not_found(sqlite_store, deployments):
    with pytest.raises(NotFound):
        bring(sqlite_store, deployments, answered(3), version="9")


def test_a_query_of_either_database_brings_what_a_file_would(store, deployments, tmp_path):
    from feedback_loop.store import migrate

    bring(store, deployments, answered(250))
    url = store.url.render_as_string(hide_password=False).replace("postgresql+psycopg:", "postgresql:")
    columns = "customer, month, age, plan, prediction, probability, predicted_at, model_version, latency_us"
    statement = f"SELECT {columns} FROM predictions_churn WHERE month LIKE '%m' ORDER BY customer"  # noqa: S608
    chunks = list(Query(url, statement).chunks(100))
    assert [chunk.num_rows for chunk in chunks] == [100, 100, 50]
    other = Store(f"sqlite:///{tmp_path}/other.db")
    migrate.prepare(other)
    assert bring(other, deployments, *chunks).logged == 250
    assert [row["prediction_id"] for row in rows(other)] == [row["prediction_id"] for row in rows(store)]
    other.close()


def test_numbers_and_ids_of_postgresql_are_taken_as_they_are(postgres_url):
    numbers = f"1.5::numeric AS n, {2**53 + 1}::numeric(20) AS k, 57.00::numeric AS whole, 'NaN'::numeric AS none"
    statement = f"SELECT {numbers}, gen_random_uuid() AS u, '12:30' AS t, NULL AS nothing"
    (chunk,) = Query(postgres_url, statement).chunks(10)
    (row,) = chunk.to_pylist()
    assert (row["n"], len(row["u"]), row["t"], row["nothing"]) == (1.5, 36, "12:30", None)
    kinds = {"n": ColumnType.DOUBLE, "k": ColumnType.LONG, "whole": ColumnType.LONG, "none": ColumnType.DOUBLE}
    typed = coerce(chunk, [Column(name, kind) for name, kind in kinds.items()])
    assert typed.to_pylist() == [{"n": 1.5, "k": 2**53 + 1, "whole": 57, "none": None}]
    with pytest.raises(BadInput, match="does not fit the type long"):
        coerce(chunk, [Column("n", ColumnType.LONG)])


def test_a_database_that_is_away_is_unavailable(tmp_path):
    with pytest.raises(Unavailable) as caught:
        next(Query("postgresql://nobody:secret@127.0.0.1:1/none", "SELECT 1").chunks(10))
    assert "secret" not in str(caught.value)


def test_a_column_of_several_kinds_keeps_each_value_as_it_is():
    statement = "SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 'four'"
    assert [chunk.to_pydict() for chunk in Query("sqlite://", statement).chunks(2)] == [
        {"x": [1, 2]},
        {"x": [3, "four"]},
    ]

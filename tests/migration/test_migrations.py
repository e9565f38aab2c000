"""The migrations make exactly the declared tables; an older or newer database is never touched unasked."""

import threading
from datetime import UTC, datetime, timedelta

import mlflow
import optuna
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, inspect

from feedback_loop.errors import ConfigError, Unavailable
from feedback_loop.outcomes import record_outcomes
from feedback_loop.store import Store, migrate, predictions, schema
from tests.builders import binary_contract, prediction_rows


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request):
    url = "empty_sqlite_url" if request.param == "sqlite" else "empty_postgres_url"
    store = Store(request.getfixturevalue(url))
    yield store
    store.close()


def differences(store):
    """Between the database and the declared tables."""
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, **migrate.OPTIONS})
        return compare_metadata(context, schema.metadata)


def test_an_empty_database_gets_exactly_the_declared_tables_and_is_then_left_alone(empty):
    assert migrate.current(empty) is None
    migrate.prepare(empty)
    assert migrate.current(empty) == migrate.head()
    assert differences(empty) == []
    with empty.read() as connection:
        assert all(name.startswith("fl_") for name in inspect(connection).get_table_names())
    migrate.prepare(empty)
    assert migrate.upgrade(empty) == migrate.head()


def test_a_database_of_another_version_is_refused_with_the_command_to_run(empty):
    migrate.prepare(empty)
    with empty.write() as connection:
        connection.exec_driver_sql("UPDATE fl_alembic_version SET version_num = '0000'")
    with pytest.raises(Unavailable, match="feedback-loop db upgrade"):
        migrate.prepare(empty)


def test_tables_without_a_version_are_not_overwritten(empty):
    with empty.write() as connection:
        connection.exec_driver_sql("CREATE TABLE fl_models (name TEXT)")
    with pytest.raises(Unavailable, match="at revision none"):
        migrate.prepare(empty)


def test_two_processes_may_prepare_at_once(empty):
    failures = []

    def prepare():
        own = Store(empty.url.render_as_string(hide_password=False))
        try:
            migrate.prepare(own)
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        own.close()

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert migrate.current(empty) == migrate.head()


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", ""])
def test_a_database_that_is_neither_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        Store(url)
    assert caught.value.key == "store.url"


def test_nobody_is_turned_away_from_a_new_file_that_all_open_at_once(tmp_path):
    failures = []

    def write(url, together):
        own = Store(url)
        together.wait()
        try:
            with own.write() as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x)")
        except Unavailable as error:
            failures.append(error)
        own.close()

    for number in range(60):
        together = threading.Barrier(6)
        arguments = (f"sqlite:///{tmp_path}/{number}.db", together)
        threads = [threading.Thread(target=write, args=arguments) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def mlflow_works(url, name):
    client = mlflow.MlflowClient(url, url)
    client.create_registered_model(name)
    run = client.create_run(client.create_experiment(name, artifact_location="nowhere"))
    client.log_metric(run.info.run_id, "loss", 0.5)
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
    assert name in [model.name for model in client.search_registered_models()]


def optuna_works(url, name):
    study = optuna.create_study(storage=optuna.storages.RDBStorage(url, {"poolclass": NullPool}), study_name=name)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(study.trials) == 1


def we_work(store, customer):
    contract, start = binary_contract(), datetime(2026, 3, 1, tzinfo=UTC)
    rows = prediction_rows(contract, [start], customer=[customer], month=["m"])
    predictions.PredictionLog(store).append(contract, rows, start)
    frame = {"customer": [customer], "month": ["m"], "churned": [True]}
    assert record_outcomes(store, contract, frame, now=start + timedelta(days=1), source="t").counts.new == 1
    assert differences(store) == []


@pytest.mark.parametrize("works", [mlflow_works, optuna_works])
@pytest.mark.parametrize("who_is_first", ["we", "they"])
def test_a_database_can_be_shared_whoever_came_first(empty, works, who_is_first, monkeypatch):
    """Each of them has a table `alembic_version`, and more that would be called like ours without their prefix."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    url = empty.url.render_as_string(hide_password=False)
    if who_is_first == "they":
        works(url, "before")
    migrate.prepare(empty)
    we_work(empty, 1)
    works(url, "after")
    assert migrate.upgrade(empty) == migrate.current(empty) == migrate.head()
    we_work(empty, 2)


def test_the_newest_script_is_alembics_head():
    script = ScriptDirectory.from_config(migrate._config())
    assert (script.get_heads(), len(list(script.walk_revisions()))) == ([migrate.head()], int(migrate.head()))

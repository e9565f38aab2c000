"""The migrations make exactly the declared tables; an older or newer database is never touched unasked."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.decisions import Baseline, decide
from feedback_loop.decisions.baseline import watched_of
from feedback_loop.decisions.watched import Losses
from feedback_loop.errors import ConfigError, Unavailable
from feedback_loop.monitoring.folding import establish, fold_news
from feedback_loop.monitoring.profiles import Layout, Profile
from feedback_loop.outcomes import record_outcomes
from feedback_loop.store import (
    Store,
    evaluations,
    incidents,
    joins,
    keys,
    migrate,
    predictions,
    profiles,
    retrainings,
    tables,
    traffic,
)
from feedback_loop.store.alerts import due_alerts, load_alerts
from feedback_loop.store.evaluations import DriftValue
from tests.builders import binary_contract, prediction_rows


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request):
    url = "empty_sqlite_url" if request.param == "sqlite" else "empty_postgres_url"
    store = Store(request.getfixturevalue(url))
    yield store
    store.close()


def test_the_migrations_make_exactly_the_declared_tables(empty):
    migrate.upgrade(empty)
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_an_empty_database_is_prepared_and_then_left_alone(empty):
    assert migrate.current(empty) is None
    migrate.prepare(empty)
    assert migrate.current(empty) == migrate.head()
    migrate.prepare(empty)
    assert migrate.upgrade(empty) == migrate.head()


def test_a_database_of_another_version_is_refused_with_the_command_to_run(empty):
    migrate.prepare(empty)
    with empty.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(Unavailable, match="feedback-loop db upgrade"):
        migrate.prepare(empty)


def test_tables_without_a_version_are_not_overwritten(empty):
    with empty.write() as connection:
        connection.exec_driver_sql("CREATE TABLE models (name TEXT)")
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


def test_a_database_of_stage_1_is_upgraded_and_then_used(tmp_path):
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "stage1.sql").read_text())
    store, contract = Store(f"sqlite:///{path}"), binary_contract()
    with pytest.raises(Unavailable, match="feedback-loop db upgrade"):
        migrate.prepare(store)
    migrate.upgrade(store)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    window = Window(start, start + timedelta(days=1))
    before = predictions.read_labelled(store, contract, window)
    assert before.column("churned").to_pylist() == [True, False, True, None, None]
    assert predictions.read_labelled(store, contract, window, as_of=start + timedelta(hours=6)).column(
        "churned"
    ).to_pylist() == [True, True, None, None, None]
    [alert] = load_alerts(store, [1])
    assert (alert.subject, alert.incident_id) == ("incident:1", 1)
    rows = prediction_rows(contract, [start + timedelta(hours=5)], customer=[6], month=["m"])
    assert predictions.PredictionLog(store).append(contract, rows, start + timedelta(hours=5)) == 1
    frame = {"customer": [6, 1], "month": ["m", "m"], "churned": [True, False]}
    counts = record_outcomes(store, contract, frame, now=start + timedelta(days=3), source="t").counts
    assert (counts.new, counts.corrected) == (1, 1)
    assert evaluations.load_evaluations(store, "churn")[0].labelled == 3
    store.close()


def test_a_database_of_stage_2_is_upgraded_and_its_keys_go_on_working(tmp_path):
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "stage2.sql").read_text())
    store, contract = Store(f"sqlite:///{path}"), binary_contract()
    with pytest.raises(Unavailable, match="feedback-loop db upgrade"):
        migrate.prepare(store)
    migrate.upgrade(store)
    [valid] = keys.valid_keys(store)
    assert valid == keys.KeyRight(
        keys.digest("fl_caller_of_stage_2"), "caller", frozenset({"predict", "outcomes", "read"})
    )
    assert [each.name for each in keys.load_keys(store)] == ["caller", "former"]
    start = datetime(2026, 3, 1, tzinfo=UTC)
    keys.create_key(store, "new", start, [keys.Scope.ADMIN])
    assert {each.name for each in keys.valid_keys(store)} == {"caller", "new"}
    window = Window(start, start + timedelta(days=1))
    labels = predictions.read_labelled(store, contract, window).column("churned").to_pylist()
    assert labels == [True, False, None, None, None]
    assert traffic.load_traffic(store, "churn") == traffic.Traffic()
    traffic.save_traffic(store, "churn", traffic.Traffic(("challenger",)), start)
    store.close()


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


def test_a_database_of_stage_3_is_upgraded_and_its_evaluations_say_what_they_said(tmp_path):
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "stage3.sql").read_text())
    store, contract = Store(f"sqlite:///{path}"), binary_contract()
    with pytest.raises(Unavailable, match="feedback-loop db upgrade"):
        migrate.prepare(store)
    migrate.upgrade(store)
    [found] = evaluations.load_evaluations(store, "churn")
    assert (found.metric("accuracy"), found.drifted_share) == (0.8, 0.5)
    assert {value.column: value.p_value for value in found.drift} == {"age": 1e-9, "plan": 0.5}
    newer = replace(
        found,
        as_of=found.as_of + timedelta(hours=1),
        drift=(DriftValue("age", "psi", 0, 0.1, None, drifted=False, rows=9),),
    )
    assert evaluations.save_evaluation(store, newer).revision == 2
    start = datetime(2026, 3, 1, tzinfo=UTC)
    predictions.PredictionLog(store).append(contract, prediction_rows(contract, [start], age=[40.0]), start)
    reference = Profile.of(Layout(contract), {})
    establish(store, "churn", "1", reference, start)
    joins.join_new(store, contract, timedelta(hours=4), start + timedelta(hours=1), fold_news)
    window = Window(start, start + timedelta(hours=4))
    assert len(profiles.load_window(store, "churn", "1", "champion", window).tallies) == 1
    store.close()


def test_a_database_of_stage_4_is_upgraded_and_its_open_incident_goes_on_to_its_end(tmp_path):
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "stage4.sql").read_text())
    store, contract = Store(f"sqlite:///{path}"), binary_contract()
    with pytest.raises(Unavailable, match="feedback-loop db upgrade"):
        migrate.prepare(store)
    migrate.upgrade(store)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    now = start + timedelta(days=3)
    opened = incidents.open_incident(store, "churn")
    assert (opened.opened_at, opened.acknowledged_by, opened.recovery) == (now, None, None)
    assert incidents.acknowledge(store, 1, "ada", now).acknowledged_by == "ada"
    incidents.silence(store, 1, now + timedelta(days=9), now)
    assert due_alerts(store, now + timedelta(days=1)) == []
    # Its version does well from now on: the first look that follows is made from a verdict of stage 4.
    moments = [now + timedelta(minutes=12 * each) for each in range(360)]
    names = {"customer": list(range(1000, 1360)), "month": ["n"] * 360}
    rows = prediction_rows(
        contract, moments, **names, plan=["pro"] * 360, prediction=[False] * 360, probability=[0.05] * 360
    )
    predictions.PredictionLog(store).append(contract, rows, moments[-1])
    record_outcomes(store, contract, {**names, "churned": [False] * 360}, now=now + timedelta(days=4), source="t")
    settings = ModelSettings(task="binary", label="churned", policy={"reference": 1000})
    losses = np.tile([0.04, 0.04, 0.04, 0.64], 250)
    watched = watched_of(contract, settings.policy)
    baseline = Baseline(watched, Losses({"brier": losses}), np.repeat(np.arange(4), 250), 1)
    options = {"since": None, "routes": ("log", "ops"), "now": now + timedelta(days=5)}
    verdict = decide(store, contract, "1", settings, lambda _: baseline, **options)
    assert verdict.evidence["labels"] == 360
    [closed] = incidents.load_incidents(store, "churn")
    assert closed.closed_because.startswith("it has recovered: brier 0.0025 on the last 360 labelled predictions")
    assert [(each.subject, each.route, each.state) for each in load_alerts(store, [1])] == [
        ("incident:1", "log", "sent"),
        ("incident:1", "ops", "dropped"),
        ("incident:1:recovered", "log", "pending"),
    ]
    [search] = retrainings.load_retrainings(store, "churn")
    assert (search.incident_id, search.cause) == (1, "60 rows are too few")
    store.close()

"""Stores of every release so far are upgraded, and used: what they know is still known, and what comes is added."""

import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import run_cycle
from feedback_loop.store import Store, conclusions, evaluations, incidents, keys, migrate, schema
from feedback_loop.store.alerts import list_alerts
from feedback_loop.store.coverage import load_coverage
from tests.builders import open_loop, play_days, register_churn, told, write_config
from tests.migration.freeze import BEGINS, DAYS, FROZEN, PER_DAY, restore_postgresql, restore_sqlite

RELEASES = sorted(path.name.removesuffix(".sqlite.xz") for path in FROZEN.glob("*.sqlite.xz"))


def test_the_first_release_is_there_and_both_databases_of_each_are():
    assert RELEASES[0] == "0.2.0"
    names = [f"{release}.{kind}.xz" for release in RELEASES for kind in ("postgresql.sql", "sqlite")]
    assert sorted(path.name for path in FROZEN.iterdir()) == names


@pytest.fixture(params=[(release, kind) for release in RELEASES for kind in ("sqlite", "postgresql")], ids="-".join)
def url(request, tmp_path):
    """A release's database."""
    release, kind = request.param
    if kind == "sqlite":
        restore_sqlite(release, tmp_path / "frozen.db")
        return f"sqlite:///{tmp_path}/frozen.db"
    url = request.getfixturevalue("empty_postgres_url")
    restore_postgresql(release, url)
    return url


def without_references(evaluation):
    """What an evaluation says of its rows alone: the frozen versions' references went with their registry."""
    metrics = tuple(sorted(evaluation.metrics, key=lambda value: (value.segment, value.metric)))
    return told([replace(evaluation, metrics=metrics, drift=(), quality=(), estimates=(), notes=())])


def test_a_store_of_a_release_is_upgraded_and_goes_on_working(url, empty_mlflow, tmp_path):
    store = Store(url)
    migrate.upgrade(store)
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, **migrate.OPTIONS})
        assert compare_metadata(context, schema.metadata) == []
    kept, accounts = evaluations.load_evaluations(store, "churn"), load_coverage(store, "churn")[0]
    assert sum(account.predictions for account in accounts if not account.segment) == DAYS * PER_DAY - 1  # one erased
    assert [key.name for key in keys.load_keys(store)] == ["team"]
    assert {alert.model for alert in list_alerts(store)} == {"churn"}
    [before] = incidents.load_incidents(store, "churn")
    raised = incidents.raise_incident(
        store,
        model="churn",
        version="1",
        cause=incidents.Cause.ROLLBACK,
        title="taken back",
        summary="it was worse",
        evidence={},
        routes=["log"],
        now=BEGINS,
    )
    assert (before.cause, raised.incident_id) == ("verdict", before.incident_id + 1)
    assert {verdict.state for verdict in conclusions.load_verdicts(store, "churn")} >= {"ok", "degraded"}
    store.close()

    clock = ManualClock(BEGINS + timedelta(days=DAYS))
    shutil.copy(empty_mlflow, tmp_path)  # a registry that knows none of this store's versions
    loop = open_loop(write_config(tmp_path, store=url), clock)
    loop.promote("churn", register_churn(loop.registry, clock()).version, reason="first")
    for before in kept:
        if before.window.start > BEGINS:  # a row of the first day was erased
            again = loop.evaluate("churn", before.window, before.as_of)
            assert without_references(before) in [without_references(one) for one in again]
    play_days(loop, clock, 2, per_day=PER_DAY, seed=40)
    outcomes = run_cycle(loop, "churn")
    assert {outcome.job: outcome.state for outcome in outcomes if outcome.state != "succeeded"} == {}
    accounts = load_coverage(loop.context.store, "churn")[0]
    assert sum(account.predictions for account in accounts if not account.segment) == (DAYS + 2) * PER_DAY - 1
    with loop.context.store.read() as connection:  # its table of predictions has grown by what is logged now
        adapted = "SELECT count(*), count(adapter_revision), count(raw_probability) FROM labelled_churn"
        assert tuple(connection.exec_driver_sql(adapted).one()) == ((DAYS + 2) * PER_DAY - 1, 0, 0)
    loop.close()

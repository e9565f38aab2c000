"""Backtests over a real loop's weeks: what was said is said again, other policies stand beside it, nothing changes."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select

from feedback_loop.clock import ManualClock
from feedback_loop.config_policy import PolicySettings
from feedback_loop.errors import BadInput, ConfigError, NotFound
from feedback_loop.jobs import run_cycle
from feedback_loop.store import Store, verdicts
from feedback_loop.store.tables import metadata
from tests.builders import churn_loop, customers, open_loop, play_days, register_churn, write_config

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
FEATURES = ("customer", "month", "age", "plan")
CHANGED = NOW + 9 * DAY

SEGMENTED = """
[[models.churn.policy.watch]]
segment = "plan=basic"
loss = "error"
"""


def labelled(rows):
    return {name: rows[name] for name in ("customer", "month", "churned")}


def weeks(loop, clock):
    """19 days: version 1, whose world turns on the tenth; version 2, without a reference of its own; version 1 again.

    Some outcomes come two days late, some are corrected after they were judged.
    """
    late = None
    for day in range(19):
        if day == 13:
            small = register_churn(loop.registry, clock(), rows=500, reference=100, seed=5)
            loop.promote("churn", small.version)
        if day == 17:
            loop.rollback("churn")
        harder = 0.45 if clock() >= CHANGED else 0.0
        rows = customers(300, 10 + day, harder=harder, month=f"{clock():%Y-%m-%d}")
        loop.predict("churn", {name: rows[name] for name in FEATURES})
        clock.set(clock() + DAY)
        if late is not None:
            loop.record_outcomes("churn", late)
        known = labelled(rows)
        loop.record_outcomes("churn", {name: values[:250] for name, values in known.items()})
        late = {name: values[240:] for name, values in known.items()}
        late["churned"] = late["churned"] ^ (late["customer"] < 250)
        if day % 5 == 1:  # as the scheduler would, with all that comes before and after
            run_cycle(loop, "churn")
        elif day % 5 != 3:
            loop.decide("churn")


@pytest.fixture(scope="session")
def played(request, empty_mlflow, tmp_path_factory, postgres):
    """Makes (once each) a home with the weeks played on SQLite or PostgreSQL, and returns it with the store's URL."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            shutil.copy(empty_mlflow, folder / "mlflow.db")
            url = f"sqlite:///{folder}/store.db"
            if kind == "postgresql":
                import psycopg

                with psycopg.connect(postgres, autocommit=True) as connection:
                    connection.execute("CREATE DATABASE played")
                url = postgres.replace("/postgres?", "/played?")
            clock = ManualClock(NOW)
            loop = open_loop(write_config(folder, store=url, more=SEGMENTED), clock)
            loop.promote("churn", register_churn(loop.registry, clock()).version, reason="first")
            weeks(loop, clock)
            loop.close()
            made[kind] = folder, clock()
        return made[kind]

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def loop(request, played):
    folder, moment = played(request.param)
    made = open_loop(folder / "feedback_loop.toml", ManualClock(moment))
    yield made
    made.close()


@pytest.fixture
def sqlite_loop(played):
    folder, moment = played("sqlite")
    made = open_loop(folder / "feedback_loop.toml", ManualClock(moment))
    yield made
    made.close()


def said(verdict):
    return (
        verdict.version,
        verdict.decided_at,
        verdict.window,
        verdict.state,
        verdict.summary,
        verdict.evidence,
    )


def contents(store):
    with store.read() as connection:
        return {name: connection.execute(select(table)).all() for name, table in metadata.tables.items()}


def test_the_policy_that_was_live_says_exactly_what_it_said(loop):
    stored = verdicts.load_verdicts(loop.store, "churn")[::-1]
    assert {each.state for each in stored} >= {verdicts.State.OK, verdicts.State.DEGRADED}
    assert [each.version for each in stored if each.version != "1"]
    result = loop.backtest("churn", [PolicySettings(rule="threshold", reference=1000)])
    configured, other = result.played
    assert list(map(said, configured.verdicts)) == list(map(said, stored))
    assert configured.verdicts[-1].monitor == stored[-1].monitor
    assert result.were_made
    assert [each.evidence["rule"] for each in other.verdicts] == ["threshold"] * len(other.verdicts)

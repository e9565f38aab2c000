"""Days of a whole loop with its adapter, on real models and logs: people's acts and poisoned days in any order."""

import tempfile
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from feedback_loop.clock import ManualClock
from feedback_loop.errors import Refused
from feedback_loop.store import adapters, incidents, retrainings
from tests.builders import churn_loop, customers, new_database, open_loop, register_churn, write_config
from tests.streams import examples

BEGINS = datetime(2026, 3, 1, tzinfo=UTC)
ON = '[models.churn.adapter]\nmode = "on"\n[models.churn.rollout]\nprobation = 5\n'
ROWS = 60


class LoopMachine(RuleBasedStateMachine):
    """One loop of its own. `database` is set by the test: a template of PostgreSQL, or None for SQLite."""

    database: tuple[str, str] | None

    @initialize()
    def begin(self):
        self.stack, self.clock, self.day, self.frozen = ExitStack(), ManualClock(BEGINS), 0, False
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.loop = churn_loop(folder, self.clock, more=ON)
        if self.database is not None:
            self.loop.close()
            url = self.stack.enter_context(new_database(*self.database))
            self.loop = open_loop(write_config(folder, store=url, more=ON), self.clock)
            self.loop.reconcile("churn")
        self.stack.callback(self.loop.close)
        worse = register_churn(self.loop.registry, self.clock(), rows=500, reference=200, turned=True)
        equal = register_churn(self.loop.registry, self.clock(), rows=500, reference=200, seed=4)
        self.versions = ["1", worse.version, equal.version]
        self.past_days(3)
        assert "learned" in [revision.kind for revision in self.loop.adapter.history("churn")]

    def past_days(self, days, *, poisoned=False):
        for _ in range(days):
            self.day += 1
            rows = customers(ROWS, self.day, month=f"{self.clock():%Y-%m-%d}")
            self.loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
            self.clock.set(self.clock() + timedelta(days=1))
            if poisoned:
                rows["churned"][:] = True
            self.loop.record_outcomes("churn", {name: rows[name] for name in ("customer", "month", "churned")})
            self.turn()

    def turn(self):
        self.loop.reconcile("churn")
        self.loop.join("churn")
        self.loop.adapter.run("churn")
        self.loop.rollouts.turn("churn")

    def tried(self, act, *, held=False):
        """Does what may be refused; while the model is frozen it must be, if that is `held` by a freeze."""
        self.clock.set(self.clock() + timedelta(minutes=1))
        if self.frozen and held:
            with pytest.raises(Refused):
                act()
            return
        with suppress(Refused):
            act()

    @rule(days=st.integers(1, 3), poisoned=st.booleans())
    def days_pass(self, days, poisoned):
        self.past_days(days, poisoned=poisoned)

    @rule(which=st.integers(0, 2))
    def somebody_promotes(self, which):
        self.tried(lambda: self.loop.promote("churn", self.versions[which], force=True), held=True)

    @rule()
    def somebody_rolls_back(self):
        self.tried(lambda: self.loop.rollback("churn"), held=True)

    @rule(which=st.integers(0, 2))
    def somebody_moves_the_alias_in_mlflow(self, which):
        self.loop.registry.set_alias("churn", "champion", self.versions[which])
        self.turn()

    @rule()
    def somebody_holds_the_adapter(self):
        self.tried(lambda: self.loop.adapter.hold("churn", reason="r"))

    @rule()
    def somebody_releases_the_adapter(self):
        self.tried(lambda: self.loop.adapter.release("churn", reason="r"), held=True)

    @rule()
    def somebody_resets_the_adapter(self):
        self.tried(lambda: self.loop.adapter.reset("churn", reason="r"), held=True)

    @rule(freezes=st.booleans())
    def somebody_freezes_or_unfreezes(self, freezes):
        if freezes and not self.frozen:
            self.loop.freeze("churn", reason="r", by="ada")
        elif not freezes and self.frozen:
            self.loop.unfreeze("churn")
        self.frozen = freezes

    @invariant()
    def the_champion_answers_and_is_on_record(self):
        if not hasattr(self, "versions"):
            return
        champion = self.loop.champion("churn")
        assert champion.version == self.loop.context.promotions("churn")[-1].to_version
        row = pd.DataFrame(customers(1, 999, month="2030-01"))[["age", "plan"]]
        scorer = self.loop.context.answering(champion)
        assert scorer.score(scorer.rows_of(row)).columns[1][0] >= 0

    @invariant()
    def an_adapter_that_learns_again_has_no_open_incident(self):
        if not hasattr(self, "versions") or self.frozen:
            return
        served = adapters.newest_served(self.loop.store, "churn")
        open_ones = incidents.open_incidents(self.loop.store, "churn")
        if served is not None and served.kind == "learned":
            assert "adapter" not in [incident.cause for incident in open_ones]
        for promotion in retrainings.load_promotions(self.loop.store, "churn"):
            assert promotion.state in ("done", "failed")

    def teardown(self):
        if not hasattr(self, "versions"):
            return
        with self.stack:
            if self.frozen:
                self.loop.unfreeze("churn")
            self.turn()
            replayed = self.loop.adapter.replay("churn")
            assert (replayed.differs, replayed.same) == (None, replayed.revisions)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres"), request.getfixturevalue("prepared_postgres")


@pytest.mark.statistics
def test_the_champion_answers_and_revisions_replay_whatever_happens(database):
    machine = type("Machine", (LoopMachine,), {"database": database})
    settings = examples(1, stateful_step_count=12, suppress_health_check=list(HealthCheck), deadline=None)
    run_state_machine_as_test(machine, settings=settings)

"""Promotion and rollback in any order, with crashes and hands in between, on a real MLflow store."""

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from feedback_loop.errors import Refused
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.retraining.promotion import promote, reconcile, rollback
from feedback_loop.store import Store, tables
from feedback_loop.store.retrainings import intend_promotion, load_promotions

MODEL, ALIAS, VERSIONS = "m", "champion", ["1", "2", "3", "4"]
versions = st.sampled_from(VERSIONS)


@pytest.fixture(scope="module")
def place(empty_mlflow, prepared_sqlite, tmp_path_factory):
    """A registry with four versions, and a store."""
    folder = tmp_path_factory.mktemp("machine")
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    registry = Registry(Connection(f"sqlite:///{folder}/mlflow.db", "", folder, "e"))
    client = registry._mlflow.client
    client.create_registered_model(MODEL)
    for _ in VERSIONS:
        client.create_model_version(MODEL, folder.as_uri())
    store = Store(f"sqlite:///{shutil.copy(prepared_sqlite, folder)}")
    yield store, registry
    store.close()


def test_record_and_registry_agree_whatever_happens(place):  # noqa: C901 (one machine)
    store, registry = place

    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self):
            with store.write() as connection:
                connection.execute(tables.promotions.delete())
            if registry.champion(MODEL, ALIAS) is not None:
                registry._mlflow.client.delete_registered_model_alias(MODEL, ALIAS)
            self.now = datetime(2026, 1, 1, tzinfo=UTC)
            self.actual = None

        def tick(self):
            self.now += timedelta(minutes=1)
            return self.now

        def settled(self):
            self.actual = reconcile(store, registry, MODEL, ALIAS, self.tick())
            return self.actual

        @rule(version=versions)
        def promotes(self, version):
            before = self.settled()
            if version == before:
                with pytest.raises(Refused):
                    promote(store, registry, MODEL, ALIAS, version, reason="r", now=self.tick())
            else:
                promote(store, registry, MODEL, ALIAS, version, reason="r", now=self.tick(), expected=before)
                self.actual = version

        @rule(version=versions, stale=versions)
        def promotes_after_comparing_with_an_old_champion(self, version, stale):
            if stale != self.settled():
                with pytest.raises(Refused):
                    promote(store, registry, MODEL, ALIAS, version, reason="r", now=self.tick(), expected=stale)

        @rule()
        def rolls_back(self):
            before = self.settled()
            done = [each for each in load_promotions(store, MODEL) if each.state == "done"]
            if done and done[-1].from_version is not None:
                assert (
                    rollback(store, registry, MODEL, ALIAS, reason="r", now=self.tick()).to_version
                    == done[-1].from_version
                )
                self.actual = done[-1].from_version
            else:
                with pytest.raises(Refused):
                    rollback(store, registry, MODEL, ALIAS, reason="r", now=self.tick())
                assert self.actual == before

        @rule(version=versions)
        def somebody_moves_the_alias_in_mlflow(self, version):
            registry.set_alias(MODEL, ALIAS, version)
            self.actual = version

        @rule(version=versions, alias_was_set=st.booleans())
        def a_process_dies_in_the_middle(self, version, alias_was_set):
            before = self.settled()
            if version != before:
                options = {"kind": "promotion", "from_version": before, "to_version": version}
                intend_promotion(store, MODEL, **options, reason="r", now=self.tick())
                if alias_was_set:
                    registry.set_alias(MODEL, ALIAS, version)
                # Whoever comes next ends what was begun: the intent was on record.
                self.actual = version

        @invariant()
        def the_champion_is_who_should_be_after_the_next_look(self):
            history = load_promotions(store, MODEL)
            if [each.state for each in history[-1:]] == ["intended"]:
                return  # nobody has looked since
            found = registry.champion(MODEL, ALIAS)
            assert (found.version if found else None) == self.actual

        @invariant()
        def the_record_is_a_chain(self):
            history = load_promotions(store, MODEL)
            assert [each.ordinal for each in history] == list(range(1, len(history) + 1))
            assert [each.state for each in history[:-1]].count("intended") == 0
            done = [each for each in history if each.state == "done"]
            for one, other in pairwise(done):
                assert other.from_version == one.to_version

        def teardown(self):
            if hasattr(self, "now"):
                assert self.settled() == (self.actual)
                done = [each for each in load_promotions(store, MODEL) if each.state == "done"]
                assert (done[-1].to_version if done else None) == self.actual

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

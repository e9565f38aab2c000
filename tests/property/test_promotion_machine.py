"""Promotion and rollback in any order, with crashes and hands in between, on a real MLflow store."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import pairwise, takewhile

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from feedback_loop.errors import Refused, Unavailable
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.retraining import Champions
from feedback_loop.store import Store, retrainings
from feedback_loop.store.retrainings import intend_promotion, load_promotions
from tests.streams import examples


class Away:
    """A registry that goes away before an alias is set."""

    def __init__(self, registry):
        self.champion, self.find = registry.champion, registry.find

    def set_alias(self, *_):
        raise Unavailable("registry", "it is away")


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


def test_where_the_alias_was_deleted_a_version_is_promoted_in_place_of_the_last_champion(place):
    store, registry = place
    champions, now = Champions(store, registry, MODEL, "live"), datetime(2025, 1, 1, tzinfo=UTC)
    with store.write() as connection:
        connection.execute(retrainings.promotions.delete())
    champions.promote("1", reason="r", now=now)
    registry._mlflow.client.delete_registered_model_alias(MODEL, "live")
    with pytest.raises(Refused, match="no champion"):
        champions.rollback(reason="r", now=now)
    with pytest.raises(Unavailable):
        replace(champions, registry=Away(registry)).promote("2", reason="r", now=now)
    assert champions.reconcile(now) == "2"
    registry._mlflow.client.delete_registered_model_alias(MODEL, "live")
    again = champions.promote("2", reason="r", now=now)
    assert (again.kind, again.from_version, registry.champion(MODEL, "live").version) == ("promotion", "2", "2")


def test_record_and_registry_agree_whatever_happens(place):  # noqa: C901 (one machine)
    store, registry = place
    champions = Champions(store, registry, MODEL, ALIAS)

    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self):
            with store.write() as connection:
                connection.execute(retrainings.promotions.delete())
            if registry.champion(MODEL, ALIAS) is not None:
                registry._mlflow.client.delete_registered_model_alias(MODEL, ALIAS)
            self.now = datetime(2026, 1, 1, tzinfo=UTC)
            self.actual = None

        def tick(self):
            self.now += timedelta(minutes=1)
            return self.now

        def settled(self):
            self.actual = champions.reconcile(self.tick())
            return self.actual

        @rule(version=versions)
        def promotes(self, version):
            before = self.settled()
            if version == before:
                with pytest.raises(Refused):
                    champions.promote(version, reason="r", now=self.tick())
            else:
                champions.promote(version, reason="r", now=self.tick(), expected=before)
                self.actual = version

        @rule(version=versions, stale=versions)
        def promotes_after_comparing_with_an_old_champion(self, version, stale):
            if stale != self.settled():
                with pytest.raises(Refused):
                    champions.promote(version, reason="r", now=self.tick(), expected=stale)

        @rule()
        def rolls_back(self):
            before = self.settled()
            standing = self.standing()
            if len(standing) > 1 and before is not None:
                back = champions.rollback(reason="r", now=self.tick())
                assert back.to_version == standing[-2]
                self.actual = back.to_version
            else:
                with pytest.raises(Refused):
                    champions.rollback(reason="r", now=self.tick())
                assert self.actual == before

        def recorded(self):
            done = [each.to_version for each in load_promotions(store, MODEL) if each.state == "done"]
            return done[-1] if done else None

        def standing(self):
            """By the definition: who goes back to a champion that stands leaves those after it."""
            done = [each.to_version for each in load_promotions(store, MODEL) if each.state == "done"]
            return reduce(lambda before, now: [*takewhile(lambda each: each != now, before), now], done, [])

        @rule(version=versions)
        def somebody_moves_the_alias_in_mlflow(self, version):
            registry.set_alias(MODEL, ALIAS, version)
            self.actual = version

        @rule()
        def somebody_deletes_the_alias_in_mlflow(self):
            if self.settled() is not None:
                registry._mlflow.client.delete_registered_model_alias(MODEL, ALIAS)
                self.actual = None

        @rule(version=versions, alias_was_set=st.booleans(), moved_back=st.booleans())
        def a_process_dies_in_the_middle(self, version, alias_was_set, moved_back):
            before = self.settled()
            if version != before:
                options = {"kind": "promotion", "from_version": self.recorded(), "to_version": version}
                intend_promotion(store, MODEL, **options, reason="r", now=self.tick())
                if alias_was_set:
                    registry.set_alias(MODEL, ALIAS, version)
                    self.actual = version
                if alias_was_set and moved_back and before is not None:
                    registry.set_alias(MODEL, ALIAS, before)  # whoever does so is not undone
                    self.actual = before

        @rule(version=versions)
        def the_registry_is_away_while_the_alias_is_to_be_set(self, version):
            before = self.settled()
            if version != before:
                with pytest.raises(Unavailable):
                    replace(champions, registry=Away(registry)).promote(version, reason="r", now=self.tick())
                self.actual = version  # once it is back

        @invariant()
        def the_champion_is_who_should_be_after_the_next_look(self):
            history = load_promotions(store, MODEL)
            if any(each.is_open for each in history[-1:]):
                return  # nobody has looked since
            found = registry.champion(MODEL, ALIAS)
            assert (found.version if found else None) == self.actual

        @invariant()
        def the_record_is_a_chain(self):
            history = load_promotions(store, MODEL)
            assert [each.ordinal for each in history] == list(range(1, len(history) + 1))
            assert not any(each.is_open for each in history[:-1])
            done = [each for each in history if each.state == "done"]
            for one, other in pairwise(done):
                assert other.from_version == one.to_version

        def teardown(self):
            if hasattr(self, "now"):
                assert self.settled() == (self.actual)
                assert self.actual in (self.recorded(), None)  # None: the alias was deleted

    run_state_machine_as_test(
        Machine,
        settings=examples(4, stateful_step_count=10, suppress_health_check=list(HealthCheck)),
    )

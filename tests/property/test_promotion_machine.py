"""Searches, approvals, rollouts, promotions, rollbacks, freezes in any order, with hands and crashes in between."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from feedback_loop.errors import NotFound, Refused, Unavailable
from feedback_loop.promotion import Champions, RolloutDesk
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.store import approvals, freezes, incidents, retrainings, rollouts, serving_state
from feedback_loop.store.leases import leases
from feedback_loop.store.retrainings import load_promotions
from tests.builders import new_database
from tests.mortal import Died, MortalStore
from tests.promotions import PASSED, WINDOWS, Away, PromotedModel, mlflow_at, new_model
from tests.streams import examples


@pytest.fixture(
    scope="module",
    params=[
        "sqlite, file",
        "postgresql, file",
        pytest.param("sqlite, server", marks=pytest.mark.statistics),
        pytest.param("postgresql, server", marks=pytest.mark.statistics),
    ],
)
def place(request, empty_mlflow, warm, tmp_path_factory):
    """A registry and a store."""
    database, kind = request.param.split(", ")
    folder = tmp_path_factory.mktemp("machine")
    if database == "sqlite":
        url = f"sqlite:///{shutil.copy(request.getfixturevalue('prepared_sqlite'), folder)}"
    else:
        url = request.getfixturevalue("machine_postgres")
    with mlflow_at(folder, empty_mlflow, kind, warm) as uri:
        store = MortalStore(url)
        yield store, Registry(Connection(uri, "", folder, "e"))
        store.close()


@pytest.fixture(scope="module")
def machine_postgres(postgres, prepared_postgres):
    with new_database(postgres, prepared_postgres) as url:
        yield url


class PromotionMachine(PromotedModel):
    """What people, hands in MLflow and the loop do to it, in any order."""

    @rule(number=st.integers(0, 9))
    def somebody_promotes(self, number):
        before, version = self.settled(), self.chosen(number)
        if version == before:
            with pytest.raises(Refused):
                self.champions().promote(version, reason="r", now=self.tick(), made_by="ada")
        else:
            self.champions().promote(version, reason="r", now=self.tick(), expected=before, made_by="ada")
            self.actual = version
            self.by_hand.add(version)

    @rule(number=st.integers(0, 9), stale=st.integers(0, 9))
    def somebody_promotes_after_comparing_with_an_old_champion(self, number, stale):
        if self.chosen(stale) != self.settled():
            with pytest.raises(Refused):
                self.champions().promote(
                    self.chosen(number), reason="r", now=self.tick(), expected=self.chosen(stale)
                )

    @rule()
    def somebody_rolls_back(self):
        before = self.settled()
        standing, there = self.standing(), self.versions()
        earlier = [version for version in standing[:-1] if version in there]
        if before is not None and earlier:
            back = self.champions().rollback(reason="r", now=self.tick(), made_by="ada")
            assert back.to_version == earlier[-1]
            self.actual = back.to_version
            self.by_hand.add(self.actual)
        else:
            with pytest.raises(Refused):
                self.champions().rollback(reason="r", now=self.tick())
            assert self.actual == before

    @rule(number=st.integers(0, 9))
    def somebody_moves_the_alias_in_mlflow(self, number):
        self.actual = self.chosen(number)
        self.registry.set_alias(self.model, "champion", self.actual)
        self.by_hand.add(self.actual)

    @rule()
    def somebody_deletes_the_alias_in_mlflow(self):
        if self.settled() is not None:
            self.registry._mlflow.client.delete_registered_model_alias(self.model, "champion")
            self.actual = None

    @rule(number=st.integers(0, 9))
    def somebody_deletes_a_version_in_mlflow(self, number):
        version = self.chosen(number)
        if version != self.settled() and len(self.versions()) > 2:
            self.registry._mlflow.client.delete_model_version(self.model, version)

    @rule(number=st.integers(0, 9))
    def the_registry_is_away_while_the_alias_is_to_be_set(self, number):
        before, version = self.settled(), self.chosen(number)
        if version != before:
            away = replace(self.champions(), registry=Away(self.registry))
            with pytest.raises(Unavailable):
                away.promote(version, reason="r", now=self.tick(), made_by="ada")
            self.actual = version  # once it is back
            self.by_hand.add(version)

    @precondition(lambda self: self.actual is not None)
    @rule(quality=st.sampled_from([-1, 0, 1]), passes=st.booleans(), asks=st.booleans())
    def a_search_ends(self, quality, passes, asks):
        if self.settled() is None:
            return
        candidate, search = self.search(quality, passes=passes)
        if not passes:
            with pytest.raises(Refused, match="calibration"):
                self.land(candidate, search)
        elif asks:
            self.desk().ask(candidate, self.actual, {"summary": "better"}, self.tick(), retraining_id=search)
        elif self.land(candidate, search) == "promoted":
            self.actual = candidate

    @rule()
    def somebody_approves(self):
        waiting = self.open_approval()
        if waiting is None:
            return
        blocked = rollouts.blocked_by(self.store, self.model, waiting.candidate)
        after = self.desk().approve(waiting.approval_id, by="ada", reason="r", now=self.tick())
        if waiting.champion != self.actual:
            assert after.state == "expired"  # another champion than it was compared with
        elif blocked is not None or waiting.candidate not in self.versions():
            assert after.state == "refused"
        elif after.state == "promoted":
            self.actual = after.candidate
        else:
            assert (after.state, self.mode != "direct") == ("rollout", True)

    @rule()
    def somebody_rejects(self):
        waiting = self.open_approval()
        if waiting is None:
            return
        if waiting.candidate in self.versions():
            assert self.desk().reject(waiting.approval_id, by="ada", reason="r", now=self.tick()).state == "rejected"
        else:
            with pytest.raises(NotFound):  # it can't be tagged, and is rejected all the same
                self.desk().reject(waiting.approval_id, by="ada", reason="r", now=self.tick())

    @rule(passes=st.booleans())
    def nobody_answers_in_time_and_it_is_judged_again(self, passes):
        waiting = self.open_approval()
        if waiting is None:
            return
        self.now = max(self.now, waiting.expires_at)
        with pytest.raises(Refused, match="has expired"):
            self.desk().approve(waiting.approval_id, by="ada", reason="r", now=self.tick())
        expired = self.desk().settle(self.tick())
        assert expired.state == "expired"
        anew = self.desk().judged_again(expired, replace(PASSED, passed=passes), self.tick())
        assert (anew.approval_id > expired.approval_id, anew.state) == (passes, "open" if passes else "refused")

    @rule(days=st.integers(0, 4))
    def the_loop_turns(self, days):
        before, running = self.settled(), rollouts.running_rollout(self.store, self.model)
        looked = self.turn(days)
        self.settled()
        by_it = [promotion for promotion in self.done() if promotion.evidence and looked is not None]
        if self.actual != before:
            assert by_it[-1].to_version == self.actual
        if looked is not None and looked.state == "running":
            assert self.actual == (looked.candidate if looked.stage == "probation" else looked.baseline)
        if running is not None and looked is not None and looked.state == "harmful":
            assert self.quality.get(looked.candidate, 0) > self.quality.get(looked.baseline, 0)

    @rule(canary=st.sampled_from([None, "mine"]))
    def somebody_routes_callers(self, canary):
        plan = serving_state.TrafficPlan((), canary, 0.5 if canary else 0.0)
        serving_state.save_traffic(self.store, self.model, plan, self.tick())

    @rule(mode=st.sampled_from(["direct", "shadow", "canary"]))
    def somebody_configures_another_rollout(self, mode):
        self.mode = mode

    @rule(
        act=st.sampled_from(["promote", "rollback", "search", "ask", "approve", "turn"]),
        number=st.integers(0, 9),
        quality=st.sampled_from([-1, 0, 1]),
        commit=st.integers(1, 9),
        keeps=st.booleans(),
    )
    def a_process_dies_at_a_commit(self, act, number, quality, commit, keeps):
        """Of whatever act: what it had committed stands, and the next turn makes something whole of it."""
        waiting = self.open_approval()
        before = self.actual
        if before is None or (act == "approve" and waiting is None):
            return
        candidate, search = self.search(quality, passes=True) if act in ("search", "ask") else (None, None)
        champions, desk, now = self.champions(), self.desk(), self.tick()
        acts = {
            "promote": lambda: champions.promote(self.chosen(number), reason="r", now=now, made_by="ada"),
            "rollback": lambda: champions.rollback(reason="r", now=now, made_by="ada"),
            "search": lambda: self.land(candidate, search),
            "ask": lambda: desk.ask(candidate, before, {"summary": "better"}, now, retraining_id=search),
            "approve": lambda: desk.approve(waiting.approval_id, by="ada", reason="r", now=now),
            "turn": lambda: self.turn(2),
        }
        self.life.ends_at(commit, keeps=keeps)
        try:
            acts[act]()
        except (Died, Refused, NotFound):
            pass
        finally:
            self.life.begins_again()
        with self.store.write() as connection:  # its leases run out
            connection.execute(leases.delete())
        is_alone = self.mode == "direct" and rollouts.running_rollout(self.store, self.model) is None
        self.turn(0)
        self.settled()
        if act == "approve" and is_alone:  # what was voted for may have been made the champion by the turn
            assert self.actual in (before, waiting.candidate)
        self.by_hand |= {self.actual} if act in ("promote", "rollback") else set()

    @rule(number=st.integers(0, 9))
    def while_frozen_nothing_moves(self, number):
        waiting = self.open_approval()
        before = self.actual
        freezes.freeze(self.store, self.model, reason="r", by="ada", now=self.tick())
        acts = [
            lambda: self.champions().promote(self.chosen(number), reason="r", now=self.tick()),
            lambda: self.champions().rollback(reason="r", now=self.tick()),
        ]
        if waiting is not None:
            acts.append(lambda: self.desk().approve(waiting.approval_id, by="bo", reason="r", now=self.tick()))
        for act in acts:
            with pytest.raises(Refused):
                act()
        freezes.unfreeze(self.store, self.model, reason="r", by="ada", now=self.tick())
        assert self.settled() == before

    @invariant()
    def an_approval_is_used_once_and_only_with_a_yes(self):
        history = load_promotions(self.store, self.model)
        used = [promotion.approval_id for promotion in history if promotion.approval_id is not None]
        assert len(used) == len({*used})
        for approval in approvals.load_approvals(self.store, self.model):
            promoted = [promotion.state for promotion in history if promotion.approval_id == approval.approval_id]
            votes = approvals.load_votes(self.store, approval.approval_id)
            assert not promoted or any(vote.approves for vote in votes)
            assert approval.state != "promoted" or promoted == ["done"]

    @invariant()
    def there_is_one_champion_and_it_is_there_on_record(self):
        history = load_promotions(self.store, self.model)
        if any(promotion.is_open for promotion in history[-1:]):
            return  # nobody has looked since
        champion = self.registry.champion(self.model, "champion")
        assert (champion.version if champion else None) == self.actual
        if champion is not None:
            assert champion.version in self.versions()

    @invariant()
    def the_record_is_a_chain_that_says_who_and_why(self):
        history = load_promotions(self.store, self.model)
        assert [promotion.ordinal for promotion in history] == list(range(1, len(history) + 1))
        assert not any(promotion.is_open for promotion in history[:-1])
        assert all(promotion.reason and (promotion.made_by or promotion.kind == "external") for promotion in history)
        for one, other in pairwise(promotion for promotion in history if promotion.state == "done"):
            assert other.from_version == one.to_version

    @invariant()
    def a_search_s_candidate_has_passed_all_gates(self):
        for promotion in load_promotions(self.store, self.model):
            if promotion.retraining_id is not None:
                search = retrainings.find_retraining(self.store, promotion.retraining_id)
                assert all(check["passed"] for check in search.gates)

    @invariant()
    def what_was_found_worse_is_told_by_an_incident_and_stays_out_but_by_hand(self):
        ended = rollouts.load_rollouts(self.store, self.model)
        harmful = [rollout for rollout in ended if rollout.state == "harmful"]
        by_rollback = incidents.load_incidents(self.store, self.model)
        assert [incident.evidence["rollout"] for incident in by_rollback] == [
            rollout.rollout_id for rollout in harmful if rollout.stage != "shadow"
        ]
        for rollout in harmful:
            later = [change for change in self.done() if change.intended_at > rollout.ended_at]
            assert {change.to_version for change in later} & {rollout.candidate} <= self.by_hand
        assert sum(rollout.state == "running" for rollout in ended) <= 1

    def teardown(self):
        if hasattr(self, "now"):
            assert self.settled() == self.actual
            assert self.actual in (self.recorded(), None)  # None: the alias was deleted


def test_record_and_registry_agree_whatever_happens(place):
    machine = type("Machine", (PromotionMachine,), {"place": place})
    settings = examples(3, stateful_step_count=14, suppress_health_check=list(HealthCheck), deadline=None)
    run_state_machine_as_test(machine, settings=settings)


def test_where_the_alias_was_deleted_a_version_is_promoted_in_place_of_the_last_champion(place):
    store, registry = place
    model, now = new_model(registry, 3), datetime(2025, 1, 1, tzinfo=UTC)
    champions = Champions(store, registry, model, "live")
    champions.promote("1", reason="r", now=now)
    registry._mlflow.client.delete_registered_model_alias(model, "live")
    with pytest.raises(Refused, match="no champion"):
        champions.rollback(reason="r", now=now)
    with pytest.raises(Unavailable):
        replace(champions, registry=Away(registry)).promote("2", reason="r", now=now)
    assert champions.reconcile(now) == "2"
    registry._mlflow.client.delete_registered_model_alias(model, "live")
    again = champions.promote("2", reason="r", now=now)
    assert (again.kind, again.from_version, registry.champion(model, "live").version) == ("promotion", "2", "2")


@pytest.fixture
def play(place):
    """Makes a machine that is played by hand."""

    def play(mode):
        machine = type("Machine", (PromotionMachine,), {"place": place})()
        machine.begin(mode=mode)
        machine.champions().promote("1", reason="r", now=machine.tick(), made_by="ada")
        machine.settled()
        return machine

    return play


def raises(error):
    def act(*_, **__):
        raise error

    return act


def states(machine):
    return [(rollout.stage, rollout.state) for rollout in rollouts.load_rollouts(machine.store, machine.model)]


@pytest.mark.parametrize(("quality", "state"), [(-1, "passed"), (1, "harmful")])
def test_what_a_rollout_did_before_its_process_died_is_not_done_again_where_a_person_has_undone_it(
    play, monkeypatch, quality, state
):
    machine = play("shadow" if state == "passed" else "direct")
    machine.a_search_ends(quality=quality, passes=True, asks=False)
    candidate = machine.versions()[-1]
    machine.turn(1)
    with monkeypatch.context() as patch:
        patch.setattr(RolloutDesk, "_end", raises(Died))
        with pytest.raises(Died):
            machine.turn(2 * WINDOWS)
    undone = "1" if state == "passed" else candidate
    assert machine.settled() != undone
    machine.champions().promote(undone, reason="no", now=machine.tick(), made_by="ada")
    machine.turn(1)
    assert (machine.settled(), states(machine)[0][1]) == (undone, state)


def test_a_probation_goes_on_once_a_rollout_that_superseded_it_has_promoted_nobody(play):
    machine = play("direct")
    machine.a_search_ends(quality=1, passes=True, asks=False)
    worse = machine.settled()
    machine.turn(1)
    machine.mode = "shadow"
    machine.a_search_ends(quality=2, passes=True, asks=False)
    for _ in range(3):  # the shadow ends, the probation goes on, and has its evidence
        machine.turn(2 * WINDOWS)
    assert states(machine) == [("probation", "superseded"), ("shadow", "harmful"), ("probation", "harmful")]
    assert machine.settled() == "1" != worse

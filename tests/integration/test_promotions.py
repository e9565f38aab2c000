"""Which version is the champion: promotions, rollbacks, and what was changed in MLflow meanwhile."""

from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from feedback_loop.clock import Window
from feedback_loop.cycle import run_cycle
from feedback_loop.errors import ContractError, NotFound, Refused
from feedback_loop.scheduling import Runner
from feedback_loop.store import create_tables, retrainings
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.freezes import Freeze
from feedback_loop.store.leases import hold
from feedback_loop.store.ledger import load_failed_windows
from feedback_loop.store.records import many
from feedback_loop.tracing import Tracing
from feedback_loop.views.doctor import doctor
from feedback_loop.views.status import loop_status
from tests.builders import customers, open_loop, play_days, register_churn

DAY = timedelta(days=1)
FEATURES = ("customer", "month", "age", "plan")

pytestmark = pytest.mark.usefixtures("warm_children")


def test_each_rollback_goes_to_the_newest_version_before_those_that_were_rolled_back(loop, clock):
    with pytest.raises(Refused, match="champion already"):
        loop.promote("churn", "1")
    with pytest.raises(NotFound):
        loop.promote("churn", "7")
    second, third, fourth = (register_churn(loop.registry, clock(), seed=4 + place).version for place in range(3))
    for version in (second, third):
        loop.promote("churn", version)
    assert loop.rollback("churn").to_version == second
    assert loop.rollback("churn").to_version == "1"  # and not the bad third again
    with pytest.raises(Refused, match="no champion before"):
        loop.rollback("churn")
    for version in (second, fourth):
        loop.promote("churn", version)
    loop.registry._mlflow.client.delete_model_version("churn", second)
    assert loop.rollback("churn").to_version == "1"  # the second is not there any more
    kinds = [each.kind for each in retrainings.load_promotions(loop.store, "churn")]
    assert kinds == ["first", *["promotion"] * 2, *["rollback"] * 2, *["promotion"] * 2, "rollback"]


def test_a_promotion_that_waited_for_the_registry_and_whose_version_is_gone_is_given_up_and_told(loop, clock):
    second, third = (register_churn(loop.registry, clock(), seed=4 + place).version for place in range(2))
    options = {"kind": "promotion", "from_version": "1", "to_version": second, "reason": "better", "now": clock()}
    retrainings.put_off_promotion(loop.store, retrainings.intend_promotion(loop.store, "churn", **options))
    loop.registry._mlflow.client.delete_model_version("churn", second)
    assert loop.reconcile("churn") == "1"
    given_up = retrainings.load_promotions(loop.store, "churn")[-1]
    assert (given_up.state, given_up.cause) == ("failed", f"There is no model version 'churn/{second}'.")
    (told,) = load_alerts(loop.store, [], about="promotion:churn:")
    assert told.title == f"churn version {second} was not made the champion"
    assert loop_status(loop)["models"]["churn"]["undelivered_alerts"][0]["route"] == "log"
    assert loop.promote("churn", third).from_version == "1"


def test_a_promotion_that_waited_for_the_registry_is_carried_out_once_it_is_back(loop, clock):
    second = register_churn(loop.registry, clock(), seed=4).version
    options = {"kind": "promotion", "from_version": "1", "to_version": second, "reason": "better", "now": clock()}
    retrainings.put_off_promotion(loop.store, retrainings.intend_promotion(loop.store, "churn", **options))
    assert loop.reconcile("churn") == second == loop.champion("churn").version


def test_a_turn_is_one_trace_from_the_join_to_the_verdict_and_the_promotion(loop, clock):
    exported, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    loop.runner = Runner(loop.store, clock, DAY, trace=lambda: Tracing(provider))
    play_days(loop, clock, 2, per_day=60)
    second = register_churn(loop.registry, clock(), seed=4).version
    options = {"kind": "promotion", "from_version": "1", "to_version": second, "reason": "better", "now": clock()}
    retrainings.put_off_promotion(loop.store, retrainings.intend_promotion(loop.store, "churn", **options))
    states = {outcome.job: outcome.state for outcome in run_cycle(loop, "churn")}
    spans = {span.name: span for span in exported.get_finished_spans()}
    turn = spans.pop("turn")
    promotion = spans.pop("promotion")
    assert set(spans) == set(states)
    assert {span.parent.span_id for span in spans.values()} == {turn.context.span_id}
    assert promotion.parent.span_id == spans["reconcile"].context.span_id
    assert promotion.attributes["feedback_loop.version"] == second
    assert turn.attributes["feedback_loop.model"] == "churn"
    assert spans["evaluate"].attributes["feedback_loop.evaluations"] > 0
    provider.shutdown()


@pytest.mark.parametrize("kind", ["promotion", "rollback"])
def test_a_promotion_that_has_waited_for_days_is_given_up_and_told_and_not_carried_out(loop, clock, kind):
    second = register_churn(loop.registry, clock(), seed=4).version
    options = {"kind": kind, "from_version": "1", "to_version": second, "reason": "better", "now": clock()}
    retrainings.put_off_promotion(loop.store, retrainings.intend_promotion(loop.store, "churn", **options))
    clock.set(clock() + 3 * DAY + timedelta(hours=1))
    assert loop.reconcile("churn") == "1" == loop.champion("churn").version
    given_up = retrainings.load_promotions(loop.store, "churn")[-1]
    assert (given_up.state, "too long ago" in given_up.cause) == ("failed", True)
    assert len(load_alerts(loop.store, [], about="promotion:churn:")) == 1
    assert loop.promote("churn", second).to_version == second


def test_a_registered_model_that_is_made_anew_has_versions_of_its_own(loop, clock, tmp_path):
    rows = {name: customers(40, 7)[name] for name in FEATURES}
    play_days(loop, clock, 3)
    before = loop.predict("churn", rows).column("prediction").to_pylist()
    loop.context.fastest_scorer(loop.champion("churn"))  # its bundle is kept
    waits = {"kind": "promotion", "from_version": "1", "to_version": "2", "reason": "better", "now": clock()}
    register_churn(loop.registry, clock(), seed=3)
    retrainings.put_off_promotion(loop.store, retrainings.intend_promotion(loop.store, "churn", **waits))
    loop.registry._mlflow.client.delete_registered_model("churn")
    for _ in range(2):
        register_churn(loop.registry, clock(), turned=True)
    loop.registry.set_alias("churn", "champion", "1.2")
    for each in (loop, open_loop(tmp_path / "feedback_loop.toml", clock)):
        assert each.champion("churn").version == "1.2"
        assert each.find("churn/1").version == each.find("churn/1.2").version == "1.2"
        for scorer in (each.scorer(each.champion("churn")), each.context.fastest_scorer(each.champion("churn"))):
            assert scorer.version.version == "1.2"
        after = each.predict("churn", {**rows, "month": ["anew"] * 40}).column("prediction").to_pylist()
        assert sum(old != new for old, new in zip(before, after, strict=True)) > 30
    assert loop.reconcile("churn") == "1.2"
    states = [(each.kind, each.to_version, each.state) for each in retrainings.load_promotions(loop.store, "churn")]
    assert states[1:] == [("promotion", "2", "failed"), ("external", "1.2", "done")]
    clock.set(clock() + 3 * DAY)
    assert {each.version for each in loop.evaluate("churn")} >= {"1", "1.2"}  # the old one's rows are its own still
    assert load_failed_windows(loop.store, "churn") == []
    assert loop_status(loop)["models"]["churn"]["predictions_by_version"] == {"1": 940, "1.2": 80}


def test_a_turn_asks_mlflow_once_who_the_champion_is_and_the_fence_for_itself(loop, clock, monkeypatch):
    play_days(loop, clock, 2, per_day=30)
    run_cycle(loop, "churn")
    asked, find = [], loop.registry.find
    by_fence, champion = [], loop.registry.champion
    monkeypatch.setattr(loop.registry, "find", lambda *key, **how: asked.append(key) or find(*key, **how))
    monkeypatch.setattr(loop.registry, "champion", lambda *key: by_fence.append(key) or champion(*key))
    play_days(loop, clock, 1, per_day=30)
    asked.clear()
    assert [outcome.state for outcome in run_cycle(loop, "churn")] == ["succeeded"] * 15
    aliased = [reference for (reference,) in asked if reference.alias == "champion"]
    assert len(aliased) - len(by_fence) <= 2  # and once more after it was reconciled
    second = register_churn(loop.registry, clock(), seed=4).version
    loop.registry.set_alias("churn", "champion", second)
    assert loop.champion("churn").version == second  # outside of a turn nothing is remembered
    clock.set(clock() + timedelta(minutes=1))
    states = {outcome.job: outcome.result for outcome in run_cycle(loop, "churn")}
    assert states["reconcile"] == {"champion": second}


def test_a_version_that_was_deleted_is_judged_by_what_is_kept_of_it(loop, clock):
    play_days(loop, clock, 2)
    loop.evaluate("churn")
    loop.promote("churn", register_churn(loop.registry, clock(), seed=4).version)
    play_days(loop, clock, 1, seed=60)
    loop.registry._mlflow.client.delete_model_version("churn", "1")
    again = open_loop(loop.settings.home / "feedback_loop.toml", clock)
    clock.set(clock() + 3 * DAY)
    assert {each.version for each in again.evaluate("churn")} >= {"1", "2"}
    assert load_failed_windows(loop.store, "churn") == []
    first_day = Window(clock() - 6 * DAY, clock() - 5 * DAY)
    (judged,) = again.evaluate("churn", first_day, slices=True)
    assert (judged.version, judged.notes) == (
        "1",
        ("Slices and drift of columns together are not looked for: There is no model version 'churn/1'.",),
    )
    assert [path.suffix for path in again.report("churn", first_day, "of-the-deleted")] == [".html", ".json"] * 2


def test_while_somebody_promotes_nobody_else_does_and_nobody_takes_them_for_dead(loop, clock):
    second = register_churn(loop.registry, clock(), seed=4).version
    options = {"kind": "promotion", "from_version": "1", "to_version": second, "reason": "better", "now": clock()}
    with hold(loop.store, "promotion:churn", DAY, busy="busy"):
        retrainings.intend_promotion(loop.store, "churn", **options)
        assert loop.reconcile("churn") == "1"
        with pytest.raises(Refused, match="Somebody else promotes churn"):
            loop.promote("churn", second)
        assert retrainings.load_promotions(loop.store, "churn")[-1].state == "intended"


def test_a_version_that_can_not_be_logged_is_not_promoted_and_the_doctor_says_why(loop, clock, monkeypatch):
    second = register_churn(loop.registry, clock(), seed=4).version
    monkeypatch.setattr(create_tables, "MOST_COLUMNS", {"sqlite": 10})
    with pytest.raises(ContractError, match="each has 24 columns, ours among them; SQLite reads at most 10"):
        loop.promote("churn", second)
    assert loop.champion("churn").version == "1"
    (failed,) = [check for check in doctor(loop) if not check.ok]
    assert (failed.name, 'column = "drop"' in failed.cure) == ("model churn", True)


def test_while_a_model_is_frozen_nothing_is_retrained_promoted_or_rolled_back_and_it_goes_on_answering(
    loop, clock, run, plain
):
    second, third = (register_churn(loop.registry, clock(), seed=4 + place).version for place in range(2))
    loop.promote("churn", second)
    waiting = {"kind": "promotion", "from_version": second, "to_version": third, "reason": "better", "now": clock()}
    retrainings.put_off_promotion(loop.store, retrainings.intend_promotion(loop.store, "churn", **waiting))
    code, frozen = plain("freeze", "--reason", "the feed is being moved", "--by", "ada")
    assert (code, frozen["model"], frozen["frozen_by"]) == (0, "", "ada")
    assert run("freeze", "churn", "--reason", "mine too", "--by", "bo")[0] == 0
    assert loop.reconcile("churn") == second  # what waited for the registry waits on
    for act in (lambda: loop.promote("churn", "1"), lambda: loop.rollback("churn"), lambda: loop.retrain("churn")):
        with pytest.raises(Refused, match=r"frozen since .*by bo: mine too.*All models are frozen"):
            act()
    play_days(loop, clock, 1)
    clock.set(clock() + 40 * DAY)
    jobs = {outcome.job: outcome.result for outcome in run_cycle(loop, "churn")}
    assert "frozen" in jobs["retrain"]["held"]
    assert "FROZEN        all models, since" in run("status")[1]
    assert run("unfreeze", "--by", "bo", "--reason", "moved")[0] == 0
    assert [freeze["model"] for freeze in loop_status(loop)["models"]["churn"]["frozen"]] == ["churn"]
    assert run("unfreeze", "churn")[0] == 0
    assert "no freeze of its own" in run("unfreeze", "churn")[2]
    assert loop.reconcile("churn") == second  # that was decided so long ago that it is to be judged anew
    kept = [
        (freeze.frozen_by, freeze.reason, freeze.lifted_because)
        for freeze in many(loop.store, Freeze, order_by="freeze_id")
    ]
    assert kept == [("ada", "the feed is being moved", "moved"), ("bo", "mine too", "by hand")]


def test_an_alias_that_was_moved_in_mlflow_is_taken_note_of(loop, clock):
    second = register_churn(loop.registry, clock(), seed=4).version
    loop.registry.set_alias("churn", "champion", second)
    assert loop.reconcile("churn") == second
    assert loop.reconcile("churn") == second
    kinds = [(each.kind, each.to_version) for each in retrainings.load_promotions(loop.store, "churn")]
    assert kinds == [("first", "1"), ("external", second)]

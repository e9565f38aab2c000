"""Which version is the champion: promotions, rollbacks, and what was changed in MLflow meanwhile."""

from datetime import timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.errors import ContractError, NotFound, Refused
from feedback_loop.store import create_tables, retrainings
from feedback_loop.store.alerts import load_alerts
from feedback_loop.store.leases import hold
from feedback_loop.store.ledger import load_failed_windows
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
    with pytest.raises(ContractError, match="each has 19 columns, ours among them; SQLite reads at most 10"):
        loop.promote("churn", second)
    assert loop.champion("churn").version == "1"
    (failed,) = [check for check in doctor(loop) if not check.ok]
    assert (failed.name, 'column = "drop"' in failed.cure) == ("model churn", True)


def test_an_alias_that_was_moved_in_mlflow_is_taken_note_of(loop, clock):
    second = register_churn(loop.registry, clock(), seed=4).version
    loop.registry.set_alias("churn", "champion", second)
    assert loop.reconcile("churn") == second
    assert loop.reconcile("churn") == second
    kinds = [(each.kind, each.to_version) for each in retrainings.load_promotions(loop.store, "churn")]
    assert kinds == [("first", "1"), ("external", second)]

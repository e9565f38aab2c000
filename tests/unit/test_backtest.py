"""Replays without a store: who tenureed when, when it was looked, what counts as an alarm, how late it was."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings, load_settings
from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.backtest import Injection, candidates_of, delay_of, made_looks, tenures_of
from feedback_loop.decisions.backtest.candidates import Candidate
from feedback_loop.decisions.backtest.replay import CohortLoss, EarlierEvents, LookResult, replay
from feedback_loop.decisions.backtest.result import Change, change_of
from feedback_loop.decisions.backtest.tenures import Look, Tenure, tenure_at
from feedback_loop.decisions.losses import Cohort, Losses
from feedback_loop.decisions.recovery import Recoveries, Recovery
from feedback_loop.errors import BadInput, ConfigError
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.retrainings import Promotion

DAY = timedelta(days=1)
START = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = ModelSettings(task="binary", label="churned", segments=("plan",))
RECOVERED = Recovery(limit=1.0, alpha=0.05).update([np.zeros(2000)] * 3)
WORSE = Recovery(limit=0.1, alpha=0.05)
ALONE = (Tenure("1", None),)
OK, WARNING, DEGRADED, NOTHING = State.OK, State.WARNING, State.DEGRADED, State.INSUFFICIENT_DATA


def at(day):
    return START + day * DAY


def promotion(ordinal, before, to, day):
    return Promotion(ordinal, "churn", ordinal, "promotion", before, to, "done", "", at(day), at(day))


def verdict(day, state, version="1", *, changed_at=None):
    evidence = {
        "loss": "error",
        "acts": ["error"] if state is DEGRADED else [],
        "watched": [{"name": "error", "changed_at": changed_at and changed_at.isoformat()}],
    }
    window = Window(at(day - 2), at(day - 1))
    return Verdict("churn", version, at(day), window, state, "", evidence, {"day": day})


def played(
    states, *, rule="change", name="a", tenures=ALONE, recorded_from=START, changed_at=None, closed=(), **policy
):
    """One policy whose looks have these states, day by day (None: nothing was due)."""

    def ask(_, look, state):
        day = (look.moment - START).days
        if states[day] is None:
            return None
        said = verdict(day, states[day], look.tenure.version, changed_at=changed_at)
        goes_on = state.previous is not None and state.previous.monitor
        said = replace(said, begun=state.begun + (not goes_on))
        asked.append(state)
        recovered = Recoveries(said.version, {"error": RECOVERED if states[day] is OK else WORSE})
        return LookResult(said, recovered, (CohortLoss(look.tenure.version, said.window, 120, 100, 0.25),), 0.125)

    asked = []
    settings = SETTINGS.model_copy(update={"policy": PolicySettings(rule=rule, **policy)})
    looks = [Look(at(day), tenure_at(tenures, at(day))) for day in range(len(states))]
    (result,) = replay(
        [Candidate(name, settings)],
        looks,
        ask,
        recorded_from=recorded_from,
        earlier=EarlierEvents(closed=closed, begun=4),
        champion_since=lambda tenure: tenure.begins or START,
        advance=lambda _: None,
    )
    return result, asked


def days(moments):
    return [(each - START).days for each in moments]


def test_who_was_the_champion_is_told_by_the_promotions_that_were_done():
    assert tenures_of([], "7") == [Tenure("7", None)]
    first = tenures_of([promotion(1, None, "1", 0), promotion(2, "1", "2", 5)], "2")
    assert first == [Tenure("1", at(0), has_followed=False), Tenure("2", at(5), has_followed=True)]
    assert [each.since for each in first] == [None, at(5)]
    adopted = tenures_of([promotion(1, "3", "4", 2)], "4")
    assert adopted == [Tenure("3", None), Tenure("4", at(2), has_followed=True)]


def test_a_cycle_judges_before_it_promotes_and_a_verdict_says_whom():
    tenures = tenures_of([promotion(1, None, "1", 0), promotion(2, "1", "2", 5), promotion(3, "2", "1", 8)], "1")
    assert tenure_at(tenures, at(5)).version == "1"
    assert tenure_at(tenures, at(5), "2") is tenures[1]
    assert tenure_at(tenures, at(6)) is tenures[1]
    assert tenure_at(tenures, at(8), "2") is tenures[1]
    assert tenure_at(tenures, at(9), "1") is tenures[2]
    assert tenure_at(tenures, at(-1)) is tenures[0]
    # Its alias was set in MLflow, and nobody has taken note of it yet.
    assert tenure_at(tenures, at(9), "5") == replace(tenures[2], version="5")


def test_looks_are_verdicts_and_runs_that_came_to_none():
    said = {at(2): "1", at(3): "2"}
    minute = timedelta(minutes=1)
    runs = [(at(1), at(1) + minute), (at(2) - minute, at(2) + minute), (at(3), at(3)), (at(4), at(4) + minute)]
    assert made_looks(said, runs) == [(at(1), None), (at(2), "1"), (at(3), "2"), (at(4), None)]


def test_an_alarm_opens_an_incident_and_more_are_none_until_it_has_recovered():
    result, asked = played([OK, WARNING, WARNING, DEGRADED, WARNING, DEGRADED, NOTHING, OK, WARNING, DEGRADED])
    assert days(each.decided_at for each in result.alarms) == [3, 9]
    assert days(each.decided_at for each in result.warnings) == [1, 4, 8]
    assert [each.recovery is not None for each in asked] == [False] * 4 + [True] * 4 + [False] * 2
    tenures = tenures_of([promotion(1, None, "1", -1), promotion(2, "1", "2", 2)], "2")
    result, asked = played([OK, DEGRADED, DEGRADED, DEGRADED, DEGRADED], tenures=tenures)
    assert [(each.version, each.decided_at) for each in result.alarms] == [("1", at(1))]
    assert asked[3].previous is None  # version 2 has said nothing yet
    assert asked[3].recovery["version"] == "1"


def test_an_incident_that_was_closed_by_hand_is_closed_under_every_policy():
    states = [OK, DEGRADED, DEGRADED, DEGRADED, DEGRADED, OK]
    result, asked = played(states, closed=[(at(2), at(2) + DAY / 2)])
    assert days(each.decided_at for each in result.alarms) == [1, 3]
    assert [each.begun for each in asked] == [4, 5, 5, 5, 6, 6]
    # Its monitors begin anew, with the predictions made from then on.
    assert asked[3].previous.monitor == {}
    assert asked[3].previous.window.end == at(3)
    assert asked[4].previous.monitor == {"day": 3}


def test_each_look_goes_on_from_the_verdict_before_it_with_its_monitor():
    result, asked = played([OK, None, OK, OK])
    assert [each.previous and each.previous.monitor for each in asked] == [None, {"day": 0}, {"day": 2}]
    # States of a whole year would fill the memory: of those that are told, the newest is kept.
    assert [each.monitor for each in result.verdicts] == [{}, {}, {"day": 3}]


def test_what_was_said_before_the_window_leads_up_to_it_and_is_not_told():
    result, asked = played([OK, DEGRADED, DEGRADED, OK, DEGRADED], recorded_from=at(2), cooldown=DAY, refresh=None)
    assert days(each.decided_at for each in result.verdicts) == [2, 3, 4]
    assert days(each.decided_at for each in result.alarms) == [4]
    assert days(each.at for each in result.steps) == [2, 4]
    assert len(result.cohorts) == 3
    assert asked[2].previous.monitor == {"day": 1}


def test_retrainings_keep_their_cooldown_also_where_nothing_was_due():
    states = [OK, DEGRADED, None, None, DEGRADED, DEGRADED]
    result, _ = played(states, cooldown=2 * DAY, refresh=None)
    assert [(step.reason, (step.at - START).days) for step in result.steps] == [
        ("alarm", 1), ("alarm", 3), ("alarm", 5)]  # fmt: skip
    result, _ = played([OK] * 8, cooldown=DAY, refresh=3 * DAY)
    assert [(step.reason, (step.at - START).days) for step in result.steps] == [("refresh", 3), ("refresh", 6)]


def test_a_change_is_given_or_dated_by_the_first_alarm_of_a_rule_with_an_error_rate():
    hasty, _ = played([OK, DEGRADED], rule="threshold", name="hasty")
    sure, _ = played([OK, OK, OK, OK, OK, DEGRADED], rule="harm", name="sure", changed_at=at(2))
    calm, _ = played([OK, OK], name="calm")
    assert change_of([calm], None) is None
    given = change_of([hasty, sure], at(1))
    assert (given.at, given.source, given.policy) == (at(1), "given", None)
    estimated = change_of([hasty, sure, calm], None)
    assert (estimated.at, estimated.source, estimated.policy) == (at(2), "estimated", "sure")
    assert change_of([hasty, sure], None, Injection("error", 0.1, at(4))) == Change(at(4), "injected")
    first = change_of([hasty, calm], None)
    assert (first.at, first.source, first.policy) == (at(-1), "first alarm", "hasty")  # where its cohort begins


def test_a_delay_counts_days_and_labels_from_the_change_to_the_first_alarm_that_can_be_of_it():
    result, _ = played([OK, DEGRADED, OK, OK, OK, OK, DEGRADED])
    change = change_of([result], at(2) + DAY / 2)
    delay = delay_of(result, change)
    assert delay.days == 3.5
    assert delay.labels == 300  # of the cohorts that end on days 3, 4 and 5; the alarm's own is the last
    # On day 6 the cohort was judged that ends on day 5: what changed then it can't have shown.
    assert delay_of(result, change_of([result], at(5))) is None


@pytest.mark.parametrize(
    ("loss", "values", "mean"),
    [
        ("error", (np.arange(4000) % 10 == 0) * 1.0, 0.15),
        ("brier", np.linspace(0, 0.6, 4000), 0.35),
        ("absolute_error", np.linspace(0, 20, 4000), 10.05),
        ("squared_error", np.zeros(4000), 0.05),
    ],
)
def test_an_injected_loss_is_higher_by_its_amount_from_its_moment_on(loss, values, mean):
    injection = Injection(loss, 0.05, at(3))

    def losses(day):
        cohort = Cohort(Window(at(day), at(day + 1)), Losses({loss: values, "other": values}), 4000)
        return injection.into(cohort).losses.by_loss

    assert losses(2)[loss] is values
    assert losses(3)[loss].mean() == pytest.approx(mean, abs=0.01)
    assert np.all(losses(3)[loss] >= values)
    assert losses(3)["other"] is values
    assert np.array_equal(losses(3)[loss], losses(3)[loss])
    assert loss != "error" or set(losses(3)[loss]) == {0.0, 1.0}


def test_an_injection_is_a_metric_an_amount_that_makes_it_worse_and_a_moment():
    assert Injection.parse("error=+0.03@2026-03-11") == Injection("error", 0.03, datetime(2026, 3, 11, tzinfo=UTC))
    assert Injection.parse("accuracy=-.03@2026-03-11") == Injection.parse("error=0.03@2026-03-11")
    for text, words in [
        ("error", "error=\\+0.03@2026-03-11"),
        ("recall=-0.1@2026-03-11", "nothing to add to 'recall'"),
        ("error=-0.1@2026-03-11", "makes nothing worse"),
        ("error=+0.1@soon", "'soon' is not ISO 8601"),
    ]:
        with pytest.raises(BadInput, match=words):
            Injection.parse(text)


@given(st.lists(st.sampled_from([OK, WARNING, DEGRADED, NOTHING, None]), min_size=1, max_size=30))
def test_alarms_and_good_verdicts_alternate(states):
    result, _ = played(states)
    alarms = [each.decided_at for each in result.alarms]
    for earlier, later in pairwise(alarms):
        between = [each.state for each in result.verdicts if earlier < each.decided_at < later]
        assert OK in between
    assert bool(alarms) == (DEGRADED in states)


def candidate(tmp_path, text, model="churn", settings=SETTINGS):
    (tmp_path / "other.toml").write_text(text)
    return candidates_of(settings, model, [tmp_path / "other.toml"])[1]


def test_a_policy_file_says_what_differs_from_the_configuration(tmp_path):
    settings = SETTINGS.model_copy(update={"policy": PolicySettings(alpha=0.01, reference=1000)})
    found = candidate(tmp_path, '[policy]\nrule = "harm"\ncooldown = "3d"\nrefresh = "never"\n', settings=settings)
    assert found.name == "other"
    assert found.settings.policy == PolicySettings(
        alpha=0.01, reference=1000, rule="harm", cooldown=3 * DAY, refresh=None
    )
    assert found.settings.model_copy(update={"policy": settings.policy}) == settings
    found = candidate(tmp_path, 'maturity = "3d"\n[policy]\nalpha = 0.2\n[[policy.watch]]\nsegment = "plan=pro"\n')
    assert (found.settings.maturity, found.settings.policy.alpha) == (3 * DAY, 0.2)
    assert found.settings.policy.watch[0].segment == "plan=pro"


def test_a_whole_configuration_is_a_policy_file_too(tmp_path):
    text = '[models.churn]\ntask = "binary"\nlabel = "x"\nwindow = "12h"\n[models.churn.policy]\nalpha = 0.2\n'
    found = candidate(tmp_path, f'[store]\nurl = "sqlite:///x.db"\n{text}')
    assert (found.settings.policy.alpha, found.settings.window, found.settings.label) == (0.2, DAY / 2, "churned")
    assert load_settings(tmp_path / "other.toml").model("churn").policy == found.settings.policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[policy]\nalfa = 0.1\n", r"other.toml: there is no setting 'policy.alfa'. Did you mean policy.alpha\?"),
        ("[policy]\nrule = 'guess'\n", r"other.toml: policy.rule: Input should be 'change', .*it is 'guess'"),
        ("[policy]\nalpha = 2\n", r"other.toml: policy.alpha: .*less than 1 \(it is 2\)"),
        ("policy = 3\n", r"other.toml: policy: .*dictionary"),
        ("alpha = 0.1\n", r"no setting 'alpha' here. Put it under \[policy\]"),
        ("maturty = '1d'\n", r"no setting 'maturty' here. Did you mean maturity\?"),
        ("maturity = 'soon'\n", r"maturity: .*'soon' is not a duration"),
        ("", r"says nothing of a policy"),
        ("[models.churn]\ntask = 'binary'\n", r"says nothing of a policy"),
        ("[models.chrn.policy]\nalpha = 0.1\n", r"no table \[models.churn\]. Did you mean \[models.chrn\]\?"),
        ("[models]\n", r"no table \[models.churn\]. Write \[policy\]"),
        ("[policy\n", r"other.toml is not TOML"),
        ("[[policy.watch]]\nsegment = 'origin=JFK'\n", r"'origin' is not among the segments"),
    ],
)
def test_a_policy_file_that_is_wrong_is_refused_with_file_key_and_cure(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        candidate(tmp_path, text)


def test_a_policy_file_that_is_not_there_or_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no policy file .*none.toml.*\[policy\] table"):
        candidates_of(SETTINGS, "churn", [tmp_path / "none.toml"])
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        candidates_of(SETTINGS, "churn", [tmp_path])


def test_two_policies_of_one_name_are_refused():
    with pytest.raises(BadInput, match="'harm' is the name of two"):
        candidates_of(SETTINGS, "churn", [PolicySettings(rule="harm"), PolicySettings(rule="harm", alpha=0.1)])


def test_without_a_policy_every_other_rule_stands_beside_the_configured_one():
    names = [each.name for each in candidates_of(SETTINGS, "churn", [])]
    assert names == ["configured", "harm", "either", "threshold", "absolute"]
    assert len({each.settings.policy.rule for each in candidates_of(SETTINGS, "churn", [])}) == len(names)

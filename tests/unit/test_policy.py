"""From losses to verdicts, and from verdicts to what is done."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings, WatchSettings
from feedback_loop.decisions import Baseline, Cohort, judge, next_step, spent_until
from feedback_loop.decisions.evidence import Estimated, carriers
from feedback_loop.decisions.losses import (
    MOST_KEPT,
    Losses,
    Seen,
    Watched,
    baseline_of,
    losses_of,
    monitored_loss,
    watched_of,
)
from feedback_loop.decisions.panel import Panel
from feedback_loop.errors import ConfigError
from feedback_loop.store.conclusions import State
from tests.builders import binary_contract, regression_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
BRIER = (Watched("brier"),)


def of_segments(values, east):
    return Losses({"brier": np.asarray(values)}, {"side=east": east, "side=west": ~east})


def baseline(count=5000, level=0.2, seed=0, watched=BRIER):
    random = np.random.default_rng(seed)
    windows = np.arange(count, dtype=np.int64) * 10 // count
    values = random.beta(2, 8, count) * level / 0.2
    return Baseline(watched, of_segments(values, random.random(count) < 0.3), windows)


def cohort(day, losses, predictions=None, east=None):
    start, losses = START + day * DAY, np.asarray(losses)
    east = np.arange(len(losses)) % 3 == 0 if east is None else east
    return Cohort(Window(start, start + DAY), of_segments(losses, east), predictions or len(losses))


def judged(cohorts, *, base=None, settings=None, previous=None, drifted_share=None, estimated=None):
    return judge(
        "m",
        "1",
        cohorts,
        base or baseline(),
        settings or PolicySettings(),
        previous=previous,
        drifted_share=drifted_share,
        now=START + 9 * DAY,
        estimated=estimated,
    )


def test_an_unchanged_model_is_ok():
    verdict = judged([cohort(0, np.random.default_rng(1).beta(2, 8, 1000))])
    assert verdict.state is State.OK
    assert "brier 0.20" in verdict.summary
    assert verdict.window == Window(START, START + DAY)


def test_a_worse_model_is_degraded_and_the_evidence_says_since_when_and_by_how_much():
    random = np.random.default_rng(1)
    days = [cohort(day, random.beta(2, 8, 1000)) for day in range(4)]
    verdict = judged([*days, *(cohort(day, random.beta(5, 5, 500)) for day in range(4, 6))])
    assert verdict.state is State.DEGRADED
    [pair] = verdict.evidence["watched"]
    assert pair["changed_at"] == (START + 4 * DAY).isoformat()
    assert pair["after"] == pytest.approx(0.5, abs=0.02)
    assert pair["labels_after"] == 1000
    assert pair["size"]["value"] == pytest.approx(0.06, abs=0.02)
    assert pair["size"]["low"] < pair["size"]["value"] < pair["size"]["high"]
    assert pair["monitors"]["change"]["alpha"] == pytest.approx(0.025)
    assert 4000 < pair["monitors"]["change"]["alarmed_at"] <= 5000
    assert "on 1,000 matured predictions since 2026-03-05" in verdict.summary
    assert "would ever show this once in" in verdict.summary
    said = pair["monitors"]["change"]
    assert said["once_in"] >= said["e_value"] >= 20
    assert f"(e-value now: {said['e_value']:,.0f})" in verdict.summary or said["e_value"] > 1e6
    assert verdict.evidence["acts"] == ["brier"]


def test_an_error_rate_is_told_as_accuracy():
    random = np.random.default_rng(1)
    losses = Losses({"error": (random.random(5000) < 0.1).astype(float)})
    base = Baseline((Watched("error"),), losses, np.arange(5000, dtype=np.int64) // 500)
    worse = Losses({"error": (random.random(3000) < 0.3).astype(float)})
    verdict = judged([Cohort(Window(START, START + DAY), worse, 3000)], base=base)
    assert verdict.state is State.DEGRADED
    assert verdict.summary.startswith(f"accuracy {1 - losses.by_loss['error'].mean():.4f} → 0.7")


def test_too_small_a_reference_is_said_with_the_number_that_is_missing():
    verdict = judged([cohort(0, [0.1] * 50)], base=baseline(4000))
    assert verdict.state is State.INSUFFICIENT_DATA
    assert "1,000 are missing" in verdict.summary
    assert verdict.evidence["watched"][0]["missing_reference"] == 1000


def test_a_cohort_without_outcomes_is_not_judged():
    assert judged([cohort(0, [], predictions=40)]).state is State.INSUFFICIENT_DATA


@pytest.mark.parametrize(("level", "state"), [(0.2, State.OK), (0.6, State.DEGRADED)])
def test_days_without_predictions_change_no_verdict(level, state):
    losses = np.minimum(np.random.default_rng(1).beta(2, 8, 1500) * level / 0.2, 1)
    before = judged([cohort(0, losses)])
    empty = judged([cohort(1, [])], previous=before)
    assert (before.state, empty.state, empty.summary) == (state, state, before.summary)
    warned = judged([cohort(2, losses[:100])], previous=empty, drifted_share=0.9)
    assert judged([cohort(3, [])], previous=warned).state is warned.state
    silent = judged([cohort(1, [], predictions=40)], previous=before)
    assert silent.state is (State.INSUFFICIENT_DATA if state is State.OK else state)


def test_losses_that_have_grown_but_not_above_the_reference_only_warn():
    random = np.random.default_rng(3)
    good, worse = random.beta(2, 30, 4000), random.beta(2, 9, 4000)
    verdict = judged([cohort(0, good), cohort(1, worse)], settings=PolicySettings(unit="label"))
    assert verdict.evidence["watched"][0]["monitors"]["change"]["alarmed_at"] is not None
    assert verdict.state is State.WARNING


def test_drift_and_estimates_alone_only_warn():
    losses = np.random.default_rng(1).beta(2, 8, 1000)
    assert judged([cohort(0, losses)], drifted_share=0.6).state is State.WARNING
    assert judged([cohort(0, losses)], drifted_share=0.4).state is State.OK
    high, near = Estimated("brier", 0.5, 0.01, 900), Estimated("brier", 0.205, 0.01, 900)
    verdict = judged([cohort(0, losses)], estimated=high)
    assert (verdict.state, verdict.evidence["estimate"]["above"]) == (State.WARNING, True)
    assert judged([cohort(0, losses)], estimated=near).state is State.OK
    assert judged([cohort(0, losses)], estimated=Estimated("other", 0.9, 0.01, 900)).state is State.OK


def test_a_rule_without_an_error_rate_acts_only_where_it_is_chosen():
    losses = np.random.default_rng(1).beta(2, 8, 300) * 1.22
    assert judged([cohort(0, losses)]).state is State.OK
    verdict = judged([cohort(0, losses)], settings=PolicySettings(rule="threshold"))
    assert verdict.state is State.DEGRADED
    assert "once in" not in verdict.summary
    assert verdict.evidence["watched"][0]["monitors"]["rule"]["e_value"] is None
    good = cohort(1, np.random.default_rng(2).beta(2, 9, 1000))
    assert judged([good], settings=PolicySettings(rule="threshold"), previous=verdict).state is State.OK


def test_harm_acts_where_it_is_the_rule_and_only_beyond_its_tolerance():
    random = np.random.default_rng(2)
    days = [cohort(day, np.minimum(random.beta(2, 8, 1000) + 0.04, 1)) for day in range(8)]
    strict, loose = (PolicySettings(rule="harm", tolerance=tolerance) for tolerance in (0.01, 0.08))
    verdict = judged(days, settings=strict)
    assert verdict.state is State.DEGRADED
    assert "A model that was not worse by more than 0.0100 would ever show this once in" in verdict.summary
    verdict = judged(days, settings=loose)
    assert verdict.state is State.WARNING
    assert "change has raised its alarm" in verdict.summary


def test_either_of_two_methods_may_act_at_half_of_alpha_each():
    verdict = judged([cohort(0, np.random.default_rng(1).beta(5, 5, 2000))], settings=PolicySettings(rule="either"))
    assert verdict.state is State.DEGRADED
    alphas = [each["alpha"] for each in verdict.evidence["watched"][0]["monitors"].values()]
    assert alphas == pytest.approx([0.0125, 0.0125])


WATCH = PolicySettings(watch=(WatchSettings(segment="side=east"), WatchSettings(segment="side=west", weight=2)))


def three(count=9000):
    watched = (Watched("brier", share=0.25), Watched("brier", "side=east", 0.25), Watched("brier", "side=west", 0.5))
    return baseline(count, watched=watched)


def test_several_watched_losses_share_alpha_and_those_that_crossed_are_named():
    random = np.random.default_rng(4)
    east = np.arange(2000) % 10 == 0
    losses = np.where(east, random.beta(6, 5, 2000), random.beta(2, 8.5, 2000))
    days = [cohort(day, losses, east=east) for day in range(3)]
    verdict = judged(days, base=three(), settings=WATCH)
    assert verdict.state is State.DEGRADED
    assert "brier of side=east" in verdict.evidence["acts"]
    assert "brier of side=west" not in verdict.evidence["acts"]
    alphas = [pair["monitors"]["change"]["alpha"] for pair in verdict.evidence["watched"]]
    assert alphas == pytest.approx([0.025 * share for share in (0.25, 0.25, 0.5)])
    assert verdict.evidence["carriers"][0]["segment"] == "side=east"
    assert "Carried by side=east" in verdict.summary


@pytest.mark.parametrize("loss", ["absolute", "squared", "log_loss", "brier"])
@pytest.mark.parametrize("worse", ["east", "west"])
def test_of_segments_whose_losses_differ_in_size_the_one_that_became_worse_is_named(loss, worse):
    def made(random, rows, factor):
        east = np.arange(rows) % 2 == 0
        values = random.beta(2, 8, rows) * np.where(east, 1.0, 0.1) * np.where(east == (worse == "east"), factor, 1.0)
        return Losses({loss: values}, {"side=east": east, "side=west": ~east})

    random = np.random.default_rng(5)
    base = Baseline((Watched(loss),), made(random, 5000, 1.0), np.arange(5000) * 10 // 5000)
    cohorts = [Cohort(Window(START, START + DAY), made(random, 3000, 1.4), 3000)]
    [carrier] = carriers(cohorts, base, base.watched[0])
    assert carrier.segment == f"side={worse}"
    assert carrier.current / carrier.reference == pytest.approx(1.4, abs=0.1)


def test_a_segment_with_a_small_reference_is_not_watched_and_that_is_said():
    verdict = judged(
        [cohort(0, np.random.default_rng(1).beta(2, 8, 900))], base=three(3000), settings=replaced(WATCH)
    )
    missing = [pair["missing_reference"] > 0 for pair in verdict.evidence["watched"]]
    assert missing == [False, True, False]
    assert verdict.state is State.OK


def replaced(policy):
    return policy.model_copy(update={"reference": 2000})


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 5), unique=True))
def test_verdict_after_verdict_is_the_same_as_all_at_once(seed, cuts):
    random = np.random.default_rng(seed)
    days = [cohort(day, random.beta(2, 7, int(random.integers(0, 150)))) for day in range(6)]
    base, policy = three(3000), replaced(WATCH)
    at_once, last = judged(days, base=base, settings=policy), None
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 6], strict=True):
        last = judged(days[start:end], base=base, settings=policy, previous=last)
    assert last.monitor == at_once.monitor
    assert Panel.from_json(json.loads(json.dumps(last.monitor))).to_json() == last.monitor


def test_a_changed_policy_begins_its_own_monitors():
    days = [cohort(day, np.random.default_rng(day).beta(2, 8, 500)) for day in range(2)]
    first = judged(days[:1])
    assert judged(days[1:], previous=first).monitor["since"] == "2026-03-01T00:00:00Z"
    other = judged(days[1:], previous=first, settings=PolicySettings(alpha=0.01))
    assert other.monitor["since"] == "2026-03-02T00:00:00Z"
    kept = judged(days[1:], previous=first, settings=PolicySettings(cooldown=DAY, mode="observe"))
    assert kept.monitor["since"] == "2026-03-01T00:00:00Z"


def test_monitors_that_were_made_by_other_bets_begin_anew(monkeypatch):
    days = [cohort(day, np.random.default_rng(day).beta(2, 8, 500)) for day in range(2)]
    first = judged(days[:1])
    monkeypatch.setattr("feedback_loop.decisions.panel.MADE_OF", "bets of another release")
    assert judged(days[1:], previous=first).monitor["since"] == "2026-03-02T00:00:00Z"


def test_what_was_seen_stays_small_and_its_sums_right():
    seen = Seen()
    for day in range(1000):
        seen = seen.plus([START + day * DAY], [np.full(10, 0.2 if day < 990 else 0.9)])
    assert len(seen.parts) <= MOST_KEPT
    assert seen.labels == 10_000
    assert seen.mean == pytest.approx(0.207)
    assert seen.parts[seen.change(0.2, 5000)].since == (START + 990 * DAY).isoformat()
    assert seen.change(0.95, 10_000) is None or seen.mean > 0.2


def test_losses_that_fell_have_no_moment_since_which_they_are_higher():
    seen = Seen().plus([START, START + DAY], [np.full(100, 0.3), np.full(100, 0.1)])
    assert seen.change(0.3, 1000) is None


def labelled(count=400):
    random = np.random.default_rng(0)
    plan = random.choice(["a", "b", "c"], count)
    return {"plan": plan, "churned": random.random(count) < 0.5, "probability": random.random(count)}


def rows_of(contract, values):
    columns = {contract.label.stored: pa.array(values["churned"])}
    columns |= {contract.outputs[0].stored: pa.array(values["probability"] > 0.5)}
    columns |= {contract.outputs[1].stored: pa.array(values["probability"])}
    columns |= {contract.column("plan").stored: pa.array(values["plan"])}
    times = [START + timedelta(minutes=minute) for minute in range(len(values["plan"]))]
    return pa.table(columns | {"predicted_at": pa.array(times, pa.timestamp("us", "UTC"))})


def test_losses_know_their_segments():
    contract, values = binary_contract(segments=("plan",)), labelled()
    found = losses_of(contract, rows_of(contract, values))
    assert set(found.members) == {"plan=a", "plan=b", "plan=c"}
    own = found.of(Watched("error", "plan=a"))
    wrong = values["churned"] != (values["probability"] > 0.5)
    assert own.tolist() == wrong[values["plan"] == "a"].astype(float).tolist()
    assert found.of(Watched("error", "plan=z")).tolist() == []


def test_of_a_column_of_many_segments_the_largest_are_known():
    contract, values = binary_contract(segments=("plan",)), labelled(3000)
    values["plan"] = np.array([f"p{place}" for place in np.random.default_rng(1).geometric(0.02, 3000)])
    found = losses_of(contract, rows_of(contract, values))
    assert len(found.members) == contract.segment_values
    rarest = min(set(values["plan"]) - {name.partition("=")[2] for name in found.members})
    assert len(found.of(Watched("error", f"plan={rarest}"))) == (values["plan"] == rarest).sum() > 0


def test_a_baseline_ends_where_its_reference_is_whole():
    contract, rows = binary_contract(segments=("plan",)), rows_of(binary_contract(), labelled(1200))
    settings = ModelSettings(task="binary", label="churned", policy=PolicySettings(reference=1000))
    assert baseline_of(contract, rows, settings).until == START + timedelta(minutes=1199)
    assert baseline_of(contract, rows.slice(0, 999), settings).until is None
    assert len(baseline_of(contract, rows.slice(0, 0), settings).raw(Watched("brier"))) == 0


def test_losses_without_a_bound_are_measured_by_the_reference():
    reference = Losses({"absolute_error": np.arange(1.0, 101.0), "brier": np.array([0.3])})
    base = Baseline((Watched("absolute_error"),), reference, np.arange(100))
    found = base.scaled(base.watched[0], np.array([0.0, 49.5, 1e9]))
    assert found == pytest.approx([0, 0.4995, 1], abs=1e-3)
    assert base.scaled(Watched("brier"), np.array([0.3])).tolist() == [0.3]


def test_the_loss_that_is_watched_fits_the_task():
    assert monitored_loss(binary_contract(), "auto") == "brier"
    assert monitored_loss(binary_contract(probabilities=False), "auto") == "error"
    assert monitored_loss(regression_contract(), "auto") == "absolute_error"
    assert monitored_loss(binary_contract(), "error") == "error"
    with pytest.raises(ConfigError, match="its answers tell error"):
        monitored_loss(binary_contract(probabilities=False), "brier")


def test_shares_of_alpha_are_in_proportion_to_the_weights():
    found = watched_of(binary_contract(), WATCH)
    assert [(each.name, each.share) for each in found] == [
        ("brier", 0.25),
        ("brier of side=east", 0.25),
        ("brier of side=west", 0.5),
    ]


@pytest.mark.parametrize(
    ("watch", "why"),
    [
        ({"segment": "plan=a"}, "'plan' is not among the segments"),
        ({}, "that of all rows is already"),
        ({"segment": "side"}, "match pattern"),
        ({"weight": 0, "segment": "side=x"}, "greater than 0"),
    ],
)
def test_what_can_not_be_watched_is_refused_when_the_configuration_is_read(watch, why):
    with pytest.raises(ValidationError, match=why):
        ModelSettings(task="binary", label="churned", segments=("side",), policy={"watch": [watch]})


def verdict_of(state, **evidence):
    return SimpleNamespace(state=state, evidence=evidence)


def retraining(days_ago, state="promoted", reason="alarm"):
    return SimpleNamespace(state=state, reason=reason, started_at=START + (100 - days_ago) * DAY)


def step(state, *retrainings, champion_days=5, settings=None, **evidence):
    return next_step(
        verdict_of(state, **evidence) if state else None,
        settings or PolicySettings(),
        retrainings=retrainings,
        champion_since=START + (100 - champion_days) * DAY,
        now=START + 100 * DAY,
    )


def test_an_alarm_retrains_once_the_last_retraining_is_past_the_cooldown():
    assert step(State.DEGRADED) == "alarm"
    assert step(State.DEGRADED, retraining(13)) is None
    assert step(State.DEGRADED, retraining(14)) == "alarm"
    assert step(State.DEGRADED, retraining(13, "refused")) is None
    assert step(State.WARNING) is None


def test_the_slow_schedule_counts_from_the_champion_and_the_last_try():
    assert step(State.OK, champion_days=27) is None
    assert step(State.OK, champion_days=28) == "refresh"
    assert step(State.OK, retraining(27, "refused"), champion_days=60) is None
    assert step(State.OK, retraining(28, "refused"), champion_days=60) == "refresh"
    assert step(None, champion_days=28) == "refresh"
    assert step(None, champion_days=999, settings=PolicySettings(refresh=None)) is None


def test_drift_and_estimates_retrain_only_where_that_is_allowed():
    blind = PolicySettings(allow_blind_retraining=True)
    assert step(State.WARNING, drifted_share=0.6) is None
    assert step(State.WARNING, drifted_share=0.6, settings=blind) == "blind"
    assert step(State.WARNING, estimate={"above": True}, settings=blind) == "blind"
    assert step(State.WARNING, estimate={"above": False}, drifted_share=None, settings=blind) is None
    assert step(State.DEGRADED, drifted_share=0.6, settings=blind) == "alarm"
    assert step(State.WARNING, retraining(3), drifted_share=0.6, settings=blind) is None


def test_a_budget_bounds_the_retrainings_of_ninety_days():
    two = PolicySettings(budget=2)
    used = [retraining(80), retraining(30, "refused", "refresh")]
    assert step(State.DEGRADED, *used, settings=two) is None
    assert step(State.OK, *used, champion_days=99, settings=two) is None
    assert step(State.DEGRADED, retraining(91), retraining(30), settings=two) == "alarm"
    assert step(State.DEGRADED, retraining(80), retraining(30, reason="manual"), settings=two) == "alarm"
    assert step(State.DEGRADED, settings=PolicySettings(budget=0)) is None


def test_a_search_that_could_not_be_made_waits_a_day_and_costs_neither_cooldown_nor_budget():
    one = PolicySettings(budget=1)
    assert step(State.DEGRADED, retraining(0.9, "not_made"), settings=one) is None
    assert step(State.DEGRADED, retraining(1, "not_made"), settings=one) == "alarm"
    assert step(State.DEGRADED, retraining(13, "refused"), retraining(1, "not_made")) is None
    assert step(State.DEGRADED, retraining(14, "refused"), retraining(1, "not_made")) == "alarm"
    assert step(State.OK, retraining(1, "not_made"), champion_days=28) == "refresh"


def test_a_spent_budget_says_until_when():
    now = START + 100 * DAY
    used = [retraining(91), retraining(80), retraining(40, "not_made"), retraining(30, "refused", "refresh")]
    assert spent_until(used, PolicySettings(budget=2), now) == START + (100 - 80 + 90) * DAY
    assert spent_until(used, PolicySettings(budget=3), now) is None
    assert spent_until(used, PolicySettings(), now) is None
    assert spent_until([], PolicySettings(budget=0), now) > now + 1000 * DAY


def test_a_retraining_that_failed_is_tried_again_ever_later():
    assert step(State.DEGRADED, retraining(0.9, "failed")) is None
    assert step(State.DEGRADED, retraining(1, "failed")) == "alarm"
    assert step(State.DEGRADED, retraining(4, "failed"), retraining(1.9, "failed")) is None
    assert step(State.DEGRADED, retraining(4, "failed"), retraining(2, "failed")) == "alarm"
    many = [retraining(50 - place, "failed") for place in range(40)]
    assert step(State.DEGRADED, *many, retraining(13, "failed")) is None
    assert step(State.DEGRADED, *many, retraining(14, "failed")) == "alarm"


@pytest.mark.parametrize("state", ["abandoned", "running"])
def test_a_retraining_whose_process_died_does_not_count(state):
    assert step(State.DEGRADED, retraining(0.1, state)) == "alarm"
    assert step(State.OK, retraining(0.1, state), champion_days=28) == "refresh"

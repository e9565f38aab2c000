"""From losses to verdicts, and from verdicts to what is done."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.clock import Window
from feedback_loop.config_policy import PolicySettings, WatchSettings
from feedback_loop.decisions import Baseline, Cohort, judge
from feedback_loop.decisions.evidence import Estimated, carriers
from feedback_loop.decisions.losses import Losses, Watched
from feedback_loop.decisions.panel import Panel
from feedback_loop.store.conclusions import State

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


def test_raw_losses_that_are_those_served_are_told_once():
    random = np.random.default_rng(1)
    watched = (Watched("brier", share=0.5), Watched("brier", share=0.5, is_raw=True))
    days = [cohort(day, random.beta(2 + 3 * (day >= 4), 8 - 3 * (day >= 4), 1000)) for day in range(6)]
    verdict = judged(days, base=baseline(watched=watched))
    assert verdict.evidence["acts"] == ["brier", "raw brier"]
    assert verdict.summary.count("matured predictions") == 1


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


@pytest.mark.parametrize("stored", [None, {}])
def test_a_reference_that_is_whole_for_a_segment_alone_judges_nothing_at_any_look(stored):
    """A loss without monitors is stored as null; by 0.2.0 before its release it was stored as an empty object."""
    days = [cohort(day, np.random.default_rng(day).beta(2, 8, 500)) for day in range(2)]
    first = judged(days[:1], base=three(4000), settings=WATCH)
    pairs = [pair | {"monitors": pair["monitors"] or stored} for pair in first.monitor["pairs"]]
    first = replace(first, monitor=first.monitor | {"pairs": pairs})
    second = judged(days[1:], base=three(4000), settings=WATCH, previous=first)
    assert [bool(pair["monitors"]) for pair in second.monitor["pairs"]] == [False, True, True]
    assert (second.state, second.summary) == (State.INSUFFICIENT_DATA, first.summary)


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

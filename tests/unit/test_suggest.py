import time
import tomllib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.clock import parse_duration
from feedback_loop.decisions.monitors.window_means import Units
from feedback_loop.decisions.suggest import (
    policy_toml,
    suggest,
    suggest_maturity,
    suggest_tolerance,
    suggest_units,
    swing_of,
)

DAY = 86_400.0


def reference(effects, seed=0, labels=500, rate=0.1):
    """0/1 losses whose windows' error rates differ by the effects, and the windows' numbers (the first is no 0)."""
    random = np.random.default_rng(seed)
    rates = np.clip(rate + np.asarray(effects), 0, 1)
    losses = (random.random((len(rates), labels)) < rates[:, None]).astype(float).ravel()
    return losses, np.repeat(np.arange(len(rates)) + 20_000, labels)


def season(length, windows, swing=0.03):
    return swing * np.sin(2 * np.pi * np.arange(windows) / length)


def chained(random, windows, memory, spread):
    effects = [random.normal(0, spread)]
    for _ in range(windows - 1):
        effects.append(memory * effects[-1] + random.normal(0, spread * np.sqrt(1 - memory**2)))
    return effects


def chosen(make, streams=60):
    return [suggest_units(*make(seed)) for seed in range(streams)]


def test_windows_that_differ_by_chance_are_counted_label_by_label():
    units = chosen(lambda seed: reference(np.zeros(30), seed))
    assert units.count(Units("label")) >= 50  # each of two tests errs at 5%


@pytest.mark.parametrize(("length", "windows"), [(7, 42), (12, 60), (20, 100), (24, 120)])
def test_a_cycle_of_any_length_is_found_and_counted_by_its_strata(length, windows):
    units = chosen(lambda seed: reference(season(length, windows), seed), streams=30)
    assert sum(max(each.strata, each.windows) == length for each in units) >= 28  # some say 25 for 24
    assert units.count(Units("label", strata=length)) >= 20


def test_days_with_ways_of_their_own_are_units():
    units = chosen(lambda seed: reference(np.random.default_rng(900 + seed).normal(0, 0.02, 30), seed))
    assert sum(each.kind == "unit" for each in units) >= 58


def test_a_cycle_whose_swing_varies_is_counted_in_whole_cycles():
    def made(seed):
        swings = np.repeat(0.03 * (1 + np.random.default_rng(seed).normal(0, 0.7, 8)), 7)
        return reference(season(7, 56, swing=1.0) * swings, seed)

    units = chosen(made)
    assert sum(each.kind == "unit" for each in units) >= 57


def test_windows_that_hang_together_make_longer_units_the_longer_they_do():
    def made(memory):
        return lambda seed: reference(chained(np.random.default_rng(seed), 60, memory, 0.03), seed)

    short, long = (
        float(np.mean([each.windows for each in chosen(made(memory)) if each.kind == "unit"]))
        for memory in (0.0, 0.8)
    )
    assert short < 3
    assert long > 5


def test_every_suggested_unit_leaves_at_least_four_in_the_reference():
    for seed in range(40):
        for windows in (4, 7, 10, 31):
            made = reference(chained(np.random.default_rng(seed), windows, 0.9, 0.05), seed, labels=60)
            assert windows // suggest_units(*made).windows >= 4


def test_of_a_few_windows_that_look_alike_each_is_a_unit():
    random = np.random.default_rng(1)
    made = random.beta(2, 8, 15_000), np.repeat(np.arange(30), 500)
    assert suggest_units(*made) == Units("label")
    few = made[0][:5000], made[1][:5000]
    assert suggest_units(*few) == Units("unit")
    told = {each.setting: each for each in suggest(*few)}
    assert (told["unit"].value, told["cycle"].value) == ("window", 1)
    assert "10 windows are too few to be sure" in told["unit"].reason
    assert suggest_units(made[0][:3500], made[1][:3500]) == Units("label")  # of seven nobody learns how they spread
    assert suggest_units(made[0][:5000] / 1000, few[1]) == Units("label")  # nor of windows with next to no loss


def test_a_reference_that_can_say_nothing_is_counted_label_by_label():
    assert suggest_units(*reference(np.zeros(3))) == Units("label")
    assert suggest_units(np.zeros(5000), np.repeat(np.arange(10), 500)) == Units("label")
    assert suggest_units(np.empty(0), np.empty(0, dtype=np.int64)) == Units("label")
    assert suggest_units(np.arange(5.0), np.arange(5)) == Units("label")


def test_windows_of_constant_but_different_losses_are_units():
    losses = np.repeat(np.random.default_rng(0).random(10), 100)
    assert suggest_units(losses, np.repeat(np.arange(10), 100)).kind == "unit"


def test_gaps_in_the_log_do_not_shift_the_cycle():
    losses, windows = reference(season(7, 56, swing=0.06))
    kept = ~np.isin(windows - 20_000, [3, 11, 12, 30])
    assert suggest_units(losses[kept], windows[kept]).strata == 7


@pytest.mark.parametrize("windows", [2_000, 8_064, 50_000])
def test_windows_of_minutes_take_no_longer_than_a_look_may(windows):
    losses, numbers = reference(season(288, windows, swing=0.08), labels=2)
    begins = time.process_time()
    found = swing_of(losses, numbers)
    assert time.process_time() - begins < 1
    assert found.cycle == pytest.approx(288, abs=4)  # a day of windows of five minutes


def test_how_many_lengths_are_tried_depends_on_windows_with_labels_and_not_on_how_far_apart_they_lie():
    losses, numbers = reference(np.zeros(2_000), labels=3)
    numbers[0] = 0  # 1970, counted in minutes
    begins = time.process_time()
    assert swing_of(losses, numbers + 30_000_000 * (numbers > 0)).cycle == 1
    assert time.process_time() - begins < 1


def test_the_tolerance_is_twice_the_swing_that_chance_does_not_explain():
    tolerances = [
        suggest_tolerance(*reference(np.random.default_rng(seed).normal(0, 0.02, 60), seed)) for seed in range(40)
    ]
    assert np.mean(tolerances) == pytest.approx(0.04, rel=0.1)
    assert np.median([suggest_tolerance(*reference(np.zeros(60), seed)) for seed in range(40)]) == 0


@given(
    cells=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), max_size=200),
)
@settings(max_examples=100)
def test_whatever_the_reference_the_swing_is_finite_and_units_fit(cells):
    cells = sorted(cells)
    windows = np.array([window for window, _ in cells], dtype=np.int64)
    losses = np.array([loss for _, loss in cells])
    swing, units = swing_of(losses, windows), suggest_units(losses, windows)
    assert suggest_tolerance(losses, windows) >= 0
    assert all(each.reason for each in suggest(losses, windows))
    if swing is not None:
        assert all(np.isfinite(value) for value in vars(swing).values())
        assert min(swing.spread_p, swing.cycle_p, swing.rest_p, swing.varies_p, swing.correlation_p) >= 0
        assert units.windows * 4 <= max(swing.windows, 4)


def outcomes(seed=0, count=4000, slow=1.0):
    """Ages of 60 days, exponential delays of a mean day for good predictions and `slow` times that for bad ones."""
    random = np.random.default_rng(seed)
    ages, losses = random.random(count) * 60 * DAY, (random.random(count) < 0.2).astype(float)
    delays = random.exponential(DAY, count) * np.where(losses == 1, slow, 1.0)
    never = (random.random(count) < 0.1) | (delays > ages)
    return ages, np.where(never, np.nan, delays), np.where(never, np.nan, losses)


def test_maturity_is_when_nearly_all_outcomes_are_there():
    suggested = suggest_maturity(*outcomes())
    days = parse_duration(suggested.value).total_seconds() / DAY
    assert 4 <= days <= 7  # 99% of an exponential delay of a day: 4.6 days
    assert "99%" in suggested.reason
    assert "later" not in suggested.reason


def test_outcomes_that_come_later_when_they_are_bad_are_waited_for():
    suggested = suggest_maturity(*outcomes(slow=4.0))
    days = parse_duration(suggested.value).total_seconds() / DAY
    assert 14 <= days <= 25
    assert "bad predictions come later" in suggested.reason


def test_outcomes_that_come_later_when_they_are_good_are_named_so():
    assert "good predictions come later" in suggest_maturity(*outcomes(slow=0.1)).reason


def test_a_history_too_short_for_its_delays_is_told():
    ages, delays, losses = outcomes(slow=10.0)
    assert "may be missing" in suggest_maturity(ages / 6, np.where(delays > ages / 6, np.nan, delays), losses).reason


def test_too_few_outcomes_suggest_no_maturity():
    assert suggest_maturity(*outcomes(count=200)).value is None
    assert suggest_maturity(np.empty(0), np.empty(0), np.empty(0)).value is None


def test_the_suggestions_are_ready_for_the_configuration():
    losses, windows = reference(season(7, 42), seed=1)
    text = policy_toml("churn", [suggest_maturity(*outcomes()), *suggest(losses, windows)])
    table = tomllib.loads(text)["models"]["churn"]
    assert table["policy"] == {
        "unit": "label",
        "cycle": 7,
        "tolerance": pytest.approx(0.043, abs=0.01),
        "reference": 15_000,
    }
    assert parse_duration(table["maturity"]).days >= 4
    assert text.count("# ") == 5  # a reason each


def test_what_can_not_be_told_stays_out_of_the_configuration():
    text = policy_toml("churn", [suggest_maturity(*outcomes(count=200)), *suggest(*reference(np.zeros(2)))])
    assert tomllib.loads(text)["models"]["churn"] == {
        "policy": {"unit": "auto", "cycle": "auto", "tolerance": "auto", "reference": 5000}
    }
    assert "no telling yet" in text


def test_a_model_whose_name_toml_would_misread_is_quoted():
    text = policy_toml("churn v1.0", suggest(*reference(np.zeros(10))))
    assert set(tomllib.loads(text)["models"]) == {"churn v1.0"}

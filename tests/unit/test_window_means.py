import numpy as np
import pytest

from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.monitors.betting import NormalBets
from feedback_loop.decisions.monitors.numeric_loss import start_rank_monitor
from feedback_loop.decisions.monitors.window_means import POWER, UnitMonitor, Units, split_units, start_unit_monitor
from feedback_loop.decisions.panel import units_of
from tests.streams import day_losses, delay, season, seasonal_numbers, simulated


def test_days_that_differ_alarm_label_by_label_and_not_by_window():
    by_label = by_window = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        losses, windows = day_losses(random, 20)
        coming, _ = day_losses(random, 60)
        rank = start_rank_monitor(losses, alpha=0.05, seed=seed)
        unit = start_unit_monitor(losses, windows, alpha=0.05)
        by_label += delay(rank, coming, look=300) is not None
        by_window += delay(unit, coming, look=300) is not None
    assert by_label >= 20
    assert by_window <= 5


def test_days_that_got_worse_alarm_by_window():
    random = np.random.default_rng(3)
    losses, windows = day_losses(random, 20)
    coming, _ = day_losses(random, 60, level=0.35)
    found = delay(start_unit_monitor(losses, windows, alpha=0.05), coming, look=300)
    assert found is not None
    assert found <= 300 * 15


@simulated(5, 60)
def test_a_season_does_not_alarm_in_units_of_its_cycle(streams):
    by_window = by_cycle = 0
    for seed in range(streams):
        random = np.random.default_rng(seed)
        places = np.repeat(np.arange(70 + 350), 100)
        losses = seasonal_numbers(random, season(places, 0.05))
        windows, cycles = (start_unit_monitor(losses[:7000], places[:7000], each, alpha=0.05) for each in (1, 7))
        by_window += delay(windows, losses[7000:], 100, first=70) is not None
        by_cycle += delay(cycles, losses[7000:], 100, first=70) is not None
    assert by_cycle <= 0.05 * streams
    assert by_window <= streams  # dependent windows break the null; that they seldom do it here is no promise


def unit_of_a_cycle():
    random = np.random.default_rng(5)
    return start_unit_monitor(random.beta(2, 8, 4200), np.repeat(np.arange(42), 100), 7, alpha=0.05)


def test_a_unit_is_so_many_whole_windows():
    monitor = unit_of_a_cycle()
    assert (monitor.units, monitor.windows) == (6, 7)
    for place in range(42, 48):
        monitor = monitor.update(np.full(100, 0.2), place)
    assert monitor.taken == 0
    part = monitor.update(np.full(50, 0.2), 48, ends=False)
    assert part.taken == 0
    assert part.update(np.full(50, 0.2), 48).taken == 1
    assert part.update(np.empty(0), 48).taken == 1


def test_a_window_that_nobody_told_of_counts_in_its_unit():
    monitor = unit_of_a_cycle()
    for place in (42, 43, 45):
        monitor = monitor.update(np.full(100, 0.2), place)
    assert monitor.update(np.empty(0), 48).taken == 1
    after = monitor.update(np.full(100, 0.4), 49)
    assert (after.taken, after.waiting_labels, after.waiting_since) == (1, 100, 49)


def test_a_cycle_with_few_labels_is_put_together_with_the_next():
    monitor = unit_of_a_cycle()
    for place in range(42, 55):
        monitor = monitor.update(np.full(5, 0.2), place)
        assert monitor.taken == 0
    assert monitor.update(np.full(5, 0.2), 55).taken == 1


def test_windows_with_few_labels_are_put_together():
    windows = np.repeat([0, 1, 2, 3], [30, 30, 100, 10])
    assert [len(unit) for unit in split_units(np.arange(170.0), windows)] == [60, 100]
    assert [len(unit) for unit in split_units(np.arange(170.0), windows, 2)] == [60, 110]
    assert [len(unit) for unit in split_units(np.arange(170.0), windows * 2, 3)] == [
        60,
        110,
    ]  # of 0 and 2, of 4 and 6


def test_a_window_of_three_labels_is_no_unit_of_its_own():
    monitor = start_unit_monitor(*day_losses(np.random.default_rng(5), 10), alpha=0.05)
    assert monitor.update(np.ones(3), 10).taken == 0
    assert monitor.update(np.ones(3), 10).update(np.full(60, 0.2), 11).taken == 1


@pytest.mark.parametrize("days", [0, 1])
def test_units_that_the_reference_lacks_are_those_of_the_stream(days):
    monitor = start_unit_monitor(*day_losses(np.random.default_rng(5), days), alpha=0.05)
    coming, _ = day_losses(np.random.default_rng(6), 10, level=0.4)
    assert delay(monitor, coming, 300) is None
    learned = followed_by_day(monitor, coming)
    assert learned.units == days + 10
    assert delay(learned, day_losses(np.random.default_rng(7), 40, level=0.8)[0], 300, first=10) is not None


def test_the_third_unit_is_the_first_that_is_judged():
    monitor = start_unit_monitor(*day_losses(np.random.default_rng(5), 1), alpha=0.05)
    second = monitor.update(np.full(300, 0.25), 1)
    assert second.once_in == second.e_value == 1
    third = second.update(np.full(300, 0.9), 2)
    assert third.once_in == third.e_value > 1


def followed_by_day(monitor, losses):
    for place, start in enumerate(range(0, len(losses), 300)):
        monitor = monitor.update(losses[start : start + 300], place)
    return monitor


def test_a_unit_monitor_of_equal_units_does_not_divide_by_zero():
    monitor = UnitMonitor(alpha=0.05, windows=1, units=5, mean=0.2**POWER, squares=0.0, bets=NormalBets.begin())
    assert monitor.update(np.full(100, 0.2)).alarmed_at is None
    assert np.isfinite(monitor.update(np.full(100, 0.9)).once_in)


@simulated(20, 400)
def test_rare_errors_whose_means_are_skewed_seldom_alarm(streams):
    alarms = 0
    for seed in range(streams):
        random = np.random.default_rng(seed)
        windows = (random.random((210, 200)) < 0.02).astype(float)
        monitor = start_unit_monitor(windows[:10].ravel(), np.repeat(np.arange(10), 200), alpha=0.05)
        for place, losses in enumerate(windows[10:], 10):
            monitor = monitor.update(losses, place)
        alarms += monitor.alarmed_at is not None
    assert alarms <= 0.05 * streams  # of units as they are, .13 would


def test_units_of_a_reference_without_an_error_are_long_and_the_first_error_is_no_alarm():
    monitor = start_unit_monitor(np.zeros(5000), np.repeat(np.arange(10), 500), alpha=0.05)
    assert (monitor.units, monitor.least) == (0, 20_000)
    for place in range(10, 110):
        monitor = monitor.update(np.eye(500)[0] * (place == 10), place)
    assert (monitor.taken, monitor.alarmed_at) == (2, None)


def test_the_unit_of_the_settings_is_chosen_by_what_the_reference_shows():
    random = np.random.default_rng(4)
    uneven, windows = day_losses(random, 30)
    even = random.beta(2, 8, len(windows))
    assert units_of(PolicySettings(unit="auto"), uneven, windows).kind == "unit"
    assert units_of(PolicySettings(unit="auto"), even, windows).kind == "label"
    assert units_of(PolicySettings(unit="auto"), even[:3000], windows[:3000]) == Units("unit")
    assert units_of(PolicySettings(unit="auto", cycle=7), even[:3000], windows[:3000]) == Units("label", strata=7)
    assert units_of(PolicySettings(unit="window"), even, windows) == Units("unit")
    assert units_of(PolicySettings(unit="label"), uneven, windows) == Units("label")

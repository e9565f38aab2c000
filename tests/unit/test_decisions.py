import numpy as np
import pytest
from scipy import special, stats

from feedback_loop.config_policy import PolicySettings
from feedback_loop.decisions.change import start_error_monitor
from feedback_loop.decisions.mixture import NormalBets, Wealth, _boost, uniforms
from feedback_loop.decisions.monitors import (
    alpha_of_version,
    monitor_from_json,
    monitor_to_json,
    start_monitor,
)
from feedback_loop.decisions.panel import units_of
from feedback_loop.decisions.ranks import start_rank_monitor
from feedback_loop.decisions.units import UnitMonitor, differ, split_units, start_unit_monitor


def errors(random, rate, count):
    return (random.random(count) < rate).astype(float)


def stream(monitor, labels, look=500):
    """After how many labels the monitor alarms, told at the end of the look; None: never."""
    for start in range(0, len(labels), look):
        monitor = monitor.update(labels[start : start + look])
        if monitor.alarmed_at is not None:
            return start + look
    return None


def test_streams_that_never_change_seldom_alarm():
    alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        monitor = start_error_monitor(errors(random, 0.1, 5000), alpha=0.05, seed=seed)
        alarms += stream(monitor, errors(random, 0.1, 20_000)) is not None
    assert alarms <= 10  # alpha = .05 of 200; .005 measured


@pytest.mark.parametrize(("rise", "within"), [(0.05, 2500), (0.10, 1000)])
def test_a_rise_of_the_error_rate_is_found_as_fast_as_measured(rise, within):
    delays = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        monitor = start_error_monitor(errors(random, 0.1, 5000), alpha=0.05, seed=seed)
        monitor = monitor.update(errors(random, 0.1, 20_000))
        delays.append(stream(monitor, errors(random, 0.1 + rise, 10_000)) or 10**6)
    assert np.median(delays) <= within


def test_a_fall_of_the_error_rate_is_no_alarm():
    random = np.random.default_rng(1)
    monitor = start_error_monitor(errors(random, 0.2, 5000), alpha=0.05, seed=1)
    assert stream(monitor, errors(random, 0.05, 20_000)) is None


def test_losses_of_few_values_do_not_alarm_when_nothing_changes():
    alarms = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        values = np.array([0.0, 0.1, 0.5])
        monitor = start_rank_monitor(random.choice(values, 3000), alpha=0.05, seed=seed)
        alarms += stream(monitor, random.choice(values, 5000)) is not None
    assert alarms <= 6


def test_grown_losses_alarm_by_rank():
    random = np.random.default_rng(2)
    monitor = start_rank_monitor(random.beta(2, 8, 5000), alpha=0.05, seed=2)
    found = stream(monitor, np.minimum(random.beta(2, 8, 5000) * 1.5, 1))
    assert found is not None
    assert found <= 1000


def test_a_reference_of_one_value_can_be_watched():
    monitor = start_rank_monitor(np.zeros(2000), alpha=0.05, seed=0)
    assert stream(monitor, np.zeros(3000)) is None
    assert stream(monitor, np.ones(3000)) is not None


def day_losses(random, days, level=0.2, spread=0.05, per_day=300):
    """Losses whose days differ, with each one's window number."""
    means = level + spread * random.normal(size=days)
    losses = np.clip(np.repeat(means, per_day) + 0.1 * random.normal(size=days * per_day), 0, 1)
    return losses, np.repeat(np.arange(days), per_day)


def test_days_that_differ_alarm_label_by_label_and_not_by_window():
    by_label = by_window = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        losses, windows = day_losses(random, 20)
        assert differ(losses, windows)
        coming, _ = day_losses(random, 60)
        rank = start_rank_monitor(losses, alpha=0.05, seed=seed)
        unit = start_unit_monitor(losses, windows, alpha=0.05)
        by_label += stream(rank, coming, look=300) is not None
        by_window += stream(unit, coming, look=300) is not None
    assert by_label >= 20
    assert by_window <= 5


def test_days_that_got_worse_alarm_by_window():
    random = np.random.default_rng(3)
    losses, windows = day_losses(random, 20)
    coming, _ = day_losses(random, 60, level=0.35)
    found = stream(start_unit_monitor(losses, windows, alpha=0.05), coming, look=300)
    assert found is not None
    assert found <= 300 * 15


def started(loss, losses, windows, unit, **options):
    return start_monitor(
        "change", loss, losses, windows, units_of(PolicySettings(unit=unit), losses, windows), **options
    )


def test_the_unit_is_chosen_by_what_the_reference_shows():
    random = np.random.default_rng(4)
    uneven, windows = day_losses(random, 20)
    even = random.beta(2, 8, len(windows))
    options = {"alpha": 0.05, "seed": 0}
    assert started("brier", uneven, windows, "auto", **options).kind == "unit"
    assert started("brier", even, windows, "auto", **options).kind == "rank"
    assert started("brier", even, windows, "window", **options).kind == "unit"
    assert started("brier", uneven, windows, "label", **options).kind == "rank"
    assert started("error", (even > 0.3).astype(float), windows, "auto", **options).kind == "error"


def test_windows_with_few_labels_are_put_together():
    windows = np.repeat([0, 1, 2, 3], [30, 30, 100, 10])
    assert [len(unit) for unit in split_units(np.arange(170.0), windows)] == [60, 100]


def test_a_window_of_three_labels_is_no_unit_of_its_own():
    monitor = start_unit_monitor(*day_losses(np.random.default_rng(5), 10), alpha=0.05)
    assert monitor.update(np.ones(3)).taken == 0
    assert monitor.update(np.ones(3)).update(np.full(60, 0.2)).taken == 1


def test_scores_of_blocks_are_standard_normal_under_the_null():
    random = np.random.default_rng(6)
    scores = []
    for seed in range(400):
        labels = errors(random, 0.1, 600)
        p = stats.hypergeom.sf(labels[:50].sum(), 600, labels.sum(), 50)
        p += uniforms(seed, 0, 1)[0] * stats.hypergeom.pmf(labels[:50].sum(), 600, labels.sum(), 50)
        scores.append(-special.ndtri(p))
    assert stats.kstest(scores, "norm").pvalue > 0.01


def test_the_boost_never_raises_the_expected_capped_wealth():
    drifts = np.array([0.2, 0.4, 0.8, 1.7, 3.4, 6.8])
    z = np.linspace(-12, 12, 200_001)
    density = stats.norm.pdf(z) * (z[1] - z[0])
    for seed in range(50):
        random = np.random.default_rng(seed)
        wealth = Wealth(float(random.uniform(0, 2)), tuple(random.uniform(0, 3, 6)))
        boost = _boost(wealth, drifts, 20.0)
        growth = np.exp(drifts[:, None] * z - drifts[:, None] ** 2 / 2)
        after = boost * (wealth.cash + (np.array(wealth.bets)[:, None] * growth).sum(axis=0))
        assert boost >= 1
        assert float((np.minimum(after, 20.0) * density).sum()) <= wealth.total + 1e-6


def test_moving_cash_into_bets_keeps_the_total():
    wealth = Wealth.begin().moved(0.3).moved(0.1)
    assert wealth.total == pytest.approx(1.0)


def test_the_random_numbers_do_not_depend_on_how_they_are_asked_for():
    whole = uniforms(9, 0, 100)
    pieces = np.concatenate([uniforms(9, 0, 1), uniforms(9, 1, 6), uniforms(9, 7, 93)])
    assert (whole == pieces).all()
    assert not (whole == uniforms(10, 0, 100)).any()
    assert 0 < whole.min() < whole.max() < 1


def test_the_alphas_of_all_versions_sum_to_alpha():
    assert sum(alpha_of_version(0.05, ordinal) for ordinal in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("kind", ["error", "rank", "unit"])
def test_a_monitor_comes_back_from_json_as_it_was(kind):
    import json

    random = np.random.default_rng(8)
    losses, windows = day_losses(random, 10)
    monitor = {
        "error": lambda: start_error_monitor((losses > 0.3).astype(float), alpha=0.05, seed=1),
        "rank": lambda: start_rank_monitor(losses, alpha=0.05, seed=1),
        "unit": lambda: start_unit_monitor(losses, windows, alpha=0.05),
    }[kind]()
    coming = (random.random(333) > 0.7).astype(float)
    monitor = monitor.update(coming)
    assert monitor_from_json(json.loads(json.dumps(monitor_to_json(monitor)))) == monitor
    assert len(json.dumps(monitor_to_json(monitor))) < 16_000


def test_a_unit_monitor_of_equal_units_does_not_divide_by_zero():
    monitor = UnitMonitor(alpha=0.05, windows=1, units=5, mean=0.2, squares=0.0, bets=NormalBets.begin())
    assert monitor.update(np.full(100, 0.2)).alarmed_at is None
    assert np.isfinite(monitor.update(np.full(100, 0.9)).once_in)

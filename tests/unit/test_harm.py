import math

import numpy as np
import pytest
from scipy import stats

from feedback_loop.decisions.monitors.harm import (
    BATCH,
    BOUND_SIZES,
    SIZES,
    TRUST,
    TRUST_SHARES,
    _upper_bound,
    start_harm_monitor,
)
from tests.streams import delay, errors, median_delay, simulated

METHODS = ("harm_a", "harm_b")


def begun(method, reference, *, loss="error", tolerance=0.0, alpha=0.05):
    return start_harm_monitor(method, loss, reference, alpha=alpha, tolerance=tolerance)


@pytest.mark.parametrize(
    ("method", "rise", "within"),  # measured: 14273, 1780, 654 and 7282, 1370, 590
    [
        ("harm_a", 0.02, 16_500),
        ("harm_a", 0.05, 2000),
        ("harm_a", 0.10, 750),
        ("harm_b", 0.02, 8500),
        ("harm_b", 0.05, 1750),
        ("harm_b", 0.10, 750),
    ],
)
def test_harm_is_found_as_fast_as_measured(method, rise, within):
    found = median_delay(
        lambda reference, _: begun(method, reference),
        lambda random, count, change: errors(random, 0.1 + change, count),
        31,
        change=rise,
    )
    assert found <= within


@pytest.mark.parametrize("method", METHODS)
@simulated(20, 400)
def test_streams_that_never_change_seldom_alarm(streams, method):
    alarms = 0
    for seed in range(streams):
        random = np.random.default_rng(seed)
        monitor = begun(method, errors(random, 0.2, 2000))
        alarms += monitor.update(errors(random, 0.2, 15_000)).alarmed_at is not None
    assert alarms <= 0.02 * streams  # alpha = .05; none to .003 measured


@pytest.mark.parametrize("method", METHODS)
def test_harm_within_the_tolerance_is_none_and_beyond_it_is(method):
    random = np.random.default_rng(1)
    reference = errors(random, 0.1, 5000)
    within, beyond = errors(random, 0.13, 20_000), errors(random, 0.2, 20_000)
    tolerant = begun(method, reference, tolerance=0.05)
    assert delay(tolerant, within) is None
    assert delay(begun(method, reference), within) is not None
    assert delay(begun(method, reference), beyond) < delay(tolerant, beyond) <= 3000


@pytest.mark.parametrize("method", METHODS)
def test_a_fall_is_no_harm(method):
    random = np.random.default_rng(2)
    monitor = begun(method, errors(random, 0.2, 5000)).update(errors(random, 0.1, 30_000))
    assert monitor.alarmed_at is None
    assert monitor.once_in < 2


@pytest.mark.parametrize("method", METHODS)
def test_a_late_harm_is_met_by_fresh_bets(method):
    random = np.random.default_rng(3)
    monitor = begun(method, errors(random, 0.1, 5000)).update(errors(random, 0.08, 200_000))
    found = delay(monitor, errors(random, 0.2, 10_000))
    assert found is not None
    assert found <= 2000


@pytest.mark.parametrize("method", METHODS)
def test_losses_that_are_numbers_may_be_watched_for_harm(method):
    random = np.random.default_rng(4)
    monitor = begun(method, random.beta(2, 8, 5000), loss="brier").update(random.beta(2, 8, 10_000))
    assert monitor.alarmed_at is None
    assert delay(monitor, np.minimum(random.beta(2, 8, 5000) * 1.5, 1)) <= 1500


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("always", [0.0, 0.25, 1.0])
def test_a_reference_of_one_value_can_be_watched(method, always):
    monitor = begun(method, np.full(2000, always), loss="error" if always in (0, 1) else "brier")
    assert delay(monitor, np.full(20_000, always)) is None
    if always < 1:
        assert delay(monitor, np.tile([always, 1.0], 2000)) is not None


def test_the_bound_of_errors_is_that_of_clopper_and_pearson():
    for wrong, count in [(0, 1000), (7, 1000), (400, 5000), (999, 1000), (1000, 1000)]:
        losses = np.repeat([0.0, 1.0], [count - wrong, wrong])
        expected = stats.binomtest(wrong, count).proportion_ci(0.95, "exact").high
        assert _upper_bound("error", losses, 0.025) == pytest.approx(expected, abs=1e-9)


def test_the_bound_of_numbers_covers_their_mean_and_is_near():
    covered, excess = 0, []
    for seed in range(400):
        losses = np.random.default_rng(seed).beta(2, 8, 1000)
        bound = _upper_bound("brier", losses, 0.1)
        covered += bound >= 0.2
        excess.append((bound - losses.mean()) / (losses.std() / math.sqrt(1000)))
    assert covered >= 0.9 * 400
    assert np.median(excess) < 3.5  # standard errors; 1.3 if the distribution were known


def test_the_bound_is_where_the_bets_against_the_mean_have_won():
    losses = np.random.default_rng(1).beta(2, 8, 1000)
    bound = _upper_bound("brier", losses, 0.1)
    won = np.exp(np.log1p(np.outer(BOUND_SIZES, 1 - losses)).sum(axis=1) - 1000 * np.log1p(BOUND_SIZES * (1 - bound)))
    assert won.mean() == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("reference", [np.zeros(1000), np.ones(1000), np.arange(1000) % 10 == 0])
def test_the_cells_are_all_that_the_mean_may_be(reference):
    monitor = begun("harm_b", np.asarray(reference, dtype=float))
    assert (monitor.edges[0], monitor.edges[-1]) == (0.0, 1.0)
    assert (np.diff(monitor.edges) > 0).all()
    assert len(monitor.edges) <= 65


@pytest.mark.parametrize(("method", "length"), [("harm_a", 70), ("harm_b", 40)])
def test_the_monitor_computes_what_the_method_says(method, length):
    """The formulae of `docs/decisions.md`, written down once more: each bet by itself, from its first batch on."""
    random = np.random.default_rng(5)
    reference, coming = random.beta(1, 9, 5000), random.beta(1, 7, length * BATCH)
    monitor = begun(method, reference, loss="brier", tolerance=0.01)
    mean, variance = reference.mean(), reference.var()
    allowed = np.array(monitor.edges[1:]) + 0.01

    def kept(past):  # P of each cell
        if method == "harm_a":
            return np.ones(1)
        won = np.log1p(np.outer(TRUST, 1 - past)).sum(axis=1)[:, None]
        return TRUST_SHARES @ np.exp(won - len(past) * np.log1p(np.outer(TRUST, 1 - np.array(monitor.edges[:-1]))))

    threshold = 2 / 0.05 if method == "harm_a" else 1 / 0.05
    peak, alarmed_at, batches = 1.0, None, coming.reshape(-1, BATCH)
    for count in range(1, len(batches) + 1):
        wealth = np.zeros(len(allowed))
        for size in SIZES:
            pace = int(np.clip(np.ceil(2.5 * (1 + size * mean) ** 2 / (size**2 * variance * BATCH)), 1, 64))
            lasting, left = max(1, 1000 / pace), 1.0
            for n, start in enumerate(range(0, count, pace), 1):
                weight = lasting / ((lasting + n - 1) * (lasting + n))
                since = coming[start * BATCH : count * BATCH]
                growth = np.exp(np.log1p(size * since).sum() - len(since) * np.log1p(size * allowed))
                wealth += weight * kept(np.concatenate([reference, coming[: start * BATCH]])) * growth / len(SIZES)
                left -= weight
            wealth += left * kept(np.concatenate([reference, coming[: count * BATCH]])) / len(SIZES)
        peak = max(peak, wealth.min())
        alarmed_at = count * BATCH if alarmed_at is None and wealth.min() >= threshold else alarmed_at
        monitor = monitor.update(batches[count - 1])
        assert monitor.peak == pytest.approx(peak, rel=1e-3)
        assert monitor.e_value == pytest.approx(wealth.min(), rel=1e-3)
    assert 2 < peak < 1e20
    assert alarmed_at is not None
    assert monitor.alarmed_at == alarmed_at
    assert method == "harm_b" or monitor.edges[1] == pytest.approx(_upper_bound("brier", reference, 0.025), abs=1e-6)


def test_what_an_alarm_of_a_says_counts_that_its_bound_may_be_wrong():
    monitor = begun("harm_a", errors(np.random.default_rng(6), 0.1, 5000), alpha=0.1)
    after = monitor.update(np.ones(1000))
    assert after.alarmed_at == BATCH
    assert after.once_in == pytest.approx(20, rel=1e-6)  # of 2 / alpha
    assert begun("harm_b", np.zeros(1000)).update(np.ones(2000)).once_in > 1e6

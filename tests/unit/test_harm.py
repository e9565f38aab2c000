import numpy as np
import pytest

from feedback_loop.decisions.monitors.harm import BATCH, SIZES, TRUST, HarmMonitor, start_harm_monitor
from tests.streams import delay, errors, median_delay, simulated


def begun(reference, *, tolerance=0.0, alpha=0.05):
    return start_harm_monitor(reference, alpha=alpha, tolerance=tolerance)


@pytest.mark.parametrize(
    ("rise", "within"),  # measured: 7282, 1370, 590
    [(0.02, 8500), (0.05, 1750), (0.10, 750)],
)
def test_harm_is_found_as_fast_as_measured(rise, within):
    found = median_delay(
        lambda reference, _: begun(reference),
        lambda random, count, change: errors(random, 0.1 + change, count),
        31,
        change=rise,
    )
    assert found <= within


@simulated(20, 400)
def test_streams_that_never_change_seldom_alarm(streams):
    alarms = 0
    for seed in range(streams):
        random = np.random.default_rng(seed)
        monitor = begun(errors(random, 0.2, 2000))
        alarms += monitor.update(errors(random, 0.2, 15_000)).alarmed_at is not None
    assert alarms <= 0.02 * streams  # alpha = .05; none to .003 measured


def test_harm_within_the_tolerance_is_none_and_beyond_it_is():
    random = np.random.default_rng(1)
    reference = errors(random, 0.1, 5000)
    within, beyond = errors(random, 0.13, 20_000), errors(random, 0.2, 20_000)
    tolerant = begun(reference, tolerance=0.05)
    assert delay(tolerant, within) is None
    assert delay(begun(reference), within) is not None
    assert delay(begun(reference), beyond) < delay(tolerant, beyond) <= 3000


def test_a_fall_is_no_harm():
    random = np.random.default_rng(2)
    monitor = begun(errors(random, 0.2, 5000)).update(errors(random, 0.1, 30_000))
    assert monitor.alarmed_at is None
    assert monitor.once_in < 2


def test_a_late_harm_is_met_by_fresh_bets():
    random = np.random.default_rng(3)
    monitor = begun(errors(random, 0.1, 5000)).update(errors(random, 0.08, 200_000))
    found = delay(monitor, errors(random, 0.2, 10_000))
    assert found is not None
    assert found <= 2000


def test_losses_that_are_numbers_may_be_watched_for_harm():
    random = np.random.default_rng(4)
    monitor = begun(random.beta(2, 8, 5000)).update(random.beta(2, 8, 10_000))
    assert monitor.alarmed_at is None
    assert delay(monitor, np.minimum(random.beta(2, 8, 5000) * 1.5, 1)) <= 1500


@pytest.mark.parametrize("always", [0.0, 0.25, 1.0])
def test_a_reference_of_one_value_can_be_watched(always):
    monitor = begun(np.full(2000, always))
    assert delay(monitor, np.full(20_000, always)) is None
    if always < 1:
        assert delay(monitor, np.tile([always, 1.0], 2000)) is not None


@pytest.mark.parametrize("reference", [np.zeros(1000), np.ones(1000), np.arange(1000) % 10 == 0])
def test_the_cells_are_all_that_the_mean_may_be(reference):
    monitor = begun(np.asarray(reference, dtype=float))
    assert (monitor.edges[0], monitor.edges[-1]) == (0.0, 1.0)
    assert (np.diff(monitor.edges) > 0).all()
    assert len(monitor.edges) <= 65


def test_the_monitor_computes_what_the_method_says():
    """The formulae of `docs/decisions.md`, written down once more: each bet by itself, from its first batch on."""
    random = np.random.default_rng(5)
    reference, coming = random.beta(1, 9, 5000), random.beta(1, 7, 40 * BATCH)
    monitor = begun(reference, tolerance=0.01)
    mean, variance = reference.mean(), reference.var()
    allowed = np.array(monitor.edges[1:]) + 0.01

    def kept(past):  # P of each cell
        won = np.log1p(np.outer(TRUST, 1 - past)).sum(axis=1)[:, None]
        return HarmMonitor.shares[:, 0] @ np.exp(
            won - len(past) * np.log1p(np.outer(TRUST, 1 - np.array(monitor.edges[:-1])))
        )

    threshold = 1 / 0.05
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


def test_what_an_alarm_says_is_how_seldom_it_would_be():
    assert begun(np.zeros(1000)).update(np.ones(2000)).once_in > 1e6

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.decisions.monitors import Monitor, start_monitor
from feedback_loop.decisions.monitors.window_means import Units

KINDS = [
    ("change", "error", Units()),
    ("change", "error", Units(strata=3)),
    ("change", "brier", Units()),
    ("change", "brier", Units(strata=3)),
    ("change", "brier", Units("unit")),
    ("change", "error", Units("unit", windows=3)),
    ("harm", "brier", Units()),
]
SIZES = st.lists(st.sampled_from([0, 0, 1, 7, 60, 200, 333]), min_size=1, max_size=9)
CUTS = st.lists(st.integers(0, 333), max_size=3)


def made(kind, seed, sizes):
    """A monitor that has begun, and windows of losses that get worse."""
    method, loss, units = kind
    random = np.random.default_rng(seed)
    reference, windows = random.beta(1, 5, 1500), np.arange(1500) // 70
    stream = [random.beta(1, 3, size) for size in sizes]
    if loss == "error":
        reference, stream = (reference > 0.3).astype(float), [(each > 0.3).astype(float) for each in stream]
    return start_monitor(method, loss, reference, windows, units, alpha=0.05, seed=seed), stream


def cut(losses, cuts):
    return np.split(losses, sorted(min(each, len(losses)) for each in cuts))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), sizes=SIZES, cuts=st.data())
def test_any_grouping_of_the_same_labels_gives_the_same_monitor_also_through_json(kind, seed, sizes, cuts):
    at_once, stream = made(kind, seed, sizes)
    piecemeal = at_once
    for place, losses in enumerate(stream, 22):
        at_once = at_once.update(losses, place)
        pieces = cut(losses, cuts.draw(CUTS))
        for number, piece in enumerate(pieces, 1):
            piecemeal = piecemeal.update(piece, place, ends=number == len(pieces))
            piecemeal = msgspec.json.decode(msgspec.json.encode(piecemeal), type=Monitor)
    assert piecemeal == at_once


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), sizes=SIZES)
def test_a_window_without_labels_is_told_of_or_not_to_the_same_effect(kind, seed, sizes):
    told, stream = made(kind, seed, [*sizes, 5])
    untold = told
    for place, losses in enumerate(stream, 22):
        told = told.update(losses, place)
        untold = untold.update(losses, place) if len(losses) else untold
    assert told == untold


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), sizes=SIZES)
def test_what_was_seen_once_is_never_taken_back(kind, seed, sizes):
    monitor, stream = made(kind, seed, sizes)
    for place, losses in enumerate(stream, 22):
        after = monitor.update(losses, place)
        assert after.once_in >= monitor.once_in >= 1
        assert after.e_value >= 0
        assert after.once_in * (1 + 1e-9) >= max(after.e_value, 1)
        assert monitor.alarmed_at in (None, after.alarmed_at)
        assert after.null == monitor.null
        monitor = after

"""An adapter's states: replayed to the last bit, and indifferent to the order of a look's rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.adaptation import Look
from feedback_loop.adaptation.states import from_bytes, to_bytes
from feedback_loop.errors import Refused
from feedback_loop.schema import Task
from tests.adapters import Stream
from tests.streams import examples

SEEDS = st.integers(0, 2**32 - 1)
SHIFTS = st.lists(st.sampled_from([0.0, 0.5, 3.0, -3.0]), min_size=1, max_size=12)


def looks_of(task, seed, shifts):
    """Looks as they would have been served, and the states before and after them."""
    stream = Stream(task, seed, fate=0.3)
    states, looks = [stream.born(count=400, days=28)], []
    for shift in shifts:
        looks.append(stream.look(states[-1], 40, shift))
        states.append(states[-1].after(looks[-1]))
    return states, looks


@pytest.mark.parametrize("task", Task)
@examples(8, deadline=None)
@given(seed=SEEDS, shifts=SHIFTS, cut=st.integers(0, 12))
def test_from_any_stored_state_the_rest_is_replayed_bit_for_bit(task, seed, shifts, cut):
    states, looks = looks_of(task, seed, shifts)
    cut = min(cut, len(looks))
    adapter = from_bytes(to_bytes(states[cut]))
    for look in looks[cut:]:
        adapter = from_bytes(to_bytes(adapter)).after(look)
    assert to_bytes(adapter) == to_bytes(states[-1])
    assert adapter.coefficients.digest == states[-1].coefficients.digest


@pytest.mark.parametrize("task", Task)
@examples(8, deadline=None)
@given(seed=SEEDS, shifts=SHIFTS)
def test_the_order_of_a_looks_rows_changes_nothing(task, seed, shifts):
    states, looks = looks_of(task, seed, shifts)
    order = np.random.default_rng(seed).permutation(len(looks[-1].raw))
    last = looks[-1]
    turned = Look(
        last.raw[order],
        last.served[order],
        last.outcomes[order],
        {name: values.take(order) for name, values in last.features.items()},
    )
    one, other = states[-1], states[-2].after(turned)
    assert one.held_by == other.held_by
    np.testing.assert_allclose(other.learned.pool, one.learned.pool, rtol=0, atol=1e-12)
    for mine, theirs in zip(one.learned.heads, other.learned.heads, strict=True):
        np.testing.assert_allclose(theirs.theta, mine.theta, rtol=0, atol=1e-12)
    np.testing.assert_allclose(other.residuals.values, one.residuals.values, rtol=0, atol=1e-12)


def test_a_state_that_is_not_what_was_written_is_refused():
    packed = to_bytes(Stream(Task.BINARY, 0).born())
    with pytest.raises(Refused, match="can't be read"):
        from_bytes(packed[:-1] + bytes([packed[-1] ^ 1]))

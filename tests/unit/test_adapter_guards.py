"""When an adapter stops: surprising looks, outcome rates out of range, and what brings it back."""

import dataclasses

import numpy as np
import pytest

from feedback_loop.adaptation.guards import RangeGuard, SurpriseGuard
from feedback_loop.schema import Task
from tests.adapters import Stream


def poisoned(stream, adapter, value=1.0):
    look = stream.look(adapter)
    return dataclasses.replace(look, outcomes=np.full(len(look.outcomes), value))


def test_three_surprising_looks_of_one_sign_bring_back_the_state_before_them_until_one_is_no_surprise():
    stream = Stream(Task.BINARY, 7)
    before, _, _ = stream.played(stream.born(days=20), 9)  # 29 rates: the range is not watched yet
    one = before.after(poisoned(stream, before))
    two = one.after(poisoned(stream, one))
    assert two.held_by == ()
    assert two.learned.pool.tolist() != before.learned.pool.tolist()
    held = two.after(poisoned(stream, two))
    assert held.held_by == ("surprise",)
    assert held.learned is before.learned
    assert held.coefficients.digest == before.coefficients.digest
    later = held.after(poisoned(stream, held))
    assert (later.held_looks, later.looks, later.learned) == (2, 11, held.learned)
    assert (later.deviations == two.deviations).all()
    assert later.last.design_effect == held.last.design_effect
    free = later.after(stream.look(later))
    assert free.held_by == ()
    assert (free.looks, free.held_looks) == (12, 0)


def test_rows_that_no_adapter_answered_surprise_by_what_it_would_have_answered():
    stream = Stream(Task.BINARY, 8)
    adapter, _, _ = stream.played(stream.born(), 25)
    look = stream.look(adapter)
    unserved = dataclasses.replace(look, served=np.where(np.arange(len(look.raw)) % 2, np.nan, look.served))
    one, other = adapter.after(unserved), adapter.after(look)
    assert one.coefficients.digest == other.coefficients.digest
    assert one.last.surprise == other.last.surprise
    assert one.last.loss_raw == other.last.loss_raw
    nobodys = adapter.after(dataclasses.replace(look, served=np.full(len(look.raw), np.nan)))
    assert nobodys.last.loss_served == nobodys.last.loss_raw != other.last.loss_served  # what callers got


def test_the_surprise_of_a_held_adapter_is_that_of_what_it_holds():
    stream = Stream(Task.BINARY, 8)
    adapter, _, _ = stream.played(stream.born(), 25)
    held = adapter.hold()
    look = stream.look(adapter)
    wrong = dataclasses.replace(look, served=np.full(len(look.raw), 0.99))
    assert held.after(wrong).last.surprise == held.after(look).last.surprise != adapter.after(wrong).last.surprise


@pytest.mark.parametrize("surprises", [[3, -3, 3, -3], [3, 3, 2, 3, 3], [-3, -3, 0]])
def test_surprises_of_both_signs_or_fewer_than_three_stop_nothing(surprises):
    guard = SurpriseGuard()
    for surprise in surprises:
        guard = guard.after(np.array([surprise]), 2.5)
        assert not guard.is_holding


def test_of_several_classes_a_run_is_one_of_the_same_class():
    guard = SurpriseGuard()
    for surprises in ([5, 0, -4], [4, 0, -5], [5, 0, -4]):
        guard = guard.after(np.array(surprises, float), 2.5)
    assert not guard.is_holding
    for surprises in ([5, 0, -4], [5, 0, -4], [1, 0, 0]):
        was, guard = guard, guard.after(np.array(surprises, float), 2.5)
    assert was.is_holding
    assert not guard.is_holding


def ranged(rates, guard=None, *, rows=100, is_held=False):
    guard = guard or RangeGuard.begin(np.linspace(0.2, 0.4, 30)[:, None])
    for rate in rates:
        guard = guard.after(np.array([rate]), rows, is_held=is_held)
    return guard


def test_three_rates_in_a_row_beyond_every_earlier_one_stop_until_one_is_in_range():
    assert ranged([0.5, 0.6, 0.5]).is_holding
    assert ranged([0.5, 0.1, 0.6]).is_holding
    assert not ranged([0.5, 0.6, 0.4]).is_holding
    held = ranged([0.5, 0.6, 0.5])
    assert ranged([0.41], held, is_held=True).is_holding
    free = ranged([0.4], held, is_held=True)
    assert not free.is_holding
    assert (free.lowest, free.highest) == (0.2, 0.4)


def test_looks_of_few_rows_are_one_together():
    one_row = [0.0, 0.0, 1.0, 0.0, 0.0]  # a rate of 0.2, which no single row has
    guard = ranged(one_row * 12, rows=1)
    assert (guard.is_holding, guard.run, guard.lowest, guard.highest) == (False, 0, 0.2, 0.4)
    assert not ranged([1.0] * 59, guard, rows=1).is_holding
    held = ranged([1.0] * 60, guard, rows=1)  # three times twenty
    assert held.is_holding
    assert ranged([0.0] * 10 + [1.0] * 9, held, rows=1, is_held=True).is_holding
    assert not ranged([0.0] * 13 + [1.0] * 7, held, rows=1, is_held=True).is_holding
    assert Stream(Task.BINARY, 5).born(count=60, days=60).range_guard.rates == 3


def test_a_shorter_run_widens_the_range_when_it_ends():
    wider = ranged([0.5, 0.6, 0.3])
    assert (wider.lowest, wider.highest) == (0.2, 0.6)
    assert not ranged([0.55, 0.6, 0.6], wider).is_holding
    assert ranged([0.5, 0.6, 0.3], is_held=True).highest == 0.4


def test_before_thirty_rates_all_of_them_make_the_range():
    young = RangeGuard.begin(np.full((27, 1), 0.3))
    guard = ranged([0.5, 0.6, 0.7], young)
    assert (guard.highest, guard.run, guard.rates) == (0.7, 0, 30)
    assert ranged([0.8] * 3, guard).is_holding


def test_the_range_is_watched_by_class():
    guard = RangeGuard.begin(np.tile([0.5, 0.3, 0.2], (30, 1)))
    for rates in ([0.5, 0.2, 0.3], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]):
        guard = guard.after(np.array(rates), 100, is_held=False)
    assert guard.run == 1
    for rates in ([0.2, 0.6, 0.2], [0.2, 0.6, 0.2]):
        guard = guard.after(np.array(rates), 100, is_held=False)
    assert guard.is_holding


def test_a_stop_by_the_range_brings_back_the_state_too():
    stream = Stream(Task.REGRESSION, 9)
    before, _, _ = stream.played(stream.born(), 25)
    adapter = before
    for _ in range(3):
        look = stream.look(adapter)
        adapter = adapter.after(dataclasses.replace(look, outcomes=look.outcomes + 100))
    assert "range" in adapter.held_by
    assert adapter.learned is before.learned


def test_a_promotion_goes_on_from_the_held_state_and_a_persons_hold_stays():
    stream = Stream(Task.BINARY, 10)
    adapter, _, _ = stream.played(stream.born(), 25)
    for _ in range(3):
        adapter = adapter.after(poisoned(stream, adapter))
    assert set(adapter.held_by) == {"surprise", "range"}
    promoted = adapter.release(by_promotion=True)
    assert promoted.held_by == ()
    assert promoted.learned is adapter.learned
    by_hand = adapter.hold().release(by_promotion=True)
    assert by_hand.held_by == ("hand",)
    assert by_hand.after(stream.look(by_hand)).learned is by_hand.learned
    assert by_hand.release().held_by == ()

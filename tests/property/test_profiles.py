"""Profiles are whole numbers: whatever order rows come in, and are taken out again, the same is left, to the bit."""

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedback_loop.monitoring.profiles.blocks import (
    Block,
    Rows,
    float_bin_values,
    float_bins,
    score_bin_edges,
    score_bins,
)
from feedback_loop.monitoring.profiles.exact_sums import limbs, summed
from feedback_loop.monitoring.profiles.fold import fold, merge
from feedback_loop.monitoring.profiles.layout import Layout, make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.profiles.tally import EMPTY, Tally, total
from tests.builders import binary_contract, multiclass_contract, regression_contract
from tests.streams import examples

FEW = examples(12)
START = datetime(2026, 3, 1, tzinfo=UTC)
any_floats = st.floats(allow_nan=False, allow_infinity=False)
nasty = st.one_of(st.none(), st.floats(), st.integers(-(2**63), 2**63 - 1).map(float))
words = st.one_of(st.none(), st.sampled_from(["basic", "plus", "pro", "new"]))
chances = st.one_of(st.none(), st.floats(0, 1))

binary_rows = st.lists(
    st.tuples(
        nasty, words, chances, st.sampled_from([None, True, False]), st.integers(0, 30), st.sampled_from([1.0, 4.0])
    ),
    max_size=30,
)


def binary_table(rows):
    ages, plans, probabilities, outcomes, hours, weights = zip(*rows, strict=True) if rows else ([],) * 6
    return pa.table(
        {
            "predicted_at": pa.array([START + timedelta(hours=each) for each in hours], pa.timestamp("us", "UTC")),
            "sample_weight": pa.array(weights, pa.float64()),
            "age": pa.array(ages, pa.float64()),
            "plan": pa.array(plans, pa.string()),
            "probability": pa.array(probabilities, pa.float64()),
            "prediction": pa.array([None if p is None else p > 0.5 for p in probabilities], pa.bool_()),
            "churned": pa.array(outcomes, pa.bool_()),
        }
    )


def binary_layout():
    random = np.random.default_rng(0)
    rows = [
        (random.normal(40, 10), ("basic", "plus", "pro")[k % 3], random.random(), None, 0, 1.0) for k in range(300)
    ]
    return make_layout(binary_contract(), binary_table(rows))


LAYOUT = binary_layout()


def not_empty(cells):
    return {cell: tally for cell, tally in cells.items() if len(tally.keys)}


@FEW
@given(binary_rows, binary_rows, binary_rows)
def test_profiles_merge_to_that_of_all_rows_in_any_order(first, second, third):
    one, two, three = (fold(LAYOUT, binary_table(each)) for each in (first, second, third))
    whole = fold(LAYOUT, binary_table(first + second + third))
    assert merge([one, two, three]) == whole
    assert merge([three, one, two]) == whole
    assert merge([merge([one, two]), three]) == merge([one, merge([two, three])]) == whole
    shuffled = sorted(first + second + third, key=repr)
    assert fold(LAYOUT, binary_table(shuffled)) == whole


@FEW
@given(binary_rows, binary_rows)
def test_what_was_added_can_be_taken_out_again(stays, goes):
    left = fold(LAYOUT, binary_table(stays))
    taken = {cell: -tally for cell, tally in fold(LAYOUT, binary_table(goes)).items()}
    both = fold(LAYOUT, binary_table(stays + goes))
    assert not_empty(merge([both, taken])) == left
    for cell, tally in both.items():
        assert (tally - tally) == Tally.of(np.empty(0, np.int64), np.empty(0, np.int64))
        assert tally + tally - tally == tally, cell


@FEW
@given(binary_rows)
def test_a_tally_and_a_profile_are_kept_as_they_are(rows):
    cells = fold(LAYOUT, binary_table(rows))
    for tally in (*cells.values(), EMPTY):
        assert Tally.from_bytes(tally.to_bytes()) == tally
    profile = Profile.of(LAYOUT, cells)
    assert Profile.from_bytes(profile.to_bytes()) == profile
    assert profile.to_bytes() == Profile.from_bytes(profile.to_bytes()).to_bytes()


labels = st.sampled_from(["a", "b", "z", None])


@FEW
@given(st.lists(st.tuples(labels, labels, nasty, nasty), max_size=30), st.integers(0, 30))
def test_other_tasks_merge_too(rows, cut):
    for contract, table in ((multiclass_contract(), _multiclass), (regression_contract(), _regression)):
        layout = make_layout(contract, table(rows))
        parts = [fold(layout, table(each)) for each in (rows[:cut], rows[cut:])]
        assert merge(parts) == merge(parts[::-1]) == fold(layout, table(rows))


def _multiclass(rows):
    chance = pa.array([None if x is None or not 0 <= x <= 1 else x for _, _, x, _ in rows], pa.float64())
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in (0, 1)]
    return pa.table([*columns, chance, chance, chance], ["kind", "prediction", *(f"probability_{c}" for c in "abc")])


def _regression(rows):
    return pa.table(
        {
            "paid": pa.array([x for _, _, x, _ in rows], pa.float64()),
            "prediction": pa.array([y for _, _, _, y in rows], pa.float64()),
        }
    )


@examples(60)
@given(st.lists(any_floats, max_size=40), st.randoms())
def test_sums_are_exact_and_rounded_once(values, random):
    def total_of(numbers):
        groups = np.zeros(len(numbers), np.int64)
        slots, sums = [], []
        for _, mine, added in limbs(np.array(numbers, np.float64), groups, 1):
            slots += mine.tolist()
            sums += added.tolist()
        return summed(np.array(slots, np.int64), np.array(sums, np.int64))

    exact = sum((Fraction(value) for value in values), Fraction(0))
    try:
        expected = exact.numerator / exact.denominator
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert total_of(values) == expected
    random.shuffle(values)
    assert total_of(values) == expected


@example([-0.0, 0.0, 1.0])
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_score_bins_ascend_and_hold_their_scores(scores):
    ordered = np.sort(np.array(scores))
    bins = score_bins(ordered)
    assert (np.diff(bins) >= 0).all()
    least, most = score_bin_edges(bins)
    assert ((least <= ordered * (1 + 1e-7)) & (ordered <= most * (1 + 1e-7) + 1e-12)).all()
    near = np.minimum(ordered, 1 - ordered)
    assert (most - least <= near / 64 + 1e-30).all()


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=40))
def test_float_bins_ascend_and_are_as_fine_as_a_hundredth(values):
    ordered = np.sort(np.array(values))
    bins = float_bins(ordered)
    assert (np.diff(bins) >= 0).all()
    large = np.abs(ordered) > 1e-30
    assert float_bin_values(bins)[large] == pytest.approx(ordered[large], rel=0.01)


@FEW
@given(binary_rows)
def test_a_profile_counts_every_row(rows):
    profile = Profile.of(LAYOUT, fold(LAYOUT, binary_table(rows)))
    assert profile.rows() == len(rows)
    cells = fold(LAYOUT, binary_table(rows))
    assert sum(cell.weight * tally.at(0, 0) for cell, tally in cells.items() if not cell.segment) == sum(
        row[-1] for row in rows
    )


@FEW
@given(binary_rows, st.integers(1, 4))
def test_segments_add_up_to_all_rows_that_have_a_value(rows, limit):
    table = binary_table([(age, plan and f"{plan}{age}"[:6], *rest) for age, plan, *rest in rows])
    layout = replace(LAYOUT, contract=binary_contract(segment_values=limit), segments=()).with_segments_of(table)
    cells = fold(layout, table)
    assert len({cell.segment for cell in cells if cell.segment}) <= limit + 1
    whole = fold(layout, table.filter(pc.is_valid(table.column("plan"))))
    for block, slot in [(Block.ROWS, kind) for kind in (Rows.PREDICTED, Rows.LABELLED, Rows.RIGHT, Rows.SCORED)]:
        counted = Counter()
        for cell, tally in cells.items():
            counted[bool(cell.segment), cell.hour, cell.weight] += tally.at(block, slot)
        assert {key: n for key, n in counted.items() if key[0] and n} == {
            (True, cell.hour, cell.weight): n
            for cell, tally in whole.items()
            if not cell.segment and (n := tally.at(block, slot))
        }


def test_a_value_that_reads_like_the_rest_is_part_of_it():
    rows = [(1.0, plan, 0.9, True, 0, 1.0) for plan in ("a", "a", "(other)", "b")]
    for limit, rest in ((1, 2), (9, 1)):
        layout = Layout(binary_contract(segment_values=limit)).with_segments_of(binary_table(rows))
        cells = fold(layout, binary_table(rows))
        assert {cell.segment: tally.at(0, 0) for cell, tally in cells.items()}["plan=(other)"] == rest


def test_the_layout_of_nothing_counts_outcomes_alone():
    cells = fold(Layout(binary_contract()), binary_table([(1.0, "pro", 0.9, True, 0, 1.0)]))
    assert {cell.segment for cell in cells} == {"", "plan=pro"}
    assert total(cells.values()).at(0, 0) == 2

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.decisions.change import start_error_monitor
from feedback_loop.decisions.ranks import start_rank_monitor
from feedback_loop.monitoring.profiles import merge, profile_like, reference_profile
from feedback_loop.schema import Column, ColumnType

NUMBER, WORD = Column("x", ColumnType.DOUBLE), Column("w", ColumnType.STRING)
numbers = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("inf")))
words = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "new"]))
rows = st.lists(st.tuples(numbers, words), max_size=60)


def table(values):
    return pa.table(
        {"x": pa.array([x for x, _ in values], pa.float64()), "w": pa.array([w for _, w in values], pa.string())}
    )


REFERENCE = reference_profile(table([(float(place % 17), "abc"[place % 3]) for place in range(200)]), [NUMBER, WORD])


def same(one, other):
    assert one.rows == other.rows
    assert one.columns["w"] == other.columns["w"]
    x, y = one.columns["x"], other.columns["x"]
    assert (x.counts, x.missing, x.rows, x.least, x.most) == (y.counts, y.missing, y.rows, y.least, y.most)
    assert x.mean == pytest.approx(y.mean, rel=1e-9, abs=1e-6)
    assert x.squares == pytest.approx(y.squares, rel=1e-6, abs=1e-3)


@given(rows, rows, rows)
def test_profiles_merge_to_that_of_all_rows_in_any_order(first, second, third):
    parts = [profile_like(REFERENCE, table(part)) for part in (first, second, third)]
    whole = profile_like(REFERENCE, table(first + second + third))
    same(merge(parts), whole)
    same(merge([merge(parts[1:]), parts[0]]), whole)


@given(rows)
def test_a_profile_counts_every_row(values):
    profile = profile_like(REFERENCE, table(values))
    number, word = profile.columns["x"], profile.columns["w"]
    assert sum(number.counts) + number.missing == len(values)
    assert word.rows + word.missing == len(values)


def grouped(labels, cuts):
    places = sorted({0, len(labels), *(cut for cut in cuts if cut < len(labels))})
    return [labels[start:end] for start, end in pairwise(places)]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 800), max_size=8), st.sampled_from(["error", "rank"]))
def test_any_grouping_of_the_same_labels_gives_the_same_monitor(seed, cuts, kind):
    random = np.random.default_rng(seed)
    reference, coming = random.beta(1, 5, 1500), random.beta(1, 4, 800)
    if kind == "error":
        monitor = start_error_monitor((reference > 0.3).astype(float), alpha=0.05, seed=seed)
        coming = (coming > 0.3).astype(float)
    else:
        monitor = start_rank_monitor(reference, alpha=0.05, seed=seed)
    at_once, piecemeal = monitor.update(coming), monitor
    for part in grouped(coming, cuts):
        piecemeal = piecemeal.update(part)
    assert piecemeal == at_once

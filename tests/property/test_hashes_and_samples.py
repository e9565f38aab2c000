"""Hashes of values and samples of rows, whatever they are."""

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_loop.clock import Window
from feedback_loop.inference.exploring import Exploring
from feedback_loop.schema import Column, ColumnType, as_table, canonical, coerce, hashed, in_sample, prediction_id
from tests.builders import binary_contract, evaluate_rows

T = ColumnType
START = datetime(2026, 3, 1, tzinfo=UTC)
NUMBERS = (T.INTEGER, T.LONG, T.FLOAT, T.DOUBLE)


def digest(value, kind, *, text=False):
    column = Column("x", kind, required=False)
    typed = coerce(as_table({"x": [value]}), [column], text=text).column(0)
    return hashed(column, typed, b"key").to_pylist()[0]


@given(number=st.integers(-(2**24), 2**24))
def test_a_number_has_one_hash_in_json_parquet_and_csv_and_in_every_type(number):
    ways = [digest(number, kind) for kind in NUMBERS]
    ways += [digest(float(number), kind) for kind in NUMBERS]
    ways += [digest(str(number), kind, text=True) for kind in NUMBERS]
    ways.append(
        hashed(Column("x", T.LONG), pa.chunked_array([pa.array([number], pa.int32())]), b"key").to_pylist()[0]
    )
    assert len(set(ways)) == 1
    assert digest(number + 1, T.LONG) != ways[0]


@given(moment=st.datetimes(timezones=st.just(UTC)), hours=st.integers(-12, 12))
def test_a_moment_has_one_hash_in_every_zone_and_spelling(moment, hours):
    there = (moment.replace(year=min(max(moment.year, 2), 9998))).astimezone(timezone(timedelta(hours=hours)))
    bare = there.astimezone(UTC).replace(tzinfo=None)
    assert len({digest(each, T.DATETIME) for each in (there, there.isoformat(), bare, bare.isoformat())}) == 1


@given(
    one=st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(), st.booleans()),
    other=st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(), st.booleans()),
)
def test_values_have_the_same_text_exactly_if_they_are_equal(one, other):
    if isinstance(one, str) == isinstance(other, str) and isinstance(one, bool) == isinstance(other, bool):
        assert (canonical([one]) == canonical([other])) == (one == other)


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=20))
def test_what_is_missing_is_missing_in_the_hash_too(values):
    column = Column("x", T.DOUBLE, required=False)
    found = hashed(column, pa.chunked_array([pa.array(values, pa.float64())]), b"key").to_pylist()
    assert [each is None for each in found] == [v is None or math.isnan(v) for v in values]


@given(share=st.floats(0.01, 1), smaller=st.floats(0, 1))
def test_a_retry_is_sampled_alike_and_a_smaller_sample_is_part_of_a_larger(share, smaller):
    ids = [prediction_id(START) for _ in range(50)]
    kept = in_sample(ids, share)
    assert (in_sample(ids[::-1], share)[::-1] == kept).all()
    assert not (in_sample(ids, share * smaller) & ~kept).any()
    assert in_sample(ids, 1.0).all()


def logged(random, count, rate_of, accuracy_of):
    """A window whose second half is another world, each half logged at its own rate."""
    half = np.repeat([0, 1], count // 2)
    ids = [prediction_id(START, lambda _: random.getrandbits(74)) for _ in half]
    rates = np.array(rate_of)[half]
    right = np.array([random.random() < accuracy_of[place] for place in half])
    known = np.array([random.random() < (0.9, 0.5)[place] for place in half])
    kept = in_sample(ids, rates)
    truth = np.array([random.random() < 0.5 for _ in half])
    table = pa.table(
        {
            "prediction_id": ids,
            "sample_weight": 1 / rates,
            "churned": pa.array(truth, mask=~known),
            "prediction": np.where(right, truth, ~truth),
            "plan": np.where(half == 0, "basic", "pro"),
            "age": np.where(half == 0, 30.0, 60.0),
        }
    )
    return table.drop_columns(["sample_weight"]), table.filter(pa.array(kept))


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), rates=st.sampled_from([(1.0, 0.1), (0.1, 1.0), (0.5, 0.2)]))
def test_metrics_of_a_sample_are_those_of_all_rows_up_to_their_error(seed, rates):
    import random

    contract = binary_contract(probabilities=False)
    whole, sample = logged(random.Random(seed), 4000, rates, (0.9, 0.6))
    window, arguments = Window(START, START + timedelta(days=1)), {"version": "1", "as_of": START, "matured": True}
    every = evaluate_rows(contract, whole, None, window=window, **arguments)
    some = evaluate_rows(contract, sample, None, window=window, **arguments)
    found = next(m for m in some.metrics if m.metric == "accuracy" and not m.segment)
    assert abs(found.value - every.metric("accuracy")) < 5 * found.standard_error
    assert some.coverage == pytest.approx(every.coverage, abs=0.1)
    # Unweighted, the half that is logged more often would count for more: by far beyond that error.
    labelled = sample.drop_null()
    naive = np.mean(labelled.column("churned").to_numpy() == labelled.column("prediction").to_numpy())
    assert abs(naive - every.metric("accuracy")) > abs(found.value - every.metric("accuracy"))


def test_the_mean_over_many_samples_is_the_mean_of_all_rows():
    import random

    contract, gaps, errors = binary_contract(probabilities=False), [], []
    window, arguments = Window(START, START + timedelta(days=1)), {"version": "1", "as_of": START, "matured": True}
    for seed in range(100):
        whole, sample = logged(random.Random(seed), 400, (1.0, 0.2), (0.9, 0.6))
        every = evaluate_rows(contract, whole, None, window=window, **arguments)
        some = evaluate_rows(contract, sample, None, window=window, **arguments)
        gaps.append(some.metric("accuracy") - every.metric("accuracy"))
        errors.append(next(m for m in some.metrics if m.metric == "accuracy").standard_error)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / np.sqrt(len(gaps))
    assert np.std(gaps) < np.mean(errors)


@given(
    keys=st.lists(st.tuples(st.integers(0, 2**40), st.text(min_size=1, max_size=8)), min_size=1, max_size=30),
    shares=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
)
def test_a_key_is_always_or_never_explored_and_a_larger_share_only_adds_keys(keys, shares):
    contract, (small, large) = binary_contract(), sorted(shares)
    columns = {"customer": [customer for customer, _ in keys], "month": [month for _, month in keys]}
    ids = [str(number) for number in range(len(keys))]

    def explored(share, columns=columns, ids=ids):
        return Exploring(contract, share).explored(columns, ids).tolist()

    few = explored(small)
    assert few == explored(small, ids=ids[::-1])
    backwards = {name: pa.chunked_array([pa.array(values[::-1])]) for name, values in columns.items()}
    assert few == explored(small, columns=backwards)[::-1]
    assert all(more >= less for more, less in zip(explored(large), few, strict=True))
    assert not any(explored(0.0))

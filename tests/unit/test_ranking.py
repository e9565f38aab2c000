"""Ranking within queries: NDCG and MRR, held against scikit-learn and against every order of ties."""

from datetime import UTC, datetime, timedelta
from itertools import permutations, product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.errors import ConfigError, ContractError
from feedback_loop.monitoring.ranking import query_metrics
from feedback_loop.schema import Column, ColumnType, Task, make_contract, make_redaction
from tests.builders import binary_contract, evaluate_rows

START = datetime(2026, 3, 1, tzinfo=UTC)


def contract(**changes):
    options = {
        "model": "search",
        "task": Task.REGRESSION,
        "features": (Column("x", ColumnType.DOUBLE),),
        "label": "relevance",
        "label_type": ColumnType.DOUBLE,
        "key": ("search", "document"),
        "query": "search",
    }
    return make_contract(**(options | changes))


def rows_of(queries, scores, gains, **columns):
    return pa.table(
        {
            "search": pa.array(queries, pa.string()),
            "prediction": pa.array(scores, pa.float64()),
            "relevance": pa.array(gains, pa.float64()),
            **columns,
        }
    )


def of(rows, using=None):
    return {each.metric: each for each in query_metrics(using or contract(), rows)}


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_scikit_learns_with_ties_too(seed):
    random = np.random.default_rng(seed)
    queries = random.integers(0, 40, 1000)
    scores, gains = random.integers(0, 9, 1000) / 3, random.integers(0, 4, 1000)
    gains[queries == 7] = 0  # nothing relevant
    found = of(rows_of([str(each) for each in queries], scores, gains))
    for name, k in (("ndcg", None), ("ndcg@10", 10)):
        exact = [ndcg_score([gains[queries == each]], [scores[queries == each]], k=k) for each in np.unique(queries)]
        assert found[name].value == pytest.approx(np.mean(exact), rel=1e-12)
        assert found[name].standard_error == pytest.approx(np.std(exact, ddof=1) / np.sqrt(40), rel=1e-9)
        assert (found[name].rows, found[name].coverage) == (40, 1.0)
        assert found[name].least == found[name].most == found[name].value


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.7]), st.sampled_from([0, 0, 1, 3])), min_size=1, max_size=6))
@settings(max_examples=60)
def test_the_reciprocal_rank_is_the_mean_over_all_orders_of_equal_scores(pairs):
    falling = sorted((score for score, _ in pairs), reverse=True)
    ranks = [
        next((1 / (place + 1) for place, (_, gain) in enumerate(order) if gain), 0.0)
        for order in permutations(pairs)
        if [score for score, _ in order] == falling
    ]
    scores, gains = zip(*pairs, strict=True)
    found = of(rows_of(["a"] * len(pairs), scores, gains))
    assert found["mrr"].value == pytest.approx(np.mean(ranks))
    assert ("ndcg" in found) == (len(pairs) > 1)


@settings(max_examples=60)
@given(st.data(), st.integers(3, 9))
def test_whatever_the_unlabelled_are_worth_the_metrics_of_all_queries_are_within_the_bounds(data, count):
    queries = data.draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    scores = data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.9]), min_size=count, max_size=count))
    gains = data.draw(st.lists(st.sampled_from([None, 0.0, 1.0, 2.0, 0.0]), min_size=count, max_size=count))
    missing = [place for place, gain in enumerate(gains) if gain is None][:4]
    gains = [0.0 if gain is None and place not in missing else gain for place, gain in enumerate(gains)]
    found = of(rows_of(queries, scores, gains))
    for others in product([0.0, 1.0, 5.0], repeat=len(missing)):
        whole = list(gains)
        for place, other in zip(missing, others, strict=True):
            whole[place] = other
        every = of(rows_of(queries, scores, whole))
        for name, each in found.items():
            assert each.least - 1e-12 <= every[name].value <= each.most + 1e-12, (name, others)


def test_a_query_counts_once_all_its_rows_have_outcomes():
    rows = rows_of(list("aabbcc"), [0.9, 0.1, 0.9, 0.1, 0.9, 0.1], [0, 1, 1, 0, None, 1])
    found = of(rows)
    assert (found["mrr"].value, found["mrr"].rows, found["mrr"].coverage) == (0.75, 2, pytest.approx(2 / 3))
    assert found["mrr"].least == pytest.approx((1.5 + 0.5) / 3)  # of the third, its second row is relevant
    assert found["mrr"].most == pytest.approx((1.5 + 1) / 3)


def test_a_binary_label_is_ranked_by_its_probability_and_without_one_by_the_answer():
    using = binary_contract(query="month")
    rows = pa.table(
        {
            "month": ["may"] * 4,
            "prediction": [True, True, False, False],
            "probability": [0.6, 0.9, 0.2, 0.4],
            "churned": [False, True, True, False],
        }
    )
    found = of(rows, using)
    assert found["mrr"].value == 1.0
    assert found["ndcg"].value == pytest.approx(ndcg_score([[0, 1, 1, 0]], [[0.6, 0.9, 0.2, 0.4]]))
    bare = of(rows.drop_columns("probability"), binary_contract(query="month", probabilities=False))
    assert bare["ndcg"].value == pytest.approx(ndcg_score([[0, 1, 1, 0]], [[1, 1, 0, 0]]))


@pytest.mark.parametrize(
    ("queries", "scores", "gains"),
    [
        ([], [], []),
        ([None, None], [0.5, 0.1], [1, 0]),
        (["a"], [0.5], [1]),
        (["a", "a"], [None, 0.1], [1, 0]),
        (["a", "a"], [float("inf"), float("inf")], [1, 0]),
        (["a", "a"], [0.5, 0.1], [None, None]),
        (["a", "a"], [0.5, 0.1], [-1, 2]),
        (["a", "a"], [0.5, 0.1], [float("inf"), 2]),
        (["a", "a", "b", "b"], [0.5, 0.1, None, 0.3], [0, 0, 1, 1]),
        ([str(each) for each in range(100_000)], [0.5] * 100_000, [1.0] * 100_000),
    ],
)
def test_nasty_queries_break_no_metric(queries, scores, gains):
    for each in of(rows_of(queries, scores, gains)).values():
        assert 0 <= each.least <= each.value <= each.most <= 1


def test_rows_that_stand_for_others_do_not_make_a_whole_query():
    rows = rows_of(list("aabb"), [0.9, 0.1, 0.9, 0.1], [0, 1, 1, 0], sample_weight=[1.0, 1.0, 2.0, 2.0])
    assert of(rows)["mrr"].rows == 1


def test_an_evaluation_has_the_metrics_of_queries_beside_the_others():
    rows = rows_of(list("aabb"), [0.9, 0.1, 0.9, 0.1], [0, 1, 1, 0], x=[0.0] * 4)
    window = Window(START, START + timedelta(days=1))
    found = evaluate_rows(contract(), rows, None, version="1", window=window, as_of=START, matured=True)
    assert found.metric("mrr") == 0.75
    assert found.metric("mae") is not None


def test_a_query_is_a_column_of_a_task_whose_rows_can_be_ranked():
    with pytest.raises(ContractError, match="has no column 'shop'"):
        contract(query="shop")
    with pytest.raises(ContractError, match="in no order"):
        contract(task=Task.MULTICLASS, label_type=ColumnType.STRING)
    with pytest.raises(ValueError, match=r"log.sample must be 1"):
        ModelSettings(task="binary", label="clicked", query="search", log={"sample": 0.5})
    with pytest.raises(ConfigError, match="queries are told apart by it"):
        make_redaction(contract(key=(), query="x"), {"x": "drop"}, b"")

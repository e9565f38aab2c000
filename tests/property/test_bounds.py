"""Whatever the outcomes of the unlabelled are, the metric of all predictions lies within its bounds."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.monitoring.validation import validation_metrics
from tests.builders import binary_contract, multiclass_contract, regression_contract
from tests.streams import examples

CLOSE = 1e-9
CHANCES = st.sampled_from([0.0, 1e-9, 0.05, 0.2, 0.21, 0.5, 0.51, 0.8, 0.999, 1.0])
WEIGHTS = st.sampled_from([1.0, 1.0, 4.0])


def of(contract, rows):
    return {each.metric: each for each in validation_metrics(contract, rows) if not each.segment}


def assert_within(contract, world, some, worlds):
    """`world(outcomes)` are the rows with these outcomes (None: none), `some` the ones of which metrics are asked."""
    found = of(contract, world(some))
    missing = [place for place, outcome in enumerate(some) if outcome is None]
    for others in worlds(len(missing)):
        outcomes = list(some)
        for place, other in zip(missing, others, strict=True):
            outcomes[place] = other
        whole = of(contract, world(outcomes))
        for name, each in found.items():
            if name in whole:
                value, slack = whole[name].value, CLOSE * max(abs(whole[name].value), 1.0)
                assert each.least is None or each.least <= value + slack, (name, others)
                assert each.most is None or value <= each.most + slack, (name, others)
    return found


RANKED = ("roc_auc", "pr_auc", "calibration_error", "lift")
"""Of what is of ranked scores, and of means over classes, no bounds are told."""


def assert_bounded(found):
    bounded = {name for name, each in found.items() if each.least is not None and each.most is not None}
    assert bounded == {
        name for name in found if not name.startswith(RANKED) and not name.endswith(("_macro", "_weighted"))
    }


def binary_world(chances, weights):
    def world(outcomes):
        return pa.table(
            {
                "churned": pa.array(outcomes, pa.bool_()),
                "prediction": [chance > 0.5 for chance in chances],
                "probability": chances,
                "sample_weight": weights,
            }
        )

    return world


@examples(10)
@given(st.data(), st.integers(1, 6), st.integers(0, 5))
def test_binary_metrics_lie_within_their_bounds_in_every_world(data, known, unknown):
    rows = known + unknown
    chances = data.draw(st.lists(CHANCES, min_size=rows, max_size=rows))
    weights = data.draw(st.lists(WEIGHTS, min_size=rows, max_size=rows))
    told = data.draw(st.lists(st.booleans(), min_size=known, max_size=known))
    found = assert_within(
        binary_contract(),
        binary_world(chances, weights),
        [*told, *[None] * unknown],
        lambda count: product([False, True], repeat=count),
    )
    assert_bounded(found)


@examples(6)
@given(st.data(), st.integers(1, 6), st.integers(0, 3))
def test_multiclass_metrics_lie_within_their_bounds_in_every_world(data, known, unknown):
    rows = known + unknown
    logit = st.sampled_from([-20.0, 0.0, 0.1, 2.0])
    logits = data.draw(st.lists(logit, min_size=3 * rows, max_size=3 * rows))
    chances = np.exp(np.array(logits).reshape(rows, 3))
    chances /= chances.sum(axis=1, keepdims=True)
    answers = np.array(["a", "b", "c"])[chances.argmax(axis=1)]
    weights = data.draw(st.lists(WEIGHTS, min_size=rows, max_size=rows))
    outcome = st.sampled_from(["a", "b", "c", "a", "b", "z"])  # z is none that the model knows
    told = data.draw(st.lists(outcome, min_size=known, max_size=known))

    def world(outcomes):
        columns = {f"probability_{name}": chances[:, place] for place, name in enumerate("abc")}
        kinds = pa.array(outcomes, pa.string())
        return pa.table({"kind": kinds, "prediction": answers, "sample_weight": weights, **columns})

    found = assert_within(
        multiclass_contract(), world, [*told, *[None] * unknown], lambda count: product("abcz", repeat=count)
    )
    assert_bounded(found)


@examples(10)
@given(st.data(), st.integers(1, 6), st.integers(0, 3))
def test_regression_metrics_lie_within_their_bounds_in_every_world(data, known, unknown):
    number = st.floats(-50, 50).map(lambda value: round(value, 2))
    answers = data.draw(st.lists(number, min_size=known + unknown, max_size=known + unknown))
    told = data.draw(st.lists(number, min_size=known, max_size=known))

    def world(outcomes):
        return pa.table({"paid": pa.array(outcomes, pa.float64()), "prediction": answers})

    def worlds(count):
        right = answers[known:]
        return [right, *product([-1e6, 0.0, 1.5, 1e6], repeat=count), *([each + 0.1 for each in right],)]

    assert_within(regression_contract(), world, [*told, *[None] * unknown], worlds)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_where_every_outcome_is_known_the_bounds_are_the_value(task):
    random = np.random.default_rng(3)
    chances = random.dirichlet([1, 2, 3], 500)
    if task == "binary":
        contract = binary_contract()
        rows = binary_world(chances[:, 0].tolist(), [1.0] * 500)((random.random(500) < chances[:, 0]).tolist())
    elif task == "multiclass":
        contract, classes = multiclass_contract(), np.array(["a", "b", "c"])
        columns = {f"probability_{name}": chances[:, place] for place, name in enumerate("abc")}
        answers = classes[chances.argmax(axis=1)]
        rows = pa.table({"kind": random.choice(classes, 500), "prediction": answers, **columns})
    else:
        contract = regression_contract()
        rows = pa.table({"paid": random.normal(size=500), "prediction": random.normal(size=500)})
    for each in of(contract, rows).values():
        if each.least is not None:
            assert (each.least, each.most) == (pytest.approx(each.value), pytest.approx(each.value)), each.metric

"""What monitors are fed: the losses of rows and of segments, of the reference and of each cohort."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import PolicySettings, WatchSettings
from feedback_loop.decisions import Baseline
from feedback_loop.decisions.losses import (
    MOST_KEPT,
    Losses,
    LossHistory,
    Watched,
    baseline_of,
    losses_of,
    monitored_loss,
    watched_of,
)
from feedback_loop.errors import ConfigError
from tests.builders import binary_contract, regression_contract

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_what_was_seen_stays_small_and_its_sums_right():
    seen = LossHistory()
    for day in range(1000):
        seen = seen.plus([START + day * DAY], [np.full(10, 0.2 if day < 990 else 0.9)])
    assert len(seen.parts) <= MOST_KEPT
    assert seen.labels == 10_000
    assert seen.mean == pytest.approx(0.207)
    assert seen.parts[seen.change(0.2, 5000)].since == (START + 990 * DAY).isoformat()
    assert seen.change(0.95, 10_000) is None or seen.mean > 0.2


def test_losses_that_fell_have_no_moment_since_which_they_are_higher():
    seen = LossHistory().plus([START, START + DAY], [np.full(100, 0.3), np.full(100, 0.1)])
    assert seen.change(0.3, 1000) is None


def labelled(count=400):
    random = np.random.default_rng(0)
    plan = random.choice(["a", "b", "c"], count)
    return {"plan": plan, "churned": random.random(count) < 0.5, "probability": random.random(count)}


def rows_of(contract, values):
    columns = {contract.label.stored: pa.array(values["churned"])}
    columns |= {contract.outputs[0].stored: pa.array(values["probability"] > 0.5)}
    columns |= {contract.outputs[1].stored: pa.array(values["probability"])}
    columns |= {contract.column("plan").stored: pa.array(values["plan"])}
    times = [START + timedelta(minutes=minute) for minute in range(len(values["plan"]))]
    return pa.table(columns | {"predicted_at": pa.array(times, pa.timestamp("us", "UTC"))})


def test_losses_know_their_segments():
    contract, values = binary_contract(segments=("plan",)), labelled()
    found = losses_of(contract, rows_of(contract, values))
    assert set(found.members) == {"plan=a", "plan=b", "plan=c"}
    own = found.of(Watched("error", "plan=a"))
    wrong = values["churned"] != (values["probability"] > 0.5)
    assert own.tolist() == wrong[values["plan"] == "a"].astype(float).tolist()
    assert found.of(Watched("error", "plan=z")).tolist() == []


def test_of_a_column_of_many_segments_the_largest_are_known():
    contract, values = binary_contract(segments=("plan",)), labelled(3000)
    values["plan"] = np.array([f"p{place}" for place in np.random.default_rng(1).geometric(0.02, 3000)])
    found = losses_of(contract, rows_of(contract, values))
    assert len(found.members) == contract.segment_values
    rarest = min(set(values["plan"]) - {name.partition("=")[2] for name in found.members})
    assert len(found.of(Watched("error", f"plan={rarest}"))) == (values["plan"] == rarest).sum() > 0


def test_where_answers_are_adapted_each_loss_is_watched_as_served_and_raw_with_half_of_alpha():
    contract, values = binary_contract(segments=("plan",)), labelled()
    settings = PolicySettings(watch=(WatchSettings(segment="plan=a", weight=3),))
    pairs = watched_of(contract, settings, is_adapted=True)
    assert [(watched.name, watched.share) for watched in pairs] == [
        ("brier", 0.125),
        ("brier of plan=a", 0.375),
        ("raw brier", 0.125),
        ("raw brier of plan=a", 0.375),
    ]
    rows = rows_of(contract, values)
    assert losses_of(contract, rows).of(pairs[2]).tolist() == losses_of(contract, rows).of(pairs[0]).tolist()
    raw = np.where(values["plan"] == "a", values["probability"] / 2, np.nan)
    column = contract.raw_outputs[1].stored
    adapted = losses_of(contract, rows.append_column(column, pa.array(raw, from_pandas=True)))
    own = np.where(values["plan"] == "a", values["probability"] / 2, values["probability"])
    served, raws = ((chances - values["churned"]) ** 2 for chances in (values["probability"], own))
    np.testing.assert_allclose(adapted.of(pairs[0]), served)
    np.testing.assert_allclose(adapted.of(pairs[2]), raws)
    np.testing.assert_allclose(adapted.of(pairs[3]), raws[values["plan"] == "a"])


def test_a_baseline_ends_where_its_reference_is_whole():
    contract, rows = binary_contract(segments=("plan",)), rows_of(binary_contract(), labelled(1200))
    settings = ModelSettings(task="binary", label="churned", policy=PolicySettings(reference=1000))
    assert baseline_of(contract, rows, settings).until == START + timedelta(minutes=1199)
    assert baseline_of(contract, rows.slice(0, 999), settings).until is None
    assert len(baseline_of(contract, rows.slice(0, 0), settings).raw(Watched("brier"))) == 0


def test_losses_without_a_bound_are_measured_by_the_reference():
    reference = Losses({"absolute_error": np.arange(1.0, 101.0), "brier": np.array([0.3])})
    base = Baseline((Watched("absolute_error"),), reference, np.arange(100))
    found = base.scaled(base.watched[0], np.array([0.0, 49.5, 1e9]))
    assert found == pytest.approx([0, 0.4995, 1], abs=1e-3)
    assert base.scaled(Watched("brier"), np.array([0.3])).tolist() == [0.3]


def test_the_loss_that_is_watched_fits_the_task():
    assert monitored_loss(binary_contract(), "auto") == "brier"
    assert monitored_loss(binary_contract(probabilities=False), "auto") == "error"
    assert monitored_loss(regression_contract(), "auto") == "absolute_error"
    assert monitored_loss(binary_contract(), "error") == "error"
    with pytest.raises(ConfigError, match="its answers tell error"):
        monitored_loss(binary_contract(probabilities=False), "brier")


def test_shares_of_alpha_are_in_proportion_to_the_weights():
    watch = (WatchSettings(segment="side=east"), WatchSettings(segment="side=west", weight=2))
    found = watched_of(binary_contract(), PolicySettings(watch=watch))
    assert [(each.name, each.share) for each in found] == [
        ("brier", 0.25),
        ("brier of side=east", 0.25),
        ("brier of side=west", 0.5),
    ]


@pytest.mark.parametrize(
    ("watch", "why"),
    [
        ({"segment": "plan=a"}, "'plan' is not among the segments"),
        ({}, "that of all rows is already"),
        ({"segment": "side"}, "match pattern"),
        ({"weight": 0, "segment": "side=x"}, "greater than 0"),
    ],
)
def test_what_can_not_be_watched_is_refused_when_the_configuration_is_read(watch, why):
    with pytest.raises(ValidationError, match=why):
        ModelSettings(task="binary", label="churned", segments=("side",), policy={"watch": [watch]})

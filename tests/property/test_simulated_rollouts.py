"""Rollouts of equal, worse and better challengers, by the product's own functions: how often they end wrongly."""

import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pytest

from feedback_loop.config import ModelSettings
from feedback_loop.config_policy import RolloutSettings
from feedback_loop.promotion import THE_LOOP, Champions, RolloutDesk
from feedback_loop.promotion.live import MaturedWindows, Scale
from feedback_loop.promotion.paired import WindowPair
from feedback_loop.registry import Registry
from feedback_loop.registry.client import Connection
from feedback_loop.retraining import non_inferiority
from feedback_loop.store import Store, rollouts

ALPHA, WINDOWS, SPREAD, LOSS, ROWS = 0.05, 14, 0.01, 0.2, 40
DAY, START = timedelta(days=1), datetime(2026, 1, 1, tzinfo=UTC)
EFFECTS = {"equal": 0.0, "worse": 2.0, "better": -2.0}  # in standard deviations of a window's difference
NAMES = (f"simulated-{number}" for number in count())


@pytest.fixture(scope="module")
def place(empty_mlflow, prepared_sqlite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    store = Store(f"sqlite:///{shutil.copy(prepared_sqlite, folder)}")
    yield store, Registry(Connection(f"sqlite:///{shutil.copy(empty_mlflow, folder)}", "", folder, "e")), folder
    store.close()


def judge(rollout):
    """The gate on the rows of a rollout's windows."""
    pairs = rollout.evidence["windows"]
    losses = [np.repeat([pair[name] for pair in pairs], ROWS) for name in ("candidate", "baseline")]
    days = np.repeat(np.array([pair["window_end"][:10] for pair in pairs], "datetime64[us]"), ROWS)
    return non_inferiority("brier", *losses, days, margin=0.02, alpha=ALPHA)


def play(place, mode, effect, random):
    """One challenger from its landing to its end, and on through its probation: how each ended, after which look.

    Labels come late and in bunches, and not in every window are there enough.
    """
    store, registry, folder = place
    model = next(NAMES)
    registry._mlflow.client.create_registered_model(model)
    for _ in range(2):
        registry._mlflow.client.create_model_version(model, folder.as_uri())

    def compare(rollout, matured, _):
        better = 1 if rollout.stage != "probation" else random.uniform(0.999, 1.001)

        def pairs(since, days, mean):
            drawn = random.normal(mean * SPREAD * better, SPREAD, days)
            return [
                WindowPair((since + (day + 1) * DAY).isoformat(), ROWS, LOSS + float(difference), LOSS)
                for day, difference in enumerate(drawn)
                if random.random() > 0.05
            ]

        before = [] if rollout.evidence.get("scale") else pairs(rollout.since - WINDOWS * DAY, WINDOWS, 0.0)
        days = (matured - rollout.until).days
        return MaturedWindows(Scale("brier"), pairs(rollout.until, days, effect), before)

    plan = RolloutSettings(mode=mode, windows=WINDOWS, probation=WINDOWS, alpha=ALPHA)
    desk = RolloutDesk(
        Champions(store, registry, model, "champion"),
        ModelSettings(task="binary", label="y", rollout=plan),
        compare,
    )
    now = START
    desk.champions.promote("1", reason="the first", now=now, made_by="ada")
    desk.land("2", "1", now, reason="it was found", made_by=THE_LOOP)
    while True:
        now += int(random.integers(1, 5)) * DAY
        matured = now - int(random.integers(0, 3)) * DAY
        if desk.turn(now, matured, judge) is None:
            break
        if now > START + 200 * DAY:
            raise AssertionError("it never ends")
    return rollouts.load_rollouts(store, model)


def ended(runs, stage):
    """How often each way, and why: by evidence, or by the gate at the end."""
    of_stage = [rollout for run in runs for rollout in run if rollout.stage == stage]
    ways = Counter(
        f"{rollout.state}, {rollout.evidence['decision']}" for rollout in of_stage if "decision" in rollout.evidence
    )
    assert sum(ways.values()) == len(of_stage)
    return ways, len(of_stage)


FEW = [("equal", "shadow", 2), ("worse", "shadow", 2), ("better", "canary", 2)]
MANY = [
    pytest.param(challenger, mode, streams, marks=pytest.mark.statistics)
    for challenger in EFFECTS
    for mode, streams in (("shadow", 1000), ("canary", 250))
]


@pytest.mark.parametrize(("challenger", "mode", "streams"), [*FEW, *MANY])
def test_a_challenger_ends_wrongly_at_most_as_often_as_alpha_says(place, challenger, mode, streams):
    random = np.random.default_rng(7)
    runs = [play(place, mode, EFFECTS[challenger], random) for _ in range(streams)]
    ways, begun = ended(runs, mode)
    tried, probations = ended(runs, "probation")
    promoted = sum(number for way, number in ways.items() if way.startswith("passed"))
    assert (begun, probations) == (streams, promoted)

    def most(number):
        return ALPHA * number + 2 * np.sqrt(ALPHA * (1 - ALPHA) * number)

    if challenger != "worse":
        assert ways["harmful, harm"] <= most(streams)
        assert tried["harmful, harm"] <= most(probations)
    if challenger != "better":
        assert ways["passed, gain"] <= most(streams)
    if challenger == "worse":
        assert promoted <= most(streams)
        assert ways["harmful, harm"] >= 0.9 * streams
    if challenger == "better":
        assert promoted >= 0.9 * streams

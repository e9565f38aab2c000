"""The loss that followed an alarm: of a version that is gone, of one whose features the log hides, of a shadow."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from feedback_loop.clock import Window
from feedback_loop.config import ModelSettings
from feedback_loop.errors import NotFound
from feedback_loop.outcomes import record_outcomes
from feedback_loop.retraining import Following
from feedback_loop.store import conclusions
from feedback_loop.store.predictions import PredictionLog
from tests.builders import (
    churn_loop,
    customers,
    multiclass_contract,
    open_loop,
    prediction_rows,
    register_churn,
    write_config,
)
from tests.integration.churn_log import labelled, logged

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
FEATURES = ("customer", "month", "age", "plan")


@pytest.fixture
def shadowed(tmp_path, clock):
    """Version 1 answers for six days, and version 2, which learned the opposite, is its shadow for the last three."""
    loop = churn_loop(tmp_path, clock)
    begun = clock()
    for day in range(6):
        rows = customers(200, day, month=f"{clock():%Y-%m-%d}")
        logged(loop, rows, [clock()] * 200)
        if day == 3:
            register_churn(loop.registry, clock(), turned=True)
        if day >= 3:
            logged(loop, rows, [clock()] * 200, "2", "shadow")
        clock.set(clock() + DAY)
        loop.record_outcomes("churn", labelled(rows))
    clock.set(clock() + DAY)
    yield loop, begun
    loop.close()


def following(loop, available, scorer_of=None):
    return Following(
        loop.store,
        "churn",
        loop.settings.model("churn"),
        scorer_of or (lambda version: loop.scorer(loop.find(f"churn/{version}"))),
        available,
        [],
        loop.clock(),
    )


def alarm(moment):
    window = Window(moment - 2 * DAY, moment - DAY)
    return conclusions.Verdict("churn", "1", moment, window, conclusions.State.DEGRADED, "", {}, {})


def test_a_version_that_is_gone_is_compared_by_what_it_answered_as_a_shadow(shadowed):
    loop, begun = shadowed

    def gone(version):
        if version != "1":
            raise NotFound("model version", f"churn/{version}")
        return loop.scorer(loop.find(f"churn/{version}"))

    available = {"1": begun - DAY, "2": begun + 3 * DAY}
    scored = following(loop, available).after(alarm(begun + 2 * DAY), "error")
    told = following(loop, available, gone).after(alarm(begun + 2 * DAY), "error")
    assert (scored.by, told.by) == ("scored", "shadow")
    assert (told.labels, told.stays, told.takes_over) == (600, scored.stays, scored.takes_over)
    assert told.takes_over > 1 - told.stays - 0.1 > 0.5
    alone = following(loop, {"1": begun, "3": begun + 3 * DAY}, gone).after(alarm(begun + 2 * DAY), "error")
    assert alone.cause == "There is no model version 'churn/3'; nor was version 3 a shadow then"


def test_each_is_held_to_its_own_classes(store):
    """Version 1 knows a, b and c, its shadow b, c and d: what one does not know had no probability."""
    own = {"1": ("a", "b", "c"), "2": ("b", "c", "d")}
    contracts = {version: multiclass_contract(names, settled=tuple("abcd")) for version, names in own.items()}
    truth, random = list("abcd") * 10, np.random.default_rng(0)
    moments = [NOW + minute * timedelta(minutes=1) for minute in range(40)]
    chances = {version: random.dirichlet([1, 1, 1], 40) for version in own}
    for version, role in (("1", "champion"), ("2", "shadow")):
        scores = {f"probability_{name}": chances[version][:, place] for place, name in enumerate(own[version])}
        given = {"prediction": ["b"] * 40, "model_version": [version] * 40, "role": [role] * 40, "x": [0.0] * 40}
        rows = prediction_rows(contracts[version], moments, **given, **scores)
        PredictionLog(store).append(contracts[version], rows, NOW + HOUR)
        outcome = {"prediction_id": rows.column("prediction_id").to_pylist(), "kind": truth}
        record_outcomes(store, contracts["1"], outcome, now=NOW + DAY, source="t")

    def gone(version):
        if version != "1":
            raise NotFound("model version", f"kind/{version}")
        return SimpleNamespace(logged=contracts["1"])

    model = ModelSettings(task="multiclass", label="kind")
    compared = Following(store, "kind", model, gone, {"1": NOW - DAY, "2": NOW}, [], NOW + 9 * DAY)
    told = compared.after(alarm(NOW), "brier")
    hits = {version: np.array([[name == known for known in own[version]] for name in truth]) for version in own}
    stays, takes_over = (
        (((chances[version] - hits[version]) ** 2).sum(axis=1) + ~hits[version].any(axis=1)).mean() / 2
        for version in own
    )
    assert (told.by, told.labels) == ("shadow", 40)
    assert (told.stays, told.takes_over) == pytest.approx((stays, takes_over))


def test_why_nothing_can_be_computed_is_said(shadowed):
    loop, begun = shadowed
    last = alarm(begun + 2 * DAY)
    assert following(loop, {"1": begun}).after(last, "error").cause == "no version was made after it"
    late = following(loop, {"2": loop.clock()}).after(last, "error")
    assert late.cause == "nothing has matured since version 2 was there"
    unknown = following(loop, {"2": begun + 5 * DAY}).after(last, "absolute_error")
    assert unknown.cause.startswith("churn version 1 does not tell its absolute_error")


def test_features_that_the_log_hides_can_not_be_scored_again(shadowed, tmp_path):
    loop, begun = shadowed
    config = write_config(tmp_path, more='[models.churn.log.columns]\nage = "drop"\n')
    hiding = open_loop(config, loop.clock)
    told = following(hiding, {"2": begun + DAY}).after(alarm(begun), "error")
    assert told.by == "shadow"
    told = following(hiding, {"3": begun + DAY}, lambda _: hiding.scorer(hiding.find("churn/2")))
    assert "Some features are logged hashed or not at all" in told.after(alarm(begun), "error").cause
    hiding.close()

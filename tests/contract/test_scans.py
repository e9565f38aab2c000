"""A long window that several processes read and fold says what one read of it says, to the bit."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from joblib.externals.loky import ProcessPoolExecutor

from feedback_loop.clock import Window
from feedback_loop.errors import Unavailable
from feedback_loop.monitoring import profile_store
from feedback_loop.monitoring.profile_store import fold_scan, fold_window
from feedback_loop.monitoring.profiles.fold import Cell, fold_outcomes, merge
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import Column, ColumnType, JoinRule
from feedback_loop.store.predictions import PredictionLog, read_labelled
from feedback_loop.store.scans import scans_of
from tests.builders import binary_contract, prediction_rows

pytestmark = pytest.mark.usefixtures("warm_children")
C, T = Column, ColumnType
START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
WINDOW = Window(START, START + DAY)
VERSION = "it's 5% {odd}"
ROWS = 400


def everything(**changes):
    features = (
        C("age", T.DOUBLE),
        C("plan", T.STRING),
        C("is_new", T.BOOLEAN, required=False),
        C("visits", T.INTEGER, required=False),
        C("account", T.LONG, required=False),
        C("ratio", T.FLOAT, required=False),
        C("since", T.DATETIME, required=False),
        C("note", T.STRING, required=False),
        C("never", T.DOUBLE, required=False),
    )
    return binary_contract(features=features, **changes)


def filled(store, contract):
    """Rows of every type, with gaps, odd values and odd words; outcomes for most, some of them corrected later."""
    drawn = np.random.default_rng(7)
    moments = [START + place * 3 * MINUTE for place in range(ROWS)]
    places = range(ROWS)
    rows = prediction_rows(
        contract,
        moments,
        model_version=[VERSION if place % 5 else "2" for place in places],
        sample_weight=[1.0 if place % 3 else 2.5 for place in places],
        customer=list(places),
        month=["m"] * ROWS,
        age=[None if place % 11 == 0 else np.inf if place % 13 == 0 else drawn.normal() for place in places],
        plan=["it's", "100%", "größer", ""] * (ROWS // 4),
        is_new=[None if place < 50 else bool(place % 2) for place in places],
        visits=[place if place % 2 else None for place in places],
        account=[2**53 + place for place in places],
        ratio=[place / 7 for place in places],
        since=[None if place < 10 else START for place in places],
        note=[None] * 300 + ["late words"] * (ROWS - 300),
        prediction=[place % 4 == 0 for place in places],
        probability=drawn.random(ROWS),
    )
    PredictionLog(store).append(contract, rows, START + DAY)
    known = {"customer": list(range(300)), "month": ["m"] * 300}
    for now, wrong in ((START + 2 * DAY, 3), (START + 3 * DAY, 2)):  # the second time some say something else
        labels = [place % wrong == 0 for place in range(300)]
        record_outcomes(store, contract, {**known, "churned": labels}, now=now, source="t")


def tallies(cells):
    return merge([{Cell(cell.segment, 0, cell.weight): tally} for cell, tally in cells.items()])


@pytest.mark.parametrize(
    ("store", "changes", "as_of"),
    [
        pytest.param(store, changes, as_of, marks=[] if usual else pytest.mark.statistics)
        for store, changes, as_of, usual in [
            ("sqlite", {}, START + 2 * DAY, True),
            ("postgresql", {"join": JoinRule(absent_means=False)}, START + 4 * DAY, True),
            ("sqlite", {"join": JoinRule(absent_means=False)}, START + 2 * DAY, False),
            ("postgresql", {}, START + 4 * DAY, False),
        ]
    ],
    indirect=["store"],
)
def test_slices_that_processes_fold_add_up_to_the_whole_window(store, monkeypatch, changes, as_of):
    contract = everything(**changes)
    filled(store, contract)
    layout = make_layout(contract, read_labelled(store, contract, WINDOW))
    asked = {"version": VERSION, "role": "champion", "as_of": as_of}
    whole = fold_window(store, layout, WINDOW, **asked)
    monkeypatch.setattr(profile_store, "SLICE_ROWS", 150)
    assert len(scans_of(store, contract, WINDOW, 150, **asked)) == 3
    assert tallies(fold_window(store, layout, WINDOW, **asked)) == tallies(whole)
    outcomes = fold_outcomes(layout, read_labelled(store, contract, WINDOW, as_of=as_of, version=VERSION))
    alone = {cell: tally for cell, tally in tallies(outcomes).items() if not cell.segment}
    assert tallies(fold_window(store, layout, WINDOW, **asked, part=profile_store.OUTCOMES)) == alone


def test_a_column_that_an_older_generation_lacks_is_missing_there(store, monkeypatch):
    old = binary_contract()
    moments = [START + place * MINUTE for place in range(60)]
    named = {"customer": list(range(60)), "month": ["m"] * 60, "prediction": [True] * 60, "plan": ["x"] * 60}
    PredictionLog(store).append(old, prediction_rows(old, moments, age=[1.0] * 60, **named), START + DAY)
    new = binary_contract(features=(C("age", T.STRING), C("plan", T.STRING)))
    later = [moment + 2 * timedelta(hours=1) for moment in moments]
    PredictionLog(store).append(new, prediction_rows(new, later, age=["old"] * 60, **named), START + DAY)
    layout = make_layout(new, read_labelled(store, new, WINDOW))
    asked = {"version": "1", "role": "champion", "as_of": START + 2 * DAY}
    whole = fold_window(store, layout, WINDOW, **asked)
    monkeypatch.setattr(profile_store, "SLICE_ROWS", 50)
    assert tallies(fold_window(store, layout, WINDOW, **asked)) == tallies(whole)


def test_a_database_that_is_gone_is_said_to_be_by_the_process_that_reads_it(store):
    contract = binary_contract()
    moments = [START + place * MINUTE for place in range(4)]
    rows = prediction_rows(contract, moments, customer=list(range(4)), month=["m"] * 4)
    PredictionLog(store).append(contract, rows, START)
    asked = {"version": "1", "role": "champion", "as_of": START + DAY}
    (scan,) = scans_of(store, contract, WINDOW, 100, **asked)
    gone = replace(scan, address="file:/nowhere/at/all.db?mode=ro")
    layout = make_layout(contract, read_labelled(store, contract, WINDOW)).to_bytes()
    with ProcessPoolExecutor(1) as process, pytest.raises(Unavailable, match="refused to be read") as failure:
        process.submit(fold_scan, layout, gone).result()
    assert failure.value.cure

"""A version that gets its reference when much is joined already: all of it is tallied, whatever comes meanwhile."""

import zlib
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.decisions.drift import reference_digest
from feedback_loop.monitoring import WindowQuery, fold_news, profile_store
from feedback_loop.monitoring import reference as reference_module
from feedback_loop.monitoring.profile_store import establish, fold_window, kept_cells
from feedback_loop.monitoring.profiles.fold import fold
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.monitoring.profiles.profile import Profile
from feedback_loop.monitoring.window_evaluation import count_window
from feedback_loop.outcomes import record_outcomes
from feedback_loop.store import predictions, profiles
from feedback_loop.store.coverage import load_coverage, overflowing_segments
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, evaluate_rows, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WINDOW = Window(START, START + 30 * DAY)
ASKED = {"version": "1", "window": WINDOW, "as_of": WINDOW.end, "matured": True}


def some_come(store, contract, first, now):
    """Forty predictions with outcomes, and a run of the join."""
    places = list(range(first, first + 40))
    named = {"customer": places, "month": ["m"] * 40}
    rows = prediction_rows(
        contract,
        [START + place * HOUR for place in places],
        age=[float(place % 9) for place in places],
        plan=["a", "b"] * 20,
        prediction=[place % 3 == 0 for place in places],
        probability=[place % 10 / 10 for place in places],
        **named,
    )
    PredictionLog(store).append(contract, rows, now)
    record_outcomes(store, contract, {**named, "churned": [place % 2 == 0 for place in places]}, now=now, source="t")
    join_new(store, contract, DAY, now, fold_news)


@pytest.mark.parametrize("moves", [0, 1, 2, 10])
def test_a_join_that_runs_while_its_rows_are_read_loses_none_of_them(store, monkeypatch, moves):
    contract = binary_contract()
    some_come(store, contract, 0, START + 3 * DAY)
    rows = read_labelled(store, contract, WINDOW)
    layout = make_layout(contract, rows)
    read, came = profile_store._tallied, []

    def read_slowly(connection, *rest):
        found = read(connection, *rest)
        if connection.get_execution_options().get("feedback_loop_writes"):
            return found  # now the join waits
        connection.rollback()  # a reader's snapshot would keep SQLite's log from being emptied
        if len(came) < moves:
            came.append(1)
            some_come(store, contract, 40 * len(came), START + (3 + len(came)) * DAY)
        return found

    monkeypatch.setattr(profile_store, "_tallied", read_slowly)
    establish(store, contract.model, "1", Profile.of(layout, fold(layout, rows)), START)
    assert len(came) == min(moves, profile_store.TRIES - 1)
    kept = profiles.load_window(store, contract.model, "1", "champion", WINDOW)
    asked = {"version": "1", "role": "champion", "as_of": kept.watermark}
    whole = fold_window(store, layout, WINDOW, **asked)
    assert Profile.of(layout, kept_cells(kept.tallies)) == Profile.of(layout, whole)
    assert Profile.of(layout, whole).rows() == 40 * (1 + len(came))


def established(store, contract):
    """A version's reference after a join, and the moment that its tallies are as of."""
    some_come(store, contract, 0, START + 3 * DAY)
    rows = read_labelled(store, contract, WINDOW)
    layout = make_layout(contract, rows)
    reference = Profile.of(layout, fold(layout, rows))
    establish(store, contract.model, "1", reference, START)
    return reference, profiles.load_window(store, contract.model, "1", "champion", WINDOW).watermark


def test_a_reference_is_the_same_whatever_has_packed_it(store, monkeypatch):
    contract = binary_contract()
    reference, now = established(store, contract)
    packed, digest = reference.to_bytes(), reference_digest(reference)
    compress = zlib.compress
    monkeypatch.setattr(zlib, "compress", lambda data, *_: compress(data, 0))
    again = Profile.from_bytes(reference.to_bytes())
    assert (again.to_bytes() == packed, reference_digest(again)) == (False, digest)
    [counted] = count_window(store, contract, WindowQuery(WINDOW, now, DAY, DAY), lambda _: again)
    assert counted.is_kept
    other = Profile(reference.layout, reference.parts[:0])
    [counted] = count_window(store, contract, WindowQuery(WINDOW, now, DAY, DAY), lambda _: other)
    assert not counted.is_kept


def test_what_was_counted_by_another_layout_is_counted_anew(store, monkeypatch):
    contract = binary_contract()
    reference, now = established(store, contract)
    monkeypatch.setattr(profiles, "LAYOUT", profiles.LAYOUT + 1)
    [counted] = count_window(store, contract, WindowQuery(WINDOW, now, DAY, DAY), lambda _: reference)
    assert not counted.is_kept
    establish(store, contract.model, "1", reference, START)
    [counted] = count_window(store, contract, WindowQuery(WINDOW, now, DAY, DAY), lambda _: reference)
    assert counted.is_kept


def test_a_reference_from_the_log_reads_no_more_of_it_than_its_rows(store, monkeypatch):
    contract = binary_contract()
    for first in range(0, 400, 40):
        some_come(store, contract, first, START + 30 * DAY)
    until = START + 30 * DAY
    asked = {"as_of": until + DAY, "version": "1", "role": "champion"}
    whole = read_labelled(store, contract, Window(START, until), **asked)
    read = []

    def counted(*arguments, **options):
        rows = predictions.labelled_in(*arguments, **options)
        read.append(rows.num_rows)
        return rows

    monkeypatch.setattr(profile_store, "labelled_in", counted)
    monkeypatch.setattr(reference_module, "STEP_ROWS", 30)
    found = reference_module.first_labelled(store, contract, "1", 50, until, until + DAY)
    assert sum(read) <= 100 < whole.num_rows == 400
    assert found.column("prediction_id").to_pylist() == whole.column("prediction_id").to_pylist()[:50]
    for cut in (1, 7, 1000):  # however the log is cut
        monkeypatch.setattr(reference_module, "STEP_ROWS", cut)
        assert reference_module.first_labelled(store, contract, "1", 50, until, until + DAY) == found
    none = reference_module.first_labelled(store, contract, "2", 50, until, until + DAY)
    assert (none.num_rows, none.schema) == (0, found.schema)


def test_of_a_column_of_thousands_of_values_the_declared_number_is_counted_one_by_one(store):
    contract, count = binary_contract(segment_values=20), 5000
    moments = [START + place * timedelta(seconds=1) for place in range(count)]
    named = {"customer": list(range(count)), "month": ["m"] * count}
    plans = [f"p{place % 15 if place % 2 else place}" for place in range(count)]
    rows = prediction_rows(
        contract,
        moments,
        age=[float(place % 9) for place in range(count)],
        plan=plans,
        prediction=[place % 3 == 0 for place in range(count)],
        probability=[place % 10 / 10 for place in range(count)],
        **named,
    )
    log, answers = PredictionLog(store), {}
    for first, hour in ((0, 1), (1, 2), (2500, 3)):
        log.append(contract, rows.slice(first, 2500 if first else 1), START + hour * HOUR)
        if hour == 2:
            frame = {**named, "churned": [place % 2 == 0 for place in range(count)]}
            record_outcomes(store, contract, frame, now=START + 2 * HOUR, source="t")
        join_new(store, contract, DAY, START + hour * HOUR, fold_news)
        as_of = profiles.load_window(store, contract.model, "1", "champion", WINDOW).watermark
        [counted] = count_window(store, contract, WindowQuery(WINDOW, as_of, DAY, DAY, from_log=True), lambda _: None)
        answers[as_of] = counted.cells
    for as_of, cells in answers.items():  # whatever came since
        [counted] = count_window(store, contract, WindowQuery(WINDOW, as_of, DAY, DAY, from_log=True), lambda _: None)
        assert counted.cells == cells
        assert len({cell.segment for cell in cells}) <= 22
    [last] = count_window(store, contract, WindowQuery(WINDOW, max(answers), DAY, DAY, from_log=True), lambda _: None)
    of_rows = {}
    for cell, tally in last.cells.items():
        of_rows[cell.segment] = of_rows.get(cell.segment, 0) + tally.at(0, 0)
    assert of_rows.pop("") == count == sum(of_rows.values())
    assert sum(of_rows[f"plan=p{place}"] for place in range(15)) >= count / 2  # those that came often
    accounts, _ = load_coverage(store, contract.model)
    assert {each.segment for each in accounts} == {"", *of_rows}
    assert overflowing_segments(store, contract) == ["plan"]
    labelled = read_labelled(store, contract, WINDOW)
    layout = make_layout(contract, labelled)
    establish(store, contract.model, "1", Profile.of(layout, fold(layout, labelled)), START)
    kept = profiles.load_window(store, contract.model, "1", "champion", WINDOW)
    assert len(kept.tallies) <= 2 * 2 * 22  # two parts of two hours
    [note] = evaluate_rows(contract, labelled, None, **ASKED).notes
    assert "'plan' has more values than models.churn.segment_values (20) allows" in note

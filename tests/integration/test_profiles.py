"""What is kept of each hour answers for the rows: the same, to the bit, at the cost of what is new."""

import json
from datetime import timedelta

import pytest

from feedback_loop.clock import Window, format_moment
from feedback_loop.monitoring import window_evaluation
from feedback_loop.store import evaluations, profiles
from feedback_loop.store.incidents import due_alerts
from feedback_loop.views.status import loop_status
from tests.builders import churn_loop, customers, play_days, register_churn, told

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def loop(loop_on_each):
    return loop_on_each


def test_kept_profiles_say_what_the_rows_say_and_so_they_do_for_ever(loop, clock, monkeypatch):
    start = clock()
    play_days(loop, clock, 3, per_day=200)
    window = Window(start - HOUR * 4, clock())
    assert loop.evaluate("churn", window)  # the reference is established
    rows = customers(50, 99, month="late")
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
    clock.set(clock() + HOUR)
    corrected = customers(200, 10, month=f"{start:%Y-%m-%d}")
    loop.record_outcomes(
        "churn", {**{name: corrected[name] for name in ("customer", "month")}, "churned": ~corrected["churned"]}
    )
    window = Window(window.start, clock())
    with monkeypatch.context() as patch:
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        [kept] = loop.evaluate("churn", window)
    assert kept.predictions == 650
    assert kept.labelled == 600
    assert {each.method for each in kept.drift} >= {"wasserstein_normed", "ks", "psi", "jensen_shannon", "hellinger"}
    as_of = kept.as_of
    assert told(loop.evaluate("churn", window, as_of, from_log=True)) == told([kept])
    clock.set(clock() + DAY)
    again = {name: corrected[name] for name in ("customer", "month", "churned")}
    loop.record_outcomes("churn", again)
    [now] = loop.evaluate("churn", window)
    assert now.metric("accuracy") != kept.metric("accuracy")
    assert told(loop.evaluate("churn", window, as_of)) == told([kept])


def test_a_version_without_a_reference_is_read_until_the_log_has_given_it_one(tmp_path, clock):
    loop = churn_loop(tmp_path, clock, more="")
    version = register_churn(loop.registry, clock(), reference=50)
    loop.promote("churn", version.version, reason="small reference")
    start = clock()
    play_days(loop, clock, 2, per_day=100)
    [early] = loop.evaluate("churn", Window(start, start + DAY))
    assert early.drift == ()
    assert early.metric("accuracy") is not None
    assert [each.check for each in early.quality] == ["probabilities"]
    [lacking] = early.notes
    assert "1,000 matured predictions with outcomes, and there are 150" in lacking
    assert loop_status(loop)["models"]["churn"]["evaluation"]["notes"] == [lacking]
    play_days(loop, clock, 5, per_day=300, seed=50)
    clock.set(clock() + DAY)
    [late] = loop.evaluate("churn", Window(start, start + 6 * DAY))
    assert (late.drift, late.estimates) == ((), ())  # the reference is made of its rows
    assert "the reference is made of predictions up to" in late.notes[0]
    [next_one] = loop.evaluate("churn", Window(start + 5 * DAY, start + 6 * DAY))
    assert next_one.drift
    assert next_one.estimates
    assert not next_one.notes
    [audited] = loop.evaluate("churn", Window(start, start + 6 * DAY), from_log=True)
    assert told([audited]) == told([late])
    assert told(loop.evaluate("churn", Window(start, start + DAY), early.as_of)) == told([early])
    loop.close()


def test_windows_that_cut_an_hour_are_read_from_the_log(loop, clock):
    start = clock()
    play_days(loop, clock, 1, per_day=120)
    cut = Window(start, start + timedelta(minutes=30))
    whole = Window(start, start + HOUR)
    [some], [every] = loop.evaluate("churn", cut), loop.evaluate("churn", whole)
    assert (some.predictions, every.predictions) == (120, 120)
    assert [m for m in some.metrics if not m.segment] == [m for m in every.metrics if not m.segment]


def test_predictions_that_stay_away_raise_one_alert(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__SILENCE", "30h")
    loop = churn_loop(tmp_path, clock)
    assert loop.watch_volume("churn") == 0
    play_days(loop, clock, 7, per_day=60)
    loop.evaluate("churn")
    assert loop.watch_volume("churn") == 0
    clock.set(clock() + DAY)
    loop.join("churn")
    assert loop.watch_volume("churn") == 2  # nothing for 30 hours, and the last whole day has nothing
    assert loop.watch_volume("churn") == 0
    told = {alert.body for alert in due_alerts(loop.store, clock())}
    assert any("no predictions since" in body for body in told)
    assert any("0 predictions in" in body for body in told)
    loop.close()


def test_data_quality_is_kept_with_the_evaluation(loop, clock):
    start = clock()
    rows = customers(400, 3, month="m")
    broken = {**{name: rows[name] for name in ("customer", "month", "age")}, "plan": ["gold"] * 400}
    loop.predict("churn", broken)
    [found] = loop.evaluate("churn", Window(start - 4 * HOUR, start + DAY))
    failed = {(each.column, each.check) for each in found.quality if each.failed}
    assert failed == {("plan", "new_categories")}
    assert evaluations.load_evaluations(loop.store, "churn")[-1].quality == tuple(
        sorted(found.quality, key=lambda each: (each.column, each.check))
    )


def test_a_report_is_made_of_what_is_kept_of_its_window(loop, clock, monkeypatch, tmp_path):
    start = clock()
    play_days(loop, clock, 3, per_day=200)
    window = Window(start - HOUR * 4, clock() - HOUR * 4)
    [evaluation] = loop.evaluate("churn", window)
    with monkeypatch.context() as patch:
        patch.setattr(window_evaluation, "fold_window", lambda *_, **__: pytest.fail("rows were read"))
        paths = loop.report("churn", window, "kept")
    assert not any(path.stat().st_mode & 0o077 for path in loop.reports.rglob("*"))  # nobody else reads them
    told = {path.stem.split("-")[1]: json.loads(path.read_text()) for path in paths if path.suffix == ".json"}
    assert (told["drift"]["rows"], told["validation"]["rows"]) == (evaluation.predictions, evaluation.labelled)
    assert told["validation"]["exact"]["metrics"] == [vars(each) for each in evaluation.metrics]
    assert told["drift"]["exact"]["drift"] == [vars(each) for each in evaluation.drift]
    brought = tmp_path / "brought"
    brought.mkdir()
    loop.registry.lineage.fetch_files(loop.champion("churn"), "reports", "", brought)
    assert sorted(path.name for path in brought.glob("*.*")) == sorted(path.name for path in paths)


def test_a_report_is_of_the_champion_that_predicted_most_and_says_what_others_did(loop, clock):
    start = clock()
    play_days(loop, clock, 1, per_day=120)
    loop.promote("churn", register_churn(loop.registry, clock(), seed=5).version, reason="second")
    play_days(loop, clock, 2, per_day=150, seed=30)
    page, data, *_ = loop.report("churn", Window(start, clock()), "both", rows="full")
    told = json.loads(data.read_text())
    assert (told["version"], told["rows"], told["shown"], told["drawn"]) == ("2", 300, "full", [300, 2000])
    assert "120 predictions of other champions in this window are not in it" in page.read_text()


def test_while_outcomes_are_too_few_the_report_of_drift_says_that_there_is_no_other(loop, clock):
    start = clock()
    rows = customers(200, 3, month="m")
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})
    page, data = loop.report("churn", Window(start, start + DAY), "early")
    assert data.name == "early-drift.json"
    assert "There is no report of validation: 0 outcomes are too few." in page.read_text()


def test_a_sample_of_real_rows_is_the_same_every_time(loop, clock, monkeypatch):
    from feedback_loop.monitoring import profile_store

    start = clock()
    play_days(loop, clock, 2, per_day=300)
    window = Window(start, clock())
    first = [path.read_text() for path in loop.report("churn", window, "x", rows=150) if path.suffix == ".json"]
    monkeypatch.setattr(profile_store, "SLICE_ROWS", 70)
    again = [path.read_text() for path in loop.report("churn", window, "x", rows=150) if path.suffix == ".json"]
    assert first == again
    told = json.loads(first[0])
    assert (told["shown"], told["drawn"], told["rows"]) == ("sample", [150, 150], 600)


def test_a_report_as_of_a_moment_says_what_was_known_then_and_what_was_estimated(loop, clock):
    start = clock()
    play_days(loop, clock, 3, per_day=200)
    window, then = Window(start, start + DAY), clock()
    first = [path.read_text() for path in loop.report("churn", window, "x") if path.suffix == ".json"]
    rows = customers(200, 10, month=f"{start:%Y-%m-%d}")
    turned = {name: rows[name] for name in ("customer", "month")} | {"churned": ~rows["churned"]}
    clock.set(clock() + DAY)
    assert loop.record_outcomes("churn", turned).counts.corrected == 200
    clock.set(clock() + DAY)
    again = [p.read_text() for p in loop.report("churn", window, "x", as_of=then) if p.suffix == ".json"]
    assert again == first
    page = next(path for path in loop.report("churn", window, "x") if path.name == "x-validation.html")
    assert page.with_suffix(".json").read_text() != first[1]
    text = page.read_text()
    assert "Estimated without outcomes" in text
    [found] = loop.evaluate("churn", window, clock())
    accuracy = next(each for each in found.estimates if each.metric == "accuracy")
    assert f"{accuracy.value:.4g}" in text[text.index("Estimated without outcomes") - 20_000 :]


def later(window, time):
    return Window(window.start + time, window.end + time)


def test_a_window_that_fails_is_told_tried_again_and_stops_no_other(loop, clock):
    first = Window(clock() - 4 * HOUR, clock() + 20 * HOUR)
    loop.evaluate("churn")
    play_days(loop, clock, 3, per_day=120)
    loop.join("churn")
    torn = profiles.profiles
    mine = (torn.c.part == "predictions") & (torn.c.bucket_start >= first.start) & (torn.c.bucket_start < first.end)
    with loop.store.write() as connection:
        kept = connection.execute(torn.select().where(mine)).all()
        connection.execute(torn.update().where(mine).values(tally=b"torn"))
    assert {each.window for each in loop.evaluate("churn")} == {later(first, DAY), later(first, 2 * DAY)}
    assert loop.watch_drift("churn") == 0
    [failed] = loop_status(loop)["models"]["churn"]["failed_windows"]
    assert (failed["window"][0], failed["attempts"]) == (format_moment(first.start), 1)
    assert "struct" in failed["cause"] or "Error" in failed["cause"]
    [alert] = [each for each in due_alerts(loop.store, clock()) if "could not be evaluated" in each.title]
    assert str(first) in alert.body
    assert loop.evaluate("churn") == []  # it waits
    clock.set(clock() + HOUR)
    assert loop.evaluate("churn") == []  # it was tried in vain
    assert loop_status(loop)["models"]["churn"]["failed_windows"][0]["attempts"] == 2
    with loop.store.write() as connection:
        for row in kept:
            same = [column == getattr(row, column.name) for column in torn.primary_key]
            connection.execute(torn.update().where(*same).values(tally=row.tally))
    clock.set(clock() + HOUR)
    [mended] = loop.evaluate("churn")
    assert (mended.window, mended.predictions) == (first, 120)
    assert loop_status(loop)["models"]["churn"]["failed_windows"] == []


@pytest.mark.parametrize("rows", ["surrogate", "full"])
def test_a_report_without_a_reference_is_of_what_there_is_and_says_what_is_missing(tmp_path, clock, rows):
    loop = churn_loop(tmp_path, clock)
    loop.promote("churn", loop.models.register("churn", str(loop.registry.load(loop.champion("churn")).path)).version)
    start = clock()
    play_days(loop, clock, 2, per_day=100)
    window = Window(start, clock())
    told = {
        p.stem.split("-")[1]: json.loads(p.read_text())
        for p in loop.report("churn", window, "bare", rows=rows)
        if p.suffix == ".json"
    }
    drift, validation = told["drift"], told["validation"]
    assert (drift["rows"], drift["reference_rows"], drift["drawn"]) == (200, 0, [200, 0])
    assert "without a reference" in drift["about"]
    assert "1,000 matured predictions with outcomes, and there are 100" in drift["about"]
    assert [each["check"] for each in drift["exact"]["quality"]] == ["probabilities"]
    assert drift["metrics"]  # the distributions of the window
    assert {each["metric"] for each in validation["exact"]["metrics"]} >= {"accuracy", "recall", "brier"}
    loop.close()

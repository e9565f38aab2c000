"""Backtests over a real loop's weeks: what was said is said again, others stand beside it, nothing changes."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from functools import cache, partial

import numpy as np
import pytest
from sqlalchemy import event, select
from typer.testing import CliRunner

from feedback_loop.cli import app
from feedback_loop.clock import ManualClock
from feedback_loop.config_policy import PolicySettings
from feedback_loop.cycle import run_cycle
from feedback_loop.errors import BadInput, ConfigError, NotFound, Unavailable
from feedback_loop.store import conclusions
from feedback_loop.store.incidents import load_incidents
from feedback_loop.store.schema import metadata
from tests.builders import churn_loop, copy_home, customers, open_loop, play_days, register_churn, write_config
from tests.integration.churn_log import labelled, logged
from tests.once import once

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
FEATURES = ("customer", "month", "age", "plan")
CHANGED = NOW + 9 * DAY

SEGMENTED = """
[[models.churn.policy.watch]]
segment = "plan=basic"
loss = "error"
"""


def weeks(loop, clock):
    """24 days: version 1, whose world turns on the tenth; version 2, with too small a reference; version 1 again.

    An incident is closed by hand before that. Some outcomes come three days late, or are corrected after a look.
    """
    late = []
    for day in range(24):
        if day == 17:
            small = register_churn(loop.registry, clock(), rows=500, reference=100, seed=5)
            loop.promote("churn", small.version)
        if day == 21:
            loop.rollback("churn")
        if day == 12:
            loop.incidents.close("churn", "a feed was repaired")
        harder = 0.45 if clock() >= CHANGED else 0.0
        rows = customers(300, 10 + day, harder=harder, month=f"{clock():%Y-%m-%d}")
        loop.predict("churn", {name: rows[name] for name in FEATURES})
        clock.set(clock() + DAY)
        if len(late) == 3:
            loop.record_outcomes("churn", late.pop(0))
        known = labelled(rows)
        loop.record_outcomes("churn", {name: values[:250] for name, values in known.items()})
        late.append({name: values[240:] for name, values in known.items()})
        late[-1]["churned"] = late[-1]["churned"] ^ (late[-1]["customer"] < 250)
        if day % 5 == 1:  # as the scheduler would, with all that comes before and after
            run_cycle(loop, "churn")
        elif day % 5 != 3:
            loop.decide("churn")


def play(empty_mlflow, folder, url="sqlite:///store.db"):
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    clock = ManualClock(NOW)
    loop = open_loop(write_config(folder, store=url, more=SEGMENTED), clock)
    loop.promote("churn", register_churn(loop.registry, clock()).version, reason="first")
    weeks(loop, clock)
    loop.close()


@pytest.fixture(scope="session")
def played(request, empty_mlflow, tmp_path_factory):
    """Makes (once each) a home with the weeks played on SQLite or PostgreSQL."""

    @cache
    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        if kind == "sqlite":
            copy_home(once("backtested", partial(play, empty_mlflow)), folder)
            return folder
        import psycopg

        postgres = request.getfixturevalue("postgres")
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute("CREATE DATABASE played")
        play(empty_mlflow, folder, postgres.replace("/postgres?", "/played?"))
        return folder

    return make


def open_after(folder):
    return open_loop(folder / "feedback_loop.toml", ManualClock(NOW + 24 * DAY))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.statistics)])
def loop(request, played):
    made = open_after(played(request.param))
    yield made
    made.close()


@pytest.fixture
def sqlite_loop(played):
    made = open_after(played("sqlite"))
    yield made
    made.close()


def plain(values):
    """As JSON, whose numbers are floats: PostgreSQL gives 1e26 back as a whole number."""
    return json.loads(json.dumps(values), parse_int=float)


def said(verdict):
    told = (verdict.version, verdict.decided_at, verdict.window, verdict.state, verdict.summary)
    return (*told, plain(verdict.evidence))


def contents(store):
    with store.read() as connection:
        return {name: connection.execute(select(table)).all() for name, table in metadata.tables.items()}


def test_the_policy_that_was_live_says_exactly_what_it_said(loop):
    stored = conclusions.load_verdicts(loop.store, "churn")[::-1]
    assert {each.state for each in stored} >= {conclusions.State.OK, conclusions.State.DEGRADED}
    assert [each.version for each in stored if each.version != "1"]
    result = loop.backtest("churn", [PolicySettings(rule="threshold", reference=1000)])
    configured, other = result.played
    assert list(map(said, configured.verdicts)) == list(map(said, stored))
    assert plain(configured.verdicts[-1].monitor) == plain(stored[-1].monitor)
    incidents = load_incidents(loop.store, "churn")
    assert [each.decided_at for each in configured.alarms] == [each.opened_at for each in incidents]
    assert len(incidents) == 2
    assert result.were_made
    assert [each.evidence["rule"] for each in other.verdicts] == ["threshold"] * len(other.verdicts)


def test_every_rule_stands_beside_the_configured_policy_and_no_table_changes(loop):
    before = contents(loop.store)
    result = loop.backtest("churn")
    assert [each.candidate.name for each in result.played] == [
        *("configured", "harm", "either", "threshold", "absolute"),
    ]
    assert all(each.verdicts for each in result.played)
    assert contents(loop.store) == before  # the fence included: nothing was asked for that was not before
    assert result.final_until == before["fl_fences"][0].asked_until


def test_a_store_that_can_only_be_read_is_enough(loop):
    """SQLite with every connection set to queries only; PostgreSQL with every transaction set to read only."""
    loop.close()

    def forbid(connection, _record):
        cursor = connection.cursor()
        cursor.execute(
            "SET default_transaction_read_only = on" if loop.store.is_postgresql else "PRAGMA query_only = ON"
        )
        cursor.close()
        if loop.store.is_postgresql:
            connection.commit()

    event.listen(loop.store.engine, "connect", forbid)
    loop.context.references.forget("churn")
    with pytest.raises(Unavailable, match=r"read-?only"):
        loop.decide("churn")
    assert loop.backtest("churn", [PolicySettings(rule="harm")]).played[0].verdicts


def test_a_window_shows_what_was_said_in_it_and_starts_its_champion_from_its_own_beginning(sqlite_loop):
    start, end = NOW + 11 * DAY, NOW + 16 * DAY
    stored = [
        each for each in conclusions.load_verdicts(sqlite_loop.store, "churn")[::-1] if start <= each.decided_at < end
    ]
    result = sqlite_loop.backtest("churn", [PolicySettings(rule="absolute")], start, end)
    assert list(map(said, result.played[0].verdicts)) == list(map(said, stored))
    assert all(start <= each < end for each in result.looks)
    assert all(start <= each.at < end for played in result.played for each in played.steps)


def test_what_followed_an_alarm_is_what_its_version_and_the_next_champion_answered(sqlite_loop):
    result = sqlite_loop.backtest("churn", [PolicySettings(rule="harm", reference=1000)])
    alarm, first = result.played[0].alarms[0], result.followed[0][0]
    assert (alarm.version, first.version, first.next_version, first.cause) == ("1", "1", "2", None)
    # Version 2 was the champion from day 17 until the rollback on day 21. What counts was known at each look.
    cohorts = [each for each in result.played[0].cohorts if each.labels]
    own = [each for each in cohorts if each.version == "1" and alarm.window.start < each.window.end <= NOW + 17 * DAY]
    later = [each for each in cohorts if each.version == "2" and each.window.start < NOW + 21 * DAY]
    assert first.labels == sum(each.labels for each in later) > 500
    means = [np.average([each.mean for each in of], weights=[each.labels for each in of]) for of in (own, later)]
    assert [first.before, first.after] == pytest.approx(means)


def test_what_never_happened_is_caught_where_it_is_put_into_the_log(sqlite_loop):
    """The first nine days are calm: what is injected into them alone can raise the alarm."""
    calm = {"policies": [PolicySettings(rule="harm", reference=1000, loss="brier")], "end": CHANGED}
    assert [policy.alarms for policy in sqlite_loop.backtest("churn", **calm).played] == [[], []]
    result = sqlite_loop.backtest("churn", **calm, inject="brier=+0.1@2026-03-04")
    assert (result.change.source, result.injected.amount) == ("injected", 0.1)
    (alarm,) = result.played[0].alarms
    assert alarm.window.end > result.change.at
    with pytest.raises(BadInput, match="'configured' watches brier, not error"):
        sqlite_loop.backtest("churn", inject="accuracy=-0.03@2026-03-04")
    with pytest.raises(BadInput, match="not before the end"):
        sqlite_loop.backtest("churn", **calm, inject="brier=+0.03@2026-08-04")


def test_what_can_not_be_computed_is_said_with_its_cause(sqlite_loop):
    result = sqlite_loop.backtest("churn", [PolicySettings(rule="harm", reference=1000)], end=NOW + 12 * DAY)
    assert result.followed[0][0].cause == "nothing has matured since version 2 became champion"
    assert result.followed[0][0].labels == 0


def test_retrainings_follow_with_their_cooldown_and_within_the_budget(sqlite_loop):
    def days(**changes):
        policy = PolicySettings(reference=1000, refresh=None, **changes)
        played = sqlite_loop.backtest("churn", [policy]).played[1]
        return [((step.at - NOW).days, step.reason) for step in played.steps], played.alarms[0]

    often, alarm = days(cooldown=DAY)
    assert often[0] == ((alarm.decided_at - NOW).days, "alarm")
    assert len(often) >= 3
    assert len(days(cooldown=3 * DAY)[0]) < len(often)
    assert len(days(cooldown=DAY, budget=1)[0]) == 1
    refresh = sqlite_loop.backtest("churn", [PolicySettings(reference=1000, alpha=1e-12, refresh=4 * DAY)]).played[1]
    assert "refresh" in {step.reason for step in refresh.steps}


def test_a_longer_maturity_hears_of_late_outcomes_and_a_shorter_log_of_none(sqlite_loop, tmp_path):
    (tmp_path / "late.toml").write_text('maturity = "4d"\n[policy]\nrule = "change"\n')
    configured, late = sqlite_loop.backtest("churn", [tmp_path / "late.toml"]).played
    assert late.candidate.name == "late"
    shared = {each.window: each.labels for each in configured.cohorts} | {}
    more = [(each.labels, shared[each.window]) for each in late.cohorts if each.window in shared]
    assert sum(one > other for one, other in more) > 5  # a sixth of outcomes comes three days late


def test_looks_may_be_more_often_than_they_were(sqlite_loop):
    made = sqlite_loop.backtest("churn", [PolicySettings(rule="harm")])
    more = sqlite_loop.backtest("churn", [PolicySettings(rule="harm")], every=timedelta(hours=12))
    assert (made.were_made, more.were_made) == (True, False)
    assert len(more.looks) == 2 * 24
    assert len(more.played[0].verdicts) > len(made.played[0].verdicts)


def test_an_imported_log_is_played_by_the_day_with_what_is_known_now(tmp_path, clock):
    loop = churn_loop(tmp_path, clock)
    clock.set(clock() + 40 * DAY)
    rows = customers(1200, 3, month="2026-02")
    logged(loop, rows, [clock() - (30 - place // 40) * DAY for place in range(1200)])
    loop.record_outcomes("churn", labelled(rows))
    loop.decide("churn")
    at_once = loop.backtest("churn", [PolicySettings(rule="harm")]).played[0]
    assert [(each.labels) for each in at_once.cohorts] == [40] * 29
    assert len(at_once.verdicts) == 1
    by_day = loop.backtest("churn", [PolicySettings(rule="harm")], known_now=True)
    assert by_day.known == clock()
    assert len(by_day.played[0].verdicts) == 29
    assert [each.labels for each in by_day.played[0].cohorts] == [40] * 29
    loop.close()


def test_what_retention_has_removed_is_not_taken_for_days_without_predictions(tmp_path, clock):
    churn_loop(tmp_path, clock).close()
    config = write_config(tmp_path, more='[models.churn.log]\nretention = "6d"\n')
    loop = open_loop(config, clock)
    play_days(loop, clock, 12)
    loop.decide("churn")
    kept = loop.retain("churn").kept_since
    result = loop.backtest("churn", [PolicySettings(rule="harm", reference=1000)], every=DAY)
    cohorts = result.played[0].cohorts
    assert min(each.window.start for each in cohorts) == kept
    assert {each.labels for each in cohorts} == {300}
    loop.close()


def test_a_log_without_predictions_and_a_window_without_looks_are_refused(tmp_path, clock, sqlite_loop):
    loop = churn_loop(tmp_path, clock)
    with pytest.raises(NotFound, match="no logged prediction of 'churn'"):
        loop.backtest("churn")
    loop.close()
    with pytest.raises(BadInput, match="has no look at churn: its log begins at 2026-03-02"):
        sqlite_loop.backtest("churn", (), NOW - 30 * DAY, NOW - 20 * DAY)
    with pytest.raises(BadInput, match="not before its end"):
        sqlite_loop.backtest("churn", (), NOW, NOW)
    with pytest.raises(NotFound, match="'other'"):
        sqlite_loop.backtest("other")


def run(*words):
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def config(played, monkeypatch):
    """The weeks on SQLite, for commands: whose clock is real, and so long after them."""
    monkeypatch.chdir(played("sqlite"))
    monkeypatch.setenv("COLUMNS", "200")  # in a narrow terminal words are folded
    (played("sqlite") / "harm.toml").write_text('[policy]\nrule = "harm"\n')
    return "--policy", "harm.toml"


def test_by_default_each_policy_is_one_short_row(config, monkeypatch):
    """All rules beside the configured policy in an ordinary terminal: no cell is folded, nothing long is said."""
    monkeypatch.setenv("COLUMNS", "100")
    head, since, titles, *rows, hint = run("backtest", "churn", "--change", "2026-03-11").splitlines()
    assert re.fullmatch(r"churn: \d+ looks \(as they were made\), 2026-03-02T04:00Z – \d{4}-\d\d-\d\dT[\d:]+Z", head)
    assert since == "Delays count from 2026-03-11 (given)."
    assert re.split(" {2,}", titles) == ["policy", "alarms", "delay", "retrainings", "loss: it → the next"]
    cells = [re.split(" {2,}", row) for row in rows]
    names = ["configured (change)", "harm", "either", "threshold", "absolute"]
    assert [row[0] for row in cells] == names
    assert {len(row) for row in cells} == {5}
    assert cells[0][1:4] == ["2", "2.2 d, 250 labels", "1 alarm"]
    assert re.fullmatch(r"0\.\d{4} → 0\.\d{4}", cells[0][4])
    assert hint == "--verbose tells what each alarm said, --json everything."
    assert max(map(len, [head, since, titles, *rows, hint])) <= 100


def test_a_policy_that_never_alarms_has_dashes_and_no_hint(config, tmp_path):
    (tmp_path / "deaf.toml").write_text('[policy]\nrule = "absolute"\nthreshold = 0.99\n')
    printed = run("backtest", "churn", "--policy", str(tmp_path / "deaf.toml"), "--to", "2026-03-08")
    assert re.search(r"^deaf \(absolute\) +0 +– +– +–$", printed, re.MULTILINE)
    assert "--verbose" not in printed


def test_verbosely_the_command_tells_what_each_alarm_said_and_what_it_was_worth(config):
    printed = run("backtest", "churn", *config, "--change", "2026-03-11", "--verbose")
    assert "Delays count from 2026-03-11 (given)." in printed
    rows = [re.split(" {2,}", line) for line in printed.splitlines() if line.startswith(("configured (", "harm "))]
    assert [row[0] for row in rows] == ["configured (change)", "harm"]
    assert rows[0][1:5] == ["2", "0", "2026-03-13T04:00Z", "1"]
    assert "configured, 2026-03-13T04:00Z, version 1: brier" in printed
    assert re.search(r"From it on brier 0\.\d{4} by version 1, then 0\.\d{4} on \d+ labels by version 2", printed)


def test_the_command_says_everything_as_json_and_draws_it(config, tmp_path):
    plot = tmp_path / "policies.svg"
    said = json.loads(run("backtest", "churn", *config, "--json", "--plot", str(plot)))
    assert [each["name"] for each in said["policies"]] == ["configured", "harm"]
    configured = said["policies"][0]
    assert configured["alarms"][0]["followed"].keys() == {
        "version",
        "next_version",
        "before",
        "after",
        "labels",
        "cause",
    }
    assert configured["delay"]["labels"] > 0
    assert len(configured["verdicts"]) == len(configured["verdicts"]) > 10
    assert configured["verdicts"][0]["evidence"]["watched"][0]["name"] == "brier"
    assert sum(each["labels"] for each in configured["cohorts"]) > 3000
    assert said["versions"] == [
        {"version": "1", "since": "2026-03-02T04:00Z"},
        {"version": "2", "since": "2026-03-19T04:00Z"},
        {"version": "1", "since": "2026-03-23T04:00Z"},
    ]
    drawn = plot.read_text()
    assert "<svg" in drawn
    assert (tmp_path / "policies.svg").stat().st_size > 10_000


def test_the_command_refuses_what_it_can_not_draw_or_read(config, tmp_path):
    with pytest.raises(BadInput, match=r"can't be \.txt"):
        run("backtest", "churn", *config, "--plot", "x.txt")
    with pytest.raises(BadInput, match="there is no folder"):
        run("backtest", "churn", *config, "--plot", str(tmp_path / "none" / "x.png"))
    with pytest.raises(ConfigError, match=r"none.toml"):
        run("backtest", "churn", "--policy", "none.toml")

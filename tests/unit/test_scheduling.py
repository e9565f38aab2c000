import time
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.clock import Window
from feedback_loop.cycle import month_before
from feedback_loop.errors import ConfigError
from feedback_loop.scheduling import last_due, parse_schedule

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)


def due(text, after=None, now=NOW):
    return last_due(parse_schedule(text, "key"), after, now)


def test_an_interval_is_counted_from_1970_and_not_from_the_start_of_the_process():
    assert due("1d") == datetime(2026, 3, 10, tzinfo=UTC)
    assert due("6h") == datetime(2026, 3, 10, 12, tzinfo=UTC)


def test_a_cron_line_is_in_utc():
    assert due("0 4 * * *") == datetime(2026, 3, 10, 4, tzinfo=UTC)
    assert due("0 6 1 * *") == datetime(2026, 3, 1, 6, tzinfo=UTC)


WEEK = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def fires(text, days, start):
    """The days on which a schedule is due, by asking at the end of each."""
    moments = [due(text, start + timedelta(day), start + timedelta(day + 1)) for day in range(days)]
    return [moment for moment in moments if moment is not None]


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/New_York"])
def _zone(request, monkeypatch):
    """The machine's time zone, which schedules have nothing to do with."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("start", [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 10, 11, tzinfo=UTC)])
@pytest.mark.usefixtures("_zone")
def test_each_weekday_is_crontabs_by_number_and_by_name_through_both_clock_changes(start):
    for number, name in enumerate(WEEK):
        sundays_first = [start + timedelta(week * 7 + number, hours=2) for week in range(5)]
        assert fires(f"0 2 * * {number}", 35, start) == sundays_first
        assert fires(f"0 2 * * {name}", 35, start) == sundays_first
        assert fires(f"0 2 * * {name.upper()}", 35, start) == sundays_first
    assert fires("0 2 * * 7", 35, start) == fires("0 2 * * 0", 35, start)


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("*", [0, 1, 2, 3, 4, 5, 6]),
        ("1-5", [1, 2, 3, 4, 5]),
        ("mon-fri", [1, 2, 3, 4, 5]),
        ("5-7", [0, 5, 6]),
        ("sat-sun", [0, 6]),
        ("0-7", [0, 1, 2, 3, 4, 5, 6]),
        ("*/2", [0, 2, 4, 6]),
        ("1-5/2", [1, 3, 5]),
        ("2/2", [2, 4, 6]),
        ("0,3,sat", [0, 3, 6]),
    ],
)
def test_ranges_lists_and_steps_of_weekdays_are_crontabs(field, days):
    sunday = datetime(2026, 3, 1, tzinfo=UTC)
    assert [moment.isoweekday() % 7 for moment in fires(f"0 4 * * {field}", 7, sunday)] == days


def test_a_day_of_the_month_and_a_weekday_are_either_as_crontab_has_it():
    march = datetime(2026, 3, 1, tzinfo=UTC)
    assert [moment.day for moment in fires("0 4 13 * fri", 31, march)] == [6, 13, 20, 27]
    assert [moment.day for moment in fires("0 4 10,13 * fri", 31, march)] == [6, 10, 13, 20, 27]
    assert [moment.day for moment in fires("0 4 */10 * fri", 31, march)] == []  # a step is no day that is named


def test_what_was_run_is_not_due_again():
    assert due("1d", after=datetime(2026, 3, 10, tzinfo=UTC)) is None
    assert due("0 4 * * *", after=datetime(2026, 3, 10, 4, tzinfo=UTC)) is None


@pytest.mark.parametrize("days_away", [1, 3, 30, 300, 3000])
def test_missed_runs_are_caught_up_once_with_the_newest(days_away):
    assert due("1d", after=NOW - timedelta(days=days_away)) == datetime(2026, 3, 10, tzinfo=UTC)


def test_a_run_is_due_at_its_very_moment():
    moment = datetime(2026, 3, 10, 4, tzinfo=UTC)
    assert due("0 4 * * *", after=moment - timedelta(days=1), now=moment) == moment


def test_a_clock_that_was_set_back_makes_nothing_due():
    assert due("1d", after=NOW + timedelta(hours=20)) is None


def test_a_leap_day_is_a_day_and_a_schedule_of_leap_days_waits_for_the_next_one():
    march = datetime(2028, 3, 1, 12, tzinfo=UTC)
    leap = datetime(2028, 2, 29, tzinfo=UTC)
    assert due("1d", after=datetime(2028, 2, 28, tzinfo=UTC), now=march) == datetime(2028, 3, 1, tzinfo=UTC)
    assert due("1d", after=datetime(2028, 2, 28, tzinfo=UTC), now=leap + timedelta(hours=1)) == leap
    assert due("0 0 29 2 *", after=datetime(2024, 2, 29, tzinfo=UTC), now=march) == leap
    assert due("0 0 29 2 *", after=leap, now=datetime(2031, 3, 1, tzinfo=UTC)) is None
    assert due("0 6 31 * *", now=datetime(2028, 4, 30, 12, tzinfo=UTC)) == datetime(2028, 3, 31, 6, tzinfo=UTC)
    assert month_before(march) == Window(datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC))


def test_never_is_no_trigger():
    assert parse_schedule("never", "key") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "daily",
        "61 * * * *",
        "* * * *",
        "0s",
        "0 4 * * 8",
        "0 4 * * noday",
        "0 4 * * 1-",
        "0 4 * * */0",
        "0 4 * * -1",
    ],
)
def test_what_is_no_schedule_is_refused_with_its_key(text):
    with pytest.raises(ConfigError) as caught:
        parse_schedule(text, "models.churn.schedule.cycle")
    assert caught.value.key == "models.churn.schedule.cycle"

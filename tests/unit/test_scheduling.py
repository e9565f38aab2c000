from datetime import UTC, datetime, timedelta

import pytest

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


def test_never_is_no_trigger():
    assert parse_schedule("never", "key") is None


@pytest.mark.parametrize("text", ["", "daily", "61 * * * *", "* * * *", "0s"])
def test_what_is_no_schedule_is_refused_with_its_key(text):
    with pytest.raises(ConfigError) as caught:
        parse_schedule(text, "models.churn.schedule.cycle")
    assert caught.value.key == "models.churn.schedule.cycle"

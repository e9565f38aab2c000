from datetime import UTC, datetime, timedelta, timezone

import pytest

from feedback_loop.clock import (
    ManualClock,
    Window,
    floor_moment,
    format_moment,
    parse_duration,
    parse_moment,
    shifted_clock,
    system_clock,
)
from feedback_loop.errors import BadInput

START = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_window_holds_its_start_and_not_its_end():
    window = Window(START, START + timedelta(days=1))
    assert START in window
    assert START + timedelta(days=1) not in window
    assert START + timedelta(days=1) - timedelta.resolution in window


@pytest.mark.parametrize("end", [START, START - timedelta(seconds=1)])
def test_a_window_that_ends_before_it_starts_is_refused(end):
    with pytest.raises(BadInput, match="not before its end"):
        Window(START, end)


def test_a_window_without_a_time_zone_is_refused():
    with pytest.raises(BadInput, match="no time zone"):
        Window(datetime(2026, 3, 1), datetime(2026, 3, 2))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("6h", timedelta(hours=6)),
        ("2d", timedelta(days=2)),
        ("4w", timedelta(weeks=4)),
        ("1d12h", timedelta(hours=36)),
        (" 1 D ", timedelta(days=1)),
    ],
)
def test_durations_are_read_as_people_write_them(text, length):
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["", "1", "2x", "d", "1d and more", "0s", "-1d", "0d"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(BadInput, match="1d12h"):
        parse_duration(text)


def test_moments_are_utc_whatever_zone_they_are_written_in():
    assert parse_moment("2026-03-01T01:00:00+01:00") == START
    assert parse_moment("2026-03-01") == START
    assert parse_moment("2026-02-28T19:00:00-05:00") == START


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-03-01T04:00:00"])
def test_a_moment_that_says_no_zone_or_no_date_is_refused(text):
    with pytest.raises(BadInput):
        parse_moment(text)


def test_moments_are_written_no_longer_than_needed():
    assert format_moment(START) == "2026-03-01"
    assert format_moment(START + timedelta(hours=4)) == "2026-03-01T04:00Z"
    assert format_moment(START + timedelta(microseconds=1)) == "2026-03-01T00:00:00.000001Z"
    eastern = timezone(timedelta(hours=-5))
    assert format_moment(datetime(2026, 2, 28, 19, tzinfo=eastern)) == "2026-03-01"


def test_a_manual_clock_moves_only_when_it_is_set():
    clock = ManualClock(START)
    assert clock() == clock() == START
    clock.set(START - timedelta(hours=1))
    assert clock() == START - timedelta(hours=1)


def test_a_shifted_clock_begins_where_it_is_told_and_runs():
    clock = shifted_clock(START - system_clock())
    first, second = clock(), clock()
    assert START <= first <= second < START + timedelta(minutes=1)


def test_windows_are_counted_from_1970_and_not_from_the_first_row():
    assert floor_moment(START + timedelta(hours=23), timedelta(days=1)) == START
    assert floor_moment(START + timedelta(minutes=7), timedelta(minutes=5)) == START + timedelta(minutes=5)

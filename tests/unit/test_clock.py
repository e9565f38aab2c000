from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.clock import (
    DailyHours,
    ManualClock,
    Window,
    floor_moment,
    format_duration,
    format_moment,
    parse_duration,
    parse_hours,
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


def test_the_real_clock_is_utc():
    assert system_clock().tzinfo is UTC


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


ZURICH = ZoneInfo("Europe/Zurich")
PLACES = ["Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]


def changes(hours, first, last):
    """When the hours begin and end between two moments, in UTC."""
    minutes = int((last - first) / timedelta(minutes=1))
    moments = [first + each * timedelta(minutes=1) for each in range(minutes + 1)]
    found = [now for before, now in pairwise(moments) if (before in hours) != (now in hours)]
    return [f"{each:%d %H:%M}" for each in found]


@pytest.mark.parametrize(
    ("text", "day", "expected"),
    [
        # A night without a change of the clocks, in winter and in summer.
        ("22:00-07:00", datetime(2026, 1, 10, 12, tzinfo=UTC), ["10 21:00", "11 06:00"]),
        ("22:00-07:00", datetime(2026, 7, 10, 12, tzinfo=UTC), ["10 20:00", "11 05:00"]),
        # The night is an hour shorter in March, and an hour longer in October.
        ("22:00-07:00", datetime(2026, 3, 28, 12, tzinfo=UTC), ["28 21:00", "29 05:00"]),
        ("22:00-07:00", datetime(2026, 10, 24, 12, tzinfo=UTC), ["24 20:00", "25 06:00"]),
        # 02:30 is left out in March: the moment of the change stands for it.
        ("22:00-02:30", datetime(2026, 3, 28, 12, tzinfo=UTC), ["28 21:00", "29 01:00"]),
        ("02:30-07:00", datetime(2026, 3, 28, 12, tzinfo=UTC), ["29 01:00", "29 05:00"]),
        # 02:30 comes twice in October: the first counts.
        ("22:00-02:30", datetime(2026, 10, 24, 12, tzinfo=UTC), ["24 20:00", "25 00:30"]),
        ("02:30-07:00", datetime(2026, 10, 24, 12, tzinfo=UTC), ["25 00:30", "25 06:00"]),
        # Within a day.
        ("08:00-18:00", datetime(2026, 1, 10, 0, tzinfo=UTC), ["10 07:00", "10 17:00"]),
    ],
)
def test_hours_of_the_day_follow_the_clocks_through_their_changes(text, day, expected):
    hours = parse_hours(text, ZURICH)
    assert changes(hours, day, day + timedelta(hours=24) - timedelta(minutes=1)) == expected


def test_equal_ends_are_the_whole_day():
    hours = parse_hours("07:00-07:00", ZURICH)
    assert changes(hours, datetime(2026, 10, 24, tzinfo=UTC), datetime(2026, 10, 27, tzinfo=UTC)) == []
    assert datetime(2026, 10, 25, tzinfo=UTC) in hours


def test_it_is_told_when_the_hours_end():
    hours = parse_hours("22:00-07:00", ZURICH)
    assert hours.ends_after(datetime(2026, 3, 28, 22, tzinfo=UTC)) == datetime(2026, 3, 29, 5, tzinfo=UTC)
    outside = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert hours.ends_after(outside) == outside


@pytest.mark.parametrize("text", ["", "22:00", "22:00-24:00", "9:00-10:00", "22:60-07:00", "22:00-07:00-08:00"])
def test_what_are_no_hours_of_a_day_is_refused(text):
    with pytest.raises(BadInput, match="no hours of a day"):
        parse_hours(text, ZURICH)


@given(st.integers(0, 60 * 24 * 365 * 8), st.times(), st.times(), st.sampled_from(PLACES))
def test_a_moment_is_in_the_hours_of_any_place_just_when_they_end_after_it(minutes, start, end, place):
    hours = DailyHours(start.replace(second=0, microsecond=0), end.replace(second=0, microsecond=0), ZoneInfo(place))
    now = START + timedelta(minutes=minutes)
    ends = hours.ends_after(now)
    assert (now in hours) == (ends > now)
    assert ends - now <= timedelta(hours=26)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("90s", 90), ("36h", 129_600), ("14d", 1_209_600), ("0.2s", 0.2), ("1.5s", 1.5)],
)
def test_a_duration_is_written_as_it_is_read(text, seconds):
    assert format_duration(timedelta(seconds=seconds)) == text
    assert parse_duration(text) == timedelta(seconds=seconds)

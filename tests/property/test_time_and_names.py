from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.clock import Window, floor_moment, windows_between
from feedback_loop.schema import Column, ColumnType, fields_for, moment_of, prediction_id, table_name

moments = st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
lengths = st.integers(1, 30 * 24).map(lambda hours: timedelta(hours=hours))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=90)


@given(moments, st.integers(0, 10**9), lengths)
def test_windows_cover_every_moment_once_and_never_reach_past_the_end(start, seconds, length):
    end = start + min(timedelta(seconds=seconds), 50 * length)
    windows = list(windows_between(start, end, length))
    assert all(window.end <= end for window in windows)
    assert all(one.end == other.start for one, other in pairwise(windows))
    if windows:
        assert windows[0].start <= start < windows[0].end
        assert end - windows[-1].end < length
    else:
        assert end - floor_moment(start, length) < length


@given(moments, lengths)
def test_a_floor_is_a_multiple_of_the_length_and_not_after(moment, length):
    floor = floor_moment(moment, length)
    assert floor <= moment < floor + length
    assert floor_moment(floor, length) == floor


@given(moments, moments)
def test_a_moment_is_in_exactly_one_of_two_windows_that_meet(one, other):
    day = timedelta(days=1)
    assert (one in Window(other - day, other)) + (one in Window(other, other + day)) == (
        other - day <= one < other + day
    )


@given(st.lists(names, max_size=12))
def test_columns_get_names_that_databases_can_tell_apart(wanted):
    fields = fields_for([Column(name, ColumnType.DOUBLE) for name in wanted])
    folded = [field.lower() for field in fields]
    assert len(set(folded)) == len(wanted)
    assert all(0 < len(field.encode()) <= 63 and "\x00" not in field for field in fields)


@given(st.lists(names, min_size=1, max_size=12), st.lists(names, max_size=4))
def test_columns_that_are_added_later_leave_earlier_names_as_they_were(before, added):
    columns = [Column(name, ColumnType.DOUBLE) for name in before]
    grown = columns + [Column(name, ColumnType.DOUBLE) for name in added]
    assert fields_for(grown)[: len(before)] == fields_for(columns)


@given(names, names)
def test_two_models_never_share_a_table(one, other):
    tables = [table_name("predictions", name) for name in (one, other)]
    assert all(len(table.encode()) <= 63 for table in tables)
    assert (tables[0] == tables[1]) == (one == other)


@given(moments, st.integers(0, 2**74 - 1))
def test_a_prediction_id_holds_its_moment_whatever_its_random_part(moment, random):
    identifier = prediction_id(moment, lambda _: random)
    assert moment - moment_of(identifier) < timedelta(milliseconds=1)
    assert identifier[14] == "7"

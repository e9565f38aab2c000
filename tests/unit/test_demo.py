"""The demo's data and its closing table, held against numbers counted by hand."""

import math
import zoneinfo
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from feedback_loop.demo.flights import FEATURES, KEY, load_flights
from feedback_loop.demo.summary import binary_losses, closing_words
from feedback_loop.rehearsal import Strategy, compare, losses_by_turn, mean_losses, plot_losses


@pytest.fixture(scope="module")
def flights():
    return load_flights()


def test_all_flights_of_the_year_are_there_once(flights):
    assert len(flights) == 336_776
    assert not flights.duplicated(list(KEY)).any()
    assert flights["arrived_at"].notna().sum() == flights["late"].notna().sum() == 327_346
    assert flights["late"].sum() == 77_630
    labelled = flights.dropna(subset=["late"])
    assert ((labelled["arr_delay"] > 15) == labelled["late"]).all()


def test_an_arrival_is_in_its_destinations_time_zone(flights):
    """UA 1545 on 1 January: off EWR at 5:17, 227 minutes in the air, on the ground in Houston at 8:30 local."""
    row = flights[
        (flights["carrier"] == "UA") & (flights["flight"] == 1545) & (flights["date"] == "2013-01-01")
    ].iloc[0]
    houston = datetime(2013, 1, 1, 8, 30, tzinfo=zoneinfo.ZoneInfo("America/Chicago"))
    assert row["arrived_at"] == pd.Timestamp(houston)
    assert row["scheduled_at"] == pd.Timestamp("2013-01-01T10:15:00Z")


def test_every_flight_lands_after_it_took_off_and_within_two_days(flights):
    hours = (flights["arrived_at"] - flights["scheduled_at"]).dropna() / pd.Timedelta(hours=1)
    assert hours.min() > 0
    assert hours.max() < 36


def test_predictions_are_made_at_four_in_the_morning_before_every_departure(flights):
    local = flights["predicted_at"].dt.tz_convert("America/New_York")
    assert set(local.dt.hour) == {4}
    assert (flights["predicted_at"] < flights["scheduled_at"]).all()
    other_day = flights[local.dt.tz_localize(None).dt.normalize() != pd.to_datetime(flights["date"])]
    assert list(other_day["flight"]) == [1632]  # scheduled for 1:06: the one that leaves before 4


def test_yesterdays_lateness_counts_only_flights_that_had_landed_by_four(flights):
    moment = pd.Timestamp("2013-07-02T08:00:00Z")
    yesterday = flights[(flights["date"] == "2013-07-01") & (flights["origin"] == "JFK")]
    landed = yesterday[yesterday["arrived_at"] < moment]
    assert len(landed) < yesterday["arrived_at"].notna().sum()  # some landed later: they must not be known
    today = flights[(flights["date"] == "2013-07-02") & (flights["origin"] == "JFK")]
    assert today["origin_late_share"].unique() == pytest.approx([landed["late"].mean()])


def test_no_feature_is_the_outcome_in_disguise(flights):
    assert not set(FEATURES) & {"late", "arrived_at", "dep_delay", "arr_delay", "dep_time", "air_time"}
    assert list(flights[list(FEATURES)].columns) == list(FEATURES)


def test_the_closing_table_is_right_on_a_case_counted_by_hand():
    truth = np.array([True, False, True, False])
    frozen = Strategy("frozen", binary_losses(truth, [0.5, 0.5, 0.5, 0.5]), 0, 0)
    better = Strategy("the loop", binary_losses(truth, [0.8, 0.2, 0.5, 0.5]), 3, 2)
    first, second = compare([frozen, better], "log_loss")
    assert first["log_loss"] == pytest.approx(math.log(2))
    assert first["brier"] == pytest.approx(0.25)
    assert first["log_loss_change"] == 0
    # two rows at -ln .8 and two at ln 2; squares .04, .04, .25, .25
    assert second["log_loss"] == pytest.approx((2 * -math.log(0.8) + 2 * math.log(2)) / 4)
    assert second["brier"] == pytest.approx((0.04 + 0.04 + 0.25 + 0.25) / 4)
    assert second["log_loss_change"] == pytest.approx(second["log_loss"] / math.log(2) - 1)
    assert (second["retrainings"], second["promotions"]) == (3, 2)


def test_mean_losses_are_of_their_day():
    days = [datetime(2013, 2, 1), datetime(2013, 2, 2), datetime(2013, 2, 1)]  # noqa: DTZ001
    losses = binary_losses(np.array([True, True, False]), [0.5, 0.25, 0.5])["log_loss"]
    assert mean_losses(days, losses) == {days[0]: pytest.approx(math.log(2)), days[1]: pytest.approx(math.log(4))}


def test_a_plot_of_half_days_has_a_point_for_each_and_says_so(tmp_path):
    moments = [datetime(2013, 2, 1, hour, tzinfo=UTC) for hour in (1, 11, 12, 23)]
    played = [Strategy("the loop", {"log_loss": np.array([1.0, 2.0, 3.0, 5.0])}, 0, 0)]
    points = losses_by_turn(played, "log_loss", moments, timedelta(hours=12))
    assert points == {"the loop": {moments[0].replace(hour=0): 1.5, moments[2]: 4.0}}
    _, page = plot_losses(points, [], title="losses", folder=tmp_path, every="turn")
    drawn = page.read_text().partition("Plotly.newPlot")[2]
    assert ("mean of 7 turns" in drawn, "log loss of the turn" in drawn) == (True, True)


def test_the_closing_words_show_when_rows_do_not_add_up(tmp_path):
    result = {
        "strategies": [],
        "flights": 10,
        "answered": 10,
        "answered_over_http": 3,
        "logged": 9,
        "labelled": 8,
        "coverage": 0.8,
        "incidents": 0,
        "seconds": 1.0,
        "reports": 2,
    }
    assert "10 ≠ answered 10 ≠ rows logged 9" in closing_words(result, tmp_path)
    assert "10 = answered 10 = rows logged 10" in closing_words({**result, "logged": 10}, tmp_path)


def test_the_clock_on_the_wall_changes_twice_and_arrivals_with_it(flights):
    """Daylight saving time began on 10 March and ended on 3 November."""
    by_day = flights.groupby("date")["predicted_at"].first()
    assert by_day["2013-03-09"] == datetime(2013, 3, 9, 9, tzinfo=UTC)
    assert by_day["2013-03-10"] == datetime(2013, 3, 10, 8, tzinfo=UTC)
    assert by_day["2013-11-02"] == datetime(2013, 11, 2, 8, tzinfo=UTC)
    assert by_day["2013-11-03"] == datetime(2013, 11, 3, 9, tzinfo=UTC)

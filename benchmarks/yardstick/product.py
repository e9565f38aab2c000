"""The product's own loop over a stream: by its Python API, on its simulated clock, turn by turn as rehearsals are."""

from __future__ import annotations

import random
import resource
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.yardstick.calendars import Answers, Fits
from benchmarks.yardstick.rows import DAY, OUTCOME, Places, Rows
from feedback_loop.clock import ManualClock
from feedback_loop.config import Settings, StoreSettings
from feedback_loop.cycle import cycle
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import Floats
from feedback_loop.registry import Origin
from feedback_loop.rehearsal import take_turn
from feedback_loop.store import migrate, retrainings

if TYPE_CHECKING:
    import pandas as pd

MODEL = "stream"
HOLDOUT = 0.2
"""The share of the rows from before the stream that a twin of the first version is judged on: the reference."""

SEARCH, SLOW = "retrain", ("explain", "report")
"""The job that fits; and pages for people, which nobody reads here."""


def loop(fits: Fits, name: str, changes: Mapping[str, Any] | None = None) -> Answers:
    """The loop with the product's defaults but for `changes` (keys of `[models.m]`)."""
    with tempfile.TemporaryDirectory() as folder:
        clock = ManualClock(_moment(fits.rows.looks[0]))
        settings = _settings(fits.rows, Path(folder), changes or {})
        bits = random.Random(fits.rows.settings.seed).getrandbits  # noqa: S311 (no secret)
        own = FeedbackLoop(settings, clock=clock, bits=bits)
        try:
            migrate.prepare(own.store)
            _register_first(own, fits, Path(folder))
            return _Play(own, clock, fits.rows).play(name)
        finally:
            own.close()


@dataclass
class _Play:
    """A loop whose clock is moved over the looks of a stream; what it answered, and the ids of that."""

    own: FeedbackLoop
    clock: ManualClock
    rows: Rows
    seconds: float = 0.0  # of searches
    ids: np.ndarray[Any, np.dtype[np.object_]] = field(init=False)
    values: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.ids, self.values = np.full(len(self.rows.time), None, dtype=object), self.rows.no_answers()

    def play(self, name: str) -> Answers:
        """Plays all looks; what matures after the last one moves nothing any more."""
        began, rows, version, moves = _cpu_seconds(), self.rows, "", list[int]()
        others = [job.name for job in cycle(self.own, MODEL) if job.name != SEARCH]
        for number, look in enumerate(rows.looks):
            moment = _moment(look)
            self._learn(look)
            take_turn(self.own, self.clock, MODEL, moment, without=(*SLOW, SEARCH))
            before, searches = _cpu_seconds(), len(self._searches())
            take_turn(self.own, self.clock, MODEL, moment, without=(*SLOW, *others))
            if len(self._searches()) > searches:
                self.seconds += _cpu_seconds() - before
            version, before_it = self.own.champion(MODEL).version, version
            if number and version != before_it:
                moves.append(number)
            for places in _together(rows, rows.of_looks(number, number + 1)):
                self._predict(places)
        moved = retrainings.load_promotions(self.own.store, MODEL)
        done = [move for move in moved if move.kind == "promotion" and move.state == "done"]
        costs = (len(self._searches()), len(done), self.seconds, _cpu_seconds() - began)
        return Answers(name, self.values, *costs, moves=tuple(moves), cpu_of="searches")

    def _searches(self) -> list[retrainings.Retraining]:
        made = retrainings.load_retrainings(self.own.store, MODEL)
        return [search for search in made if search.state != "not_made"]

    def _learn(self, look: np.datetime64) -> None:
        """What became known since the last turn is reported."""
        import pandas as pd

        since, rows = np.datetime64(self.clock().replace(tzinfo=None)), self.rows
        self.clock.set(_moment(look))
        places = np.flatnonzero((rows.known > since) & (rows.known <= look) & rows.played)
        places = places[[identifier is not None for identifier in self.ids[places]]]
        if not len(places):
            return
        known = pd.to_datetime(rows.known[places], utc=True)
        outcome = rows.outcome.iloc[places].infer_objects().to_numpy()
        columns = {"prediction_id": self.ids[places], OUTCOME: outcome, "occurred_at": known, "recorded_at": known}
        self.own.record_outcomes(MODEL, pd.DataFrame(columns), source="benchmark")

    def _predict(self, places: Places) -> None:
        """These rows are predicted at their common moment."""
        self.clock.set(_moment(self.rows.time[places[0]]))
        answered = self.own.predict(MODEL, self.rows.features.iloc[places])
        self.ids[places] = answered.column("prediction_id").to_pylist()
        self.values[places] = _values(self.rows, answered)


def _values(rows: Rows, answered: pa.Table) -> Floats:
    """Answers as strategies compare them."""
    if rows.settings.task == "regression":
        return np.asarray(answered.column("prediction").to_numpy())
    if rows.settings.task == "binary":
        positive = answered.column("probability").to_numpy()
        return np.column_stack([1 - positive, positive])
    return np.column_stack([answered.column(f"probability_{label}").to_numpy() for label in rows.classes])


def _together(rows: Rows, places: Places) -> Iterator[Places]:
    """The rows of one moment at once."""
    for moment in np.unique(rows.time[places]):
        yield places[rows.time[places] == moment]


def _register_first(own: FeedbackLoop, fits: Fits, folder: Path) -> None:
    """Registers and promotes the first version, with a reference that a twin answered who had not learned from it."""
    rows, now = fits.rows, own.clock()
    places = rows.earlier
    cut = int(len(places) * (1 - HOLDOUT))
    twin, held = fits.fitted(places[:cut]), places[cut:]
    assert twin is not None  # the first version has its rows and more
    frame, outcome = _frame(rows, places), rows.outcome.iloc[held].infer_objects().to_numpy()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "history.parquet")
    inputs = rows.features.iloc[held]
    answers: dict[str, Any] = {"prediction": twin.predict(inputs)}
    if rows.classes:
        chances = rows.answers_of(twin, held)
        named = {f"probability_{label}": column for label, column in zip(rows.classes, chances.T, strict=True)}
        answers |= named if rows.settings.task == "multiclass" else {"probability": chances[:, 1]}
    reference = inputs.assign(**answers, **{OUTCOME: outcome}, predicted_at=_moments(rows, held))
    table = pa.Table.from_pandas(reference, preserve_index=False)
    origin = Origin("a benchmark's stream", len(places), now, table, {}, {})
    version = own.registry.register(MODEL, fits.first(), origin, now, example=rows.features.iloc[places[:5]])
    own.promote(MODEL, version.version, reason="the first version")


def _frame(rows: Rows, places: Places) -> pd.DataFrame:
    outcome = rows.outcome.iloc[places].infer_objects()
    return rows.features.iloc[places].assign(**{OUTCOME: outcome}, predicted_at=_moments(rows, places))


def _moments(rows: Rows, places: Places) -> Any:
    import pandas as pd

    return pd.to_datetime(rows.time[places], utc=True)


def _settings(rows: Rows, folder: Path, changes: Mapping[str, Any]) -> Settings:
    settings = rows.settings
    model: dict[str, Any] = {
        "task": settings.task,
        "label": OUTCOME,
        "maturity": settings.maturity,
        "window": DAY.item(),
        "policy": {"reference": settings.reference, "refresh": settings.refresh, "seed": settings.seed},
        "retraining": {
            "recent": settings.recent,
            "history": "history.parquet",
            "min_rows": settings.min_rows,
            "jobs": 1,  # the seconds of other processes are known only when these end
        },
    }
    for section, values in changes.items():
        model[section] = {**model.get(section, {}), **values}
    registry = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": str(folder / "mlartifacts")}
    return Settings(home=folder, store=StoreSettings(), registry=registry, models={MODEL: model})


def _moment(time: np.datetime64) -> datetime:
    moment: datetime = time.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def _cpu_seconds() -> float:
    """Of this process and of those it started, that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

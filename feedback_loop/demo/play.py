"""The demo: a year of flights, played day by day through the very functions that run in production."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feedback_loop.clock import EPOCH, ManualClock, Window
from feedback_loop.demo.flights import FEATURES, KEY, LABEL, load_flights
from feedback_loop.demo.http_day import predict_over_http
from feedback_loop.demo.model import NAME, fit, make_pipeline, probabilities, register_first
from feedback_loop.demo.screen import Month, Screen
from feedback_loop.demo.summary import binary_losses, count_rows
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import model_folder, with_raw_answers
from feedback_loop.registry import Reference
from feedback_loop.rehearsal import Strategy, compare, mean_losses, plot_losses, take_turn
from feedback_loop.rehearsal import fresh_folder as marked_folder
from feedback_loop.schema import prediction_id
from feedback_loop.store import conclusions, evaluations, predictions, retrainings
from feedback_loop.store.incidents import load_incidents

if TYPE_CHECKING:
    import pandas as pd

MARK = ".feedback-loop-demo"
"""The file that says that a folder is a demo's, and may be replaced by the next one."""

FAST_SHARE = 4
"""With `--fast` one flight in so many is played."""

BEGIN = "2013-02-01"
"""The first day that is played."""

HTTP_DAY = 17
"""The day, counted from the first one played, whose flights are asked for over HTTP; the last one of fewer days."""

CONFIG = """\
# The demo's configuration. Every value can be overridden by a variable, such as FEEDBACK_LOOP_STORE__URL.

[store]
url = "sqlite:///feedback_loop.db"

[registry]
tracking_uri = "sqlite:///mlflow.db"
artifact_root = "mlartifacts"

[models.flights]
task = "binary"
label = "late"
key = ["carrier", "flight", "date", "origin"]
key_types = { flight = "long" }
segments = ["origin"]
maturity = "2d"          # the longest delay of the year is 22 hours
window = "1d"

[models.flights.policy]
alpha = 0.05
mode = "act"
cooldown = "14d"
refresh = "24d"
reference = %(reference)d
seed = %(seed)d

[models.flights.retraining]
recent = "30d"
history = "history.parquet"   # before the log began
min_rows = %(min_rows)d
search = "own"           # "kinds" tries three more, and takes the average of the best

[models.flights.adapter]
mode = "on"              # what the model itself would have answered is logged beside each answer

[models.flights.outcomes]
folder = "outcomes"

[models.flights.schedule]
cycle = "0 9 * * *"
report = "0 10 1 * *"
"""


@dataclass(frozen=True)
class DemoOptions:
    """What is played and where it is left."""

    folder: Path
    months: int = 2
    fast: bool = False
    seed: int = 0
    begin: str = BEGIN


def play(options: DemoOptions, screen: Screen) -> dict[str, Any]:
    """Plays the demo in its fresh folder and returns what it showed, as plain values; all else is left there."""
    began = time.monotonic()
    folder = options.folder.absolute()
    screen.say("reading the flights of 2013")
    flights = _chosen(load_flights(), options)
    days = flights.groupby("predicted_at", sort=True)
    before = flights[flights["date"] < options.begin]
    moments = [moment.to_pydatetime() for moment in days.groups if _is_played(moment, options)]
    clock = ManualClock(moments[0])
    loop = FeedbackLoop.open(folder / "feedback_loop.toml", clock=clock, bits=random.Random(options.seed).getrandbits)  # noqa: S311 (no secret)
    pipeline = make_pipeline(options.seed, fast=options.fast)
    screen.say("training the first version on what is from before, registering it (MLflow makes its database first)")
    labelled = before.dropna(subset=[LABEL])
    _write(labelled[["predicted_at", *FEATURES, LABEL]], folder / "history.parquet")
    register_first(loop, pipeline, before)
    story = _Story(loop, clock, flights, folder, options, screen)
    with screen.days(len(moments)) as advance:
        for number, moment in enumerate(moments):
            story.day(moment, days.get_group(moment), over_http=number == min(HTTP_DAY, len(moments) - 1))
            advance(1)
        for _ in range(4):  # the last flights land and mature; nothing is left to retrain for
            story.day(clock() + timedelta(days=1), None)
    screen.say("comparing with a frozen model and with monthly retraining")
    result = _closing(story, pipeline, flights[flights["predicted_at"].isin(moments)])
    loop.close()
    return {**result, "seconds": time.monotonic() - began}


class _Story:
    """The simulation's state: what was answered, and each month so far."""

    def __init__(
        self,
        loop: FeedbackLoop,
        clock: ManualClock,
        flights: pd.DataFrame,
        folder: Path,
        options: DemoOptions,
        screen: Screen,
    ) -> None:
        self.loop = loop
        self.folder = folder
        self.answered = 0
        self.answered_over_http = 0
        self._clock = clock
        self._options = options
        self._screen = screen
        self._landings = flights.dropna(subset=["arrived_at"]).sort_values("arrived_at")
        self._months: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def day(self, moment: datetime, flights: pd.DataFrame | None, *, over_http: bool = False) -> None:
        """One simulated day at 4 a.m.: the scheduler's cycle, then today's flights are predicted."""
        since = self._clock()
        self._landed(since, moment)
        take_turn(self.loop, self._clock, NAME, moment, without=("retrain",) if flights is None else ())
        if flights is not None:
            self._predict(moment, flights, over_http=over_http)
        self._show(moment)

    def _landed(self, since: datetime, until: datetime) -> None:
        """What landed since yesterday is put where the scheduler's job looks for outcomes."""
        arrived = self._landings["arrived_at"]
        landed = self._landings[
            (arrived > since) & (arrived <= until) & (self._landings["date"] >= self._options.begin)
        ]
        if len(landed):
            rows = landed[[*KEY, LABEL]].assign(occurred_at=landed["arrived_at"], recorded_at=landed["arrived_at"])
            place = self.folder / "outcomes"
            place.mkdir(exist_ok=True)
            _write(rows, place / f"{until:%Y-%m-%d}.parquet")

    def _predict(self, moment: datetime, flights: pd.DataFrame, *, over_http: bool) -> None:
        if over_http:
            self._screen.say(f"{moment:%Y-%m-%d}: {len(flights)} flights over HTTP, 16 callers at once")
            bits = random.Random(f"{self._options.seed} {moment}").getrandbits  # noqa: S311 (no secret)
            ids = [prediction_id(moment, bits) for _ in range(len(flights))]
            count = predict_over_http(self.folder / "feedback_loop.toml", flights, ids, moment)
            self.answered_over_http += count
            self.loop.forward()  # what the server did not get into the store before it ended
        else:
            count = self.loop.predict(NAME, flights[list(dict.fromkeys((*KEY, *FEATURES)))]).num_rows
        self.answered += count
        self._months[f"{moment:%Y-%m}"]["predictions"] += count

    def _show(self, moment: datetime) -> None:
        within = Window(moment - timedelta(days=4), moment)
        for evaluation in evaluations.load_evaluations(self.loop.store, NAME, within=within):
            loss = evaluation.metric("log_loss")
            if evaluation.as_of == moment and evaluation.matured and loss is not None:
                month = self._months[f"{evaluation.window.start:%Y-%m}"]
                month["matured"] += evaluation.predictions
                month["labelled"] += evaluation.labelled
                month["loss"] += loss * evaluation.labelled
        verdict = conclusions.latest_verdict(self.loop.store, NAME)
        champion = self.loop.champion(NAME)
        name = f"{moment:%Y-%m}"
        if name not in self._months:
            return
        month = self._months[name]
        self._screen.month(
            Month(
                name=name,
                predictions=int(month["predictions"]),
                coverage=month["labelled"] / month["matured"] if month["matured"] else None,
                loss=month["loss"] / month["labelled"] if month["labelled"] else None,
                verdict=str(verdict.state) if verdict is not None else "–",
                champion=champion.version,
            )
        )


def _closing(story: _Story, pipeline: Any, played: pd.DataFrame) -> dict[str, Any]:
    """The loop's own log beside what other strategies would have answered for the same flights."""
    loop, folder = story.loop, story.folder
    contract = loop.scorer(loop.champion(NAME)).contract
    until = loop.clock() + timedelta(days=1)
    log = predictions.read_labelled(
        loop.store,
        contract,
        Window(EPOCH, until),
        columns=(*contract.outputs, *contract.raw_outputs, *contract.key),
    )
    own = with_raw_answers(contract, log).column("probability")
    log = log.append_column("own_probability", own)
    frame = log.to_pandas().merge(played, on=list(KEY), suffixes=("", "_known"), validate="one_to_one")
    labelled = frame[frame[LABEL].notna()].sort_values("scheduled_at", ignore_index=True)
    truth = labelled[LABEL].to_numpy(dtype=bool)
    first = loop.scorer(loop.registry.find(Reference(NAME, version="1"))).loaded.estimator
    monthly, fits = _monthly(pipeline, labelled, folder, first)
    searches = retrainings.load_retrainings(loop.store, NAME)
    promoted = [
        p for p in retrainings.load_promotions(loop.store, NAME) if p.kind == "promotion" and p.state == "done"
    ]
    strategies = [
        Strategy("frozen first version", binary_losses(truth, probabilities(first, labelled)), 0, 0),
        Strategy("monthly retraining", binary_losses(truth, monthly), fits, fits),
        Strategy("the loop", binary_losses(truth, labelled["own_probability"]), len(searches), len(promoted)),
        Strategy("the loop + adapter", binary_losses(truth, labelled["probability"]), len(searches), len(promoted)),
    ]
    days = [datetime.fromisoformat(date) for date in labelled["date"]]
    plot_losses(
        {s.name: mean_losses(days, s.losses["log_loss"]) for s in strategies if s.name != "monthly retraining"},
        [(p.done_at, f"version {p.to_version}") for p in promoted if p.done_at is not None],
        title="Will a flight out of New York be late? Daily log loss, 2013",
        folder=folder,
    )
    reports = sorted(model_folder(loop.reports, NAME).glob("*.html"))
    return {
        "strategies": compare(strategies, "log_loss"),
        "flights": len(played),
        "answered": story.answered,
        "answered_over_http": story.answered_over_http,
        "logged": count_rows(folder / "feedback_loop.db", "predictions_flights"),
        "labelled": len(labelled),
        "coverage": len(labelled) / len(frame),
        "incidents": len(load_incidents(loop.store, NAME)),
        "reports": len(reports),
        "folder": str(folder),
    }


def _monthly(pipeline: Any, labelled: pd.DataFrame, folder: Path, first: Any) -> tuple[np.ndarray[Any, Any], int]:
    """A calendar instead of a loop: on each first of a month, a fit to all that has landed by then."""
    import pandas as pd

    chances = np.zeros(len(labelled))
    history = pq.read_table(folder / "history.parquet").to_pandas()
    months = labelled["date"].str[:7]
    fits = 0
    for month in sorted(set(months)):
        rows = (months == month).to_numpy()
        begins = labelled.loc[rows, "predicted_at"].min()
        model = first
        if month != months.min():
            landed = labelled[labelled["arrived_at"] < begins]
            model, fits = fit(pipeline, pd.concat([history, landed])), fits + 1
        chances[rows] = probabilities(model, labelled[rows])
    return chances, fits


def fresh_folder(options: DemoOptions) -> Path:
    """Makes the demo's folder with its configuration; an earlier demo there goes. Raises Refused for any other."""
    folder = marked_folder(options.folder, MARK)
    least = {"reference": 1000, "min_rows": 250} if options.fast else {"reference": 5000, "min_rows": 1000}
    (folder / "feedback_loop.toml").write_text(CONFIG % {**least, "seed": options.seed})
    return folder


def _chosen(flights: pd.DataFrame, options: DemoOptions) -> pd.DataFrame:
    return flights.iloc[options.seed % FAST_SHARE :: FAST_SHARE] if options.fast else flights


def _is_played(moment: pd.Timestamp, options: DemoOptions) -> bool:
    return f"{moment:%Y-%m-%d}" >= options.begin and bool(2 <= moment.month <= 1 + options.months)


def _write(rows: pd.DataFrame, path: Path) -> None:
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), path)

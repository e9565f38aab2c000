"""Made and real cases of models that have become worse, each for one cause that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from feedback_loop.decisions.diagnosis.replays import Score, score_with
from feedback_loop.inference.engines import SklearnEngine
from feedback_loop.schema import Column, ColumnType, Contract, Task, make_contract
from feedback_loop.schema.coerce import coerce

if TYPE_CHECKING:
    from feedback_loop.monitoring import Floats

Kind = Literal["logistic", "boosted", "regression", "flights"]
Random = np.random.Generator

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
TRAINED, ROWS, DAYS = 8_000, 4_000, 20

UNITS = {"km for miles": (1.609, 0.0), "Fahrenheit for Celsius": (1.8, 32.0), "hours for minutes": (1 / 60, 0.0)}
UNITS |= {"per cent": (100.0, 0.0), "cents": (0.01, 0.0), "pounds for kilograms": (2.205, 0.0)}


@dataclass(frozen=True)
class Case:
    """Labelled rows of before and now, the champion's way to score them, and what is right."""

    cause: str
    expected: str
    contract: Contract
    reference: pa.Table
    current: pa.Table
    score: Score
    estimator: Any  # the champion
    repaired: pa.Table  # the current rows as they would come without a fault


EXPECTED = {
    "other units": "repair",
    "renamed words": "repair",
    "missing": "repair",
    "frozen": "repair",
    "new category": "more",
    "inputs, new": "more",
    "inputs, harder": "none",
    "relation": "recent",
    "both": "recent",
    "dead feature": "replace",
    "architecture": "architecture",
    "none": "none",
}
"""What is right for each cause. Inputs that are only harder are no reason to act: no model would do better."""

NUMBERS, WORDS = ("age", "amount", "rate", "visits", "noise"), ("plan", "region")
PLANS, REGIONS = ("basic", "plus", "pro"), ("North", "East", "South", "West", "Islands")


def _inputs(random: Random, rows: int, *, older: float = 0.0) -> pd.DataFrame:
    """Customers: numbers that hang together, words, and one number that tells nothing."""
    age = np.clip(random.normal(45, 9, rows) + older, 18, 99)
    amount = np.exp(random.normal(4.0 + 0.01 * (age - older - 45), 0.6, rows))
    return pd.DataFrame(
        {
            "age": age,
            "amount": amount,
            "rate": 0.5 * (np.log(amount) - 4) + random.normal(0, 1, rows),
            "visits": random.poisson(3, rows).astype(float),
            "noise": random.normal(0, 1, rows),
            "plan": random.choice(PLANS, rows, p=(0.5, 0.3, 0.2)),
            "region": random.choice(REGIONS, rows, p=(0.3, 0.25, 0.2, 0.15, 0.1)),
        }
    )


@dataclass(frozen=True)
class World:
    """How outcomes come about: a score of the inputs, and what it makes of it."""

    is_number: bool
    curved: bool
    weights: dict[str, float]

    def score(self, rows: pd.DataFrame) -> Floats:
        """The true log odds, or the true mean."""
        z = {
            "age": np.minimum(rows["age"], 62) / 9 - 5 - 1.2 * np.maximum(rows["age"] - 62, 0) / 9,
            "amount": np.log(rows["amount"]) / 0.6 - 6.7,
            "rate": rows["rate"],
            "visits": (rows["visits"] - 3) / 1.7,
            "plan": rows["plan"].map({"basic": 0.8, "plus": 0.0, "pro": -1.0}).astype(float),
            "region": rows["region"].map(
                dict(zip((*REGIONS, "Abroad"), (1.0, 0.4, 0.0, -0.7, -1.2, 2.5), strict=True))
            ),
        }
        total = sum(self.weights[name] * np.asarray(values, float) for name, values in z.items())
        if self.curved:
            total = total + 1.5 * np.sin(2 * np.asarray(z["rate"])) + 0.8 * np.abs(np.asarray(z["visits"])) - 0.6
        return np.asarray(total)

    def outcomes(self, random: Random, rows: pd.DataFrame) -> Any:
        """What happens."""
        score = self.score(rows)
        if self.is_number:
            return 10 * score + random.normal(0, 6, len(rows))
        return random.random(len(rows)) < 1 / (1 + np.exp(-score))


def _world(kind: Kind, random: Random, *, curved: bool) -> World:
    signs = random.choice([-1.0, 1.0], 6)
    sizes = random.uniform(0.7, 1.3, 6)
    names = ("age", "amount", "rate", "visits", "plan", "region")
    return World(kind == "regression", curved, dict(zip(names, (signs * sizes).tolist(), strict=True)))


def made_case(cause: str, kind: Kind, seed: int) -> Case:
    """A case of that cause, with a champion of that kind."""
    random = np.random.default_rng(seed)
    curved = (kind != "logistic") != (cause == "architecture")
    world = _world(kind, random, curved=True if cause == "architecture" else curved)
    if cause == "architecture":
        kind = "logistic" if kind == "boosted" else kind
    trained, before, now = (_inputs(random, rows) for rows in (TRAINED, ROWS, ROWS))
    later = world
    if cause == "inputs, new":
        now = _inputs(random, ROWS, older=random.uniform(14, 22))
    if cause in ("inputs, harder", "both"):
        now = _inputs(random, 5 * ROWS)
        score = world.score(now)
        hard = -np.abs(score) if not world.is_number else np.zeros(len(score))
        if world.is_number or cause == "both":
            hard = np.asarray(now["rate"] + 0.5 * (now["age"] - 45) / 9)
        chance = np.exp(1.2 * hard)
        now = now.iloc[random.choice(len(now), ROWS, replace=False, p=chance / chance.sum())].reset_index(drop=True)
    if cause in ("relation", "both"):
        turned = random.choice(["age", "amount", "rate", "plan", "region"], 2, replace=False)
        weights = {name: -0.5 * w if name in turned else w for name, w in world.weights.items()}
        later = World(world.is_number, world.curved, weights)
    if cause == "new category":
        is_new = random.random(ROWS) < random.uniform(0.15, 0.35)
        now["region"] = np.where(is_new, "Abroad", now["region"])
    outcomes = [w.outcomes(random, rows) for w, rows in ((world, trained), (world, before), (later, now))]
    if cause == "inputs, harder" and world.is_number:  # more of those whose outcome nobody can tell
        for place, rows in enumerate((trained, before, now)):
            outcomes[place] = outcomes[place] + np.maximum(rows["rate"], 0) * random.normal(0, 8, len(rows))
    estimator = _estimator("logistic" if cause == "architecture" and kind == "logistic" else kind, cause, seed)
    estimator.fit(trained, outcomes[0])
    frames = [before, _spoilt(cause, now, random), now]
    return _case(cause, kind, estimator, frames, [*outcomes[1:], outcomes[2]])


def _spoilt(cause: str, now: pd.DataFrame, random: Random) -> pd.DataFrame:
    """The same rows as they come from a feed that is broken."""
    now = now.copy()
    name = str(random.choice(["age", "amount", "rate"]))
    if cause == "other units":
        factor, offset = UNITS[str(random.choice(sorted(UNITS)))]
        now[name] = now[name] * factor + offset
    elif cause == "renamed words":
        word = str(random.choice(["plan", "region"]))
        change: Callable[[str], str] = [str.upper, lambda text: f"{text[0]}{len(text)}", str.lower][
            random.integers(3)
        ]
        renamed = now[word].map(change)
        now[word] = renamed if not (renamed == now[word]).all() else now[word].map(lambda text: f"{text}_2")
    elif cause == "missing":
        now[name] = np.nan
    elif cause == "frozen":
        now[name] = float(random.choice([0.0, -999.0, now[name].iloc[0]]))
    elif cause == "dead feature":
        now[name] = random.permutation(now[name].to_numpy())
    return now


def _estimator(kind: Kind, cause: str, seed: int) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

    if kind == "logistic" or (kind == "regression" and cause == "architecture"):
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        logs = make_pipeline(SimpleImputer(), FunctionTransformer(_log), StandardScaler())
        columns = make_column_transformer(
            (numbers, ["age", "rate", "visits", "noise"]),
            (logs, ["amount"]),
            (OneHotEncoder(handle_unknown="ignore"), list(WORDS)),
        )
        return make_pipeline(columns, Ridge() if kind == "regression" else LogisticRegression(max_iter=500))
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    trees = HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier
    columns = make_column_transformer((encoder, list(WORDS)), remainder="passthrough")
    return make_pipeline(columns, trees(random_state=seed % 1000))


def _log(values: Any) -> Any:
    return np.log(np.maximum(values, 1e-3))


def _case(cause: str, kind: Kind, estimator: Any, frames: list[pd.DataFrame], outcomes: list[Any]) -> Case:
    contract = _contract(kind)
    engine = SklearnEngine(estimator, contract)
    score = score_with(engine, contract)
    tables = []
    for place, (frame, outcome) in enumerate(zip(frames, outcomes, strict=True)):
        times = frame["predicted_at"] if "predicted_at" in frame else _times(len(frame), min(place, 1))
        named = frame.assign(**{contract.label.name: outcome})
        rows = coerce(pa.Table.from_pandas(named, preserve_index=False), (*contract.features, contract.label))
        rows = rows.append_column("predicted_at", pa.array(times, pa.timestamp("us", "UTC")))
        outputs = score(rows)
        for name in outputs.column_names:
            rows = rows.append_column(name, outputs.column(name))
        tables.append(rows)
    return Case(cause, EXPECTED[cause], contract, tables[0], tables[1], score, estimator, tables[2])


def _times(rows: int, side: int) -> list[datetime]:
    return [START + (side * DAYS + place % DAYS) * DAY for place in range(rows)]


def _contract(kind: Kind) -> Contract:
    from feedback_loop.demo.flights import CATEGORIES
    from feedback_loop.demo.flights import NUMBERS as MEASURED

    is_number = kind == "regression"
    numbers, words = (MEASURED, CATEGORIES) if kind == "flights" else (NUMBERS, WORDS)
    return make_contract(
        model=kind,
        task=Task.REGRESSION if is_number else Task.BINARY,
        features=(
            *(Column(name, ColumnType.DOUBLE, required=False) for name in numbers),
            *(Column(name, ColumnType.STRING, required=False) for name in words),
        ),
        label="outcome",
        label_type=ColumnType.DOUBLE if is_number else ColumnType.BOOLEAN,
        classes=() if is_number else (False, True),
        has_probabilities=not is_number,
    )


@cache
def _flights() -> pd.DataFrame:
    from feedback_loop.demo.flights import FEATURES, load_flights

    flights = load_flights().dropna(subset=["late"])
    flights["outcome"] = flights["late"].astype(bool)
    return flights[[*FEATURES, "predicted_at", "outcome"]].reset_index(drop=True)


def flights_case(cause: str, seed: int) -> Case:
    """The same with real flights: days of some months, shared out by chance to training, before and now."""
    from feedback_loop.demo.flights import FEATURES

    random = np.random.default_rng(seed)
    flights = _flights()
    days = flights["predicted_at"].dt.floor("D")
    count = 120 if cause == "none" else 28
    first = days.min() + pd.Timedelta(days=int(random.integers(0, 240)))
    spans = pd.date_range(first, periods=count, tz="UTC")
    inside = days.isin(spans).to_numpy()
    # Days differ, by weather above all: what is no change goes by days of its own, else each day is shared out.
    parts = dict(zip(spans, random.permutation(np.arange(count) % 3), strict=True))
    part = (
        days.map(parts).to_numpy(dtype=float, na_value=-1.0)
        if cause == "none"
        else random.integers(3, size=len(days))
    )
    part = np.where(inside, part, -1)
    trained, before, now = (flights[part == each].copy() for each in range(3))
    if cause in ("new category", "inputs, new"):
        trained, before, now = _moved(cause, random, trained, before, now)
    if cause == "inputs, harder":
        harder = (now["departure_minute"] > 16 * 60) & (now["origin_late_share"] > 0.2)
        now = pd.concat([now[harder], now[~harder].sample(frac=0.2, random_state=seed)])
    if cause == "both":
        evening = now["departure_minute"] > 15 * 60
        now = pd.concat([now[evening], now[~evening].sample(frac=0.3, random_state=seed)])
    before, now = (
        rows.sample(min(ROWS, len(rows)), random_state=seed).sort_values("predicted_at") for rows in (before, now)
    )
    if cause in ("relation", "both"):
        of = now["origin"] == str(random.choice(["JFK", "LGA", "EWR"]))
        now["outcome"] = np.where(
            of & (random.random(len(now)) < random.uniform(0.5, 0.8)), ~now["outcome"], now["outcome"]
        )
    estimator = _flight_estimator(seed)
    estimator.fit(trained[list(FEATURES)], trained["outcome"].to_numpy(bool))
    spoilt = _spoilt_flights(cause, now, random)
    frames = [rows.drop(columns="outcome") for rows in (before, spoilt, now)]
    outcomes = [rows["outcome"].to_numpy(bool) for rows in (before, now, now)]
    return _case(cause, "flights", estimator, frames, outcomes)


def _moved(cause: str, random: Random, *parts: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Evening flights, which the champion never saw, or nearly; a carrier that it never saw."""
    trained, before, now = parts
    if cause == "new category":
        new = str(random.choice(["EV", "B6"]))
        return trained[trained["carrier"] != new], before[before["carrier"] != new], now
    is_early = [rows["departure_minute"] < 13 * 60 for rows in parts]
    late = now[~is_early[2]]
    return (
        trained[is_early[0]],
        before[is_early[1]],
        pd.concat([late, now[is_early[2]].sample(frac=0.3, random_state=0)]),
    )


def _flight_estimator(seed: int) -> Any:
    from feedback_loop.demo.model import make_pipeline

    return make_pipeline(seed % 1000, fast=True)


def _spoilt_flights(cause: str, now: pd.DataFrame, random: Random) -> pd.DataFrame:
    now = now.copy()
    name = str(random.choice(["departure_minute", "origin_late_share"]))
    if cause == "other units":
        now[name] = now[name] * {"departure_minute": 1 / 60, "origin_late_share": 100.0}[name]
    elif cause == "renamed words":
        now["origin"] = now["origin"].map({"JFK": "Kennedy", "LGA": "LaGuardia", "EWR": "Newark"})
        now["carrier"] = now["carrier"].str.lower()
    elif cause == "missing":
        now[name] = np.nan
    elif cause == "frozen":
        now[name] = 0.0 if random.random() < 0.5 else float(now[name].dropna().iloc[0])
    elif cause == "dead feature":
        now["departure_minute"] = random.permutation(now["departure_minute"].to_numpy())
        now["arrival_minute"] = now["departure_minute"] + 150
    return now

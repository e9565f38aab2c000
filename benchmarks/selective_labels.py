"""A lender sees no outcome of whom it refuses: what does exploration cost, and what does it bring?

2,000 applicants a month; those whose probability of default is below .3 are accepted, and of the rest a share that is
explored. Every month a model is fitted to what six months have shown; from the ninth on two coefficients are others.
All of it goes through the product: answers with their marks, actions, outcomes, training rows, evaluations. Beside
it, one that sees the outcomes of all. Means over months and seeds; what is reported is compared with the truth, which
only the benchmark knows, and so is the naive figure of all who were accepted.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.lines import Line, run

Floats = npt.NDArray[np.float64]

MONTH = timedelta(days=30)
BEGINS = datetime(2024, 1, 1, tzinfo=UTC)
NAMES = tuple("abcdef")
ACCEPTED_BELOW = 0.3
SEEN_MONTHS = 6

CONFIG = """\
[store]
url = "sqlite:///store.db"
[registry]
tracking_uri = "sqlite:///mlflow.db"
[models.loans]
task = "binary"
label = "defaulted"
key = ["applicant"]
key_types = {{ applicant = "long" }}
maturity = "10d"
window = "30d"
[models.loans.policy]
reference = 1000000
[models.loans.outcomes]
selection = "{selection}"
[models.loans.exploration]
share = {share}
acts_below = 0.3
"""


@dataclass(frozen=True)
class Months:
    """What the applicants are like: of `count` months, changed from `change` on, and counted since `counted`."""

    count: int
    change: int
    counted: int
    applicants: int


@dataclass
class Figures:
    """What was found month by month."""

    loss: list[float] = field(default_factory=list)
    defaults: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    effective: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)  # minus the truth
    naive: list[float] = field(default_factory=list)  # minus the truth


def benchmark(quick: bool, seeds: int = 4) -> Iterator[Line]:
    """The figures of each share of exploration, for both models."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    months = Months(5, 3, 2, 1200) if quick else Months(24, 9, 9, 2000)
    seeds = 1 if quick else seeds
    shares = (0.0, 0.05, None) if quick else (0.0, 0.01, 0.02, 0.05, None)
    for model in ("logistic",) if quick else ("boosting", "logistic"):
        case = f"{model}, {months.count} months, {seeds} seeds"
        base: float | None = None
        for share in reversed(shares):  # who sees all comes first: the others are compared with it
            played = [_play(model, share, months, seed) for seed in range(seeds)]
            subject = "sees all" if share is None else f"{share:.0%} explored"
            loss = _mean(played, "loss")
            base = loss if share is None else base
            yield Line("selective_labels", case, "log_loss", loss, "nats", subject, "sees all", loss / (base or loss))
            for metric, unit in (("defaults", "share"), ("accepted", "share")):
                yield Line("selective_labels", case, metric, _mean(played, metric), unit, subject)
            if share is None:
                continue
            for metric, words in (("reported", "reported - true"), ("naive", "naive - true")):
                errors = np.array([error for figures in played for error in getattr(figures, metric)])
                if not len(errors):
                    continue
                yield Line("selective_labels", case, words, float(errors.mean()), "nats", subject)
                error = float(errors.std(ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else float("inf")
                yield Line("selective_labels", case, f"its error ({metric})", error, "nats", subject)
            yield Line("selective_labels", case, "effective rows", _mean(played, "effective"), "rows", subject)


def _mean(played: list[Figures], metric: str) -> float:
    return float(np.mean([value for figures in played for value in getattr(figures, metric)]))


def _play(model: str, share: float | None, months: Months, seed: int) -> Figures:
    """One lender, month by month; `share` None: it sees the outcomes of all, and accepts whom it would."""
    from feedback_loop.clock import ManualClock, Window
    from feedback_loop.loop import FeedbackLoop

    random, figures = np.random.default_rng(seed), Figures()
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "feedback_loop.toml"
        selection = "all" if share is None else "acted"
        path.write_text(CONFIG.format(selection=selection, share=share or 0.0))
        clock = ManualClock(BEGINS)
        loop = FeedbackLoop.open(path, clock=clock)
        first, defaulted, _ = _applicants(random, months, 0, 0)
        _fit(loop, model, first, defaulted, clock())  # from before there was a model: of all
        for month in range(months.count):
            rows, defaulted, chances = _applicants(random, months, month, (month + 1) * months.applicants)
            answers = loop.predict("loans", rows)
            score = answers.column("probability").to_numpy()
            explored = answers.column("explore").to_numpy(zero_copy_only=False)
            accepted = (score < ACCEPTED_BELOW) | explored
            seen = np.ones(len(score), bool) if share is None else accepted
            clock.set(clock() + timedelta(days=1))
            loop.record_actions("loans", {"applicant": rows["applicant"][accepted]})
            loop.record_outcomes("loans", {"applicant": rows["applicant"][seen], "defaulted": defaulted[seen]})
            clock.set(BEGINS + (month + 1) * MONTH + timedelta(days=10))
            if month >= months.counted:
                truth = _loss(score, defaulted)
                window = Window(clock() - timedelta(days=10) - MONTH, clock() - timedelta(days=10))
                (said,) = (one for one in loop.evaluate("loans", window) if one.predictions)
                figures.loss.append(float(-np.mean(chances * np.log(score) + (1 - chances) * np.log(1 - score))))
                figures.defaults.append(float(chances[accepted].mean()))
                figures.accepted.append(float(accepted.mean()))
                figures.effective.append(said.metric("effective_rows") or float(seen.sum()))
                figures.naive.append(_loss(score[accepted], defaulted[accepted]) - truth)
                reported = said.metric("log_loss")
                if reported is not None:
                    figures.reported.append(reported - truth)
            clock.set(BEGINS + (month + 1) * MONTH)
            _refit(loop, model, clock())
        loop.close()
    return figures


def _applicants(
    random: np.random.Generator, months: Months, month: int, first: int
) -> tuple[dict[str, Any], npt.NDArray[np.bool_], Floats]:
    """Applicants by column, whether each defaults, and with what probability."""
    features = random.normal(size=(months.applicants, len(NAMES)))
    weights = np.array([1.0, -0.8, 0.6, 0.5, 0.0, 0.0])
    if month >= months.change:
        weights[[1, 4]] = 0.4, 1.0
    logit = features @ weights - 0.9 + 0.5 * features[:, 0] * features[:, 2]
    chances = 1 / (1 + np.exp(-logit))
    defaulted = random.random(months.applicants) < chances
    columns = {name: features[:, place] for place, name in enumerate(NAMES)}
    return {"applicant": np.arange(first, first + months.applicants), **columns}, defaulted, chances


def _loss(score: Floats, defaulted: npt.NDArray[np.bool_]) -> float:
    return float(-np.log(np.where(defaulted, score, 1 - score)).mean())


def _refit(loop: Any, model: str, now: datetime) -> None:
    """A version that is fitted to what the last six months have shown, of the product's own training rows."""
    from feedback_loop.retraining import training_rows

    champion = loop.context.scorer(loop.champion("loans"))
    since = now - SEEN_MONTHS * MONTH
    rows = training_rows(loop.store, champion, until=now, as_of=now, history=None, since=since)
    columns = {name: rows.table.column(name).to_numpy() for name in NAMES}
    _fit(loop, model, columns, rows.table.column("defaulted").to_numpy(zero_copy_only=False), now)


def _fit(loop: Any, model: str, columns: dict[str, Any], defaulted: npt.NDArray[np.bool_], now: datetime) -> None:
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    from feedback_loop.registry import Origin

    frame = pd.DataFrame({name: columns[name] for name in NAMES})
    estimator = (
        LogisticRegression()
        if model == "logistic"
        else HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, max_leaf_nodes=15, random_state=0)
    )
    estimator.fit(frame, defaulted)
    reference = pa.Table.from_pandas(frame.head(0).assign(prediction=False, probability=0.5, defaulted=False))
    origin = Origin("benchmark", len(frame), now, reference, {}, {})
    version = loop.registry.register("loans", estimator, origin, now, example=frame.head(3))
    loop.promote("loans", version.version, reason="monthly", force=True)


if __name__ == "__main__":
    run(benchmark, __doc__)

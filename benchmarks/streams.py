"""Streams of losses for the benchmarks of decisions: who never changes, who has days, seasons and late outcomes.

A stream is an array of losses, one row of LOOK labels a look, the reference first. Within a look the order says
nothing, as in the product, which goes by a digest of the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers.rules import Limit, adwin_alarm, chunks, z_test
from feedback_loop.decisions.monitors.rules import WindowRule, start_rule
from feedback_loop.monitoring import Floats

LOOK, RATE, SWING, DAYS = 500, 0.10, 0.03, 0.02
"""Labels a look; the error rate where nothing else is said, a season's amplitude, and the spread of looks' rates."""

FIRST = 20_000
"""The number of a stream's first window, as that of a day counted from 1970."""

Random = np.random.Generator
Make = Callable[[Random, int], Floats]
"""Losses of so many looks."""


@dataclass(frozen=True)
class Stream:
    """What is played: its name, its losses, how many looks of it are the reference, and which loss it is."""

    name: str
    make: Make
    reference: int = 10
    loss: str = "error"


def errors(random: Random, looks: int, rate: float = RATE) -> Floats:
    """0/1 losses of one rate."""
    return (random.random((looks, LOOK)) < rate).astype(np.float64)


def beta(random: Random, looks: int) -> Floats:
    """Such as Brier's: Beta(2, 8)."""
    return np.asarray(random.beta(2, 8, (looks, LOOK)))


def heavy(random: Random, looks: int, reference: int = 10) -> Floats:
    """Absolute errors of a regression with the tails of Student's t with 2 degrees of freedom, as they are scaled."""
    sizes = np.abs(random.standard_t(2, (looks, LOOK)))
    return np.asarray(np.minimum(sizes / np.quantile(sizes[:reference], 0.99), 1.0))


def tied(random: Random, looks: int) -> Floats:
    """Losses that take three values only."""
    return np.asarray(random.choice([0.0, 0.1, 0.5], (looks, LOOK), p=[0.6, 0.3, 0.1]))


def season(random: Random, looks: int, length: int, *, varies: float = 0.0) -> Floats:
    """Errors whose rate swings around RATE in cycles of so many looks, each cycle `varies` in its amplitude."""
    hours = np.arange(looks * LOOK) / LOOK + random.random() * length
    swings = SWING * (1 + varies * random.normal(size=looks // length + 3))
    rates = RATE + swings[(hours // length).astype(np.int64)] * np.sin(2 * np.pi * hours / length)
    return np.asarray(random.permuted(random.random((looks, LOOK)) < rates.reshape(looks, LOOK), axis=1), dtype=float)


def days(random: Random, looks: int, memory: float = 0.0) -> Floats:
    """Errors whose rate is each look's own: AR(1) with this memory around RATE, spread DAYS."""
    steps = random.normal(size=looks) * DAYS * np.sqrt(1 - memory**2)
    steps[0] = random.normal() * DAYS
    for look in range(1, looks):
        steps[look] += memory * steps[look - 1]
    wrong = random.random((looks, LOOK)) < np.clip(RATE + steps, 0.01, 1)[:, None]
    return np.asarray(wrong, dtype=np.float64)


GOOD_DELAY, BAD_DELAY = 0.5, 5.0
"""In looks, on average: outcomes of errors come ten times as late."""


def delays(random: Random, wrong: Floats) -> Floats:
    """How many looks after the end of its own each prediction's outcome comes."""
    return random.exponential(np.where(wrong > 0, BAD_DELAY, GOOD_DELAY))


def as_arrived(wrong: Floats, waits: Floats) -> list[Floats]:
    """Losses in the looks in which their outcomes come: what is fed where nobody waits."""
    looks = np.arange(len(wrong))[:, None] + waits.astype(np.int64)
    return [wrong[looks == look] for look in range(len(wrong))]


def matured(wrong: Floats, waits: Floats, maturity: int, reference: int) -> list[Floats]:
    """Losses of each look known when it has matured; those of the reference when all of that has."""
    age = maturity + np.maximum(reference - 1 - np.arange(len(wrong)), 0)
    return [losses[wait <= limit] for losses, wait, limit in zip(wrong, waits, age, strict=True)]


def cut(stream: Floats) -> list[Floats]:
    """The looks of a stream."""
    return list(stream)


def numbered(looks: Sequence[Floats]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each label of these first looks its window's number."""
    return np.repeat(np.arange(FIRST, FIRST + len(looks)), [len(look) for look in looks])


UNCHANGED = (
    *(Stream(f"error rate {rate:g}", partial(errors, rate=rate)) for rate in (0.02, 0.05, 0.1, 0.2, 0.3)),
    Stream("Beta losses", beta, loss="brier"),
    Stream("heavy tails", heavy, loss="absolute_error"),
    Stream("three values", tied, loss="brier"),
)
"""Exchangeable: all that the methods ask for."""

DEPENDENT = (
    Stream("a season a look", partial(season, length=1), 30),
    Stream("seven looks a season", partial(season, length=7), 30),
    Stream("twenty looks a season", partial(season, length=20), 100),
    Stream("a season that varies", partial(season, length=7, varies=0.7), 60),
    Stream("days of their own", days, 30),
    Stream("days, AR(1) .5", partial(days, memory=0.5), 60),
    Stream("days, AR(1) .8", partial(days, memory=0.8), 60),
    Stream("seven looks a season, short reference", partial(season, length=7)),
    Stream("days of their own, short reference", days),
)
"""Not exchangeable label by label; all but the last two with as long a reference as `policy suggest` asks for."""


PEERS = ("mean loss 10% above", "mean loss 5 points above", "z-test at .05 a look", "NannyML's chunks + 3 std")
"""Rules that go by windows."""

ADWIN = "ADWIN(.002)"


def rules(known: Floats, windows: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, WindowRule | Limit]:
    """The rules that go by windows, from the losses of the reference, each with its window's number."""
    made = (
        start_rule("threshold", known, threshold=0.10),
        start_rule("absolute", known, threshold=0.05),
        z_test(known),
        chunks(known, windows),
    )
    return dict(zip(PEERS, made, strict=True))


def window_rules(looks: Sequence[Floats], reference: int) -> dict[str, int | None]:
    """In which look of the stream (from 1) each window rule first cries; None: never. All looks at once."""
    counts = np.array([len(look) for look in looks[reference:]])
    means = np.array([look.mean() if len(look) else 0.0 for look in looks[reference:]])
    made = rules(np.concatenate(looks[:reference]), numbered(looks[:reference]))
    return {name: first(rule.crossed(means, counts)) for name, rule in made.items()}


def adwin(looks: Sequence[Floats], reference: int) -> int | None:
    """In which look of the stream ADWIN first sees a rise."""
    alarm = adwin_alarm(np.concatenate(looks[:reference]), np.concatenate(looks[reference:]))
    return told(alarm, looks[reference:])


def river_detectors(looks: Sequence[Floats], reference: int, names: Sequence[str]) -> dict[str, int | None]:
    """In which look of the stream detectors of river, as they come, first see a change; the reference warms them."""
    from river import drift

    made: dict[str, Any] = {"DDM": drift.binary.DDM, "EDDM": drift.binary.EDDM}
    made |= {"PageHinkley": drift.PageHinkley, "KSWIN": partial(drift.KSWIN, seed=0)}
    before, after = np.concatenate(looks[:reference]).tolist(), np.concatenate(looks[reference:]).tolist()
    found: dict[str, int | None] = {}
    for name in names:
        detector, alarm = made[name](), None
        for loss in before:
            detector.update(loss)
        for number, loss in enumerate(after, 1):
            detector.update(loss)
            if detector.drift_detected:
                alarm = number
                break
        found[name] = told(alarm, looks[reference:])
    return found


def told(alarmed_at: int | None, looks: Sequence[Floats]) -> int | None:
    """In which look (from 1) an alarm after so many labels is told."""
    if alarmed_at is None:
        return None
    return int(np.searchsorted(np.cumsum([len(look) for look in looks]), alarmed_at)) + 1


def first(holds: np.ndarray[Any, np.dtype[np.bool_]]) -> int | None:
    """The place (from 1) of the first that holds."""
    return int(np.argmax(holds)) + 1 if holds.any() else None

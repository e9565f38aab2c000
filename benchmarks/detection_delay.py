"""How many labels after a change a rule tells of it: ours, those of others, and a CUSUM that knows both rates.

A reference of 5,000 labels, 30,000 that do not change, then a change (at once, or over 5,000 labels) at any place of
a look of 500, and 70,000 more; an alarm is told at the end of its look. Streams on which a rule cried before are left
out of its figures; where it never cried, the delay is infinite. At its own settings each rule has its own rate of
false alarms; "matched" it is 5% of streams of 100,000 labels, as is the oracle's (Page 1954), and ours at most.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import streams
from benchmarks.false_alarms import ALPHA, METHODS
from benchmarks.lines import Line, command_line, show
from benchmarks.peers.rules import adwin_alarm, start_method
from benchmarks.streams import ADWIN, LOOK, PEERS, Random
from feedback_loop.decisions.monitors import Monitor
from feedback_loop.decisions.monitors.window_means import Units
from feedback_loop.monitoring import Floats

REFERENCE, BEFORE, AFTER, RAMP = 10, 60, 140, 5000
ORACLE, MATCHED = "the oracle CUSUM", "matched"
CALM = 300
"""Streams without a change, at most, that rules are matched on."""

ORACLES = 2000
"""Streams that the oracle's thresholds are found on: it is cheap."""

ALPHAS = (ALPHA, 1.2 * ALPHA, 1.4 * ALPHA, 1.6 * ALPHA)
"""Of D: the largest that cries on no more than ALPHA of unchanged streams is its matched one."""

DELTAS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Of ADWIN: the largest that cries on no more than ALPHA of unchanged streams is its matched one."""


@dataclass(frozen=True)
class Change:
    """Losses and what becomes of them: `draw` gives labels of the given sizes of the change between 0 and 1."""

    name: str
    loss: str
    draw: Callable[[Random, Floats], Floats]
    evidence: Callable[[Floats], Floats]  # the log-likelihood ratio of changed against not, of each label


def rates(before: float, rise: float) -> Change:
    """0/1 losses whose rate rises."""
    after = before + rise

    def evidence(losses: Floats) -> Floats:
        return np.where(losses > 0, float(np.log(after / before)), float(np.log((1 - after) / (1 - before))))

    def draw(random: Random, sizes: Floats) -> Floats:
        return (random.random(len(sizes)) < before + rise * sizes).astype(np.float64)

    return Change(f"{before:g} + {100 * rise:g} points", "error", draw, evidence)


def grown(factor: float) -> Change:
    """Beta(2, 8) losses, multiplied."""

    def evidence(losses: Floats) -> Floats:
        x = np.clip(losses, 1e-12, 1 - 1e-12)
        ratio = np.log1p(-np.minimum(x / factor, 1 - 1e-12)) - np.log1p(-x)
        return np.asarray(7 * ratio - 2 * np.log(factor))

    def draw(random: Random, sizes: Floats) -> Floats:
        return np.asarray(np.minimum(random.beta(2, 8, len(sizes)) * (1 + (factor - 1) * sizes), 1.0))

    return Change(f"Beta losses x {factor:g}", "brier", draw, evidence)


BASES: dict[str, tuple[Change, ...]] = {
    "0.1": tuple(rates(0.1, rise) for rise in (0.01, 0.02, 0.05, 0.1)),
    "0.02": tuple(rates(0.02, rise) for rise in (0.01, 0.02, 0.05, 0.1)),
    "beta": tuple(grown(factor) for factor in (1.1, 1.25, 1.5)),
}


@dataclass(frozen=True)
class Matched:
    """What gives each rule the same rate of false alarms."""

    limits: Mapping[str, float]  # by window rule: of its statistic
    alpha: float  # of D
    delta: float  # of ADWIN
    thresholds: Mapping[str, float]  # of the oracle, by change
    cries: Mapping[str, float]  # at its own settings, on streams of 100,000 labels that do not change


def benchmark(quick: bool, only: str = "", count: int = 300) -> Iterator[Line]:
    """Median delays and shares missed, and beside whom they are."""
    count, oracles, before, after = (8, 80, 10, 40) if quick else (count, ORACLES, BEFORE, AFTER)
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=-1, batch_size=1)
    for base, changes in BASES.items():
        chosen = [(change, ramp) for change in changes for ramp in (1, RAMP) if re.search(only, _case(change, ramp))]
        if not chosen:
            continue
        calm = parallel(
            delayed(_calm)(changes, seed, before + after) for seed in range(10_000, 10_000 + min(count, CALM))
        )
        highest = parallel(
            delayed(_oracles)(changes, seed, before + after) for seed in range(30_000, 30_000 + oracles)
        )
        matched = _matched(changes, calm, np.asarray(highest))
        for name, share in matched.cries.items():
            yield Line("detection_delay", f"{base}, no change", "cried at least once", share, "share", name)
        found = parallel(delayed(_delays)(chosen, matched, seed, before, after) for seed in range(count))
        for place, (change, ramp) in enumerate(chosen):
            yield from _lines(_case(change, ramp), [each[place] for each in found])


def _case(change: Change, ramp: int) -> str:
    return f"{change.name}, {'at once' if ramp == 1 else f'over {ramp:,} labels'}"


def _lines(case: str, found: Sequence[Mapping[str, float]]) -> Iterator[Line]:
    delays: dict[str, list[float]] = defaultdict(list)
    for each in found:
        for name, delay in each.items():
            delays[name] += [delay] if delay >= 0 else []
    medians = {name: float(np.median(values)) for name, values in delays.items() if values}
    for name, median in medians.items():
        missed = float(np.isinf(delays[name]).mean())
        yield Line("detection_delay", case, "missed", missed, "share", name)
        if np.isfinite(median):
            against = ADWIN if name in METHODS else ORACLE
            other = medians.get(against, np.inf)
            beside = (against, median / other) if name != against and np.isfinite(other) else (None, None)
            yield Line("detection_delay", case, "median delay", median, "labels", name, *beside)
            if name in METHODS and np.isfinite(medians[ORACLE]):
                yield Line(
                    "detection_delay", case, "median delay", median, "labels", name, ORACLE, median / medians[ORACLE]
                )


# What a rule says of each look: the first at which its statistic is above its limit is that of its alarm.


def statistics(known: Floats, means: Floats) -> dict[str, Floats]:
    """Each window rule's measure of looks: its own limit is at 0.1, .05, 1.645 and 3 of it."""
    chunks = known.reshape(-1, LOOK).mean(axis=1)
    error = known.std(ddof=1) * np.sqrt(1 / LOOK + 1 / len(known))
    values = (
        means / known.mean() - 1,
        means - known.mean(),
        (means - known.mean()) / error,
        (means - chunks.mean()) / max(float(chunks.std()), 1e-9),
    )
    return dict(zip(PEERS, values, strict=True))


def crossing(evidence: Floats, threshold: float) -> int | None:
    """After how many labels Page's CUSUM first reaches the threshold; None: never."""
    return streams.first(cusum(evidence) >= threshold)


def cusum(evidence: Floats) -> Floats:
    """Page's statistic after each label: how far the sum has risen above its lowest so far."""
    total = np.cumsum(evidence)
    return np.asarray(total - np.minimum(np.minimum.accumulate(total), 0.0))


def _calm(changes: Sequence[Change], seed: int, looks: int) -> dict[str, float]:
    """Of a stream that does not change the highest that each statistic becomes, and the deltas that cry."""
    random, base = np.random.default_rng(seed), changes[0]
    losses = base.draw(random, np.zeros((REFERENCE + looks) * LOOK))
    known, after = losses[: REFERENCE * LOOK], losses[REFERENCE * LOOK :]
    highest = {
        name: float(values.max()) for name, values in statistics(known, after.reshape(-1, LOOK).mean(axis=1)).items()
    }
    cries = {f"ADWIN({delta:g})": float(adwin_alarm(known, after, delta) is not None) for delta in DELTAS}
    windows, own = np.repeat(np.arange(REFERENCE), LOOK), {}
    for alpha in ALPHAS:
        monitor = start_method("change", base.loss, known, windows, Units("label"), alpha=alpha, seed=seed)
        own[f"D({alpha:g})"] = float(_alarm(monitor, after) is not None)
    for name, rule in streams.rules(known, windows).items():
        own[name] = float(rule.crossed(after.reshape(-1, LOOK).mean(axis=1), LOOK).any())
    return {**{f"highest {name}": value for name, value in highest.items()}, **cries, **own}


def _oracles(changes: Sequence[Change], seed: int, looks: int) -> list[float]:
    """The highest that the oracle of each change becomes on a stream that does not change."""
    losses = changes[0].draw(np.random.default_rng(seed), np.zeros(looks * LOOK))
    return [float(cusum(change.evidence(losses)).max()) for change in changes]


def _matched(changes: Sequence[Change], calm: Sequence[Mapping[str, float]], oracles: Floats) -> Matched:
    def highest(name: str) -> float:
        return float(np.quantile([each[f"highest {name}"] for each in calm], 1 - ALPHA))

    thresholds = np.quantile(oracles, 1 - ALPHA, axis=0).tolist()
    cries = {
        name: float(np.mean([each[name] for each in calm])) for name in calm[0] if not name.startswith("highest")
    }
    fitting = {
        rule: [size for size in sizes if cries[f"{rule}({size:g})"] <= ALPHA]
        for rule, sizes in (("D", ALPHAS), ("ADWIN", DELTAS))
    }
    return Matched(
        limits={name: highest(name) for name in PEERS},
        alpha=max(fitting["D"], default=ALPHA),
        delta=max(fitting["ADWIN"], default=DELTAS[0]),
        thresholds={change.name: each for change, each in zip(changes, thresholds, strict=True)},
        cries=cries,
    )


def _delays(
    cases: Sequence[tuple[Change, int]], matched: Matched, seed: int, before: int, after: int
) -> list[dict[str, float]]:
    """Of one stream, with each change in turn, each subject's delay (infinite: missed, below 0: cried before)."""
    random, base = np.random.default_rng(seed), cases[0][0]
    known = base.draw(random, np.zeros(REFERENCE * LOOK))
    calm = base.draw(random, np.zeros(before * LOOK))
    offset, windows = int(random.integers(LOOK)), np.repeat(np.arange(REFERENCE), LOOK)
    asked = [*((name, method, ALPHA) for name, method in METHODS.items()), (f"D, {MATCHED}", "change", matched.alpha)]
    ours: dict[str, Monitor] = {
        name: start_method(method, base.loss, known, windows, Units("label"), alpha=alpha, seed=seed).update(calm)
        for name, method, alpha in asked
    }
    found = []
    for change, ramp in cases:
        sizes = np.clip((np.arange(after * LOOK) - offset + 1) / ramp, 0, 1)
        coming = change.draw(np.random.default_rng([seed, ramp]), sizes)
        stream = np.concatenate([calm, coming])
        alarms = {name: _alarm(monitor, coming) for name, monitor in ours.items()}
        alarms[ADWIN] = adwin_alarm(known, stream)
        alarms[f"ADWIN, {MATCHED}"] = adwin_alarm(known, stream, matched.delta)
        alarms |= _window_alarms(known, stream, windows, matched)
        alarms[ORACLE] = crossing(change.evidence(stream), matched.thresholds[change.name])
        found.append({name: _delay(alarm, before * LOOK, offset) for name, alarm in alarms.items()})
    return found


def _alarm(monitor: Monitor, coming: Floats) -> int | None:
    for start in range(0, len(coming), 4 * LOOK):
        if monitor.alarmed_at is not None:
            break
        monitor = monitor.update(coming[start : start + 4 * LOOK])
    return monitor.alarmed_at


def _window_alarms(known: Floats, stream: Floats, windows: Any, matched: Matched) -> dict[str, int | None]:
    means, alarms = stream.reshape(-1, LOOK).mean(axis=1), {}
    rules = streams.rules(known, windows)
    for name, values in statistics(known, means).items():
        looks = {name: rules[name].crossed(means, LOOK), f"{name}, {MATCHED}": values > matched.limits[name]}
        for label, crossed in looks.items():
            look = streams.first(crossed)
            alarms[label] = None if look is None else look * LOOK
    return alarms


def _delay(alarm: int | None, before: int, offset: int) -> float:
    """Labels from the change to the end of the look in which the alarm is told."""
    if alarm is None:
        return np.inf
    return float(-1 if alarm <= before else -(-alarm // LOOK) * LOOK - before - offset)


def main() -> None:
    """The command line."""
    parser: Any = command_line(__doc__)
    parser.add_argument("--only", default="", help="a pattern of the cases' names")
    parser.add_argument("--streams", type=int, default=300, help="of each case")
    options = parser.parse_args()
    show(benchmark(options.quick, options.only, options.streams), as_json=options.json)


if __name__ == "__main__":
    main()

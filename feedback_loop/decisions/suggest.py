"""What a policy should say, by the model's own history: units, cycle, tolerance, reference, maturity, with reasons.

Labels of one window share what that window was like. How the windows of a reference differ (by chance, with a cycle,
or each in its own way) decides in what a monitor may count; when outcomes came decides how long to wait for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from feedback_loop.decisions.monitors.window_means import LABELS, LEAST_LOSS, LEAST_UNITS, Units
from feedback_loop.monitoring import Floats

Integers = npt.NDArray[np.int64]

DOUBT = 0.05
"""Windows that differ, or hang together, at this level are not counted label by label: it errs to that side."""

CYCLE_LEVEL = 0.01
"""Of the test for a cycle, over all candidates together."""

LEAST_CYCLES = LEAST_UNITS
"""A cycle must be seen so often: a unit is at least a cycle, and fewer units tell nothing about how they differ."""

MOST_WORK = 20_000_000
"""Lengths of a cycle that are tried, times windows: a quarter of a second."""

SWING = 2.0
"""The tolerance is so many standard deviations of the windows' true means: one window in forty swings further up."""

LEAST_REFERENCE = 5000
"""Labels: below this the false alarms of the monitors have not been measured."""

MONTH = 30
"""So many windows at least: on ten of them, differences that cause false alarms are often not seen."""

FEWEST = 8
"""Windows from which their spread can be learned; of fewer, it would take a month of the stream to."""

MOST_REFERENCE = 100_000
"""Labels of a suggested reference: windows so large show their differences with few of them."""

MATURE = 0.99
"""The share of the outcomes that ever came for which to wait."""

LEAST_OUTCOMES = 200
"""Fewer outcomes of old enough predictions say nothing about the last hundredth of their delays."""


@dataclass(frozen=True)
class Swing:
    """How the windows of a reference differ from each other. The p values speak against chance."""

    windows: int
    labels: float  # a window, on average
    mean: float  # of all losses
    spread: float  # standard deviation of the windows' true means: what is left when chance is taken off
    spread_p: float
    cycle: int  # in windows; 1: none
    cycle_p: float  # of the best candidate, all candidates counted
    rest_p: float  # windows of one place in the cycle differ as well
    varies_p: float  # cycles swing by more or less than each other
    correlation: float  # of what is left of a window with that of the next
    correlation_p: float
    together: float  # so many windows in a row say as much as one that hangs together with none

    @property
    def is_odd(self) -> bool:
        """Whether the place in the cycle does not say all: windows have ways of their own, or hang together."""
        return min(self.rest_p, self.varies_p, self.correlation_p) < DOUBT

    @property
    def in_doubt(self) -> bool:
        """Whether windows look alike, of which there are too few to say that they are, and each could be a unit."""
        is_unit = self.labels * self.mean >= LEAST_LOSS
        return not self.is_odd and self.cycle == 1 and FEWEST <= self.windows < MONTH and is_unit


@dataclass(frozen=True)
class Suggestion:
    """One setting, what it should be (None: no telling), and why."""

    section: Literal["", "policy"]  # of the model's table
    setting: str
    value: str | int | float | None
    reason: str


def suggest_units(losses: Floats, windows: Integers) -> Units:
    """In what to count, from reference losses in the order of time, each with its window's number.

    Label by label where windows differ by chance alone, by strata where a cycle explains how they differ, and in
    t-units where they differ in other ways (a cycle, about 1,000 labels, twice as long as windows hang together). Of
    8 to 29 windows that look alike each is a t-unit: that is nearly as fast, and safe if they are not alike. Fewer
    say nothing: labels.
    """
    swing = swing_of(losses, windows)
    if swing is not None and swing.in_doubt:
        return Units("unit")
    if swing is None or not swing.is_odd:
        return Units("label", strata=swing.cycle if swing else 1)
    wanted = max(LABELS / swing.labels, 2 * swing.together - 1)
    most = swing.windows // (swing.cycle * LEAST_UNITS)  # cycles a unit that leave enough units
    return Units("unit", windows=swing.cycle * max(min(ceil(wanted / swing.cycle), most), 1))


def suggest_tolerance(losses: Floats, windows: Integers) -> float:
    """How far the mean loss of a window swings above the reference's without any harm: two standard deviations."""
    swing = swing_of(losses, windows)
    return SWING * swing.spread if swing is not None and min(swing.spread_p, swing.cycle_p) < DOUBT else 0.0


def suggest(losses: Floats, windows: Integers) -> list[Suggestion]:
    """What `[models.x.policy]` should say, from losses in [0, 1] in the order of time, with their windows."""
    swing, units = swing_of(losses, windows), suggest_units(losses, windows)
    if swing is None:
        few = f"the history has labels in fewer than {LEAST_UNITS} windows: how windows differ can't be seen yet"
        return [
            Suggestion("policy", "unit", "auto", few),
            Suggestion("policy", "cycle", "auto", few),
            Suggestion("policy", "tolerance", "auto", few),
            Suggestion("policy", "reference", LEAST_REFERENCE, few),
        ]
    tolerance = suggest_tolerance(losses, windows)
    return [
        Suggestion("policy", "unit", "window" if units.kind == "unit" else "label", _unit_words(swing, units)),
        Suggestion("policy", "cycle", max(units.windows, units.strata), _cycle_words(swing, units)),
        Suggestion("policy", "tolerance", float(f"{tolerance:.3g}"), _tolerance_words(swing, tolerance)),
        _reference(swing, units),
    ]


def suggest_maturity(ages: Floats, delays: Floats, losses: Floats) -> Suggestion:
    """How long to wait for outcomes, from the seconds since each prediction and until its outcome (NaN: none came).

    Only the older half of the history is looked at: of younger predictions the late outcomes are not in yet, and
    those known are the quick ones. Where bad predictions hear later than good ones, the slower ones decide.
    """
    horizon = float(ages.max()) / 2 if len(ages) else 0.0
    known = (ages >= horizon) & ~np.isnan(delays) & ~np.isnan(losses)
    if known.sum() < LEAST_OUTCOMES:
        few = f"the older half of the history has {known.sum():,} outcomes, {LEAST_OUTCOMES} are needed"
        return Suggestion("", "maturity", None, few)
    from scipy.stats import mannwhitneyu  # which takes a second to import

    delays, bad = delays[known], losses[known] > losses[known].mean()
    groups = [group for group in (delays[bad], delays[~bad]) if len(group)]
    waits = [float(np.quantile(group, MATURE, method="higher")) for group in groups]
    wait = max(waits)
    share = known.sum() / (ages >= horizon).sum()
    reason = (
        f"{MATURE:.0%} of the outcomes that ever came ({share:.0%} of predictions) were there after {_time(wait)}"
    )
    if len(groups) == 2 and mannwhitneyu(*groups).pvalue < CYCLE_LEVEL and max(waits) > 1.2 * min(waits):
        slow, quick = ("bad", "good") if waits[0] > waits[1] else ("good", "bad")
        reason += (
            f"; those of {slow} predictions come later ({_time(max(waits))}, of {quick} ones {_time(min(waits))}): "
            "until then losses look other than they are"
        )
    if wait > 0.8 * horizon:
        reason += f"; the history is short ({_time(2 * horizon)}): later ones may be missing from it"
    return Suggestion("", "maturity", _duration(wait), reason)


def swing_of(losses: Floats, windows: Integers) -> Swing | None:
    """How windows differ, from losses in the order of time; None where there are too few windows or labels to say."""
    numbers, place, counts = np.unique(windows, return_inverse=True, return_counts=True)
    total, freedom = len(numbers), len(losses) - len(numbers)
    if total < LEAST_UNITS or freedom < total:
        return None
    means = np.bincount(place, weights=losses) / counts
    from scipy import special

    chance = float(((losses - means[place]) ** 2).sum()) / freedom  # variance of labels within their window
    between = _around(means, counts, np.zeros(total, dtype=np.int64))
    cycle, cycle_p = _cycle(means, counts, numbers)
    phase = numbers % cycle
    used = len(np.unique(phase))
    rest = _around(means, counts, phase)
    gaps = np.sqrt(counts) * (means - _centres(means, counts, phase))
    scale = (len(losses) - (counts**2).sum() / len(losses)) / (total - 1)  # labels a window, for unequal windows
    correlations = _correlations(gaps)
    return Swing(
        windows=total,
        labels=len(losses) / total,
        mean=float(losses.mean()),
        spread=float(np.sqrt(max(between / (total - 1) - chance, 0.0) / scale)),
        spread_p=_f_test(between, total - 1, chance, freedom),
        cycle=cycle,
        cycle_p=cycle_p,
        rest_p=_f_test(rest, total - used, chance, freedom),
        varies_p=_varies(means, counts, numbers, cycle, chance, freedom),
        correlation=float(correlations[0]),
        correlation_p=float(special.ndtr(-(correlations[0] + 1 / total) * np.sqrt(total))),
        together=1 + 2 * float(correlations[: _first(correlations <= 0)].sum()),
    )


def _varies(means: Floats, counts: Integers, numbers: Integers, cycle: int, chance: float, freedom: int) -> float:
    """The p value against cycles of one amplitude: what is left of windows, along their places' effects, by cycle.

    After Mandel 1961: one slope for each cycle, and F of their squares. Where a cycle swings by more than the one
    before, it is seen sooner than by what is left of all windows together.
    """
    if cycle == 1:
        return 1.0
    usual = _centres(means, counts, numbers % cycle)
    effects = usual - float(np.average(means, weights=counts))
    _, turn = np.unique((numbers - numbers[0]) // cycle, return_inverse=True)
    along, size = (np.bincount(turn, weights=counts * effects * each) for each in (means - usual, effects))
    turns = size > 0
    return _f_test(float((along[turns] ** 2 / size[turns]).sum()), max(int(turns.sum()) - 1, 1), chance, freedom)


def _correlations(gaps: Floats) -> Floats:
    """Of each gap with the next one, the one after that, … up to a quarter of them: by Fourier's transform."""
    power, size = float((gaps**2).sum()) or 1.0, 2 * len(gaps)
    sums = np.fft.irfft(np.abs(np.fft.rfft(gaps, size)) ** 2, size)
    return np.asarray(sums[1 : len(gaps) // 4 + 1] / power)


def _first(holds: npt.NDArray[np.bool_]) -> int:
    """Where the first holds, or the length: a sum of correlations ends there (Geyer 1992, section 3.3)."""
    return int(np.argmax(holds)) if holds.any() else len(holds)


def _cycle(means: Floats, counts: Integers, numbers: Integers) -> tuple[int, float]:
    """The cycle that explains the windows best (1: none does), and its p value times the number of candidates.

    For each length an F test of the places in it against what is left within them, so a window's own ways do not pass
    for a cycle. A multiple of a cycle explains as much with more places, so its p value is worse. How many lengths
    are tried depends on how many windows have labels, not on how far apart they lie (see `longest_cycle`).
    """
    lengths = range(2, longest_cycle(len(means)) + 1)
    gaps = counts * (means - np.average(means, weights=counts))
    flat = float((gaps**2 / counts).sum())
    best = (1, 1.0)
    for length in lengths:
        phase = numbers % length
        sizes = np.bincount(phase, weights=counts)
        seen = sizes > 0
        places = int(seen.sum())
        freedom = len(means) - places
        if places < 2 or freedom < places:
            continue
        explained = float((np.bincount(phase, weights=gaps)[seen] ** 2 / sizes[seen]).sum())
        left = max(flat - explained, 0.0) / freedom
        p = _f_test(explained, places - 1, left, freedom) * len(lengths)
        best = min(best, (length, p), key=lambda each: each[1])
    return best if best[1] < CYCLE_LEVEL else (1, min(best[1], 1.0))


def longest_cycle(windows: int) -> int:
    """The longest cycle that is looked for in so many windows with labels.

    Each place in it is to be seen LEAST_CYCLES times; of very many windows only the shorter ones are tried, for a
    look must not take longer than a second. A longer one can be set: `policy.cycle`.
    """
    return min(windows // LEAST_CYCLES, MOST_WORK // max(windows, 1))


def _centres(means: Floats, counts: Integers, groups: Integers) -> Floats:
    """For each window the mean loss of its group."""
    sizes = np.bincount(groups, weights=counts)
    return np.asarray((np.bincount(groups, weights=counts * means) / np.maximum(sizes, 1))[groups])


def _around(means: Floats, counts: Integers, groups: Integers) -> float:
    """The sum of squares of the windows' means around those of their groups, by labels."""
    return float((counts * (means - _centres(means, counts, groups)) ** 2).sum())


def _f_test(squares: float, freedom: int, error: float, error_freedom: int) -> float:
    """The p value of the mean square against that of the error."""
    from scipy import special

    if squares <= 1e-18:
        return 1.0
    return float(special.fdtrc(freedom, error_freedom, squares / freedom / error)) if error > 1e-18 else 0.0


def _unit_words(swing: Swing, units: Units) -> str:
    seen = f"the {swing.windows} windows ({swing.labels:,.0f} labels each)"
    if units.kind == "unit" and swing.in_doubt:
        few = f"{swing.windows} windows are too few to be sure: a unit is a window, not a label"
        return f"{seen} differ by no more than chance (p = {swing.spread_p:.2g}), but {few}"
    if units.kind == "label" and swing.cycle == 1:
        return f"{seen} differ by no more than chance (p = {swing.spread_p:.2g}) and do not hang together"
    if units.kind == "label":
        return f"the cycle explains how {seen} differ (what is left: p = {swing.rest_p:.2g})"
    why = []
    if swing.rest_p < DOUBT:
        why.append(f"differ by more than chance (p = {swing.rest_p:.2g})")
    if swing.varies_p < DOUBT:
        why.append(f"swing by more in some cycles than in others (p = {swing.varies_p:.2g})")
    if swing.correlation_p < DOUBT:
        why.append(f"resemble the next one (correlation {swing.correlation:.2f}, p = {swing.correlation_p:.2g})")
    many = f"{units.windows} windows" if units.windows > 1 else "a window"
    beside = "beside their cycle, " if swing.cycle > 1 else ""
    return f"{beside}{seen} {' and '.join(why)}: a unit is {many}, not a label"


def _cycle_words(swing: Swing, units: Units) -> str:
    if swing.cycle == 1:
        most = longest_cycle(swing.windows)
        none = f"no cycle of up to {most:,} windows shows (the likeliest: p = {swing.cycle_p:.2g})"
        return f"{none}; so many windows are a unit" if units.windows > 1 else none
    return f"places in a cycle of {swing.cycle} windows differ (p = {swing.cycle_p:.2g}, all lengths tried counted)"


def _tolerance_words(swing: Swing, tolerance: float) -> str:
    if not tolerance:
        return f"windows swing by no more than chance (p = {swing.spread_p:.2g})"
    return (
        f"beyond chance, windows swing by a standard deviation of {swing.spread:.3g}; {SWING:g} of them are no harm"
    )


def _reference(swing: Swing, units: Units) -> Suggestion:
    """Windows, cycles and units enough to see how they differ; of very large windows no more than MOST_REFERENCE."""
    windows = max(MONTH, LEAST_CYCLES * swing.cycle, 10 * units.windows if units.kind == "unit" else 0)
    labels = min(max(ceil(windows * swing.labels / 1000) * 1000, LEAST_REFERENCE), MOST_REFERENCE)
    found = "" if swing.windows >= windows else f"; the history has {swing.windows}"
    why = f"it takes some {labels / swing.labels:,.0f} windows to see how they differ{found}"
    return Suggestion("policy", "reference", labels, why)


def _duration(seconds: float) -> str:
    """As the configuration writes it, in whole hours or days, rounded up."""
    hours = max(ceil(seconds / 3600), 1)
    return f"{hours}h" if hours <= 48 else f"{ceil(hours / 24)}d"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.3g} hours" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"


def policy_toml(model: str, suggestions: Sequence[Suggestion]) -> str:
    """The suggestions as tables of `feedback_loop.toml`, each with its reason."""
    lines: list[str] = []
    name = model if re.fullmatch(r"[A-Za-z0-9_-]+", model) else json.dumps(model)
    for section in ("", "policy"):
        of_section = [each for each in suggestions if each.section == section]
        if of_section:
            lines += [f"[models.{name}{section and '.' + section}]"]
            lines += [line for each in of_section for line in (f"# {each.reason}", _setting(each))]
    return "\n".join(lines)


def _setting(suggestion: Suggestion) -> str:
    if suggestion.value is None:
        return f"# {suggestion.setting}: no telling yet"
    value = f'"{suggestion.value}"' if isinstance(suggestion.value, str) else suggestion.value
    return f"{suggestion.setting} = {value}"

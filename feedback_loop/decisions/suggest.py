"""Suggested policy settings from a model's history: units, cycle, tolerance, reference, maturity, with reasons.

Labels of one window share its conditions. How the windows of a reference differ (by chance, with a cycle,
or otherwise) decides the units that a monitor may count in; the delays of outcomes decide how long to wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from feedback_loop.config_template import quoted
from feedback_loop.decisions.monitors.window_means import LABELS, LEAST_LOSS, LEAST_UNITS, Units
from feedback_loop.monitoring import Floats

Integers = npt.NDArray[np.int64]

DOUBT = 0.05
"""The level of the tests against windows that differ or correlate: in doubt, labels are not the units."""

CYCLE_LEVEL = 0.01
"""The level of the test for a cycle, over all candidate lengths together."""

LEAST_CYCLES = LEAST_UNITS
"""A cycle must occur so often: a unit is at least a cycle, and fewer units do not show how they differ."""

MOST_WORK = 20_000_000
"""The most cycle lengths tried, times windows: a quarter of a second."""

SWING = 2.0
"""The tolerance in standard deviations of the windows' true means: one window in forty is higher."""

LEAST_REFERENCE = 5000
"""Labels of a suggested reference, at least: with fewer the monitors' false alarms have not been measured."""

MONTH = 30
"""Windows of a suggested reference, at least: ten often do not show the differences that cause false alarms."""

FEWEST = 8
"""The fewest windows that a spread is estimated from."""

MOST_REFERENCE = 100_000
"""Labels of a suggested reference, at most: few windows of this size show their differences."""

MATURE = 0.99
"""The share of all outcomes to wait for."""

LEAST_OUTCOMES = 200
"""With fewer outcomes of old enough predictions the 99% quantile of the delays is unknown."""


@dataclass(frozen=True)
class Swing:
    """How the windows of a reference differ from each other, with p-values of the tests against chance."""

    windows: int
    labels: float  # a window, on average
    mean: float  # of all losses
    spread: float  # standard deviation of the windows' true means, without sampling error
    spread_p: float
    cycle: int  # in windows; 1: none
    cycle_p: float  # of the best length, corrected for all lengths tried
    rest_p: float  # of a difference between windows at one place in the cycle
    varies_p: float  # of a difference between the amplitudes of cycles
    correlation: float  # of a window's residual with the next one's
    correlation_p: float
    together: float  # consecutive windows that carry as much information as one independent window

    @property
    def is_odd(self) -> bool:
        """Whether windows differ or correlate beyond their place in the cycle."""
        return min(self.rest_p, self.varies_p, self.correlation_p) < DOUBT

    @property
    def in_doubt(self) -> bool:
        """Whether windows look alike but are too few to be sure, and each has labels enough to be a unit."""
        is_unit = self.labels * self.mean >= LEAST_LOSS
        return not self.is_odd and self.cycle == 1 and FEWEST <= self.windows < MONTH and is_unit


@dataclass(frozen=True)
class Suggestion:
    """One setting, its suggested value (None: unknown yet), and the reason."""

    section: Literal["", "policy", "adapter"]  # of the model's table
    setting: str
    value: str | int | float | None
    reason: str


def suggest_units(losses: Floats, windows: Integers) -> Units:
    """The units to count in, from reference losses in the order of time, each with its window's number.

    Label by label where windows differ by chance alone, by strata where a cycle explains how they differ, and in
    t-units where they differ in other ways (of a cycle, about 1,000 labels, and twice the time that windows
    correlate). Of 8 to 29 windows that look alike each is a t-unit, which is nearly as fast, and safe if they are not
    alike. With fewer, labels.
    """
    swing = swing_of(losses, windows)
    if swing is not None and swing.in_doubt:
        return Units("unit")
    if swing is None or not swing.is_odd:
        return Units("label", strata=swing.cycle if swing else 1)
    windows_a_unit = max(LABELS / swing.labels, 2 * swing.together - 1)
    most = swing.windows // (swing.cycle * LEAST_UNITS)  # cycles a unit that leave enough units
    return Units("unit", windows=swing.cycle * max(min(ceil(windows_a_unit / swing.cycle), most), 1))


def suggest_tolerance(losses: Floats, windows: Integers) -> float:
    """How far a window's mean loss may be above the reference's without harm: two standard deviations of windows."""
    swing = swing_of(losses, windows)
    return SWING * swing.spread if swing is not None and min(swing.spread_p, swing.cycle_p) < DOUBT else 0.0


def suggest(losses: Floats, windows: Integers) -> list[Suggestion]:
    """Settings for `[models.x.policy]`, from losses in [0, 1] in the order of time, with their windows' numbers."""
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
    """How long to wait for outcomes, by each prediction's age and its outcome's delay in seconds (NaN: none came).

    Only the older half of the history counts: younger predictions have only their quick outcomes yet. Where outcomes
    of bad predictions come later than those of good ones, or earlier, the slower group decides.
    """
    horizon = float(ages.max()) / 2 if len(ages) else 0.0
    has_outcome = (ages >= horizon) & ~np.isnan(delays) & ~np.isnan(losses)
    if has_outcome.sum() < LEAST_OUTCOMES:
        few = f"the older half of the history has {has_outcome.sum():,} outcomes, {LEAST_OUTCOMES} are needed"
        return Suggestion("", "maturity", None, few)
    from scipy.stats import mannwhitneyu  # which takes a second to import

    delays, bad = delays[has_outcome], losses[has_outcome] > losses[has_outcome].mean()
    groups = [group for group in (delays[bad], delays[~bad]) if len(group)]
    waits = [float(np.quantile(group, MATURE, method="higher")) for group in groups]
    wait = max(waits)
    share = has_outcome.sum() / (ages >= horizon).sum()
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
    """The p-value against cycles of equal amplitude.

    After Mandel 1961: one slope for each cycle of the residuals on the effects of places, and an F test of their
    squares. It detects cycles of growing amplitude sooner than the residuals of all windows together do.
    """
    if cycle == 1:
        return 1.0
    usual = _centres(means, counts, numbers % cycle)
    effects = usual - float(np.average(means, weights=counts))
    _, turn = np.unique((numbers - numbers[0]) // cycle, return_inverse=True)
    along, size = (np.bincount(turn, weights=counts * effects * effect) for effect in (means - usual, effects))
    turns = size > 0
    return _f_test(float((along[turns] ** 2 / size[turns]).sum()), max(int(turns.sum()) - 1, 1), chance, freedom)


def _correlations(gaps: Floats) -> Floats:
    """Autocorrelations of the gaps at lags from 1 to a quarter of their number, by Fourier transform."""
    power, size = float((gaps**2).sum()) or 1.0, 2 * len(gaps)
    sums = np.fft.irfft(np.abs(np.fft.rfft(gaps, size)) ** 2, size)
    return np.asarray(sums[1 : len(gaps) // 4 + 1] / power)


def _first(holds: npt.NDArray[np.bool_]) -> int:
    """The place of the first true, or the length: a sum of correlations ends there (Geyer 1992, section 3.3)."""
    return int(np.argmax(holds)) if holds.any() else len(holds)


def _cycle(means: Floats, counts: Integers, numbers: Integers) -> tuple[int, float]:
    """The cycle that explains the windows best (1: none does), and its p-value times the number of lengths tried.

    For each length an F test of the means of its places against the residuals, so that odd single windows do not pass
    for a cycle. A multiple of a cycle explains as much with more places, so its p-value is worse. How many lengths
    are tried depends on how many windows have labels, not on how far apart they lie (see `longest_cycle`).
    """
    lengths = range(2, longest_cycle(len(means)) + 1)
    gaps = counts * (means - np.average(means, weights=counts))
    flat = float((gaps**2 / counts).sum())
    best = (1, 1.0)
    for length in lengths:
        phase = numbers % length
        sizes = np.bincount(phase, weights=counts)
        is_filled = sizes > 0
        places = int(is_filled.sum())
        freedom = len(means) - places
        if places < 2 or freedom < places:
            continue
        explained = float((np.bincount(phase, weights=gaps)[is_filled] ** 2 / sizes[is_filled]).sum())
        residual = max(flat - explained, 0.0) / freedom
        p = _f_test(explained, places - 1, residual, freedom) * len(lengths)
        best = min(best, (length, p), key=lambda cycle: cycle[1])
    return best if best[1] < CYCLE_LEVEL else (1, min(best[1], 1.0))


def longest_cycle(windows: int) -> int:
    """The longest cycle that is searched for in so many windows with labels.

    Each place in it must occur LEAST_CYCLES times; with very many windows only shorter ones are tried, so that a look
    takes less than a second. A longer one can be set: `policy.cycle`.
    """
    return min(windows // LEAST_CYCLES, MOST_WORK // max(windows, 1))


def _centres(means: Floats, counts: Integers, groups: Integers) -> Floats:
    """The mean loss of each window's group."""
    sizes = np.bincount(groups, weights=counts)
    return np.asarray((np.bincount(groups, weights=counts * means) / np.maximum(sizes, 1))[groups])


def _around(means: Floats, counts: Integers, groups: Integers) -> float:
    """The sum of squares of the windows' means around their groups' means, weighted by labels."""
    return float((counts * (means - _centres(means, counts, groups)) ** 2).sum())


def _f_test(squares: float, freedom: int, error: float, error_freedom: int) -> float:
    """The p-value of the F test of a sum of squares against the error's mean square."""
    from scipy import special

    if squares <= 1e-18:
        return 1.0
    return float(special.fdtrc(freedom, error_freedom, squares / freedom / error)) if error > 1e-18 else 0.0


def _unit_words(swing: Swing, units: Units) -> str:
    windows = f"the {swing.windows} windows ({swing.labels:,.0f} labels each)"
    if units.kind == "unit" and swing.in_doubt:
        few = f"{swing.windows} windows are too few to be sure: a unit is a window, not a label"
        return f"{windows} differ by no more than chance (p = {swing.spread_p:.2g}), but {few}"
    if units.kind == "label" and swing.cycle == 1:
        return f"{windows} differ by no more than chance (p = {swing.spread_p:.2g}) and do not hang together"
    if units.kind == "label":
        return f"the cycle explains how {windows} differ (what is left: p = {swing.rest_p:.2g})"
    why = []
    if swing.rest_p < DOUBT:
        why.append(f"differ by more than chance (p = {swing.rest_p:.2g})")
    if swing.varies_p < DOUBT:
        why.append(f"swing by more in some cycles than in others (p = {swing.varies_p:.2g})")
    if swing.correlation_p < DOUBT:
        why.append(f"resemble the next one (correlation {swing.correlation:.2f}, p = {swing.correlation_p:.2g})")
    many = f"{units.windows} windows" if units.windows > 1 else "a window"
    prefix = "beside their cycle, " if swing.cycle > 1 else ""
    return f"{prefix}{windows} {' and '.join(why)}: a unit is {many}, not a label"


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
    """A reference of enough windows, cycles and units to see how they differ; at most MOST_REFERENCE labels."""
    windows = max(MONTH, LEAST_CYCLES * swing.cycle, 10 * units.windows if units.kind == "unit" else 0)
    labels = min(max(ceil(windows * swing.labels / 1000) * 1000, LEAST_REFERENCE), MOST_REFERENCE)
    history = "" if swing.windows >= windows else f"; the history has {swing.windows}"
    why = f"it takes some {labels / swing.labels:,.0f} windows to see how they differ{history}"
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
    for section in ("", "policy", "adapter"):
        of_section = [suggestion for suggestion in suggestions if suggestion.section == section]
        if of_section:
            lines += [f"[models.{quoted(model)}{section and '.' + section}]"]
            lines += [line for suggestion in of_section for line in (f"# {suggestion.reason}", _setting(suggestion))]
    return "\n".join(lines)


def _setting(suggestion: Suggestion) -> str:
    if suggestion.value is None:
        return f"# {suggestion.setting}: no telling yet"
    value = f'"{suggestion.value}"' if isinstance(suggestion.value, str) else suggestion.value
    return f"{suggestion.setting} = {value}"

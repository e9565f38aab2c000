"""What is told of a version's windows beside its losses: columns that drifted, checks of data quality that fail."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import numpy as np

from feedback_loop.clock import Window, format_moment
from feedback_loop.config_policy import DriftSettings
from feedback_loop.decisions.drift.columns import PooledCounts, RankedDistances, differ, found
from feedback_loop.decisions.drift.recovery import Return
from feedback_loop.decisions.monitors import MADE_OF, alpha_of_monitor
from feedback_loop.monitoring import Profile, drift_values, quality_values
from feedback_loop.monitoring.drift import LEAST_ROWS, LEAST_WINDOWS
from feedback_loop.monitoring.profiles.columns import NumberColumn
from feedback_loop.monitoring.profiles.layout import SINGLE, profiled_columns
from feedback_loop.schema import shown_names
from feedback_loop.store.alerts import RECOVERED, Message
from feedback_loop.store.evaluations import INSUFFICIENT, DriftValue, QualityValue

Rule = Literal["windows", "rows", "thresholds"]

NOISE = 3.5
"""99.9% of samples of n rows are nearer than this over the root of n: measured on five distributions, 3.1 to 4.0."""

PARTS = 4
"""Cells of a column of numbers by the rule for rows: its quarters."""

DRIFT = ": drift"
"""How the check of a column by Evidently's threshold is called."""

CAUSES = {"schema": "missing", "constant": "stuck"}
"""One cause fails the one check or the other, from one window to the next: it is told once."""

TOLD = 20
"""So many are named in one message, the surest first."""


@dataclass(frozen=True)
class Told:
    """When a column was found, what was said of it, and whether it is as it was again."""

    window: str
    words: str
    back: Return


@dataclass(frozen=True)
class Watch:
    """The state after some windows. One rule fills `ranked`, another `pooled`, by column; the third needs neither.

    A column that was found stays `told` until it is as it was (see `Return`); then its next monitor begins. `begun`
    says of columns how many were begun for them (else: one), by which each has its share of alpha.

    `failing` has each check that fails, with the window since which it does; `unjudged` each column that the
    reference has too few values of to judge it, with how many are missing. Columns are told by the model's names.
    """

    rule: Rule
    reference: str  # its digest: another one begins another watch
    ranked: dict[str, RankedDistances] = field(default_factory=dict)
    pooled: dict[str, PooledCounts] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    begun: dict[str, int] = field(default_factory=dict)

    @property
    def peaks(self) -> dict[str, float]:
        """Each column's evidence: an unchanged one would ever have so much once in so many times.

        Of the k-th monitor of a column a share of 1/(k (k + 1)), the sum of which is 1: what e-BH allows for is
        allowed for once, however often a column comes back. (The adjuster of a share of y is a share of an e-value:
        its integral over y ≥ 1 is that share.)
        """
        return {
            name: each.peak * alpha_of_monitor(1.0, self.begun.get(name, 1))
            for name, each in (self.ranked | self.pooled).items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values that give the very same watch back."""
        plain: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Watch:
        """The inverse of `to_json`."""
        return msgspec.convert(plain, cls, str_keys=True)


def start_watch(reference: Profile, settings: DriftSettings, name: str, seed: int) -> Watch:
    """A watch over windows, which are compared with that reference; `name` and `seed` make its chances its own."""
    rule, digest = rule_of(reference, settings), reference_digest(reference)
    seeds = {column: _seed(f"{seed}:{name}:{column}") for column in _columns(reference)}
    unjudged = _unjudged(reference) if rule != "rows" else {}  # counts say something of any number of rows
    if rule == "thresholds":
        return Watch(rule, digest, unjudged=unjudged)
    if rule == "windows":
        return Watch(rule, digest, _ranked(reference, seeds), unjudged=unjudged)
    return Watch(rule, digest, {}, _pooled(reference, seeds))


def _columns(reference: Profile) -> list[str]:
    layout = reference.layout
    return [each.column for each in layout.numbers] + [each.column for each in layout.words]


def _ranked(reference: Profile, seeds: Mapping[str, int]) -> dict[str, RankedDistances]:
    """Monitors of these columns that have seen nothing but the reference."""
    noises: dict[str, float] = {each.column: NOISE for each in reference.layout.numbers}
    noises |= {each.column: _noise_of_words(len(each.words) + 2) for each in reference.layout.words}
    swings = {column: reference.swings.get(column) for column in seeds}
    return {
        column: RankedDistances.begin(
            swing.distances if swing else (), swing.rows if swing else LEAST_ROWS, noises[column], seeds[column]
        )
        for column, swing in swings.items()
    }


def _pooled(reference: Profile, seeds: Mapping[str, int]) -> dict[str, PooledCounts]:
    cells = _cells(reference, reference)
    return {column: PooledCounts.begin(cells[column], seed) for column, seed in seeds.items()}


def _unjudged(reference: Profile) -> dict[str, int]:
    names = _names(reference)
    return {
        names[each.column]: round(each.value)
        for each in drift_values(reference, reference)
        if each.method == INSUFFICIENT
    }


def _names(reference: Profile) -> dict[str, str]:
    return shown_names(profiled_columns(reference.layout.contract))


def rule_of(reference: Profile, settings: DriftSettings) -> Rule:
    """The rule that is set; else `windows`, where the reference has enough of them, or `rows`."""
    if settings.rule != "auto":
        return settings.rule
    most = max((len(each.distances) for each in reference.swings.values()), default=0)
    return "windows" if most >= LEAST_WINDOWS else "rows"


def reference_digest(reference: Profile) -> str:
    """What tells one reference from another, and the bets that are made on it."""
    return hashlib.blake2b((reference.digest + MADE_OF).encode(), digest_size=8).hexdigest()


def watch_window(
    watch: Watch, reference: Profile, current: Profile, settings: DriftSettings, name: str, window: Window
) -> tuple[Watch, list[Message]]:
    """The watch after another window, and what is to be told: columns found by it or back, checks that it fails anew.

    `name` is the model's and version's. A window of fewer than 100 rows says nothing, and changes nothing.
    """
    if current.effective(current.weight()) < LEAST_ROWS:
        return watch, []
    values, checks = drift_values(reference, current), quality_values(reference, current)
    return watch_values(watch, reference, current, values, checks, settings, name, window)


def watch_values(
    watch: Watch,
    reference: Profile,
    current: Profile,
    values: Sequence[DriftValue],
    checks: Sequence[QualityValue],
    settings: DriftSettings,
    name: str,
    window: Window,
) -> tuple[Watch, list[Message]]:
    """The same, given what was measured of the window: several rules may judge one measurement."""
    start, names = format_moment(window.start), _names(reference)
    watch = _followed(watch, reference, current, values)
    after = _taken_in(watch, reference, current, values)

    def change(column: str) -> str:
        return f"{names[column]}: {_change(column, values, reference, current)}"

    told = {
        names[column]: Told(start, f"{change(column)}; unchanged, once in {peak:,.0f} times", Return(settings.alpha))
        for column, peak in found(after.peaks, settings.alpha).items()
        if names[column] not in watch.told
    }
    failed = {
        f"{names.get(each.column, 'rows')}: {CAUSES.get(each.check, each.check)}": _check(each, names)
        for each in checks
        if each.failed
    }
    if watch.rule == "thresholds":
        drifted = {each.column for each in values if each.is_default and each.drifted}
        failed |= {f"{names[column]}{DRIFT}": change(column) for column in sorted(drifted)}
    fresh = {key: words for key, words in failed.items() if key not in watch.failing}
    moved = [*(each.words for each in told.values()), *(fresh.pop(key) for key in list(fresh) if key.endswith(DRIFT))]
    after = replace(
        after,
        told=watch.told | told,
        failing={key: watch.failing.get(key, start) for key in failed},
        windows=watch.windows + 1,
    )
    after, back = _armed_anew(after, reference, name)  # the next monitors begin with the window after this one
    messages = [
        *_message(f"drift:{name}:{start}{RECOVERED}", f"{name}: columns are as they were", back),
        *_message(f"drift:{name}:{start}", f"{name}: columns have drifted", moved),
        *_message(f"quality:{name}:{start}", f"{name}: the data are not as they were", list(fresh.values())),
    ]
    return after, [replace(each, body=f"{window}: {each.body}") for each in messages]


def _followed(watch: Watch, reference: Profile, current: Profile, values: Sequence[DriftValue]) -> Watch:
    """What was told, with the tests of whether it still holds; a window that says nothing of a column moves none."""
    if not watch.told:
        return watch
    deciding = {each.column: each for each in values if each.decides}
    cells = [_cells(reference, each) for each in (reference, current)] if watch.pooled else [{}, {}]
    names, told = _names(reference), dict(watch.told)
    for column, value in deciding.items():
        if names[column] not in told:
            continue
        if watch.pooled:
            far = differ(cells[0][column], cells[1][column])
        elif swing := reference.swings.get(column):
            far = watch.ranked[column].is_farther(value.value, value.rows, max(swing.distances))
        else:
            far = value.drifted
        each = told[names[column]]
        told[names[column]] = replace(each, back=each.back.after(far=far))
    return replace(watch, told=told)


def _armed_anew(watch: Watch, reference: Profile, name: str) -> tuple[Watch, list[str]]:
    """The watch with the next monitors of columns that are back, and what is to be told of those."""
    names = _names(reference)
    back = [column for column in _columns(reference) if (t := watch.told.get(names[column])) and t.back.is_back]
    if not back:
        return watch, []
    begun = watch.begun | {column: watch.begun.get(column, 1) + 1 for column in back}
    seeds = {column: _seed(f"{name}:{column}:{begun[column]}") for column in back}
    words = [
        f"{names[column]}: {each.back.near} windows like the reference's (found {each.window}: {each.words})"
        for column in back
        for each in [watch.told[names[column]]]
    ]
    after = replace(
        watch,
        ranked=watch.ranked | (_ranked(reference, seeds) if watch.ranked else {}),
        pooled=watch.pooled | (_pooled(reference, seeds) if watch.pooled else {}),
        told={key: each for key, each in watch.told.items() if not each.back.is_back},
        begun=begun,
    )
    return after, words


def _taken_in(watch: Watch, reference: Profile, current: Profile, values: Sequence[DriftValue]) -> Watch:
    deciding = {each.column: each for each in values if each.decides}
    ranked = {
        column: state.after(deciding[column].value, deciding[column].rows) if column in deciding else state
        for column, state in watch.ranked.items()
    }
    cells = _cells(reference, current) if watch.pooled else {}
    pooled = {column: state.after(cells[column]) for column, state in watch.pooled.items()}
    return replace(watch, ranked=ranked, pooled=pooled)


def _cells(reference: Profile, current: Profile) -> dict[str, tuple[int, ...]]:
    """How many rows fall into each cell: missing ones first; whatever they stand for, rows are what is drawn."""
    found = {}
    before, now = (
        replace(each, parts=tuple((1.0, tally) for _, tally in each.parts)) for each in (reference, current)
    )
    for name, numbers in now.numbers.items():
        counts = np.add.reduceat(numbers.counts, _quarters(before.numbers[name]))
        found[name] = (round(numbers.missing + numbers.non_finite), *(round(count) for count in counts))
    for name, words in now.words.items():
        fresh = words.fresh or words
        single = fresh.counts[: min(SINGLE, len(fresh.layout.words))]
        rest = fresh.counts[len(single) : -1].sum()
        found[name] = tuple(round(count) for count in (fresh.missing, fresh.new, *single, rest))
    return found


def _quarters(reference: NumberColumn) -> list[int]:
    """The first bin of each cell."""
    if not reference.rows:
        return [0]
    ends = np.searchsorted(reference.cumulated, np.arange(1, PARTS) / PARTS - 0.004)
    return [int(each) for each in np.unique(np.append(0, ends + 1))]


def _change(column: str, values: Sequence[DriftValue], reference: Profile, current: Profile) -> str:
    """Where to and how far a column has moved."""
    said = []
    for each in (each for each in values if each.column == column):
        if each.method == "mean_shift":
            said.append(f"mean {each.value:+.2f} standard deviations")
        elif each.method.startswith("share_change"):
            said.append(f"{each.method[len('share_change[') : -1]} {100 * each.value:+.1f} points")
        if each.decides:
            usual = reference.swings.get(column)
            within = f" (windows of the reference: up to {max(usual.distances):.3g})" if usual else ""
            said.append(f"{each.method} {each.value:.3g}{within}")
    now, before = (_missing(each, column) for each in (current, reference))
    if abs(now - before) >= 0.001:
        said.append(f"missing {before:.1%} → {now:.1%}")
    return ", ".join(said)


def _missing(profile: Profile, column: str) -> float:
    return profile.columns[column].missing / profile.weight()


def _check(value: QualityValue, names: Mapping[str, str]) -> str:
    """A failed check in words."""
    what = f"{names.get(value.column, 'rows')}: {value.check}"
    if value.check in ("schema", "constant"):
        return what
    return f"{what} {value.value:.1%}" + (f", {value.expected:.1%} expected" if value.check != "stuck" else "")


def _message(subject: str, title: str, lines: Sequence[str]) -> list[Message]:
    if not lines:
        return []
    more = f"; and {len(lines) - TOLD} more" if len(lines) > TOLD else ""
    return [Message(subject, title, "; ".join(lines[:TOLD]) + more + ".")]


def _noise_of_words(cells: int) -> float:
    """The same as NOISE of the Jensen-Shannon distance: 8 n JS² is about chi-squared (Menéndez et al. 1997)."""
    from scipy import stats

    return float(np.sqrt(stats.chi2.isf(0.001, cells - 1) / 8))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")

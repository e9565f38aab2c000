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
from feedback_loop.decisions.drift.columns import PooledCounts, RankedDistances, differ, drifted_columns
from feedback_loop.decisions.drift.recovery import Return
from feedback_loop.decisions.monitors import MADE_OF, alpha_of_monitor
from feedback_loop.monitoring import Profile, drift_values, quality_values
from feedback_loop.monitoring.drift import LEAST_ROWS, LEAST_WINDOWS
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
"""The suffix of the name of a column's check by Evidently's threshold."""

CAUSES = {"schema": "missing", "constant": "stuck"}
"""Checks that one cause fails in turn, from window to window: they count as one, which is reported once."""

MOST_LINES = 20
"""The most lines of one message, the surest first."""


@dataclass(frozen=True)
class DriftedColumn:
    """A column that has drifted: since which window, the words of its alert, and the test of its return."""

    window: str
    words: str
    back: Return


@dataclass(frozen=True)
class Watch:
    """The state after some windows. One rule fills `ranked`, another `pooled`, by column; the third needs neither.

    A column that has drifted stays in `told` until it is back (see `Return`); then its next monitor begins. `begun`
    is the number of a column's monitors so far (default: one), which sets the share of alpha of the current one.

    `failing` has each check that fails, with the window since which it does; `unjudged` each column with too few
    values in the reference, with how many are missing. Columns have the model's names.
    """

    rule: Rule
    reference: str  # its digest: another one begins another watch
    ranked: dict[str, RankedDistances] = field(default_factory=dict)
    pooled: dict[str, PooledCounts] = field(default_factory=dict)
    told: dict[str, DriftedColumn] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    begun: dict[str, int] = field(default_factory=dict)

    @property
    def peaks(self) -> dict[str, float]:
        """Each column's evidence y: an unchanged column ever reaches y with probability at most 1/y.

        The k-th monitor of a column counts by 1/(k (k + 1)), which sums to 1: the level of e-BH holds over all
        monitors of a column, however often it comes back. (A share of y adjusts to that share of an e-value.)
        """
        return {
            name: monitor.peak * alpha_of_monitor(1.0, self.begun.get(name, 1))
            for name, monitor in (self.ranked | self.pooled).items()
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
    """A watch of windows against that reference; `name` and `seed` make its random numbers its own."""
    rule, digest = rule_of(reference, settings), reference_digest(reference)
    seeds = {column: _seed(f"{seed}:{name}:{column}") for column in _columns(reference)}
    unjudged = _unjudged(reference) if rule != "rows" else {}  # counts can be judged with any number of rows
    if rule == "thresholds":
        return Watch(rule, digest, unjudged=unjudged)
    if rule == "windows":
        return Watch(rule, digest, _ranked(reference, seeds), unjudged=unjudged)
    return Watch(rule, digest, {}, _pooled(reference, seeds))


def _columns(reference: Profile) -> list[str]:
    layout = reference.layout
    return [number.column for number in layout.numbers] + [word.column for word in layout.words]


def _ranked(reference: Profile, seeds: Mapping[str, int]) -> dict[str, RankedDistances]:
    """Monitors of these columns that have seen nothing but the reference."""
    noises: dict[str, float] = {number.column: NOISE for number in reference.layout.numbers}
    noises |= {word.column: _noise_of_words(len(word.words) + 2) for word in reference.layout.words}
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
        names[value.column]: round(value.value)
        for value in drift_values(reference, reference)
        if value.method == INSUFFICIENT
    }


def _names(reference: Profile) -> dict[str, str]:
    return shown_names(profiled_columns(reference.layout.contract))


def rule_of(reference: Profile, settings: DriftSettings) -> Rule:
    """The rule that is set; else `windows`, where the reference has enough of them, or `rows`."""
    if settings.rule != "auto":
        return settings.rule
    most = max((len(swing.distances) for swing in reference.swings.values()), default=0)
    return "windows" if most >= LEAST_WINDOWS else "rows"


def reference_digest(reference: Profile) -> str:
    """A hash of the reference and of the version of the monitors that are made by it."""
    return hashlib.blake2b((reference.digest + MADE_OF).encode(), digest_size=8).hexdigest()


def watch_window(
    watch: Watch, reference: Profile, current: Profile, settings: DriftSettings, name: str, window: Window
) -> tuple[Watch, list[Message]]:
    """The watch after another window, and its alerts: columns that have drifted or are back, checks that newly fail.

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
    """The same from measured values and checks: several rules may judge one measurement."""
    start, names = format_moment(window.start), _names(reference)
    watch = _follow_returns(watch, reference, current, values)
    after = _update_monitors(watch, reference, current, values)

    def change(column: str) -> str:
        return f"{names[column]}: {_change(column, values, reference, current)}"

    drifts = {
        names[column]: DriftedColumn(
            start, f"{change(column)}; unchanged, once in {peak:,.0f} times", Return(settings.alpha)
        )
        for column, peak in drifted_columns(after.peaks, settings.alpha).items()
        if names[column] not in watch.told
    }
    failed = {
        f"{names.get(check.column, 'rows')}: {CAUSES.get(check.check, check.check)}": _check(check, names)
        for check in checks
        if check.failed
    }
    if watch.rule == "thresholds":
        drifted = {value.column for value in values if value.is_default and value.drifted}
        failed |= {f"{names[column]}{DRIFT}": change(column) for column in sorted(drifted)}
    fresh = {key: words for key, words in failed.items() if key not in watch.failing}
    moved = [
        *(drift.words for drift in drifts.values()),
        *(fresh.pop(key) for key in list(fresh) if key.endswith(DRIFT)),
    ]
    after = replace(
        after,
        told=watch.told | drifts,
        failing={key: watch.failing.get(key, start) for key in failed},
        windows=watch.windows + 1,
    )
    after, back = _restart_returned(after, reference, name)  # the next monitors begin with the window after this one
    messages = [
        *_message(f"drift:{name}:{start}{RECOVERED}", f"{name}: columns are as they were", back),
        *_message(f"drift:{name}:{start}", f"{name}: columns have drifted", moved),
        *_message(f"quality:{name}:{start}", f"{name}: the data are not as they were", list(fresh.values())),
    ]
    return after, [replace(message, body=f"{window}: {message.body}") for message in messages]


def _follow_returns(watch: Watch, reference: Profile, current: Profile, values: Sequence[DriftValue]) -> Watch:
    """The watch with the tests of return moved on; a window that does not judge a column leaves its test as it is."""
    if not watch.told:
        return watch
    deciding = {value.column: value for value in values if value.decides}
    cells = [_cells(reference, profile) for profile in (reference, current)] if watch.pooled else [{}, {}]
    names, drifts = _names(reference), dict(watch.told)
    for column, value in deciding.items():
        if names[column] not in drifts:
            continue
        if watch.pooled:
            far = differ(cells[0][column], cells[1][column])
        elif swing := reference.swings.get(column):
            far = watch.ranked[column].is_farther(value.value, value.rows, max(swing.distances))
        else:
            far = value.drifted
        drift = drifts[names[column]]
        drifts[names[column]] = replace(drift, back=drift.back.after(far=far))
    return replace(watch, told=drifts)


def _restart_returned(watch: Watch, reference: Profile, name: str) -> tuple[Watch, list[str]]:
    """The watch with new monitors for the columns that are back, and a line about each of them."""
    names = _names(reference)
    back = [column for column in _columns(reference) if (t := watch.told.get(names[column])) and t.back.is_back]
    if not back:
        return watch, []
    begun = watch.begun | {column: watch.begun.get(column, 1) + 1 for column in back}
    seeds = {column: _seed(f"{name}:{column}:{begun[column]}") for column in back}
    words = [
        f"{names[column]}: {drift.back.near} windows like the reference's (found {drift.window}: {drift.words})"
        for column in back
        for drift in [watch.told[names[column]]]
    ]
    after = replace(
        watch,
        ranked=watch.ranked | (_ranked(reference, seeds) if watch.ranked else {}),
        pooled=watch.pooled | (_pooled(reference, seeds) if watch.pooled else {}),
        told={key: drift for key, drift in watch.told.items() if not drift.back.is_back},
        begun=begun,
    )
    return after, words


def _update_monitors(watch: Watch, reference: Profile, current: Profile, values: Sequence[DriftValue]) -> Watch:
    deciding = {value.column: value for value in values if value.decides}
    ranked = {
        column: state.after(deciding[column].value, deciding[column].rows) if column in deciding else state
        for column, state in watch.ranked.items()
    }
    cells = _cells(reference, current) if watch.pooled else {}
    pooled = {column: state.after(cells[column]) for column, state in watch.pooled.items()}
    return replace(watch, ranked=ranked, pooled=pooled)


def _cells(reference: Profile, current: Profile) -> dict[str, tuple[int, ...]]:
    """How many rows fall into each cell, missing ones first. Rows are the draws: they count without their weights."""
    cells = {}
    before, now = (
        replace(profile, parts=tuple((1.0, tally) for _, tally in profile.parts)) for profile in (reference, current)
    )
    for name, numbers in now.numbers.items():
        counts = np.add.reduceat(numbers.counts, before.numbers[name].group_starts(PARTS))
        cells[name] = (round(numbers.missing + numbers.non_finite), *(round(count) for count in counts))
    for name, words in now.words.items():
        fresh = words.fresh or words
        single = fresh.counts[: min(SINGLE, len(fresh.layout.words))]
        rest = fresh.counts[len(single) : -1].sum()
        cells[name] = tuple(round(count) for count in (fresh.missing, fresh.new, *single, rest))
    return cells


def _change(column: str, values: Sequence[DriftValue], reference: Profile, current: Profile) -> str:
    """Where to and how far a column has moved."""
    parts = []
    for value in (value for value in values if value.column == column):
        if value.method == "mean_shift":
            parts.append(f"mean {value.value:+.2f} standard deviations")
        elif value.method.startswith("share_change"):
            parts.append(f"{value.method[len('share_change[') : -1]} {100 * value.value:+.1f} points")
        if value.decides:
            usual = reference.swings.get(column)
            within = f" (windows of the reference: up to {max(usual.distances):.3g})" if usual else ""
            parts.append(f"{value.method} {value.value:.3g}{within}")
    now, before = (_missing(profile, column) for profile in (current, reference))
    if abs(now - before) >= 0.001:
        parts.append(f"missing {before:.1%} → {now:.1%}")
    return ", ".join(parts)


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
    more = f"; and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
    return [Message(subject, title, "; ".join(lines[:MOST_LINES]) + more + ".")]


def _noise_of_words(cells: int) -> float:
    """`NOISE` for the Jensen-Shannon distance: 8 n JS² is about chi-squared (Menéndez et al. 1997)."""
    from scipy import stats

    return float(np.sqrt(stats.chi2.isf(0.001, cells - 1) / 8))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")

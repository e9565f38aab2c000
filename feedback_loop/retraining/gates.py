"""The gates of a candidate beside that of its loss: each passes or not, with figures; one that errs has failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module, metadata
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedback_loop.config import ModelSettings
from feedback_loop.inference import Scorer, without_data
from feedback_loop.monitoring import Floats
from feedback_loop.monitoring.arrays import texts
from feedback_loop.monitoring.validation import validation_metrics
from feedback_loop.registry import unmet_thresholds
from feedback_loop.retraining.budget import cost_of
from feedback_loop.retraining.dataset import TrainingRows
from feedback_loop.retraining.gate import GateResult, non_inferiority, paired_difference
from feedback_loop.retraining.probes import calibration_errors, explained_by, shuffled
from feedback_loop.retraining.split import Split
from feedback_loop.schema import most_frequent
from feedback_loop.store.evaluations import ALL_ROWS
from feedback_loop.store.retrainings import Check

GROUP = "feedback_loop.gates"
"""The group of entry points that provide gates by name."""

LEAST_ROWS = 50
"""A segment with fewer held-out rows is not judged."""

PROBED_ROWS, PROBED_AT_ONCE = 500, 20
"""Rows on which inputs are shuffled, and so many inputs at once."""

SAME = 1e-9
"""Losses that differ by less (relatively) are the same: where a row stands among others moves the last digits."""

USED = 0.01
"""An input is used by the champion if shuffling it raises the mean loss by this share."""

MATERIAL = {"mean": 0.02, "slope": 0.2}
"""By so much more than the champion's may a candidate's calibration be off."""


@dataclass(frozen=True)
class GateCase:
    """What the gates judge: a candidate and the champion on the same held-out rows, with a loss for each row."""

    champion: Scorer
    candidate: Scorer
    split: Split
    loss: str
    champion_losses: Floats
    candidate_losses: Floats
    settings: ModelSettings
    may_drop: tuple[str, ...] = ()  # inputs that the candidate was to do without

    @property
    def holdout(self) -> TrainingRows:
        """The rows that neither has learned from."""
        return self.split.holdout

    @cached_property
    def scored(self) -> tuple[pa.Table, pa.Table]:
        """The held-out rows with what the candidate would have served, and what the champion would."""
        return self.holdout.served(self.candidate), self.holdout.served(self.champion)


def run_gates(case: GateCase, main: GateResult) -> tuple[Check, ...]:
    """All gates, in order; none hides another. `main` is that of the loss on all rows."""
    gates: dict[str, Callable[[GateCase], Check]] = {
        "segments": segments,
        "signature": signature,
        "calibration": calibration,
        "leak": leak,
        "cost": cost,
    }
    if case.settings.retraining.thresholds:
        gates["thresholds"] = thresholds
    gates |= {path: partial(own_gate, path=path) for path in case.settings.retraining.gates}
    checks = [Check("loss", main.passed, main.summary)]
    for name, gate in gates.items():
        try:
            checks.append(gate(case))
        except Exception as error:  # noqa: BLE001 (a gate may be foreign code; that it errs is its answer)
            words = without_data(str(error), {column.name for column in case.champion.contract.features})
            checks.append(Check(name, False, f"It could not be judged: {type(error).__name__}: {words}"))
    return tuple(checks)


def segments(case: GateCase) -> Check:
    """Is there a declared segment in which the candidate is worse by more than the margin? Alpha is shared by them.

    Evidence of harm is asked for here, not that there is none: a small segment would let nothing pass.
    """
    from scipy import special

    settings, judged = case.settings, {}
    for column in settings.segments:
        if column not in case.holdout.table.column_names:
            continue
        values = texts(case.holdout.table.column(column))
        counts = Counter(value for value in values.to_pylist() if value is not None)
        for value in most_frequent(counts, settings.segment_values):
            inside = np.asarray(pc.fill_null(pc.equal(values, value), False))
            if inside.sum() < LEAST_ROWS:
                continue
            one, other = case.candidate_losses[inside], case.champion_losses[inside]
            paired = paired_difference(one, other, case.holdout.decided[inside])
            if np.isfinite(paired.standard_error):
                judged[f"{column}={value}"] = paired, settings.retraining.margin * float(other.mean())
    share = settings.retraining.alpha / max(len(judged), 1)
    figures, worse = {}, []
    for name, (paired, allowed) in judged.items():
        lower = paired.mean - float(special.stdtrit(paired.days - 1, 1 - share)) * paired.standard_error
        figures[name] = {"difference": paired.mean, "at_least": lower, "allowed": allowed}
        if lower > allowed:
            worse.append(f"{name} by {paired.mean:+.4f}, at least {lower:+.4f}, where {allowed:+.4f} is allowed")
    words = f"It is not found worse in {len(judged)} segments." if judged else "No segment has enough rows to judge."
    if worse:
        words = f"It is worse in {'; '.join(worse)}."
    elif not settings.segments:
        words = "No segments are declared."
    return Check("segments", not worse, words, figures)


def signature(case: GateCase) -> Check:
    """Does it take and answer what the champion does, and use what the champion uses?

    An input counts as dropped if shuffling it changes none of the candidate's losses, while it raises the champion's.
    """
    one, other = case.candidate.contract, case.champion.contract
    wrong = [
        f"its column {column.name!r} is {column.type}, the champion's {before.type}"
        for column in one.features
        for before in other.features
        if column.name == before.name and column.type is not before.type
    ]
    names = {column.name for column in one.features}
    wrong += [f"it does not take {column.name!r}" for column in other.features if column.name not in names]
    dropped = [] if wrong else _dropped(case)
    if dropped:
        wrong.append(f"it makes no use of {', '.join(dropped)}, which the champion needs, and was not to drop that")
    words = f"It does not fit: {'; '.join(wrong)}." if wrong else "It takes, uses and answers what the champion does."
    return Check("signature", not wrong, words, {"dropped": dropped})


def _dropped(case: GateCase) -> list[str]:
    """The inputs that the champion needs and the candidate makes no use of, though it was not to drop them.

    A version is asked at once of the rows with each of some inputs shuffled: a call costs more than its rows.
    """
    sample = replace(case.holdout, table=case.holdout.table.slice(0, PROBED_ROWS), adapter=None)
    names = [column.name for column in case.champion.contract.features if column.name not in case.may_drop]
    dropped: list[str] = []
    for first in range(0, len(names), PROBED_AT_ONCE):
        some = names[first : first + PROBED_AT_ONCE]
        probes = pa.concat_tables([sample.table, *(shuffled(sample, name).table for name in some)])
        one, other = (
            replace(sample, table=probes).losses(scorer, case.loss).reshape(len(some) + 1, len(sample))
            for scorer in (case.candidate, case.champion)
        )
        rises = other[1:].mean(axis=1) / max(float(other[0].mean()), 1e-12) - 1
        unmoved = [np.allclose(losses, one[0], rtol=SAME, atol=SAME) for losses in one[1:]]
        dropped += [name for name, rise, same in zip(some, rises, unmoved, strict=True) if same and rise > USED]
    return dropped


def calibration(case: GateCase) -> Check:
    """Is it further from calibrated than the champion, by more than chance, in mean or in slope?

    Answers that are too cautious (a slope above 1, as an average's is) stop no candidate whose loss, which counts
    that, is shown to be below the champion's.
    """
    figures: dict[str, Any] = {}
    losses = case.candidate_losses, case.champion_losses
    alpha = case.settings.retraining.alpha
    is_better = non_inferiority(case.loss, *losses, case.holdout.decided, margin=0.0, alpha=alpha).passed
    off = []
    by_version = [
        calibration_errors(scorer.contract, scored, case.holdout.decided)
        for scorer, scored in zip((case.candidate, case.champion), case.scored, strict=True)
    ]
    for name, (value, chance) in by_version[0].items():
        champion = by_version[1][name][0] if name in by_version[1] else None
        figures[name] = {"candidate": value, "by_chance": chance, "champion": champion}
        line = max(chance, abs(champion or 0.0) + MATERIAL[name.partition(" ")[0]])
        is_cautious = name.startswith("slope") and value > 0
        if abs(value) > line and not (is_cautious and is_better):
            off.append(f"{name} {value:+.4f} (by chance ± {chance:.4f}), the champion's {champion or 0:+.4f}")
    none = "Its calibration is no worse than the champion's." if figures else "It answers no probabilities."
    return Check("calibration", not off, f"Its calibration is off: {'; '.join(off)}." if off else none, figures)


def leak(case: GateCase) -> Check:
    """Does one feature alone tell the outcome, or do held-out rows stand among those that it has learned from?"""
    learn, holdout, line = case.split.learn, case.holdout, case.settings.retraining.leak
    shared = int(np.isin(holdout.outcomes, learn.outcomes).sum())
    alone = explained_by(learn, holdout, case.champion.contract)
    telling = {name: share for name, share in alone.items() if share >= line and line < 1}
    wrong = [f"{name} alone explains {share:.1%} of the outcome" for name, share in telling.items()]
    if shared:
        wrong.append(f"{shared:,} held-out rows have an outcome that it has learned")
    most = max(alone, key=lambda name: alone[name], default=None)
    words = "No feature alone tells the outcome" + (f" ({most}: {alone[most]:.1%})." if most else ".")
    return Check("leak", not wrong, f"It smells of a leak: {'; '.join(wrong)}." if wrong else words, alone)


def cost(case: GateCase) -> Check:
    """What a single row takes, and how large it is, against the budgets that are set."""
    one, other = (cost_of(scorer, case.holdout, case.settings) for scorer in (case.candidate, case.champion))
    figures = {
        f"{name}_{what}": value
        for name, measured in (("candidate", one), ("champion", other))
        for what, value in (("seconds", measured.seconds), ("bytes", measured.bytes))
    }
    champions = "" if one.way == other.way else f" ({other.way})"
    words = (
        f"A row takes {one.seconds * 1e3:.2f} ms ({one.way}), the champion {other.seconds * 1e3:.2f} ms{champions}; "
        f"it has {one.bytes:,} bytes ({other.bytes:,})."
    )
    wrong = one.over(case.settings.retraining)
    return Check("cost", not wrong, f"It is over budget: {'; '.join(wrong)}. {words}" if wrong else words, figures)


def thresholds(case: GateCase) -> Check:
    """MLflow's `MetricThreshold` on the metrics of the held-out rows."""
    metrics = [
        {
            metric.metric: metric.value
            for metric in validation_metrics(scorer.contract, scored)
            if metric.segment == ALL_ROWS
        }
        for scorer, scored in zip((case.candidate, case.champion), case.scored, strict=True)
    ]
    wanted = case.settings.retraining.thresholds
    unmet = unmet_thresholds({name: each.arguments for name, each in wanted.items()}, metrics[0], metrics[1])
    figures = {name: {"candidate": metrics[0].get(name), "champion": metrics[1].get(name)} for name in wanted}
    return Check("thresholds", not unmet, unmet or f"{', '.join(wanted)}: reached.", figures)


def own_gate(case: GateCase, path: str) -> Check:
    """A gate of the user's: given both versions' scored rows as Arrow tables, it says True, or why not in words."""
    module_name, _, attribute = path.partition(":")
    if not attribute:
        [*points] = metadata.entry_points(group=GROUP, name=path)
        if not points:
            raise LookupError(f"no entry point of the group {GROUP} is called {path!r}")
        module_name, attribute = points[0].module, points[0].attr
    gate = attrgetter(attribute)(import_module(module_name))
    candidate, champion = case.scored
    answer = gate(candidate=candidate, champion=champion)
    if isinstance(answer, str) and answer:
        return Check(path, False, answer)
    if answer is not True:
        raise TypeError(f"it answered {type(answer).__name__}, and neither True nor a cause in words")
    return Check(path, True, "It says yes.")

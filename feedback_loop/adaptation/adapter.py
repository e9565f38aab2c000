"""The adapter: what it is at birth, and what it is after each look. Pure; a state never changes.

A look is one whole cohort with its outcomes. How much a row of it counts follows from how far the looks before were
off: rows of a day share the day's fate, so that v = (Σ(y - p))² / Σp(1 - p) is far above 1 (design effect).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from feedback_loop.adaptation.guards import RUN, RangeGuard, SurpriseGuard
from feedback_loop.adaptation.heads import Learned, begin_learned, step
from feedback_loop.adaptation.intervals import Residuals
from feedback_loop.adaptation.tasks import TaskRules, rules_of
from feedback_loop.inference.adapter_coefficients import Coefficients
from feedback_loop.inference.adapter_encoding import Encoding, Floats
from feedback_loop.schema import Label, Task

REMEMBERED = 60
"""The design effect (and a regression's spread) is a median over so many looks."""

MEDIAN_CHI_SQUARE = 0.455
"""Of one degree of freedom: what v's median is where rows are independent."""

FIRST_LOOKS, LATER_LOOKS = 5, 20
"""Before so many looks the design effect is a guess; up to so many it is mixed with what was seen."""

GUESS_PER_ROW = 0.05
"""The guess: 1 + .05(N - 1)."""

SURPRISE_LIMIT = 2.5
"""In standard errors, of one output."""

_TAIL = 0.0062  # 1 - Φ(2.5), shared by the classes of a multiclass task

_LEAST_SPREAD = 1e-12


@dataclass(frozen=True, eq=False)
class Basis:
    """What was fixed when the adapter was begun."""

    task: Task
    classes: tuple[Label, ...]
    positive: Label | None
    encoding: Encoding
    centre: float = 0.0
    scale: float = 1.0

    @cached_property
    def rules(self) -> TaskRules:
        """The arithmetic of the task."""
        return rules_of(self.task, len(self.classes), self.centre, self.scale)

    @cached_property
    def limit(self) -> float:
        """How surprising a look may be."""
        outputs = self.rules.outputs
        return SURPRISE_LIMIT if outputs == 1 else NormalDist().inv_cdf(1 - _TAIL / outputs)


@dataclass(frozen=True, eq=False)
class Look:
    """The labelled rows of a cohort, at least one, none of whose raw answers or outcomes is missing.

    `raw` and `served` are the answers as `Coefficients.apply` takes and gives them. `served` is NaN where no adapter
    had a part in the answer: the surprise of these rows is that of what the state would have served. `outcomes`: 1
    for the positive class and 0 else (binary), the class's place (multiclass), the number (regression). `features`
    are columns by the model's names.
    """

    raw: Floats
    served: Floats
    outcomes: Floats
    features: Mapping[str, Any]


@dataclass(frozen=True)
class LookRecord:
    """What an adapter made of a look. `surprise` and `design_effect` are those of the output that surprised most.

    `coverage` is the share of a regression's outcomes that lie within the intervals of before this look.
    """

    rows: int
    surprise: float
    design_effect: float
    trust: float
    rates: tuple[float, ...]
    loss_raw: float
    loss_served: float
    coverage: float | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """One state. `earlier` are what was learned before each look of the offending run that is under way."""

    basis: Basis
    learned: Learned
    range_guard: RangeGuard
    surprise_guard: SurpriseGuard = field(default_factory=SurpriseGuard)
    looks: int = 0
    deviations: Floats = field(default_factory=lambda: np.empty((0, 1)))  # v of the last looks, (looks, outputs)
    spreads: Floats = field(default_factory=lambda: np.empty(0))  # of a regression's looks: mean of min(e², 9V)
    residuals: Residuals = field(default_factory=Residuals)
    earlier: tuple[Learned, ...] = ()
    held_looks: int = 0
    is_held_by_hand: bool = False
    last: LookRecord | None = None

    @classmethod
    def begin(cls, basis: Basis, rates: Floats) -> Adapter:
        """A new adapter; `rates` are the outcome rates of the reference's cohorts, of shape (cohorts, outputs)."""
        rules = basis.rules
        return cls(
            basis,
            begin_learned(rules, basis.encoding.width),
            RangeGuard.begin(rates),
            deviations=np.empty((0, rules.outputs)),
        )

    @property
    def held_by(self) -> tuple[str, ...]:
        """What holds it: `surprise`, `range`, `hand`; nothing while it learns."""
        holds = {
            "surprise": self.surprise_guard.is_holding,
            "range": self.range_guard.is_holding,
            "hand": self.is_held_by_hand,
        }
        return tuple(name for name, is_holding in holds.items() if is_holding)

    @cached_property
    def coefficients(self) -> Coefficients:
        """What is served until the next look."""
        basis, heads = self.basis, self.learned.heads
        outputs, width = basis.rules.outputs, basis.encoding.width
        weights = np.zeros((1 + width, len(heads) * outputs))
        for place, head in enumerate(heads):
            own = head.theta[:, 1:].T
            weights[: len(own), place * outputs : (place + 1) * outputs] = own
        return Coefficients(
            basis.task,
            basis.classes,
            basis.positive,
            basis.encoding,
            np.stack([head.theta[:, 0] for head in heads]),
            weights,
            self.learned.pool,
            basis.centre,
            basis.scale,
            self.residuals.interval(basis.scale),
        )

    def after(self, look: Look) -> Adapter:
        """The state after a look: what it learned of it, or that it is held."""
        rules, was_held = self.basis.rules, bool(self.held_by)
        served = look.served
        if was_held or np.isnan(served).any():
            own = self.coefficients.apply(look.raw, look.features)
            served = own if was_held else np.where(np.isnan(served), own, served)
        targets = rules.targets(look.raw, look.outcomes)
        residuals = rules.residuals(targets, look.raw, served)
        spread = self._spread(residuals)
        totals, variances = residuals.sum(axis=0), rules.variances(served, spread).sum(axis=0)
        effects = self._design_effects(len(look.raw))
        surprises = totals / np.sqrt(effects * variances)
        most = int(np.argmax(np.abs(surprises)))
        trust = min(1.0, self.basis.limit / max(abs(float(surprises[most])), 1e-300)) ** 2
        rates = rules.rates(look.outcomes)
        guarded = replace(
            self,
            surprise_guard=self.surprise_guard.after(surprises, self.basis.limit),
            range_guard=self.range_guard.after(rates, len(look.raw), is_held=was_held),
        )
        record = LookRecord(
            len(look.raw),
            float(surprises[most]),
            float(effects[most]),
            trust,
            tuple(rates.tolist()),
            *self.losses(look),
            self.residuals.coverage(residuals[:, 0]),
        )
        if guarded.held_by:
            return _held(guarded, record, is_new=not was_held)
        learned = step(
            self.learned,
            rules,
            self.basis.encoding,
            raw=look.raw,
            targets=targets,
            features=look.features,
            weight=trust / float(effects[most]),
            spread=spread,
        )
        run = max(guarded.surprise_guard.run, guarded.range_guard.run)
        return replace(
            guarded,
            learned=learned,
            looks=self.looks + 1,
            deviations=_newest(self.deviations, totals**2 / variances),
            spreads=self._next_spreads(residuals, spread),
            residuals=self._next_residuals(residuals),
            earlier=(*self.earlier, self.learned)[-run:] if run else (),
            held_looks=0,
            last=record,
        )

    def hold(self) -> Adapter:
        """Held by hand: it serves on what it is and learns nothing until `release`."""
        return replace(self, is_held_by_hand=True)

    def release(self, *, by_promotion: bool = False) -> Adapter:
        """Goes on from the held state; a promotion does not end what a person holds."""
        return replace(
            self,
            surprise_guard=SurpriseGuard(),
            range_guard=self.range_guard.released(),
            earlier=(),
            held_looks=0,
            is_held_by_hand=self.is_held_by_hand and by_promotion,
        )

    def _design_effects(self, rows: int) -> Floats:
        guess = 1.0 + GUESS_PER_ROW * (rows - 1)
        if self.looks < FIRST_LOOKS:
            return np.full(self.basis.rules.outputs, guess)
        seen = np.maximum(1.0, np.median(self.deviations, axis=0) / MEDIAN_CHI_SQUARE)
        if self.looks < LATER_LOOKS:
            return np.asarray((self.looks * seen + (LATER_LOOKS - self.looks) * guess) / LATER_LOOKS)
        return np.asarray(seen)

    def _spread(self, residuals: Floats) -> float:
        """V: a regression's robust variance of served errors, in the reference's standard deviations."""
        if self.basis.task is not Task.REGRESSION:
            return 1.0
        if len(self.spreads) < FIRST_LOOKS:
            return max(float((residuals**2).mean()), _LEAST_SPREAD)
        return max(float(np.median(self.spreads)), _LEAST_SPREAD)

    def _next_spreads(self, residuals: Floats, spread: float) -> Floats:
        if self.basis.task is not Task.REGRESSION:
            return self.spreads
        return _newest(self.spreads, np.minimum(residuals[:, 0] ** 2, 9.0 * spread).mean())

    def _next_residuals(self, residuals: Floats) -> Residuals:
        return self.residuals.after(residuals[:, 0]) if self.basis.task is Task.REGRESSION else self.residuals

    def losses(self, look: Look) -> tuple[float, float]:
        """The mean loss of the raw answers and of those that callers got: log loss, or the squared error."""
        rules = self.basis.rules
        both = look.raw, np.where(np.isnan(look.served), look.raw, look.served)
        if self.basis.task is Task.REGRESSION:
            raw, served = ((look.outcomes - answers) ** 2 for answers in both)
        else:
            targets = rules.targets(look.raw, look.outcomes)
            raw, served = (rules.losses(targets, _columns(answers), 1.0) for answers in both)
        return float(raw.mean()), float(served.mean())


def _held(adapter: Adapter, record: LookRecord, *, is_new: bool) -> Adapter:
    """Held after this look; a guard that stops now brings back what was learned before the first of its run."""
    learned = (*adapter.earlier[1 - RUN :], adapter.learned)[0] if is_new else adapter.learned
    return replace(adapter, learned=learned, earlier=(), held_looks=adapter.held_looks + 1, last=record)


def _columns(answers: Floats) -> Floats:
    return answers[:, None] if answers.ndim == 1 else answers


def _newest(values: Floats, value: Any) -> Floats:
    return np.concatenate([values, np.asarray(value, dtype=np.float64)[None]])[-REMEMBERED:]

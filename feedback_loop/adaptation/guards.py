"""When what arrives is not to be learned: three surprising looks in a row, or three with outcomes out of range."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from feedback_loop.adaptation.tasks import WHOLE_LOOK
from feedback_loop.inference.adapter_encoding import Floats

RUN = 3
"""So many offending looks in a row stop the adapter."""

LONG_HOLD = 7
"""After so many held looks an incident says that somebody must look."""

ENOUGH_RATES = 30
"""The range is that of so many outcome rates at least: before, all that come make it."""


@dataclass(frozen=True)
class SurpriseGuard:
    """Looks in a row whose surprise is beyond the limit, of one output and sign."""

    output: int = 0
    sign: int = 0
    run: int = 0
    is_holding: bool = False

    def after(self, surprises: Floats, limit: float) -> SurpriseGuard:
        """The guard after a look with these surprises s of each output, of which the largest counts."""
        output = int(np.argmax(np.abs(surprises)))
        largest = float(surprises[output])
        if abs(largest) <= limit:
            return SurpriseGuard()
        sign = 1 if largest > 0 else -1
        is_same = (output, sign) == (self.output, self.sign)
        run = self.run + 1 if is_same else 1
        return SurpriseGuard(output, sign, run, self.is_holding or run >= RUN)


@dataclass(frozen=True, eq=False)
class RangeGuard:
    """Outcome rates so far: the lowest and the highest of each output, and looks in a row that are beyond them.

    The rates of a run enter the range when it ends before it stops anything. Looks of few rows are one together.
    """

    lowest: Floats
    highest: Floats
    rates: int
    runs: Floats
    run_lowest: Floats
    run_highest: Floats
    is_holding: bool = False
    few_rows: int = 0  # of looks that wait for others
    few_sum: Floats | float = 0.0  # of their rows' outcomes, for each output

    @classmethod
    def begin(cls, rates: Floats) -> RangeGuard:
        """Of the rates of earlier cohorts, of shape (cohorts, outputs); none of them may be missing."""
        outputs = rates.shape[1]
        return cls(
            rates.min(axis=0, initial=np.inf),
            rates.max(axis=0, initial=-np.inf),
            len(rates),
            np.zeros(outputs),
            np.full(outputs, np.inf),
            np.full(outputs, -np.inf),
        )

    @property
    def run(self) -> int:
        """The longest run of any output."""
        return int(self.runs.max())

    def after(self, rates: Floats, rows: int, *, is_held: bool) -> RangeGuard:
        """The guard after a look with these rates; what comes while the adapter `is_held` widens no range."""
        if self.few_rows or rows < WHOLE_LOOK:
            total, rows = self.few_sum + rows * rates, self.few_rows + rows
            if rows < WHOLE_LOOK:
                return replace(self, few_rows=rows, few_sum=total)
            return replace(self, few_rows=0, few_sum=0.0).after(total / rows, rows, is_held=is_held)
        if self.rates < ENOUGH_RATES:
            return self if is_held else self._entered(rates, rates)
        beyond = (rates < self.lowest) | (rates > self.highest)
        ended = (self.runs > 0) & ~beyond
        guard = self
        if not is_held:
            low = np.where(ended, self.run_lowest, np.inf)
            high = np.where(ended, self.run_highest, -np.inf)
            guard = self._entered(low, high)
        runs = np.where(beyond, self.runs + 1, 0.0)
        return replace(
            guard,
            runs=runs,
            run_lowest=np.where(beyond, np.minimum(self.run_lowest, rates), np.inf),
            run_highest=np.where(beyond, np.maximum(self.run_highest, rates), -np.inf),
            is_holding=bool((runs >= RUN).any() or (self.is_holding and beyond.any())),
        )

    def released(self) -> RangeGuard:
        """The guard without its hold and runs."""
        runs = np.zeros_like(self.runs)
        return replace(self, runs=runs, run_lowest=runs + np.inf, run_highest=runs - np.inf, is_holding=False)

    def _entered(self, low: Floats, high: Floats) -> RangeGuard:
        return replace(
            self,
            lowest=np.minimum(self.lowest, low),
            highest=np.maximum(self.highest, high),
            rates=self.rates + 1,
        )

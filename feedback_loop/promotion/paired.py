"""Is one version better or worse than another, on the same rows? A test by betting that may be read at every look.

Each matured window brings the mean difference of two versions' losses on its rows. Rows of a window share its fate:
a window is one unit. The wealth of somebody who bets on "worse" with fixed shares of it (the mean over four shares;
Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", sections 4 and B) is a
supermartingale if windows' differences have a mean of at most 0, whatever came before: it ever reaches 1/alpha with a
probability of at most alpha (Ville). "Better" is bet on likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the wealth that are bet on each window; the mean over them needs to know no effect beforehand."""

SPREAD = 1.5
"""A window's difference is bounded at so many standard deviations of those before it."""

LEAST_ROWS = 20
"""A window with fewer labelled rows is not counted."""


@dataclass(frozen=True)
class WindowPair:
    """One window: its labelled rows, and both versions' mean losses on them (in [0, 1])."""

    window_end: str
    rows: int
    candidate: float
    baseline: float

    @property
    def difference(self) -> float:
        """Above zero where the candidate is worse."""
        return self.candidate - self.baseline


@dataclass(frozen=True)
class PairedTest:
    """The state after some windows, the same however they are grouped into looks.

    `count`, `known` and `squares` (of differences, with those of windows before the test began) give the bound of the
    next one, which is so known before it is seen.
    """

    count: int = 0
    known: float = 0.0
    squares: float = 0.0
    worse: tuple[float, ...] = (1.0,) * len(SHARES)
    better: tuple[float, ...] = (1.0,) * len(SHARES)
    windows: int = 0
    rows: int = 0
    total: float = 0.0  # of the differences, each of them a unit
    total_squares: float = 0.0

    def scaled_by(self, differences: Sequence[float]) -> PairedTest:
        """With the scale of windows before the test began: they are no evidence, but tell how windows vary."""
        return replace(
            self,
            count=self.count + len(differences),
            known=self.known + sum(differences),
            squares=self.squares + sum(difference**2 for difference in differences),
        )

    def after(self, pairs: Sequence[WindowPair]) -> PairedTest:
        """Takes windows in, in the order of time; the first that differ only set the scale where nothing has."""
        test = self
        for pair in pairs:
            test = test._after(pair.difference, pair.rows)
        return test

    def _after(self, difference: float, rows: int) -> PairedTest:
        seen = self.scaled_by([difference])
        if difference and not self._bound:
            return seen
        part = max(-1.0, min(difference / self._bound, 1.0)) if difference else 0.0
        return replace(
            seen,
            worse=tuple(wealth * (1 + share * part) for wealth, share in zip(self.worse, SHARES, strict=True)),
            better=tuple(wealth * (1 - share * part) for wealth, share in zip(self.better, SHARES, strict=True)),
            windows=self.windows + 1,
            rows=self.rows + rows,
            total=self.total + difference,
            total_squares=self.total_squares + difference**2,
        )

    @property
    def _bound(self) -> float:
        """Where nothing has varied yet, the mean's size stands for the deviation."""
        if not self.count:
            return 0.0
        mean = self.known / self.count
        variance = self.squares / self.count - mean**2
        return SPREAD * (float(variance**0.5) if variance > 1e-9 * mean**2 else abs(mean))

    @property
    def harm(self) -> float:
        """The e-value of "the candidate is worse": evidence is strong as its inverse is small."""
        return sum(self.worse) / len(self.worse)

    @property
    def gain(self) -> float:
        """The e-value of "the candidate is better"."""
        return sum(self.better) / len(self.better)

    @property
    def figures(self) -> dict[str, Any]:
        """What is said of it."""
        return {
            "counted": self.windows,
            "rows": self.rows,
            "difference": self.mean,
            "standard_error": self.standard_error,
            "harm": self.harm,
            "gain": self.gain,
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PairedTest:
        """Read back from plain values."""
        lists = {name: tuple(values[name]) for name in ("worse", "better")}
        return cls(**{**values, **lists})

    @property
    def mean(self) -> float | None:
        """The mean difference between windows; None before there is one."""
        return self.total / self.windows if self.windows else None

    @property
    def standard_error(self) -> float | None:
        """Of that mean, between windows; None for fewer than two."""
        if self.windows < 2:
            return None
        variance = (self.total_squares - self.total**2 / self.windows) / (self.windows - 1)
        return float((max(variance, 0.0) / self.windows) ** 0.5)

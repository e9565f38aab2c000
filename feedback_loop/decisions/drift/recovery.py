"""Is a column that had drifted as it was? Only evidence at a stated error rate arms its monitor anew."""

from __future__ import annotations

from dataclasses import dataclass

STAKE = 0.9
"""The share of the wealth that is bet on the next window being near."""


@dataclass(frozen=True)
class Return:
    """The test of whether a drifted column is back, after windows that were `far` from the reference or near.

    Null: given all before it, each window is far with probability 1/2 at least. A bet at even odds that windows are
    near then wins nothing on average. It begins with a near window and ends when its wealth is lost; the k-th has the
    level `alpha / (k (k + 1))`. So a column that is still drifted is ever taken to be back with probability at most
    `alpha` (Ville 1939). A column that is seldom far is back after six windows.
    """

    alpha: float
    begun: int = 0
    wealth: float = 0.0  # of the bet that runs; 0: none does
    near: int = 0  # windows of that bet that were near

    @property
    def is_back(self) -> bool:
        """Whether there is evidence enough."""
        return self.wealth * self.alpha >= self.begun * (self.begun + 1) > 0

    def after(self, *, far: bool) -> Return:
        """The test after the next window."""
        if far:
            rest = self.wealth * (1 - STAKE)
            return Return(self.alpha, self.begun, rest, self.near) if rest >= 1 else Return(self.alpha, self.begun)
        is_new = not self.wealth
        return Return(self.alpha, self.begun + is_new, (self.wealth or 1.0) * (1 + STAKE), self.near + 1)

"""Is a column that had drifted as it was? Only evidence at a stated error rate arms its monitor anew."""

from __future__ import annotations

from dataclasses import dataclass

STAKE = 0.9
"""This share of what has been won is put on the next window's being near again."""


@dataclass(frozen=True)
class Return:
    """The test after some windows since a column was found, each of which is `far` from the reference or not.

    Null: given all before it, each window is far with probability 1/2 at least. A bet at even odds that windows are
    near then wins nothing on average. It begins with a near window, and ends once it has lost what it had; the k-th
    has `alpha / (k (k + 1))`: that a column which is still drifted is ever taken to be back has probability at most
    `alpha` (Ville 1939). Where a window is seldom far, it takes six of them.
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
        """The next window taken in."""
        if far:
            left = self.wealth * (1 - STAKE)
            return Return(self.alpha, self.begun, left, self.near) if left >= 1 else Return(self.alpha, self.begun)
        is_new = not self.wealth
        return Return(self.alpha, self.begun + is_new, (self.wealth or 1.0) * (1 + STAKE), self.near + 1)

"""Method D for 0/1 losses: has the error rate changed for the worse? (`docs/decisions.md`.)

Null: the errors of reference and stream are exchangeable. Given the totals after a block, its errors are then
hypergeometric, so the randomised probability transform of their number is uniform and its score standard normal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from feedback_loop.decisions.mixture import BOLDNESS, HORIZON, NormalBets, normal_score, uniforms
from feedback_loop.monitoring import Floats

PILOT = 500
"""The first labels of the reference: they choose the block length, and nothing else."""


@dataclass(frozen=True)
class ErrorMonitor:
    """The state after some labels; `update` gives the next one. A few hundred bytes as JSON."""

    alpha: float
    seed: int
    block: int  # labels a block
    labels: int  # N: in the totals, reference included
    errors: int  # S: of these
    bets: NormalBets
    blocks: int = 0  # t
    waiting: tuple[int, ...] = ()  # labels of a block that is not full yet
    alarmed_at: int | None = None  # after how many labels of the stream
    kind: str = "error"

    null = "errors of reference and stream are exchangeable, label by label"

    @property
    def once_in(self) -> float:
        """A model that had not changed would ever show so much only once in so many times."""
        return self.bets.peak

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> ErrorMonitor:
        """Takes the next labels in, in their order; how they are grouped into calls makes no difference."""
        waiting = [*self.waiting, *(int(loss) for loss in losses)]
        state = self
        while len(waiting) >= state.block:
            block, waiting = waiting[: state.block], waiting[state.block :]
            state = state._fold(sum(block))
        return replace(state, waiting=tuple(waiting))

    def _fold(self, errors: int) -> ErrorMonitor:
        law = (self.labels + self.block, self.errors + errors, self.block)
        uniform = uniforms(self.seed, self.blocks, 1)[0]
        # P(X > errors) + u P(X = errors), X hypergeometric: this block's errors among all labels so far
        p = float(stats.hypergeom.sf(errors, *law) + uniform * stats.hypergeom.pmf(errors, *law))
        share = 1 / (HORIZON / self.block + self.blocks + 1)
        bets = self.bets.after(normal_score(p), BOLDNESS * np.sqrt(self.block), share, 1 / self.alpha)
        done = replace(self, labels=law[0], errors=law[1], bets=bets, blocks=self.blocks + 1, waiting=())
        if self.alarmed_at is None and bets.boosted.total >= 1 / self.alpha:
            return replace(done, alarmed_at=done.blocks * self.block)
        return done


def start_error_monitor(reference: Floats, *, alpha: float, seed: int) -> ErrorMonitor:
    """A monitor from the 0/1 losses of reference rows, in their order (at least 1,000)."""
    rate = float(reference[:PILOT].mean())
    block = 25 if rate >= 0.2 else 50 if rate >= 0.05 else 100
    rest = reference[PILOT:]
    return ErrorMonitor(
        alpha=alpha, seed=seed, block=block, labels=len(rest), errors=int(rest.sum()), bets=NormalBets.begin()
    )

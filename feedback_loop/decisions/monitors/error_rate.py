"""Method D for 0/1 losses: has the error rate changed for the worse? (`docs/decisions.md`.)

Null: the errors of reference and stream are exchangeable, within each stratum. Given the totals of a stratum after a
block, the block's errors are then hypergeometric, so the randomised probability transform of their number is uniform
and its score standard normal, independent of all others, also of other strata's.
"""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from feedback_loop.decisions.monitors.betting import (
    BOLDNESS,
    GRAIN,
    HORIZON,
    NormalBets,
    Numbers,
    exchangeable,
    grains,
    normal_scores,
    uniforms,
)
from feedback_loop.monitoring import Floats, upper_tails

PILOT = 500
"""So many labels, spread over the reference, choose the block length, and are used for nothing else."""


class ErrorMonitor(Struct, frozen=True, tag_field="kind", tag="error"):
    """The state after some labels; `update` gives the next one. A few hundred bytes as JSON.

    The four counts are those of each stratum: a window's place in the cycle.
    """

    alpha: float
    seed: int
    block: int  # labels a block
    labels: tuple[int, ...]  # N: in the totals, reference included
    errors: tuple[int, ...]  # S: of these
    waiting: tuple[int, ...]  # labels of a block that is not full yet
    waiting_errors: tuple[int, ...]
    bets: NormalBets
    blocks: int = 0  # t
    seen: int = 0  # labels of the stream
    alarmed_at: int | None = None  # after how many labels of the stream

    @property
    def null(self) -> str:
        """The null hypothesis, in words."""
        return exchangeable("errors", len(self.labels))

    @property
    def e_value(self) -> float:
        """The wealth now. Under the null it is expected to be at most 1."""
        return self.bets.plain.total

    @property
    def once_in(self) -> float:
        """The peak of the wealth: an unchanged model ever reaches y with probability at most 1/y."""
        return self.bets.peak

    def stratum(self, place: int) -> int:
        """The stratum of a window; consecutive windows of one stratum can update the monitor together."""
        return place % len(self.labels)

    def update(self, losses: Floats, place: int = 0, *, ends: bool = True) -> ErrorMonitor:
        """The monitor after more labels of the window `place`; their grouping into calls makes no difference."""
        del ends  # a block goes on in the next window of its stratum
        stratum = self.stratum(place)
        errors = np.concatenate([[0], np.cumsum(2 * grains(losses) >= GRAIN)]) + self.waiting_errors[stratum]
        full = (self.waiting[stratum] + len(losses)) // self.block
        ends_at = np.arange(1, full + 1) * self.block - self.waiting[stratum]
        state = self._fold(stratum, np.diff(errors[ends_at], prepend=0), ends_at + self.seen)
        waiting_errors = int(errors[-1] - errors[ends_at[-1]]) if full else int(errors[-1])
        return replace(
            state,
            waiting=_put(self.waiting, stratum, (self.waiting[stratum] + len(losses)) % self.block),
            waiting_errors=_put(self.waiting_errors, stratum, waiting_errors),
            seen=self.seen + len(losses),
        )

    def _fold(self, stratum: int, errors: Numbers, ends_at: Numbers) -> ErrorMonitor:
        """The monitor after full blocks of a stratum, with their errors and the numbers of their last labels."""
        if not len(errors):
            return self
        pool = self.labels[stratum] + self.block * np.arange(1, len(errors) + 1)
        wrong = self.errors[stratum] + np.cumsum(errors)
        p = upper_tails(errors, pool, wrong, self.block, uniforms(self.seed, self.blocks, len(errors)))
        drifts = (BOLDNESS * math.sqrt(self.block)).tolist()
        bets, blocks, alarmed_at = self.bets, self.blocks, self.alarmed_at
        for z, end in zip(normal_scores(p).tolist(), ends_at.tolist(), strict=True):
            blocks += 1
            bets = bets.after(z, drifts, 1 / (HORIZON / self.block + blocks), 1 / self.alpha)
            if alarmed_at is None and bets.boosted.total >= 1 / self.alpha:
                alarmed_at = end
        return replace(
            self,
            labels=_put(self.labels, stratum, int(pool[-1])),
            errors=_put(self.errors, stratum, int(wrong[-1])),
            bets=bets,
            blocks=blocks,
            alarmed_at=alarmed_at,
        )


def start_error_monitor(
    reference: Floats, windows: Numbers | None = None, strata: int = 1, *, alpha: float, seed: int
) -> ErrorMonitor:
    """A monitor from the 0/1 losses of reference rows, in their order (at least 1,000).

    A stratum with few labels in the reference, or none, is compared with its own first labels in the stream, not with
    another stratum: the guarantee holds all the same.
    """
    errors = 2 * grains(reference) >= GRAIN
    is_pilot = np.zeros(len(errors), dtype=bool)
    is_pilot[np.linspace(0, len(errors), PILOT, endpoint=False, dtype=np.int64)] = True
    rate = float(errors[is_pilot].mean())
    block = 25 if rate >= 0.2 else 50 if rate >= 0.05 else 100
    places = (np.zeros(len(errors), dtype=np.int64) if windows is None else windows % strata)[~is_pilot]
    return ErrorMonitor(
        alpha=alpha,
        seed=seed,
        block=block,
        labels=tuple(np.bincount(places, minlength=strata).tolist()),
        errors=tuple(np.bincount(places[errors[~is_pilot]], minlength=strata).tolist()),
        waiting=(0,) * strata,
        waiting_errors=(0,) * strata,
        bets=NormalBets.begin(),
    )


def _put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])

"""How a retraining ended."""

from __future__ import annotations

from dataclasses import dataclass

from feedback_loop.retraining.gate import GateResult
from feedback_loop.store.retrainings import Check, Trial


@dataclass(frozen=True)
class RetrainingResult:
    """How a retraining ended, and why: `promoted`, `proposed`, in `rollout`, `passed` (it was not to be promoted),
    `refused`, or `not_made`.
    """

    retraining_id: int
    state: str
    champion: str
    candidate: str | None
    summary: str
    gate: GateResult | None
    trials: tuple[Trial, ...]
    gates: tuple[Check, ...] = ()

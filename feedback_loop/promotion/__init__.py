"""Who answers callers: approval by people, rollout, promotion behind the fence, probation, rollback."""

from feedback_loop.promotion.approval import (
    ApprovalDesk,
    differences,
    gate_evidence,
    parameters,
)
from feedback_loop.promotion.fence import Champions, champions_that_stand
from feedback_loop.promotion.live import Compared, compare_matured, compare_versions, judge_on_newer_rows
from feedback_loop.promotion.rollout import THE_LOOP, RolloutDesk

__all__ = [
    "THE_LOOP",
    "ApprovalDesk",
    "Champions",
    "Compared",
    "RolloutDesk",
    "champions_that_stand",
    "compare_matured",
    "compare_versions",
    "differences",
    "gate_evidence",
    "judge_on_newer_rows",
    "parameters",
]

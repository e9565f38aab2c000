"""Deciding: has the model become worse, with a stated error rate, and what follows."""

from feedback_loop.decisions.conditions import ConditionState, judge_condition, load_condition_states
from feedback_loop.decisions.decide import decide, look, why_nothing_judged
from feedback_loop.decisions.losses import BOUNDED, Baseline, Cohort, baseline_of, monitored_loss
from feedback_loop.decisions.monitors import LEAST_REFERENCE
from feedback_loop.decisions.policy import Reason, held_by, judge, next_step, spent_until, wanted_step
from feedback_loop.decisions.suggest import Suggestion, policy_toml
from feedback_loop.decisions.suggest_from_log import HISTORY, suggest_policy

__all__ = [
    "BOUNDED",
    "HISTORY",
    "LEAST_REFERENCE",
    "Baseline",
    "Cohort",
    "ConditionState",
    "Reason",
    "Suggestion",
    "baseline_of",
    "decide",
    "held_by",
    "judge",
    "judge_condition",
    "load_condition_states",
    "look",
    "monitored_loss",
    "next_step",
    "policy_toml",
    "spent_until",
    "suggest_policy",
    "wanted_step",
    "why_nothing_judged",
]

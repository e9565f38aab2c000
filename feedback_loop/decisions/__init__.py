"""Deciding: has the model become worse, with a stated error rate, and what follows."""

from feedback_loop.decisions.baseline import baseline_of
from feedback_loop.decisions.cohorts import SharedReader
from feedback_loop.decisions.conditions import Standing, judge_condition, load_standings
from feedback_loop.decisions.decide import decide, look
from feedback_loop.decisions.monitors import LEAST_REFERENCE
from feedback_loop.decisions.policy import Reason, judge, next_step, spent_until, wanted_step
from feedback_loop.decisions.suggest import Suggestion, policy_toml, suggest, suggest_maturity
from feedback_loop.decisions.watched import Baseline, Cohort

__all__ = [
    "LEAST_REFERENCE",
    "Baseline",
    "Cohort",
    "Reason",
    "SharedReader",
    "Standing",
    "Suggestion",
    "baseline_of",
    "decide",
    "judge",
    "judge_condition",
    "load_standings",
    "look",
    "next_step",
    "policy_toml",
    "spent_until",
    "suggest",
    "suggest_maturity",
    "wanted_step",
]

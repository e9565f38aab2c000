"""Deciding: has the model become worse, with a stated error rate, and what follows."""

from feedback_loop.decisions.baseline import baseline_of
from feedback_loop.decisions.decide import decide
from feedback_loop.decisions.diagnosis import Causes, Recommendation, find_causes
from feedback_loop.decisions.followed import Searched, was_right
from feedback_loop.decisions.monitors import LEAST_REFERENCE
from feedback_loop.decisions.policy import Reason, judge, next_step
from feedback_loop.decisions.replays import score_with
from feedback_loop.decisions.suggest import Suggestion, policy_toml, suggest, suggest_maturity
from feedback_loop.decisions.watch import Watch, reference_digest, rule_of, start_watch, watch_window
from feedback_loop.decisions.watched import Baseline, Cohort

__all__ = [
    "LEAST_REFERENCE",
    "Baseline",
    "Causes",
    "Cohort",
    "Reason",
    "Recommendation",
    "Searched",
    "Suggestion",
    "Watch",
    "baseline_of",
    "decide",
    "find_causes",
    "judge",
    "next_step",
    "policy_toml",
    "reference_digest",
    "rule_of",
    "score_with",
    "start_watch",
    "suggest",
    "suggest_maturity",
    "was_right",
    "watch_window",
]

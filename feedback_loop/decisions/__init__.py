"""Deciding: has the model become worse, with a stated error rate, and what follows."""

from feedback_loop.decisions.backtest import (
    Aftermath,
    Answer,
    Backtest,
    Candidate,
    CohortLoss,
    Look,
    Past,
    Reign,
    Replayed,
    Standing,
    change_of,
    delay_of,
    made_looks,
    reign_at,
    reigns_of,
    replay,
)
from feedback_loop.decisions.baseline import baseline_of
from feedback_loop.decisions.candidates import candidates_of
from feedback_loop.decisions.cohorts import SharedReader
from feedback_loop.decisions.decide import decide, look
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
    "Aftermath",
    "Answer",
    "Backtest",
    "Baseline",
    "Candidate",
    "Causes",
    "Cohort",
    "CohortLoss",
    "Look",
    "Past",
    "Reason",
    "Recommendation",
    "Reign",
    "Replayed",
    "Searched",
    "SharedReader",
    "Standing",
    "Suggestion",
    "Watch",
    "baseline_of",
    "candidates_of",
    "change_of",
    "decide",
    "delay_of",
    "find_causes",
    "judge",
    "look",
    "made_looks",
    "next_step",
    "policy_toml",
    "reference_digest",
    "reign_at",
    "reigns_of",
    "replay",
    "rule_of",
    "score_with",
    "start_watch",
    "suggest",
    "suggest_maturity",
    "was_right",
    "watch_window",
]

"""Diagnosis: of what a rise of the loss is made, what to do about it, and whether that was right."""

from feedback_loop.decisions.diagnosis.causes import LEAST_ROWS, find_causes
from feedback_loop.decisions.diagnosis.comparison import comparable_rows
from feedback_loop.decisions.diagnosis.history import changed_window, is_owed, judge_diagnoses, record_causes
from feedback_loop.decisions.diagnosis.replays import score_with
from feedback_loop.decisions.diagnosis.words import Causes, Recommendation, advice_message

__all__ = [
    "LEAST_ROWS",
    "Causes",
    "Recommendation",
    "advice_message",
    "changed_window",
    "comparable_rows",
    "find_causes",
    "is_owed",
    "judge_diagnoses",
    "record_causes",
    "score_with",
]

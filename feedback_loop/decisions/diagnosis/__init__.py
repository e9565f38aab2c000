"""Diagnosis: of what a rise of the loss is made, what to do about it, and whether that was right."""

from feedback_loop.decisions.diagnosis.causes import LEAST_ROWS, Causes, Recommendation, find_causes
from feedback_loop.decisions.diagnosis.followed import Searched, was_right
from feedback_loop.decisions.diagnosis.quality import quality_findings, quality_words
from feedback_loop.decisions.diagnosis.replays import score_with

__all__ = [
    "LEAST_ROWS",
    "Causes",
    "Recommendation",
    "Searched",
    "find_causes",
    "quality_findings",
    "quality_words",
    "score_with",
    "was_right",
]

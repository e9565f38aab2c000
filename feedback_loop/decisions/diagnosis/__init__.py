"""Diagnosis: of what a rise of the loss is made, what to do about it, and whether that was right."""

from feedback_loop.decisions.diagnosis.causes import Causes, Recommendation, find_causes
from feedback_loop.decisions.diagnosis.followed import Searched, was_right
from feedback_loop.decisions.diagnosis.replays import score_with

__all__ = ["Causes", "Recommendation", "Searched", "find_causes", "score_with", "was_right"]

"""A better version: rows, trials, the gate, promotion and rollback."""

from feedback_loop.retraining.dataset import TrainingRows, training_rows
from feedback_loop.retraining.gate import GateResult, non_inferiority
from feedback_loop.retraining.kinds import chosen_kinds
from feedback_loop.retraining.promotion import promote, reconcile, rollback
from feedback_loop.retraining.retrain import PROVEN_ROWS, RetrainingResult, Search

__all__ = [
    "PROVEN_ROWS",
    "GateResult",
    "RetrainingResult",
    "Search",
    "TrainingRows",
    "chosen_kinds",
    "non_inferiority",
    "promote",
    "reconcile",
    "rollback",
    "training_rows",
]

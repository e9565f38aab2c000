"""A better version: rows, trials, the gate, promotion and rollback; smaller versions of a model."""

from feedback_loop.retraining.column_types import chosen_kinds
from feedback_loop.retraining.dataset import TrainingRows, training_rows
from feedback_loop.retraining.gate import GateResult, non_inferiority
from feedback_loop.retraining.promotion import Champions
from feedback_loop.retraining.retrain import RetrainingResult, Search
from feedback_loop.retraining.variants import Optimized, VariantSearch

__all__ = [
    "Champions",
    "GateResult",
    "Optimized",
    "RetrainingResult",
    "Search",
    "TrainingRows",
    "VariantSearch",
    "chosen_kinds",
    "non_inferiority",
    "training_rows",
]

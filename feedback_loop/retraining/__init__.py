"""A better version: rows, trials, the gate; smaller versions of a model."""

from feedback_loop.retraining.dataset import TrainingRows, content_digest, rows_again, training_rows
from feedback_loop.retraining.gate import GateResult, non_inferiority, paired_difference
from feedback_loop.retraining.outline import Outline, outline
from feedback_loop.retraining.result import RetrainingResult
from feedback_loop.retraining.retrain import Search
from feedback_loop.retraining.trainer_data import Dataset
from feedback_loop.retraining.trainers import Trainer
from feedback_loop.retraining.variants import Optimized, VariantSearch

__all__ = [
    "Dataset",
    "GateResult",
    "Optimized",
    "Outline",
    "RetrainingResult",
    "Search",
    "Trainer",
    "TrainingRows",
    "VariantSearch",
    "content_digest",
    "non_inferiority",
    "outline",
    "paired_difference",
    "rows_again",
    "training_rows",
]

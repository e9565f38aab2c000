"""Scoring: engines around loaded models, and files scored in chunks."""

from feedback_loop.inference.engines import Engine, PyfuncEngine, Scored, SklearnEngine, feature_frame
from feedback_loop.inference.files import FileResult, predict_file
from feedback_loop.inference.scorer import Scorer, contract_of, make_scorer

__all__ = [
    "Engine",
    "FileResult",
    "PyfuncEngine",
    "Scored",
    "Scorer",
    "SklearnEngine",
    "contract_of",
    "feature_frame",
    "make_scorer",
    "predict_file",
]

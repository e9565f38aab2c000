"""Scoring: engines around loaded models, and files scored in chunks."""

from feedback_loop.inference.engines import Engine, PyfuncEngine, Scored, SklearnEngine, feature_frame
from feedback_loop.inference.files import FileResult, count_rows, is_csv, predict_file, read_chunks
from feedback_loop.inference.scorer import ID, Scorer, contract_of, input_rows, make_scorer

__all__ = [
    "ID",
    "Engine",
    "FileResult",
    "PyfuncEngine",
    "Scored",
    "Scorer",
    "SklearnEngine",
    "contract_of",
    "count_rows",
    "feature_frame",
    "input_rows",
    "is_csv",
    "make_scorer",
    "predict_file",
    "read_chunks",
]

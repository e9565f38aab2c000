"""Scoring: engines around loaded models, and files scored in chunks."""

from feedback_loop.inference.batch import FileResult, predict_file
from feedback_loop.inference.bundle import (
    DamagedBundle,
    EngineKind,
    open_bundle,
    read_bundle,
    stage,
    write_bundle,
)
from feedback_loop.inference.engines import PyfuncEngine, Scored, SklearnEngine, without_data
from feedback_loop.inference.fitness import refuse_unfit, why_unfit
from feedback_loop.inference.providers import EngineOptions, describe_hardware
from feedback_loop.inference.scorer import ID_COLUMN, Scorer, contract_of, input_rows, make_scorer

__all__ = [
    "ID_COLUMN",
    "DamagedBundle",
    "EngineKind",
    "EngineOptions",
    "FileResult",
    "PyfuncEngine",
    "Scored",
    "Scorer",
    "SklearnEngine",
    "contract_of",
    "describe_hardware",
    "input_rows",
    "make_scorer",
    "open_bundle",
    "predict_file",
    "read_bundle",
    "refuse_unfit",
    "stage",
    "why_unfit",
    "without_data",
    "write_bundle",
]

"""Scoring: engines around loaded models, and files scored in chunks."""

from feedback_loop.inference.adapter_coefficients import Coefficients
from feedback_loop.inference.answers import Marks
from feedback_loop.inference.batch import FileResult, predict_file
from feedback_loop.inference.bundle import (
    DamagedBundle,
    EngineKind,
    open_bundle,
    read_bundle,
    stage,
    write_bundle,
)
from feedback_loop.inference.categories import pandas_categories
from feedback_loop.inference.choosing import served_engine
from feedback_loop.inference.engines import PyfuncEngine, Scored, SklearnEngine, without_data
from feedback_loop.inference.fitness import refuse_single_rows, refuse_unfit, why_unfit
from feedback_loop.inference.providers import EngineOptions, check_providers, describe_hardware
from feedback_loop.inference.scorer import ID_COLUMN, Scorer, contract_of, input_rows, join_rule, make_scorer

__all__ = [
    "ID_COLUMN",
    "Coefficients",
    "DamagedBundle",
    "EngineKind",
    "EngineOptions",
    "FileResult",
    "Marks",
    "PyfuncEngine",
    "Scored",
    "Scorer",
    "SklearnEngine",
    "check_providers",
    "contract_of",
    "describe_hardware",
    "input_rows",
    "join_rule",
    "make_scorer",
    "open_bundle",
    "pandas_categories",
    "predict_file",
    "read_bundle",
    "refuse_single_rows",
    "refuse_unfit",
    "served_engine",
    "stage",
    "why_unfit",
    "without_data",
    "write_bundle",
]

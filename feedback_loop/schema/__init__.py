"""A model's contract: its signature, task, key and segments as typed columns."""

from feedback_loop.schema.coerce import array_of, arrow_type, as_table, coerce
from feedback_loop.schema.contract import Column, ColumnType, Contract, Label, Role, Source, Task, make_contract
from feedback_loop.schema.ids import PredictionId, RandomBits, check_prediction_id, moment_of, prediction_id
from feedback_loop.schema.names import RESERVED, fields_for, table_name
from feedback_loop.schema.signature import feature_columns, output_type

__all__ = [
    "RESERVED",
    "Column",
    "ColumnType",
    "Contract",
    "Label",
    "PredictionId",
    "RandomBits",
    "Role",
    "Source",
    "Task",
    "array_of",
    "arrow_type",
    "as_table",
    "check_prediction_id",
    "coerce",
    "feature_columns",
    "fields_for",
    "make_contract",
    "moment_of",
    "output_type",
    "prediction_id",
    "table_name",
]

"""A model's contract: its signature, task, key and segments as typed columns."""

from feedback_loop.schema.coerce import array_of, arrow_type, as_table, coerce, with_booleans
from feedback_loop.schema.contract import (
    Column,
    ColumnType,
    Contract,
    JoinRule,
    Label,
    Role,
    Source,
    Task,
    Which,
    make_contract,
)
from feedback_loop.schema.ids import (
    EARLIEST,
    SLACK,
    PredictionId,
    RandomBits,
    check_prediction_id,
    derived_bits,
    moment_of,
    prediction_id,
)
from feedback_loop.schema.names import RESERVED, fields_for, table_name
from feedback_loop.schema.privacy import (
    Redaction,
    canonical,
    fingerprint,
    hashed,
    in_sample,
    keyed_digest,
    make_redaction,
)
from feedback_loop.schema.signature import feature_columns, output_type

__all__ = [
    "EARLIEST",
    "RESERVED",
    "SLACK",
    "Column",
    "ColumnType",
    "Contract",
    "JoinRule",
    "Label",
    "PredictionId",
    "RandomBits",
    "Redaction",
    "Role",
    "Source",
    "Task",
    "Which",
    "array_of",
    "arrow_type",
    "as_table",
    "canonical",
    "check_prediction_id",
    "coerce",
    "derived_bits",
    "feature_columns",
    "fields_for",
    "fingerprint",
    "hashed",
    "in_sample",
    "keyed_digest",
    "make_contract",
    "make_redaction",
    "moment_of",
    "output_type",
    "prediction_id",
    "table_name",
    "with_booleans",
]

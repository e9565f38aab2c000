"""A model's contract: its signature, task, key and segments as typed columns."""

from feedback_loop.schema.classes import typed_label, unknown_classes
from feedback_loop.schema.coerce import array_of, coerce, misfits, with_booleans
from feedback_loop.schema.column_types import arrow_type
from feedback_loop.schema.contract import (
    ACTED,
    ACTION_PROPENSITY,
    ENDS,
    Column,
    ColumnType,
    Contract,
    JoinRule,
    Label,
    OwnMetric,
    Role,
    Source,
    Task,
    Which,
)
from feedback_loop.schema.contract_making import make_contract
from feedback_loop.schema.hashing import canonical, fingerprint, hashed, keyed_digest
from feedback_loop.schema.ids import (
    EARLIEST,
    PREDICTION_ID,
    SLACK,
    PredictionId,
    RandomBits,
    check_prediction_id,
    derived_bits,
    moment_of,
    numbered_ids,
    prediction_id,
    prediction_ids,
)
from feedback_loop.schema.names import RESERVED, fields_for, own_name, shown_names, table_name
from feedback_loop.schema.redaction import Redaction, make_redaction
from feedback_loop.schema.sampling import in_sample, key_texts, sample_places
from feedback_loop.schema.segments import OTHER, most_frequent, segment_name, with_arrivals
from feedback_loop.schema.signature import feature_columns, numbered_names, output_names, output_type
from feedback_loop.schema.tabular import as_table

__all__ = [
    "ACTED",
    "ACTION_PROPENSITY",
    "EARLIEST",
    "ENDS",
    "OTHER",
    "PREDICTION_ID",
    "RESERVED",
    "SLACK",
    "Column",
    "ColumnType",
    "Contract",
    "JoinRule",
    "Label",
    "OwnMetric",
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
    "key_texts",
    "keyed_digest",
    "make_contract",
    "make_redaction",
    "misfits",
    "moment_of",
    "most_frequent",
    "numbered_ids",
    "numbered_names",
    "output_names",
    "output_type",
    "own_name",
    "prediction_id",
    "prediction_ids",
    "sample_places",
    "segment_name",
    "shown_names",
    "table_name",
    "typed_label",
    "unknown_classes",
    "with_arrivals",
    "with_booleans",
]

"""What callers and servers say to each other: MLflow's scoring protocol, and Open Inference Protocol v2."""

from feedback_loop.schema.protocol.decoder import Decoder, make_decoder
from feedback_loop.schema.protocol.rows import Rows, concat_rows, rows_table
from feedback_loop.schema.protocol.wire import (
    UNEXPECTED,
    WireError,
    bad_request,
    encode_answer,
    encode_error,
    refused_by_model,
)

__all__ = [
    "UNEXPECTED",
    "Decoder",
    "Rows",
    "WireError",
    "bad_request",
    "concat_rows",
    "encode_answer",
    "encode_error",
    "make_decoder",
    "refused_by_model",
    "rows_table",
]

"""What really happened: taken in, revised, counted; when it may be judged."""

from feedback_loop.outcomes.coverage import By, Coverage, coverage, is_matured, matured_until, matures_at
from feedback_loop.outcomes.folder import FolderIntake, RefusedFile, copied, load_folder
from feedback_loop.outcomes.formats import FORMATS, decode_body, format_of
from feedback_loop.outcomes.intake import IntakeResult, OnError, check_outcomes, outcome_columns, record_outcomes
from feedback_loop.outcomes.polling import Polled, poll_sql
from feedback_loop.outcomes.receiving import Receiver
from feedback_loop.outcomes.streaming import CHUNK_ROWS, OutcomeFile, read_outcomes, take_parts

__all__ = [
    "CHUNK_ROWS",
    "FORMATS",
    "By",
    "Coverage",
    "FolderIntake",
    "IntakeResult",
    "OnError",
    "OutcomeFile",
    "Polled",
    "Receiver",
    "RefusedFile",
    "check_outcomes",
    "copied",
    "coverage",
    "decode_body",
    "format_of",
    "is_matured",
    "load_folder",
    "matured_until",
    "matures_at",
    "outcome_columns",
    "poll_sql",
    "read_outcomes",
    "record_outcomes",
    "take_parts",
]

"""The database: tables, transactions, the prediction log, and a record of every conclusion, by concept."""

from feedback_loop.store import (
    conclusions,
    erasure,
    evaluations,
    failed_windows,
    fence,
    incidents,
    keys,
    ledger,
    migrate,
    outcomes,
    predictions,
    privacy,
    retrainings,
    serving_state,
    spool_accounts,
)
from feedback_loop.store.engine import Store

__all__ = [
    "Store",
    "conclusions",
    "erasure",
    "evaluations",
    "failed_windows",
    "fence",
    "incidents",
    "keys",
    "ledger",
    "migrate",
    "outcomes",
    "predictions",
    "privacy",
    "retrainings",
    "serving_state",
    "spool_accounts",
]

"""The database: tables, transactions, the prediction log, and a record of every conclusion, by concept."""

from feedback_loop.store import (
    conclusions,
    erased_keys,
    erasure,
    evaluations,
    fence,
    incidents,
    keys,
    ledger,
    migrate,
    outcomes,
    predictions,
    retention,
    retrainings,
    serving_state,
    spool_accounts,
)
from feedback_loop.store.engine import Store

__all__ = [
    "Store",
    "conclusions",
    "erased_keys",
    "erasure",
    "evaluations",
    "fence",
    "incidents",
    "keys",
    "ledger",
    "migrate",
    "outcomes",
    "predictions",
    "retention",
    "retrainings",
    "serving_state",
    "spool_accounts",
]

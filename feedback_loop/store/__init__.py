"""The database: tables, transactions, the prediction log, and a record of every conclusion, by concept."""

from feedback_loop.store import (
    erasure,
    evaluations,
    fence,
    incidents,
    jobs,
    keys,
    migrate,
    outcomes,
    predictions,
    retention,
    retrainings,
    spools,
    traffic,
    verdicts,
)
from feedback_loop.store.engine import Store

__all__ = [
    "Store",
    "erasure",
    "evaluations",
    "fence",
    "incidents",
    "jobs",
    "keys",
    "migrate",
    "outcomes",
    "predictions",
    "retention",
    "retrainings",
    "spools",
    "traffic",
    "verdicts",
]

"""The database: tables, transactions, the prediction log, and a record of every conclusion, by concept."""

from feedback_loop.store import evaluations, jobs, keys, migrate, outcomes, predictions, retrainings, verdicts
from feedback_loop.store.engine import Store

__all__ = [
    "Store",
    "evaluations",
    "jobs",
    "keys",
    "migrate",
    "outcomes",
    "predictions",
    "retrainings",
    "verdicts",
]

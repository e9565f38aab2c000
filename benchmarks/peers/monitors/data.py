"""What a monitor of one's own begins with: the log read by pandas and joined with its outcomes."""

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

NUMBERS = [*(f"number_{place}" for place in range(15)), "probability"]
WORDS = [f"word_{place}" for place in range(5)]
LABEL, ANSWER = "late", "prediction"


def joined(store: str) -> pd.DataFrame:
    """All predictions of a SQLite file with their outcomes."""
    with sqlite3.connect(store) as connection:
        predictions = pd.read_sql("SELECT * FROM predictions_orders", connection)
        outcomes = pd.read_sql("SELECT order_id, late FROM outcomes_orders", connection)
    return told(predictions.merge(outcomes, on="order_id", how="left"))


def told(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that monitors take, the time of each row, and the classes as whole numbers."""
    kept = frame[[*NUMBERS, *WORDS, LABEL, ANSWER, "predicted_at"]]
    return kept.assign(
        **{name: kept[name].astype(int) for name in (LABEL, ANSWER)},
        predicted_at=pd.to_datetime(kept["predicted_at"]),
    )


def measure(work: Callable[[pd.DataFrame, pd.DataFrame], None]) -> None:
    """Runs a monitor on the store and the reference (Parquet) that the command line names; prints what it took."""
    store, reference = sys.argv[1:]
    known = told(pd.read_parquet(Path(reference)))
    began = time.perf_counter()
    current = joined(store)
    read = time.perf_counter() - began
    work(known, current)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "read": read}))

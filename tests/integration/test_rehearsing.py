"""A history that was imported is played through the loop, and what is the user's stays as it was."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.rehearsal import fresh_folder, rehearse
from tests.builders import churn_loop, customers

BEGAN = datetime(2026, 5, 26, tzinfo=UTC)
PER_DAY, TURNED_ON, DAYS = 120, 3, 11


@pytest.fixture
def loop(mlflow_uri, tmp_path, monkeypatch):
    few = {"RETRAINING__RECENT": "2d", "RETRAINING__HOLDOUT": "0.45"}
    for name, value in few.items():
        monkeypatch.setenv(f"FEEDBACK_LOOP_MODELS__CHURN__{name}", value)
    made = churn_loop(tmp_path, ManualClock(BEGAN))
    yield made
    made.close()


def write_history(loop, folder, *, days=DAYS, turned_on=TURNED_ON):
    """What the champion has answered, a day at a time; from one day on most of it turns out the other way around."""
    model = loop.scorer(loop.champion("churn")).loaded.estimator
    predictions, outcomes = [], []
    for day in range(days):
        moment = BEGAN + timedelta(days=day, hours=12)
        rows = pd.DataFrame(
            customers(PER_DAY, day, month=f"{moment:%Y-%m-%d}", harder=0.9 if day >= turned_on else 0.0)
        )
        features = rows[["age", "plan"]]
        answers = {"prediction": model.predict(features), "probability": model.predict_proba(features)[:, 1]}
        predictions.append(rows.drop(columns="churned").assign(**answers, predicted_at=moment))
        known = rows[["customer", "month", "churned"]].assign(recorded_at=moment + timedelta(hours=20))
        outcomes.append(known)
    pd.concat(predictions).to_parquet(folder / "p.parquet")
    pd.concat(outcomes).to_csv(folder / "o.csv", index=False)
    return folder / "p.parquet", folder / "o.csv"


def fingerprints(folder):
    """Of every file, and of the rows of every table (a reader may leave a log beside a database)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                found[path.name] = hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()
        elif path.is_file() and not path.name.endswith(("-wal", "-shm")):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_a_history_is_played_and_nothing_of_the_users_changes(loop, empty_mlflow, tmp_path, tmp_path_factory):
    files = write_history(loop, tmp_path)
    before = fingerprints(tmp_path)
    folder = fresh_folder(tmp_path_factory.mktemp("played"))
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    result = rehearse(loop, "churn", *files, folder)
    assert fingerprints(tmp_path) == before

    assert result["predictions"] == PER_DAY * DAYS
    assert result["labelled"] == PER_DAY * DAYS
    turned = BEGAN + timedelta(days=TURNED_ON)
    assert result["alarms"] and result["alarms"][0]["at"] > turned
    assert result["diagnoses"]
    assert [(each["state"], each["at"] > turned) for each in result["retrainings"]] == [("promoted", True)], result
    frozen, monthly, ours = result["strategies"]
    assert ours["log_loss"] < frozen["log_loss"]
    assert monthly["retrainings"] == 1
    assert (folder / "loss.png").stat().st_size
    assert (folder / "loss.html").stat().st_size

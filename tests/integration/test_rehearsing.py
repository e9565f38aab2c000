"""A history that was imported is played through the loop, and what is the user's stays as it was."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from feedback_loop.cli import main
from feedback_loop.clock import ManualClock
from feedback_loop.cycle import run_cycle
from feedback_loop.errors import Refused
from feedback_loop.rehearsal import fresh_folder, load_history, rehearse
from tests.builders import churn_loop, customers, open_loop, register_churn, register_model, write_config

BEGAN = datetime(2026, 5, 26, tzinfo=UTC)
PER_DAY, TURNED_ON, DAYS = 120, 3, 11


@pytest.fixture
def clock():
    return ManualClock(BEGAN)


@pytest.fixture
def loop(tmp_path, monkeypatch, clock):
    few = {"RETRAINING__RECENT": "2d", "RETRAINING__HOLDOUT": "0.45"}
    for name, value in few.items():
        monkeypatch.setenv(f"FEEDBACK_LOOP_MODELS__CHURN__{name}", value)
    made = churn_loop(tmp_path, clock)
    yield made
    made.close()


def write_history(loop, folder, *, began=BEGAN, days=DAYS, turned_on=TURNED_ON):
    """What the champion has answered, a day at a time; from one day on most of it turns out the other way around."""
    model = loop.scorer(loop.champion("churn")).loaded.estimator
    predictions, outcomes = [], []
    for day in range(days):
        moment = began + timedelta(days=day, hours=12)
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
    result = rehearse(loop, load_history(loop, "churn", *files), folder)
    assert fingerprints(tmp_path) == before

    assert result["predictions"] == PER_DAY * DAYS
    assert result["labelled"] == PER_DAY * DAYS
    turned = BEGAN + timedelta(days=TURNED_ON)
    assert result["alarms"] and result["alarms"][0]["at"] > turned
    assert result["diagnoses"]
    assert [(each["state"], each["at"] > turned) for each in result["retrainings"]] == [("promoted", True)], result
    frozen, monthly, ours, adapted = result["strategies"]
    assert adapted["log_loss"] < ours["log_loss"] < frozen["log_loss"]
    assert monthly["retrainings"] == 1
    assert (folder / "loss.png").stat().st_size
    assert (folder / "loss.html").stat().st_size


OTHERS = """
[models.price]
task = "regression"
label = "price"
key = ["id"]
key_types = { id = "long" }
maturity = "12h"
window = "12h"
[models.price.policy]
reference = 1000
[models.price.retraining]
min_rows = 100
search = "own"
recent = "2d"
holdout = 0.45
[models.wine]
task = "multiclass"
label = "cultivar"
key = ["id"]
key_types = { id = "long" }
maturity = "1d"
[models.wine.policy]
reference = 1000
mode = "observe"
"""


def answers(model, rows):
    """What is logged of a model's answers."""
    chances = model.predict_proba(rows).T if hasattr(model, "predict_proba") else ()
    names = [f"probability_{each}" for each in getattr(model, "classes_", ())]
    return {"prediction": model.predict(rows), **dict(zip(names, chances, strict=True))}


def adopt(loop, name, model, rows, features):
    """Makes a model champion; the rows, of windows before the history, are its reference."""
    label, step = loop.settings.model(name).labels[0], loop.settings.model(name).window
    times = [BEGAN - (1 + place % 8) * step for place in range(len(rows))]
    held = rows[[*features, label]].assign(**answers(model, rows[features]))
    held["predicted_at"] = pd.to_datetime(times, utc=True).as_unit("us")
    options = {"now": BEGAN, "trained_until": BEGAN - timedelta(days=9)}
    version = register_model(loop.registry, name, model, rows[features], held, **options)
    loop.promote(name, version.version)


def play(loop, name, model, windows, features, folder, empty_mlflow, **options):
    """Writes what the model answers to each window's rows, with outcomes that are known half a window later."""
    label, step = loop.settings.model(name).labels[0], loop.settings.model(name).window
    predictions, outcomes = [], []
    for place, window in enumerate(windows):
        rows = window.assign(id=range(place * len(window), (place + 1) * len(window)))
        made = BEGAN + (place + 0.5) * step
        predictions.append(rows[["id", *features]].assign(**answers(model, rows[features]), predicted_at=made))
        outcomes.append(rows[["id", label]].assign(recorded_at=made + step / 2))
    pd.concat(predictions).to_parquet(folder / "p.parquet")
    pd.concat(outcomes).to_parquet(folder / "o.parquet")
    played = fresh_folder(folder / "played")
    shutil.copy(empty_mlflow, played / "mlflow.db")
    return rehearse(loop, load_history(loop, name, folder / "p.parquet", folder / "o.parquet"), played, **options)


def test_a_regression_is_played_by_its_windows_of_half_a_day(empty_mlflow, tmp_path, clock):
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    loop = churn_loop(tmp_path, clock, more=OTHERS)
    random = np.random.default_rng(0)

    def houses(rows, slope=3.0):
        rooms = random.uniform(0, 10, rows)
        return pd.DataFrame({"rooms": rooms, "price": slope * rooms + random.normal(size=rows)})

    known = houses(1000)
    model = make_pipeline(LinearRegression()).fit(known[["rooms"]], known["price"])
    adopt(loop, "price", model, houses(1000), ["rooms"])
    windows = [houses(60, slope=3.0 if place < 6 else 2.0) for place in range(22)]
    result = play(loop, "price", model, windows, ["rooms"], tmp_path, empty_mlflow)
    loop.close()

    assert (result["turn_seconds"], result["labelled"]) == (12 * 3600, 22 * 60)
    turned = BEGAN + timedelta(days=3)
    assert result["alarms"][0]["at"] > turned
    assert result["alarms"][0]["at"] < turned + timedelta(days=2)
    assert [each["state"] for each in result["retrainings"]] == ["promoted"], result["retrainings"]
    frozen, _, ours, _ = result["strategies"]
    assert result["loss"] == "squared_error"
    assert ours["squared_error"] < frozen["squared_error"]
    assert ours["absolute_error"] < frozen["absolute_error"]


def test_a_model_of_several_classes_is_played_in_a_database_of_its_own(
    empty_mlflow, empty_postgres_url, tmp_path, tmp_path_factory, clock
):
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    loop = churn_loop(tmp_path, clock, more=OTHERS)
    wine = load_wine(as_frame=True)
    features = ["alcohol", "flavanoids"]
    bottles = wine.data[features].assign(cultivar=wine.target.map(dict(enumerate("abc"))))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(bottles[features], bottles["cultivar"])
    adopt(loop, "wine", model, bottles.sample(1000, replace=True, random_state=0), features)
    other = bottles.assign(cultivar=bottles["cultivar"].map({"a": "b", "b": "a", "c": "c"}))
    days = [(bottles, other)[day >= 2].sample(120, replace=True, random_state=day + 1) for day in range(5)]
    before, folder = fingerprints(tmp_path), tmp_path_factory.mktemp("files")
    result = play(loop, "wine", model, days, features, folder, empty_mlflow, store=empty_postgres_url)
    assert fingerprints(tmp_path) == before
    with pytest.raises(Refused, match="has the tables of a loop: a rehearsal is played in an empty database"):
        play(loop, "wine", model, days, features, folder, empty_mlflow, store=empty_postgres_url)
    loop.close()

    assert not (folder / "played" / "feedback_loop.db").exists()
    assert result["loss"] == "log_loss"
    assert result["alarms"][0]["at"] > BEGAN + timedelta(days=2)
    assert result["notes"] == ["policy.mode is 'observe': nothing is retrained by itself."]
    assert result["labelled"] == 600


def test_a_model_that_can_not_be_fitted_again_is_played_with_losses_and_alarms_alone(
    loop, empty_mlflow, tmp_path, tmp_path_factory
):
    files = write_history(loop, tmp_path, days=3, turned_on=1)
    loop.close()
    config = write_config(tmp_path, more='[models.churn.log.columns]\nage = "drop"\n')
    folder = fresh_folder(tmp_path_factory.mktemp("played"))
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    other = open_loop(config, ManualClock(BEGAN))
    result = rehearse(other, load_history(other, "churn", *files), folder)
    other.close()
    assert result["alarms"]
    assert (result["retrainings"], result["promotions"]) == ([], [])
    assert [each["strategy"] for each in result["strategies"]] == [
        *("frozen: as answered", "the loop", "the loop, with an adapter"),
    ]
    (note,) = result["notes"]
    assert note.startswith("No version was retrained, as some of its features are logged hashed or not at all")


def test_what_kept_the_loop_from_alarming_and_from_acting_is_said(loop, empty_mlflow, tmp_path, tmp_path_factory):
    """The champion's reference is from after this history; and a policy may leave the acting to people."""
    files = write_history(loop, tmp_path, began=BEGAN - timedelta(days=30), days=2)
    loop.close()
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("reference = 1000", 'reference = 1000\nmode = "observe"'))
    folder = fresh_folder(tmp_path_factory.mktemp("played"))
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    other = open_loop(config, ManualClock(BEGAN))
    result = rehearse(other, load_history(other, "churn", *files), folder)
    other.close()
    assert result["alarms"] == []
    missing, observed = result["notes"]
    assert missing.startswith("churn version 1 has 240 of the 1,000 reference rows that verdicts take")
    assert observed == "policy.mode is 'observe': nothing is retrained by itself."


def test_the_loop_goes_on_from_imported_rows(loop, clock, tmp_path):
    predictions, outcomes = write_history(loop, tmp_path)
    assert "The log has no prediction of churn version 1. Predict, or bring" in loop.judging.why_not_judged("churn")
    clock.set(BEGAN + timedelta(days=DAYS + 1))
    assert loop.import_predictions("churn", predictions).logged == PER_DAY * DAYS
    assert loop.record_outcomes("churn", pd.read_csv(outcomes), text=True).counts.new == PER_DAY * DAYS

    configured = loop.backtest("churn", every=timedelta(days=1), known_now=True).played[0]
    assert configured.alarms[0].decided_at > BEGAN + timedelta(days=TURNED_ON)
    verdict = loop.decide("churn")
    assert (verdict.state, verdict.evidence["predictions"]) == ("degraded", PER_DAY * DAYS)
    loop.diagnose_incident("churn")
    done = loop.retrain("churn")
    assert done.state == "promoted", done.summary


def test_what_imported_rows_lack_is_said(loop, clock, tmp_path):
    clock.set(BEGAN + timedelta(days=40))
    second = register_churn(loop.registry, clock(), seed=5)
    loop.registry.tag(second, {"trained_until": clock().isoformat()})
    loop.promote("churn", second.version)
    predictions, outcomes = write_history(loop, tmp_path, days=4)
    loop.import_predictions("churn", predictions)
    loop.record_outcomes("churn", pd.read_csv(outcomes), text=True)
    assert "before churn version 2 became champion" in loop.judging.why_not_judged("churn")
    assert "480 are from before 2026-07-05, until when it has learned." in loop.retrain("churn").summary
    run = {each.job: each for each in run_cycle(loop, "churn")}["decide"]
    assert "before churn version 2 became champion" in run.result["because"]


def test_files_that_can_not_be_played_leave_an_earlier_rehearsal_as_it_was(loop, tmp_path, monkeypatch, capsys):
    predictions, outcomes = write_history(loop, tmp_path, days=2)
    earlier = fresh_folder(tmp_path / "rehearsal") / "loss.png"
    earlier.touch()
    command = ["rehearse", "churn", "--config", str(tmp_path / "feedback_loop.toml"), "--folder", str(earlier.parent)]
    monkeypatch.setattr("sys.argv", ["feedback-loop", *command, "--predictions", str(predictions), "--outcomes", "o"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, earlier.exists()) == (1, True)
    assert "There is no file 'o'." in capsys.readouterr().err
    with pytest.raises(Refused, match="is not empty, and none of ours"):
        fresh_folder(tmp_path)
    assert outcomes.exists()

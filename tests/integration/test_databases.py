"""The roles that the page about databases describes, made by its own statements."""

import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from feedback_loop.errors import FeedbackLoopError
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import fold_news
from feedback_loop.outcomes import record_outcomes
from feedback_loop.store import Store, erased_keys, migrate
from feedback_loop.store.erasure import erase_rows
from feedback_loop.store.joins import join_new
from feedback_loop.store.predictions import PredictionLog
from feedback_loop.views.status import loop_status
from tests.builders import binary_contract, prediction_rows, write_config

PAGE = Path(__file__).parents[2] / "docs" / "databases.md"


@pytest.fixture
def urls(postgres):
    """URLs of the writer's and the reader's, in a database that the page's statements have made."""
    before, after = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with psycopg.connect(postgres, autocommit=True) as connection:
        for statement in before.strip().split(";\n"):
            connection.execute(statement)
        base = postgres.replace("/postgres?", "/feedback_loop?")
        urls = {name: base.replace("://postgres:", f"://loop_{name}:") for name in ("writer", "reader")}
        made = Store(urls["writer"])
        migrate.prepare(made)
        made.close()
        with psycopg.connect(base, autocommit=True) as inside:
            inside.execute(after)
        yield urls
        connection.execute("DROP DATABASE feedback_loop WITH (FORCE)")
        for name in ("writer", "reader", "owner"):
            connection.execute(f"DROP ROLE loop_{name}")


def test_a_writer_works_and_a_reader_sees_the_status_and_changes_nothing(urls, tmp_path, clock, request):
    writer, contract, now = Store(urls["writer"]), binary_contract(), clock()
    rows = prediction_rows(contract, [now] * 3, customer=[1, 2, 3], month=["m"] * 3)
    assert PredictionLog(writer).append(contract, rows, now) == 3
    outcomes = {"customer": [1, 2], "month": ["m", "m"], "churned": [True, False]}
    record_outcomes(writer, contract, outcomes, now=now, source="t")
    erased_keys.record_key(writer, "churn", {"customer": 3}, now)
    erase_rows(writer, contract, {"customer": 3}, now)
    join_new(writer, contract, timedelta(days=1), now + timedelta(hours=1), fold_news)
    clock.set(now + timedelta(hours=1))
    writer.close()
    loop = FeedbackLoop.open(write_config(tmp_path, store=urls["reader"]), clock=clock)
    request.addfinalizer(loop.close)
    state = loop_status(loop)["models"]["churn"]
    assert (state["predictions"], state["outcomes"]) == (2, 2)
    with loop.store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM labelled_churn").scalar_one() == 2
    for statement in (
        "DELETE FROM predictions_churn",
        "CREATE TABLE mine (a int)",
        "SELECT * FROM fl_secrets",
        "SELECT * FROM fl_api_keys",
        "SELECT * FROM fl_erasures",
        "SELECT request FROM fl_payloads",
    ):
        with pytest.raises(FeedbackLoopError, match="permission denied"), loop.store.write() as connection:
            connection.exec_driver_sql(statement)

"""Lists that grow stand in no single statement: both databases bound the number of its parameters."""

import sqlite3
from dataclasses import replace

import pytest
import sqlalchemy as sa

from feedback_loop.store import records
from feedback_loop.store.alerts import Alert, alerts, list_alerts, try_again

MOST = {"SQLite": 32_766, "PostgreSQL": 65_535}
"""Parameters of a statement; Debian's SQLite takes more than others."""


@pytest.fixture
def bounded(store):
    """A store whose SQLite takes no more parameters than anybody else's."""
    if not store.is_postgresql:

        @sa.event.listens_for(store.engine, "connect")
        def limit(connection, _):
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, MOST[store.kind])

    return store


def test_more_dead_letters_than_a_statement_takes_parameters_are_tried_again(bounded, clock):
    number = MOST[bounded.kind] + 1
    dead = records.as_row(Alert(0, "", None, "ops", "title", "body", "given_up", 5, clock(), "it was away"))
    with bounded.write() as connection:
        connection.execute(alerts.insert(), [{**dead, "subject": f"spool:{place}"} for place in range(number)])
    letters = list_alerts(bounded, "given_up")
    again = try_again(bounded, [letter.alert_id for letter in letters], clock())
    assert (len(letters), again) == (number, letters)
    assert list_alerts(bounded, "pending") == [replace(letter, state="pending", attempts=0) for letter in letters]

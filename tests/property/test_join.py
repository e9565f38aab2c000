"""The join of predictions and outcomes against a plain model of it, on both databases."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback_loop.clock import Window
from feedback_loop.outcomes import record_outcomes
from feedback_loop.schema import prediction_id
from feedback_loop.store import Store, migrate, tables
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, prediction_rows

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WHOLE = Window(START - 1000 * HOUR, START + 1000 * HOUR)

customers = st.integers(0, 3)
events = st.lists(
    st.one_of(
        st.tuples(st.just("predict"), customers, st.integers(0, 3)),
        st.tuples(st.just("retry"), st.integers(0, 5)),
        st.tuples(st.just("outcome"), customers, st.booleans()),
        st.tuples(st.just("outcome by id"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("the same again"), st.integers(0, 5)),
    ),
    max_size=14,
)


@dataclass
class Plain:
    """What the tables should say, in dictionaries."""

    predictions: dict[str, int] = field(default_factory=dict)  # id -> customer
    said: list[tuple[object, bool, datetime]] = field(default_factory=list)

    def outcome(self, subject, value, moment):
        newest = [v for s, v, _ in self.said if s == subject]
        if not newest or newest[-1] != value:
            self.said.append((subject, value, moment))

    def labelled(self, as_of):
        known = {subject: value for subject, value, moment in self.said if moment <= as_of}
        return {id_: known.get(id_, known.get(customer)) for id_, customer in self.predictions.items()}


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_store(request, tmp_path_factory):
    """Makes an empty store for every example."""
    count = 0
    if request.param == "postgresql":
        made = Store(request.getfixturevalue("postgres_url"))
        migrate.prepare(made)

    def fresh():
        nonlocal count
        count += 1
        if request.param == "sqlite":
            store = Store(f"sqlite:///{tmp_path_factory.mktemp('join')}/s{count}.db")
            migrate.prepare(store)
            return store
        with made.write() as connection:  # a model of another name each time would leave tables behind
            names = connection.exec_driver_sql(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).scalars()
            for name in [name for name in names if name.startswith(("predictions_", "outcomes_"))]:
                connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{name}" CASCADE')
            connection.execute(tables.models.delete())
        return made

    return fresh


def apply(event, number, plain, log, store, contract, ids, last):
    moment = START + number * HOUR
    kind = event[0]
    if kind == "predict":
        identifier = prediction_id(moment)
        ids.append(identifier)
        plain.predictions[identifier] = event[1]
        rows = prediction_rows(contract, [moment], prediction_id=[identifier], customer=[event[1]], month=["m"])
        assert log.append(contract, rows, moment) == 1
    elif kind == "retry" and event[1] < len(ids):
        rows = prediction_rows(contract, [moment], prediction_id=[ids[event[1]]], customer=[99], month=["other"])
        assert log.append(contract, rows, moment) == 0
    elif kind == "outcome":
        last.append({"customer": [event[1]], "month": ["m"], "churned": [event[2]]})
        plain.outcome(event[1], event[2], moment)
        record_outcomes(store, contract, last[-1], now=moment, source="test")
    elif kind == "outcome by id" and event[1] < len(ids):
        last.append({"prediction_id": [ids[event[1]]], "churned": [event[2]]})
        plain.outcome(ids[event[1]], event[2], moment)
        record_outcomes(store, contract, last[-1], now=moment, source="test")
    elif kind == "the same again" and event[1] < len(last):
        frame = last[event[1]]
        subject = frame["prediction_id"][0] if "prediction_id" in frame else frame["customer"][0]
        plain.outcome(subject, frame["churned"][0], moment)
        record_outcomes(store, contract, frame, now=moment, source="test")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(events=events)
def test_the_join_says_what_was_known_at_every_moment(fresh_store, events):
    store, contract, plain = fresh_store(), binary_contract(), Plain()
    log, ids, last = PredictionLog(store), [], []
    for number, event in enumerate(events):
        apply(event, number, plain, log, store, contract, ids, last)
    for number in range(len(events) + 1):
        as_of = START + number * HOUR
        rows = read_labelled(store, contract, WHOLE, as_of=as_of)
        found = dict(zip(rows.column("prediction_id").to_pylist(), rows.column("churned").to_pylist(), strict=True))
        made_by_then = {id_ for id_ in plain.predictions if id_ <= prediction_id(as_of, lambda bits: 2**bits - 1)}
        assert found == {id_: value for id_, value in plain.labelled(as_of).items() if id_ in made_by_then}
    store.close()

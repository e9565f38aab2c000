"""PostgreSQL behind a pooler that gives each transaction another connection: nothing may be kept in a session."""

from contextlib import closing

import pytest
from sqlalchemy import text

from feedback_loop.cycle import cycle
from feedback_loop.errors import Unavailable
from feedback_loop.monitoring import profile_store
from feedback_loop.monitoring.profile_store import fold_window
from feedback_loop.monitoring.profiles.layout import make_layout
from feedback_loop.store import Store
from feedback_loop.store.predictions import read_labelled
from feedback_loop.store.studies import study_url
from feedback_loop.views.status import model_status
from tests.builders import churn_loop, open_loop, play_days, write_config
from tests.contract.test_scans import DAY, START, VERSION, WINDOW, everything, filled, tallies
from tests.contract.test_tuning import Fits, tuning
from tests.pooler import pooled


@pytest.fixture
def pooled_url(postgres_url):
    with pooled(postgres_url) as url:
        yield url


@pytest.fixture
def pooled_store(pooled_url):
    with closing(Store(pooled_url)) as store:
        yield store


def test_each_transaction_has_another_connection_and_the_same_statement_goes_on_being_known(pooled_store):
    backends = []
    for turn in range(12):
        with pooled_store.write() as connection:
            asked = connection.execute(text("SELECT pg_backend_pid(), :turn"), {"turn": turn})
            backends.append(asked.one()[0])
    assert len(set(backends)) > 1


def test_options_of_the_url_are_refused_by_the_pooler_as_by_the_real_one(pooled_url):
    with closing(Store(f"{pooled_url}?options=-cstatement_timeout%3D5000")) as store, pytest.raises(Unavailable):
        study_url(store)


@pytest.mark.usefixtures("warm_children")
def test_slices_are_folded_by_processes(pooled_store, monkeypatch):
    contract = everything()
    filled(pooled_store, contract)
    layout = make_layout(contract, read_labelled(pooled_store, contract, WINDOW))
    asked = {"version": VERSION, "role": "champion", "as_of": START + 4 * DAY}
    whole = fold_window(pooled_store, layout, WINDOW, **asked)
    monkeypatch.setattr(profile_store, "SLICE_ROWS", 150)
    assert tallies(fold_window(pooled_store, layout, WINDOW, **asked)) == tallies(whole)


def test_a_search_is_kept_in_its_schema(pooled_store):
    assert tuning(pooled_store, trials=2).run(Fits()).taken_over == 0
    assert tuning(pooled_store, trials=2).run(Fits()).taken_over > 0
    with pooled_store.read() as connection:
        asked = text("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('trials', 'alembic_version')")
        assert connection.execute(asked).scalars().all() == ["fl_optuna"]


def test_the_loop_turns(pooled_url, tmp_path, clock):
    churn_loop(tmp_path, clock).close()
    with closing(open_loop(write_config(tmp_path, store=pooled_url), clock)) as loop:
        for day in range(4):
            play_days(loop, clock, 1, seed=10 + day)
            for job in cycle(loop, "churn"):
                if job.name in ("join", "evaluate", "drift", "decide"):
                    job.run()
        status = model_status(loop, "churn")
        assert (status["predictions"], status["outcomes"], status["measured"]["coverage"]) == (1200, 1200, 1.0)

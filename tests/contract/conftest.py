"""Fixtures of the contract tests."""

from datetime import timedelta

import pytest

from feedback_loop.capture import Deployments
from feedback_loop.store import Store
from tests.builders import new_database
from tests.contract.external import find
from tests.spools import new_spool


@pytest.fixture
def deployments():
    return Deployments(find, timedelta(seconds=10))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def spool(folder):
    made = new_spool(folder)
    yield made
    made.close()


@pytest.fixture
def postgres_store(postgres_url):
    made = Store(postgres_url)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request, tmp_path):
    """Where a loop's store is, and where an empty one is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db", f"sqlite:///{tmp_path}/restored.db"
        return
    with new_database(request.getfixturevalue("postgres")) as target:
        yield request.getfixturevalue("postgres_url"), target

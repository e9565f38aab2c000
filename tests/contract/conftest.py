"""Fixtures of the contract tests."""

from datetime import timedelta

import pytest

from feedback_loop.capture import Deployments
from feedback_loop.store import Store
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

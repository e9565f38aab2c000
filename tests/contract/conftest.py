"""Fixtures of the contract tests."""

from datetime import timedelta

import pytest

from feedback_loop.capture import Deployments
from tests.contract.external import find


@pytest.fixture
def deployments():
    return Deployments(find, timedelta(seconds=10))

"""What the tests of others' predictions share: a version that is deployed elsewhere, and what the log has of it."""

from datetime import UTC, datetime, timedelta

from feedback_loop.capture import Deployed
from feedback_loop.clock import Window
from feedback_loop.errors import NotFound
from feedback_loop.schema import make_redaction
from feedback_loop.store.predictions import read_labelled
from tests.builders import binary_contract

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = Window(NOW - 400 * DAY, NOW + 400 * DAY)
CONTRACT = binary_contract()


def find(model, version):
    if version == "9":
        raise NotFound("model version", f"{model}/9")
    return Deployed(make_redaction(CONTRACT, {}, b""), version or "1")


def rows(store):
    return read_labelled(store, CONTRACT, WHOLE).to_pylist()


def column(store, name):
    return read_labelled(store, CONTRACT, WHOLE).sort_by("customer").column(name).to_pylist()

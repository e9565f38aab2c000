"""Spools as tests fill and empty them."""

import os
from datetime import UTC, datetime, timedelta

from feedback_loop.capture import (
    Forwarder,
    Spool,
)
from feedback_loop.clock import Window
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.store import predictions, spool_accounts
from feedback_loop.store.predictions import PredictionLog
from feedback_loop.store.spool_accounts import SpoolAccount, SpoolState
from tests.builders import binary_contract, prediction_rows, regression_contract

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONTRACT = binary_contract()
OTHER = regression_contract()


def new_spool(folder):
    return Spool(folder, CaptureSettings(), lambda _: LogSettings())


def forwarder(folder, store, own=None, **settings):
    return Forwarder(folder, PredictionLog(store), store, lambda: NOW, CaptureSettings(**settings), own)


def rows(count, contract=CONTRACT, **columns):
    return prediction_rows(contract, [NOW] * count, **columns)


def fill(spool, groups=20, each=3, contract=CONTRACT):
    """So many groups; returns their ids."""
    found = []
    for _ in range(groups):
        table = rows(each, contract)
        spool.append(contract, table, NOW)
        spool.count(contract.model, answered=each)
        found += table.column("prediction_id").to_pylist()
    return sorted(found)


def stored(store, contract=CONTRACT):
    window = Window(NOW - MINUTE, NOW + MINUTE)
    found = predictions.read_labelled(store, contract, window).column("prediction_id").to_pylist()
    return sorted(found)


def account_of(store, model="churn"):
    (found,) = spool_accounts.load_accounts(store, model=model)
    return found


def settle(folder, moment):
    """As if all of it was written at that second."""
    for path in folder.iterdir():
        os.utime(path, (moment, moment))


def made_account(**changes):
    values = {"answered": 10, "spooled": 10, "stored": 10, "refused": 0, "dropped": 0, "unsampled": 0}
    rest = {"waiting": 0, "rejected": 0, "waiting_since": None, "state": SpoolState.OPEN, "updated_at": NOW}
    return SpoolAccount(**{"spool": "host-1-ab", "model": "churn", "host": "host", **values, **rest, **changes})

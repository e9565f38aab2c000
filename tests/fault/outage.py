"""A database that is away while predictions are answered: python -m tests.fault.outage --minutes 10

A process of its own answers (spools, acknowledges) the whole time; PostgreSQL is really stopped and started again.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from feedback_loop.capture import Forwarder, Spool
from feedback_loop.clock import Window, system_clock
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.store import Store, migrate, spool_accounts
from feedback_loop.store.predictions import PredictionLog, read_labelled
from tests.builders import binary_contract, prediction_rows
from tests.integration.processes import end, postgres_server, running

DAY = timedelta(days=1)


def outage(seconds: float, folder: Path) -> dict[str, int]:
    """What was acknowledged, and what is in the store once the database is back."""
    with postgres_server(folder / "database") as database, closing(Store(database.get_uri())) as store:
        contract = binary_contract()
        migrate.prepare(store)
        now = system_clock()
        PredictionLog(store).append(contract, prediction_rows(contract, [now]), now)
        path = folder / "acknowledged"
        command = [
            sys.executable,
            "-m",
            "tests.fault.outage",
            "--answer",
            store_url(store),
            str(folder / "spool"),
            str(path),
        ]
        with running(command, folder / "log", PYTHONPATH=os.pathsep.join(sys.path)) as process:
            wait_for(lambda: path.exists() and path.stat().st_size > 1000)
            database.stop()
            before = len(path.read_text().split())
            time.sleep(seconds)
            during = len(path.read_text().split()) - before
            database.start()
            store.close()
            time.sleep(1)
            end(process)
        forwarder = Forwarder(folder / "spool", PredictionLog(store), store, system_clock, CaptureSettings())
        forwarder.drain()
        acknowledged = path.read_text().split()
        there = read_labelled(store, contract, Window(now - DAY, now + DAY)).column("prediction_id").to_pylist()[1:]
        accounts = spool_accounts.load_accounts(store)
        return {
            "acknowledged": len(acknowledged),
            "acknowledged while it was away": during,
            "acknowledged and not stored": len(set(acknowledged) - set(there)),
            "stored twice": len(there) - len(set(there)),
            "missing by the accounts": sum(account.missing for account in accounts),
        }


def answer(url: str, folder: str, path: str) -> None:
    """Answers, some hundred times a second, until it is ended."""
    store, contract, settings = Store(url), binary_contract(), CaptureSettings(max_backoff=timedelta(seconds=2))
    own = Spool(Path(folder), settings, lambda _: LogSettings())
    forwarder = Forwarder(Path(folder), PredictionLog(store), store, system_clock, settings, own)
    forwarder.start()
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work() -> None:
        while True:
            now = system_clock()
            rows = prediction_rows(contract, [now], customer=[random.randrange(10**6)], month=["m"])
            own.append(contract, rows, now)
            os.write(acknowledged, rows.column("prediction_id")[0].as_py().encode() + b"\n")
            time.sleep(0.01)

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    threading.Event().wait()


def store_url(store: Store) -> str:
    """The URL, with what it hides elsewhere."""
    return store.url.set(drivername="postgresql").render_as_string(hide_password=False)


def wait_for(condition: object, seconds: float = 60) -> None:
    """Waits until the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--answer", nargs=3)
    options = parser.parse_args()
    if options.answer:
        answer(*options.answer)
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(outage(options.minutes * 60, Path(folder))) + "\n")


if __name__ == "__main__":
    main()

"""Forks a child for each order that comes in on standard input, and says how it died: see `test_rounds`."""

import json
import os
import random
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from feedback_loop.capture import Forwarder, Spool, spool_file, spool_outcomes
from feedback_loop.clock import system_clock
from feedback_loop.config import CaptureSettings, LogSettings
from feedback_loop.errors import Unavailable
from feedback_loop.outcomes import record_outcomes
from feedback_loop.outcomes.intake import check_outcomes
from feedback_loop.store import Store, arrow, fence, joins, predictions, spool_accounts
from feedback_loop.store import outcomes as stored_outcomes
from tests.builders import binary_contract, prediction_rows

POINTS = {  # where a process may die: (module or class, function, before or after it)
    "spool commit": (spool_file, "transaction"),
    "accounts of the spool": (Spool, "_save_counts"),
    "forward": (predictions.PredictionLog, "append"),
    "fence": (fence, "enter"),
    "copy": (arrow, "_copy_into"),
    "insert": (predictions, "insert_rows"),
    "taken out of the spool": (spool_file.SpoolFile, "settle"),
    "accounts of the store": (spool_accounts, "save_accounts"),
    "outcomes": (stored_outcomes, "_append"),
    "join": (joins._Step, "run"),
    "watermark": (joins, "_move_watermark"),
}


def die_at(point, when, count):
    place, name = POINTS[point]
    real, left = getattr(place, name), [count]

    def dying(*args, **options):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **options)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, name, dying)


def child(url, folder, acknowledged, order):
    if order["point"]:
        die_at(order["point"], order["when"], order["count"])
    store, contract = Store(url), binary_contract()
    settings = CaptureSettings(forward_every=0.01)
    own = Spool(Path(folder), settings, lambda _: LogSettings())
    forwarder = Forwarder(Path(folder), predictions.PredictionLog(store), store, system_clock, settings, own)

    def answer(number):
        while True:
            size = random.choice((1, 1, 1, 50))
            now = system_clock()
            customers = [random.randrange(10**6) for _ in range(size)]
            rows = prediction_rows(contract, [now] * size, customer=customers, month=["m"] * size)
            own.append(contract, rows, now)
            line = " ".join(rows.column("prediction_id").to_pylist())
            os.write(acknowledged, f"\n{line}\n".encode())  # who dies in the midst of it leaves half a name
            own.count("churn", answered=size)
            time.sleep(0.01)  # else what forwards and joins in the same process would never be done

    for number in range(order["threads"]):
        threading.Thread(target=answer, args=[number], daemon=True).start()
    while True:
        try:
            turn(store, contract, forwarder)
        except Unavailable:  # of two that store the same rows, the database may stop one: it tries again
            continue


def turn(store, contract, forwarder):
    now = system_clock()
    frame = {"customer": [random.randrange(2**40, 2**62)], "month": ["m"], "churned": [True]}
    options = {"on_error": "refuse", "text": False, "redaction": None, "asked_until": None}
    checked = check_outcomes(contract, frame, now=now, source="spool", **options)
    spool_outcomes(forwarder.own, contract, checked.rows, now, timed=checked.timed)
    forwarder.drain()
    now = system_clock()
    frame = {"customer": [random.randrange(10**6)], "month": ["m"], "churned": [True]}
    record_outcomes(store, contract, frame, now=now, source="t")
    with store.read() as connection:
        some = connection.exec_driver_sql("SELECT prediction_id FROM predictions_churn LIMIT 5").scalars().all()
    frame = {"prediction_id": [str(each) for each in some], "churned": [random.random() < 0.5] * len(some)}
    record_outcomes(store, contract, frame, now=now, source="t")
    joins.join_new(store, contract, timedelta(hours=1), now)


def warm_up(url, folder):
    """Whatever is imported or made at first use, children find it done."""
    store, contract, settings = Store(url), binary_contract(), CaptureSettings()
    own, now = Spool(Path(folder), settings, lambda _: LogSettings()), system_clock()
    own.append(contract, prediction_rows(contract, [now], customer=[1], month=["m"]), now)
    log = predictions.PredictionLog(store)
    turn(store, contract, Forwarder(Path(folder), log, store, system_clock, settings, own))
    own.close()
    store.close()


def drain(url, folder):
    """Another forwarder on the same spools, whose clock is an hour behind."""
    store = Store(url)
    log = predictions.PredictionLog(store)

    def clock():
        return system_clock() - timedelta(hours=1)

    while True:
        try:
            Forwarder(Path(folder), log, store, clock, CaptureSettings()).drain()
        except Unavailable:  # likewise
            continue
        finally:
            time.sleep(0.05)


def main(url, folder, path):
    if path == "drain":
        drain(url, folder)
    acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    warm_up(url, folder)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            child(url, folder, acknowledged, order)
        if not order["point"]:
            time.sleep(order["seconds"])
            os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + 30  # a busy machine takes seconds for a turn
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:  # the point is not on its way: it was killed from outside then
                os.kill(process, signal.SIGKILL)
                status = None
                os.waitpid(process, 0)
                break
            time.sleep(0.002)
        sys.stdout.write(json.dumps(status) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

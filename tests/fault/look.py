"""One look that dies at a point of its transaction: `python -m tests.fault.look URL opening|closing POINT`."""

import os
import signal
import sys

from feedback_loop.store import Store, incidents
from feedback_loop.store.incidents import Followed
from tests.fault.test_incident_crashes import verdict

POINTS = {  # within the transaction, each more of it done; the last is when it is durable
    "verdict": (incidents, "insert_if_new"),
    "incident": (incidents, "Message"),
    "update": (incidents, "change"),
    "alerts": (incidents, "raise_in"),
    "ends": (incidents, "end_in"),
}


def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, what: str, point: str) -> None:
    store = Store(url)
    incident = incidents.open_incident(store, "churn")
    if point in POINTS:
        place, name = POINTS[point]
        real = getattr(place, name)
        setattr(place, name, lambda *args, **options: die(real(*args, **options)))
    if what == "opening":
        incidents.record_verdict(store, verdict(0), ("log", "ops"))
    else:
        followed = Followed(incident.incident_id, {"labels": 1}, "it has recovered")
        incidents.record_verdict(store, verdict(1), ("log", "ops"), followed)
    die()


if __name__ == "__main__":
    main(*sys.argv[1:])

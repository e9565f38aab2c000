"""Between an answer and the store: every prediction is made durable here before it is given out."""

from feedback_loop.capture.client import AsyncClient, Client
from feedback_loop.capture.drain import Drained
from feedback_loop.capture.events import EventIntake, PayloadEvent, erase_waiting, read_event
from feedback_loop.capture.external import Deployed, Deployments
from feedback_loop.capture.forwarder import Forwarder
from feedback_loop.capture.importing import ImportResult, import_predictions
from feedback_loop.capture.middleware import CaptureMiddleware
from feedback_loop.capture.outcomes import outcomes_wait, spool_outcomes
from feedback_loop.capture.outputs import read_outputs
from feedback_loop.capture.quiet import Quiet
from feedback_loop.capture.recorder import LONGEST_REQUEST_ID, Record, Recorded, Recorder, Requests, checked_ids
from feedback_loop.capture.sink import Sink
from feedback_loop.capture.spool import Spool, SpoolView
from feedback_loop.capture.spool_accounts import Notice, local_accounts, merge_accounts, notices, put_aside

__all__ = [
    "LONGEST_REQUEST_ID",
    "AsyncClient",
    "CaptureMiddleware",
    "Client",
    "Deployed",
    "Deployments",
    "Drained",
    "EventIntake",
    "Forwarder",
    "ImportResult",
    "Notice",
    "PayloadEvent",
    "Quiet",
    "Record",
    "Recorded",
    "Recorder",
    "Requests",
    "Sink",
    "Spool",
    "SpoolView",
    "checked_ids",
    "erase_waiting",
    "import_predictions",
    "local_accounts",
    "merge_accounts",
    "notices",
    "outcomes_wait",
    "put_aside",
    "read_event",
    "read_outputs",
    "spool_outcomes",
]

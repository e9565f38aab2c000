"""Online inference over HTTP: protocols, batches, the versions that answer, guards."""

from feedback_loop.serving.access import AccessLog
from feedback_loop.serving.app import App, Hints, Intakes, Limits
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.board import Board, shared_folder
from feedback_loop.serving.certificate import Certificate
from feedback_loop.serving.connections import Connections
from feedback_loop.serving.endpoints import Endpoints, warm
from feedback_loop.serving.guard import Guard, needs_key
from feedback_loop.serving.health import Readiness, readiness
from feedback_loop.serving.metrics import Metrics
from feedback_loop.serving.observer import Observer
from feedback_loop.serving.origins import PROXIED_CURE, Origins, forget_proxied, read_proxied, tell_proxied
from feedback_loop.serving.predictions import Predictions
from feedback_loop.serving.room import Room
from feedback_loop.serving.server import end_with, run_server
from feedback_loop.serving.shadows import Shadows
from feedback_loop.serving.stager import ServedModel, Stager
from feedback_loop.serving.tracing import require_tracing, start_tracing

__all__ = [
    "PROXIED_CURE",
    "AccessLog",
    "App",
    "Batcher",
    "Board",
    "Certificate",
    "Connections",
    "Endpoints",
    "Guard",
    "Hints",
    "Intakes",
    "Limits",
    "Metrics",
    "Observer",
    "Origins",
    "Predictions",
    "Readiness",
    "Room",
    "ServedModel",
    "Shadows",
    "Stager",
    "end_with",
    "forget_proxied",
    "needs_key",
    "read_proxied",
    "readiness",
    "require_tracing",
    "run_server",
    "shared_folder",
    "start_tracing",
    "tell_proxied",
    "warm",
]

"""Online inference over HTTP: protocols, batches, the versions that answer, guards."""

from feedback_loop.serving.app import App
from feedback_loop.serving.board import shared_folder
from feedback_loop.serving.endpoints import Endpoints, warm
from feedback_loop.serving.guard import needs_key
from feedback_loop.serving.origins import PROXIED_CURE, forget_proxied, read_proxied, tell_proxied
from feedback_loop.serving.server import Certificate, run_server
from feedback_loop.serving.stager import ServedModel, Stager
from feedback_loop.tracing import require_tracing

__all__ = [
    "PROXIED_CURE",
    "App",
    "Certificate",
    "Endpoints",
    "ServedModel",
    "Stager",
    "forget_proxied",
    "needs_key",
    "read_proxied",
    "require_tracing",
    "run_server",
    "shared_folder",
    "tell_proxied",
    "warm",
]

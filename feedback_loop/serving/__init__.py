"""Online inference over HTTP: protocols, batches, the versions that answer, guards."""

from feedback_loop.serving.app import App
from feedback_loop.serving.batcher import Batcher
from feedback_loop.serving.board import Board, shared_folder
from feedback_loop.serving.endpoints import Endpoints, Source
from feedback_loop.serving.guard import Guard, needs_key
from feedback_loop.serving.metrics import Metrics
from feedback_loop.serving.server import Certificate, run_server

__all__ = [
    "App",
    "Batcher",
    "Board",
    "Certificate",
    "Endpoints",
    "Guard",
    "Metrics",
    "Source",
    "needs_key",
    "run_server",
    "shared_folder",
]

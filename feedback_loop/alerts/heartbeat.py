"""The dead man's switch: somebody else's service that raises an alarm when it has not been pinged for too long."""

from __future__ import annotations

import urllib.error
import urllib.request

import structlog

from feedback_loop.safe_text import without_secrets

TIMEOUT_SECONDS = 10

_log = structlog.get_logger(__name__)


def ping(model: str, url: str) -> bool:
    """Asks for the URL (as healthchecks.io, Cronitor or an Alertmanager's want it); a ping that fails is only logged:
    that is what the service is there to notice.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):  # noqa: S310 (the configuration allows http and https)
            return True
    except (OSError, urllib.error.URLError, ValueError) as error:
        _log.warning("heartbeat not sent", model=model, cause=without_secrets(str(error), secret_url=url))
        return False

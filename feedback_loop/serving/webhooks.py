"""MLflow's registry webhooks: signed by MLflow, taken as a hint that something changed, and never as what changed.

Source of the format: `mlflow/webhooks/delivery.py` and `constants.py` (MLflow 3): `X-MLflow-Signature` is `v1,` and
the base64 of HMAC-SHA256 over `<delivery id>.<timestamp>.<body>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedback_loop.serving.publication import hint

TOLERANCE_SECONDS = 300
"""So old may a delivery be: one that was overheard can't be sent again later."""


LONGEST_TIMESTAMP = 18
"""Digits of a delivery's time; Python refuses to read numbers of thousands of them."""


Header = Callable[[str], str | None]


@dataclass(frozen=True)
class Webhooks:
    """Takes deliveries, signed with `secret`, as hints for the stager (in `cache`)."""

    secret: str
    cache: Path

    @staticmethod
    def may_be_genuine(header: Header) -> bool:
        """Whether a delivery's headers allow that MLflow sent it just now."""
        return is_fresh(header, time.time())

    def take(self, header: Header, body: bytes) -> bool:
        """Whether MLflow sent this just now; if so, the stager looks at the registry at once."""
        if not is_genuine(self.secret, header, body, time.time()):
            return False
        hint(self.cache)
        return True


def is_fresh(header: Header, now: float) -> bool:
    """Whether a delivery says all that a genuine one says, and that it was sent just now."""
    sent = header("x-mlflow-timestamp") or ""
    if not (header("x-mlflow-delivery-id") and header("x-mlflow-signature")):
        return False
    return sent.isdecimal() and len(sent) <= LONGEST_TIMESTAMP and abs(now - int(sent)) <= TOLERANCE_SECONDS


def is_genuine(secret: str, header: Header, body: bytes, now: float) -> bool:
    """Whether MLflow sent this just now; `now` is in seconds since 1970."""
    delivery, sent = header("x-mlflow-delivery-id") or "", header("x-mlflow-timestamp") or ""
    given = header("x-mlflow-signature") or ""
    signed = b".".join((delivery.encode(), sent.encode(), body))
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}"
    return hmac.compare_digest(given.encode(), expected.encode()) and is_fresh(header, now)

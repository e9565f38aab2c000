"""MLflow's registry webhooks: signed by MLflow, taken as a hint that something changed, and never as what changed.

Source of the format: `mlflow/webhooks/delivery.py` and `constants.py` (MLflow 3): `X-MLflow-Signature` is `v1,` and
the base64 of HMAC-SHA256 over `<delivery id>.<timestamp>.<body>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

TOLERANCE_SECONDS = 300
"""So old may a delivery be: one that was overheard can't be sent again later."""


LONGEST_TIMESTAMP = 18
"""Digits of a delivery's time; Python refuses to read numbers of thousands of them."""


def is_fresh(header: Callable[[str], str | None], now: float) -> bool:
    """Whether a delivery says all that a genuine one says, and that it was sent just now."""
    sent = header("x-mlflow-timestamp") or ""
    if not (header("x-mlflow-delivery-id") and header("x-mlflow-signature")):
        return False
    return sent.isdecimal() and len(sent) <= LONGEST_TIMESTAMP and abs(now - int(sent)) <= TOLERANCE_SECONDS


def is_genuine(secret: str, header: Callable[[str], str | None], body: bytes, now: float) -> bool:
    """Whether MLflow sent this just now; `now` is in seconds since 1970."""
    delivery, sent = header("x-mlflow-delivery-id") or "", header("x-mlflow-timestamp") or ""
    given = header("x-mlflow-signature") or ""
    signed = b".".join((delivery.encode(), sent.encode(), body))
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}"
    return hmac.compare_digest(given.encode(), expected.encode()) and is_fresh(header, now)

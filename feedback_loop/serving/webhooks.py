"""MLflow's registry webhooks: signed by MLflow, taken as a hint that something changed, and never as what changed.

Source of the format: `mlflow/webhooks/delivery.py` and `constants.py` (MLflow 3): `X-MLflow-Signature` is `v1,` and
the base64 of HMAC-SHA256 over `<delivery id>.<timestamp>.<body>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from feedback_loop.private import new_folder
from feedback_loop.serving.publication import hint

TOLERANCE_SECONDS = 300
"""So old may a delivery be: one that was overheard can't be sent again later."""


TAKEN = ".deliveries"
"""The folder, beside what is served, with a file for each delivery that was taken a short time ago."""

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
        """Whether MLflow sent this just now, and it came for the first time; the stager then looks at once."""
        if not is_genuine(self.secret, header, body, time.time()) or not self._is_new(header):
            return False
        hint(self.cache)
        return True

    def _is_new(self, header: Header) -> bool:
        """Whether no worker of this host has taken that delivery; those that are too old by now are forgotten."""
        folder = self.cache / TAKEN
        new_folder(folder)
        name = hashlib.sha256((header("x-mlflow-delivery-id") or "").encode()).hexdigest()
        try:
            os.close(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        oldest = time.time() - 2 * TOLERANCE_SECONDS  # a delivery may be dated as much ahead
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another worker is as tidy
                if path.stat().st_mtime < oldest:
                    path.unlink()
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

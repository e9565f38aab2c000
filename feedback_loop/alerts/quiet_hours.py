"""Quiet hours and silenced incidents: which alerts wait, and until when."""

from __future__ import annotations

from datetime import datetime

from feedback_loop.clock import format_moment
from feedback_loop.config import AlertSettings
from feedback_loop.store.alerts import Alert


def quiet_until(alert: Alert, settings: AlertSettings, now: datetime) -> datetime | None:
    """When the quiet hours end that delay an alert; None where none do."""
    if settings.quiet is None or now not in settings.quiet or alert.kind in settings.quiet_except:
        return None
    return settings.quiet.ends_after(now)


def why_waiting(alert: Alert, settings: AlertSettings, silenced_until: datetime | None, now: datetime) -> str:
    """Why a pending alert waits, in words: its incident is silenced, or it is quiet hours; empty for neither."""
    if alert.state != "pending":
        return ""
    if silenced_until is not None and silenced_until > now:
        return f"silenced until {format_moment(silenced_until)}"
    quiet = quiet_until(alert, settings, now)
    return f"quiet hours until {format_moment(quiet)}" if quiet is not None else ""

"""Alerts about the spools: whatever is not as it should be in their accounts is told, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from feedback_loop.capture import notices
from feedback_loop.config import CaptureSettings
from feedback_loop.store import Store
from feedback_loop.store.alerts import raise_alert
from feedback_loop.store.spools import Account


def tell_differences(
    store: Store, accounts: Iterable[Account], routes: Sequence[str], now: datetime, settings: CaptureSettings
) -> int:
    """Raises an alert for each notice, on each route, and again only when there is more of it.

    Returns how many are new; `deliver_alerts` sends them.
    """
    told = 0
    for account in accounts:
        for notice in notices(account, now, settings.alert_after):
            subject = f"spool:{account.spool}:{account.model}:{notice.kind}:{notice.figure}"
            title = f"{account.model or 'a model'}: not every prediction is logged"
            told += raise_alert(store, subject, title, f"{account.spool}: {notice.words}.", routes, now)
    return told

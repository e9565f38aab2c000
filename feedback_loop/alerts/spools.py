"""Alerts about the spools: one for each difference in their accounts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from feedback_loop.capture import notices
from feedback_loop.config import CaptureSettings
from feedback_loop.store import Store
from feedback_loop.store.alerts import Routes, raise_alert
from feedback_loop.store.spool_accounts import SpoolAccount, is_of_outcomes, model_of


def tell_differences(
    store: Store, accounts: Iterable[SpoolAccount], routes: Routes, now: datetime, settings: CaptureSettings
) -> int:
    """Raises an alert for each notice, on each route, and again only when there is more of it.

    Returns how many are new; `deliver_alerts` sends them.
    """
    alerts = 0
    for account in accounts:
        for notice in notices(account, now, settings.alert_after):
            subject = f"spool:{account.spool}:{account.model}:{notice.kind}:{notice.figure}"
            what = "outcome is stored" if is_of_outcomes(account.model) else "prediction is logged"
            model = model_of(account.model)
            title, body = f"{model or 'a model'}: not every {what}", f"{account.spool}: {notice.words}."
            alerts += raise_alert(store, subject, title, body, routes, now, model=model or "")
    return alerts

"""Alerts about outcomes that were brought and not taken in: each file that is refused, and bad rows of a source."""

from __future__ import annotations

from datetime import datetime

from feedback_loop.outcomes import Polled, RefusedFile
from feedback_loop.store import Store
from feedback_loop.store.alerts import Routes, load_alerts, raise_alert


def about_outcomes(model: str) -> str:
    """How the subjects of these alerts begin."""
    return f"outcomes:{model}:"


def tell_refused_file(store: Store, model: str, refused: RefusedFile, routes: Routes, now: datetime) -> int:
    """Raises an alert on each route, once per file and content; returns how many are new.

    The alert has no values of rows: these are in the file with the cause.
    """
    first = refused.error.problems[0]
    place = ", ".join(part for part in (f"row {first.row}" if first.row >= 0 else "", first.field) if part)
    more = f" and {refused.error.total - 1:,} more problems" if refused.error.total > 1 else ""
    title = f"{model}: a file of outcomes was refused"
    body = f"{refused.name} ({place or 'the whole file'}{more}) lies in refused/ now, with a file of the cause."
    return raise_alert(
        store,
        f"{about_outcomes(model)}file:{refused.digest}:{refused.name}",
        title,
        body,
        routes,
        now,
        model=model,
    )


def tell_bad_rows(store: Store, model: str, polled: Polled, routes: Routes, now: datetime) -> int:
    """Raises an alert on each route where a poll left rows out, and again only when there are newer ones."""
    if not polled.bad_rows:
        return 0
    title = f"{model}: rows of the source of outcomes were left out"
    body = (
        f"{polled.bad_rows:,} rows don't fit, the newest at {polled.bad_until}: feedback-loop outcomes poll {model}."
    )
    return raise_alert(store, f"{about_outcomes(model)}sql:{polled.bad_until}", title, body, routes, now, model=model)


def count_refused(store: Store, model: str) -> dict[str, int]:
    """How many `files` of outcomes were refused so far, and how many `polls` had bad rows that were new."""
    subjects = {alert.subject for alert in load_alerts(store, [], about=about_outcomes(model))}
    kinds = [subject.removeprefix(about_outcomes(model)).partition(":")[0] for subject in subjects]
    return {"files": kinds.count("file"), "polls": kinds.count("sql")}

"""An adapter stops where a version becomes the champion that decides by a threshold of its own."""

from __future__ import annotations

from dataclasses import replace

import structlog

from feedback_loop.adaptation import decides_by_chance
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.inference import why_unfit
from feedback_loop.loop.context import Context
from feedback_loop.monitoring import scored_rows
from feedback_loop.registry import ModelVersion
from feedback_loop.retraining import training_rows
from feedback_loop.store import adapters
from feedback_loop.store.adapters import RevisionKind
from feedback_loop.store.alerts import raise_alert

TRIED_WINDOWS = 7
"""What a version decides is tried on the rows of so many windows of the log."""

_log = structlog.get_logger(__name__)


def stop_for_next(context: Context, model: str, number: str) -> None:
    """Stops the model's adapter before a version becomes the champion, if it does not fit it.

    What can't be known now (the version can't be loaded, the store is away) is looked at by the next turn.
    """
    if context.settings.model(model).adapter.mode == "off":
        return
    try:
        stop_if_unfit(context, context.version(model, number))
    except FeedbackLoopError as error:
        _log.warning("not known whether the adapter fits", version=f"{model}/{number}", cause=str(error))


def stop_if_unfit(context: Context, version: ModelVersion) -> str:
    """Stops the adapter of another champion where this version decides by a threshold of its own; why, if it did.

    An adapter's class is the likeliest one. It begins anew with the next champion that has it so too.
    """
    model, store = version.model, context.store
    served = adapters.newest_served(store, model)
    if served is None or served.version == version.version or _decides_by_chance(context, version):
        return ""
    why = f"Version {version.version} decides by a threshold of its own, and an adapter's class is the likeliest one."
    newest = adapters.load_revisions(store, model, 1)[0]
    stopped = replace(
        newest,
        kind=RevisionKind.STOPPED,
        made_at=context.clock(),
        version=version.version,
        cohort_start=None,
        cohort_end=None,
        known_until=None,
        predicted=0,
        labelled=0,
        held_by=(),
        digest="",
        details={"because": why},
    )
    added = adapters.add_revision(store, stopped)
    subject, title = f"adapter:{model}:{added.revision}:stopped", f"{model}: its adapter is stopped"
    raise_alert(store, subject, title, why, context.routes, context.clock(), model=model)
    return why


def _decides_by_chance(context: Context, version: ModelVersion) -> bool:
    """By what the version would have answered to the newest labelled rows."""
    scorer = context.scorer(version)
    if why_unfit(scorer):
        return True  # the log does not say
    now = context.final(version.model, None)
    until = context.matured_until(version.model, now)
    since = until - TRIED_WINDOWS * context.settings.model(version.model).window
    rows = training_rows(context.store, scorer, until=until, as_of=now, history=None, since=since)
    return not len(rows) or decides_by_chance(scorer.logged, scored_rows(scorer, rows.table))

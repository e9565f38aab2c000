"""What is wrong with the loop itself: jobs that fail, runs that are late or hang, retrainings that find nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import takewhile

from feedback_loop.clock import format_moment
from feedback_loop.scheduling.scheduler import Chain
from feedback_loop.scheduling.schedules import last_due
from feedback_loop.store import Store
from feedback_loop.store.alerts import RECOVERED, Message, alert_recoveries, load_alerts
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import JobRun, failing_runs, last_made, load_runs

IN_A_ROW = (3, 10, 30, 100, 300)
"""After so many retrainings in a row without a better version there is an alert."""

TRIED = 300
"""So many of the newest runs of the job are looked through."""

WITHOUT = ("refused", "failed", "not_made")
"""How a retraining ends that brings no version."""


def find_troubles(
    store: Store,
    model: str,
    chains: Sequence[Chain],
    first_predicted: datetime | None,
    late: timedelta,
    now: datetime,
) -> list[Message]:
    """What people should know of a model's jobs, once per subject; nothing while all is well.

    `late` is how long after its time a run may be made, `first_predicted` since when there is something to be made
    of a model whose jobs have never run.
    """
    overdue = (_overdue(store, chain, first_predicted, late, now) for chain in chains)
    return [
        *_failing(store, model),
        *(message for message in overdue if message is not None),
        *_in_vain(store, model),
    ]


def _failing(store: Store, model: str) -> Iterator[Message]:
    """Jobs that fail, together with all that began to fail at the same turn."""
    since: dict[datetime, list[JobRun]] = {}
    for run in failing_runs(store, model):
        since.setdefault(run.scheduled_at, []).append(run)
    for moment, runs in since.items():
        causes: dict[str, list[str]] = {}
        for run in runs:
            causes.setdefault((run.cause or "no cause is known").rstrip("."), []).append(run.job)
        words = "; ".join(f"{', '.join(jobs)}: {cause}" for cause, jobs in causes.items())
        subject = f"jobs:{model}:failed:{format_moment(moment)}"
        body = f"Since {format_moment(moment)}: {words}."
        yield Message(subject, f"{model}: jobs of the loop fail", body, model=model)


def _overdue(
    store: Store, chain: Chain, first_predicted: datetime | None, late: timedelta, now: datetime
) -> Message | None:
    """A chain of which a run was due and has not been made to its end."""
    made = last_made(store, chain.model, [job.name for job in chain.jobs], until=now)
    moments = [moment for moment in made if moment is not None]
    since = min(moments) if len(moments) == len(made) else None if moments else first_predicted
    if not moments and since is None:
        return None
    due = last_due(chain.trigger, since, now - late)
    if due is None:
        return None
    last = f"the last one was that of {format_moment(max(moments))}" if moments else "none was ever made"
    running = [run for run in load_runs(store, chain.model, newest=len(chain.jobs)) if run.state == "running"]
    holder = holder_of(store, f"model:{chain.model}")
    if running and running[0].holder == holder:
        took = (now - running[0].started_at).total_seconds()
        why = f"its job {running[0].job} has run for {took:,.0f} seconds, in {holder}"
    elif holder is not None:
        why = f"{holder} is at work on {chain.model}"
    else:
        why = "no scheduler is at work: is one running? (feedback-loop scheduler)"
    key = format_moment(max(moments)) if moments else "never"
    body = (
        f"The run of {format_moment(due)} ({', '.join(job.name for job in chain.jobs[:1])} …) is late: {last}; {why}."
    )
    return Message(
        f"jobs:{chain.model}:late:{chain.jobs[0].name}:{key}",
        f"{chain.model}: the loop stands still",
        body,
        model=chain.model,
    )


def _in_vain(store: Store, model: str) -> Iterator[Message]:
    """Retrainings by policy that brought no version, one after the other."""
    tried = [run for run in load_runs(store, model, newest=TRIED, job="retrain") if (run.result or {}).get("state")]
    vain = list(takewhile(lambda run: run.result["state"] in WITHOUT, tried))
    reached = [many for many in IN_A_ROW if many <= len(vain)]
    if reached:
        newest, first = vain[0], vain[-1]
        since = format_moment(first.scheduled_at if len(vain) < len(tried) else first.started_at)
        body = f"{len(vain)} in a row brought no version, since {since}. The newest: {newest.result['summary']}"
        subject = f"{_about_vain(model)}{since}:{reached[-1]}"
        yield Message(subject, f"{model}: no retraining helps", body, model=model)


def tell_helped(store: Store, model: str, troubles: Sequence[Message], now: datetime) -> int:
    """Has told, once, that a retraining brought a version, where it was told that none does; counts new messages.

    Of one series it is the newest message that is answered.
    """
    about = _about_vain(model)
    if any(trouble.subject.startswith(about) for trouble in troubles):
        return 0
    subjects = [alert.subject.removesuffix(RECOVERED) for alert in load_alerts(store, [], about=about)]
    return alert_recoveries(store, about, {*subjects} - {*subjects[-1:]}, now)


def _about_vain(model: str) -> str:
    return f"retraining:{model}:vain:"

"""`doctor`: whether the loop can work at all, checked one thing at a time."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from feedback_loop.clock import format_duration
from feedback_loop.config import FILE_NAME, SQLITE
from feedback_loop.cycle import chains
from feedback_loop.errors import FeedbackLoopError, Refused
from feedback_loop.inference import check_providers, describe_hardware
from feedback_loop.loop import FeedbackLoop
from feedback_loop.monitoring import check_metrics
from feedback_loop.private import exposed, exposure_words, new_folder
from feedback_loop.registry import cure_of_webhook
from feedback_loop.store import coverage, migrate
from feedback_loop.store.spool_accounts import is_of_outcomes
from feedback_loop.views.hardware import notes


@dataclass(frozen=True)
class Check:
    """One thing that `doctor` looked at."""

    name: str
    ok: bool
    detail: str
    cure: str = ""
    is_note: bool = False  # nothing is amiss, but somebody should know


def doctor(loop: FeedbackLoop, more: Mapping[str, Callable[[], str]] | None = None) -> list[Check]:
    """Checks all that the loop needs, one thing at a time, and what rooms further on need (`more`); never raises."""
    checks = [
        _check("versions", _versions),
        _check("hardware", lambda: _hardware(loop)),
        _check("database", lambda: _database(loop)),
        _check("registry", lambda: f"{len(loop.registry.models())} registered models at {loop.registry.name}"),
        _check("reports", lambda: _writable(loop.reports)),
        _check("spools", lambda: _spools(loop)),
        _check("files", lambda: _files(loop)),
        _check("serving", lambda: _serving(loop)),
        _check("webhook", lambda: _webhook(loop)),
        *(_check(name, look) for name, look in (more or {}).items()),
    ]
    checks += [Check("hardware", ok=True, detail=note.cause, cure=note.cure, is_note=True) for note in notes(loop)]
    for name in loop.settings.models:
        checks.append(_check(f"model {name}", partial(_model, loop, name)))
        if checks[-1].ok:
            checks.append(_reference_check(loop, name))
    return sorted(checks, key=lambda check: not check.is_note)


def _reference_check(loop: FeedbackLoop, name: str) -> Check:
    """A missing reference is no fault, but nothing is judged without one: a note says so, before all that is ok."""
    try:
        missing = loop.judging.missing_reference(name)
    except FeedbackLoopError as error:
        return Check(f"reference {name}", ok=False, detail=error.cause, cure=error.cure)
    if missing is None:
        return Check(f"reference {name}", ok=True, detail="it is whole: the champion is judged by it")
    return Check(f"reference {name}", ok=True, detail=missing.words, cure=missing.cure, is_note=True)


def _hardware(loop: FeedbackLoop) -> str:
    """What there is to compute on; refused where the configuration wants what there is not."""
    check_providers(loop.settings.serving.providers, "serving.providers")
    for name, model in loop.settings.models.items():
        check_providers(model.inference.providers, f"models.{name}.inference.providers")
    return describe_hardware()


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=look())
    except FeedbackLoopError as error:
        return Check(name, ok=False, detail=error.cause, cure=error.cure)
    except OSError as error:
        return Check(name, ok=False, detail=str(error), cure="Check the path and its rights.")


def _versions() -> str:
    names = ("feedback-loop", "mlflow", "scikit-learn", "evidently", "sqlalchemy")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _database(loop: FeedbackLoop) -> str:
    migrate.prepare(loop.store)
    return f"{loop.store.name} at revision {migrate.current(loop.store)}"


def _files(loop: FeedbackLoop) -> str:
    """Whether anybody else can read or change what is kept on this disk; MLflow makes its own readable to all."""
    settings = loop.settings
    places = _database_files(settings.url(settings.store.url))
    named = (settings.capture.folder, settings.serving.cache, settings.scheduler.reports)
    places += map(settings.path, named)
    registry = (settings.url(settings.registry.tracking_uri), settings.url(settings.registry.registry_uri))
    mlflows = [path for url in registry for path in _database_files(url)]
    mlflows.append(settings.path(settings.registry.artifact_root))
    open_files = exposed(places, written=[settings.home, settings.home / FILE_NAME, *mlflows])
    if open_files:
        cure = "Take their rights: chmod -R go= PATH; put files in the place of links."
        raise Refused(f"Others can come at what is kept here: {exposure_words(open_files)}.", cure=cure)
    return "nobody else can read or change what is kept on this disk"


def _database_files(url: str) -> list[Path]:
    """The files of a SQLite database; none of another."""
    base = url.removeprefix(SQLITE)
    return [Path(base + ending) for ending in ("", "-wal", "-shm")] if url.startswith(SQLITE) else []


def _serving(loop: FeedbackLoop) -> str:
    """Whether a server asks for keys where others than this machine's users can reach it."""
    from feedback_loop import serving

    settings = loop.settings.serving
    if serving.needs_key(settings):
        return "callers show a key"
    if header := serving.read_proxied(loop.settings.path(settings.cache)):
        cause = f"A proxy forwards requests ({header}) to a server at {settings.host} that asks for no key."
        raise Refused(cause, cure=serving.PROXIED_CURE)
    return f"no key is asked for at {settings.host}"


def _webhook(loop: FeedbackLoop) -> str:
    """Whether MLflow reaches a server here with what it is told of aliases, where that is expected."""
    polled = f"aliases are asked for every {format_duration(loop.settings.serving.poll_alias)}"
    if not loop.settings.serving.webhook_secret.get_secret_value():
        return f"none is expected: {polled}"
    if not loop.registry.has_server:
        return f"the registry is a database without a server, which sends none: {polled}"
    webhooks = loop.registry.webhooks.tried()
    for webhook in webhooks:
        if webhook.cause:
            cause = f"MLflow could not reach {webhook.url}: {webhook.cause}"
            raise Refused(cause, cure=cure_of_webhook(webhook.cause))
    if not webhooks:
        raise Refused("MLflow's server knows of none.", cure="Make it: feedback-loop webhooks add URL.")
    return f"MLflow reaches {', '.join(webhook.url for webhook in webhooks)}"


def _spools(loop: FeedbackLoop) -> str:
    aside = [
        f"{rows:,} rows of {model} are put aside: {cause}"
        for model, causes in loop.predictions.put_aside().items()
        for cause, rows in causes.items()
    ]
    if aside:
        cure = "Once that is mended: feedback-loop spool drain --rejected."
        raise Refused(" ".join(aside), cure=cure)
    accounts = loop.predictions.local_accounts()
    waiting = sum(account.waiting for account in accounts)
    outcomes = sum(account.waiting for account in accounts if is_of_outcomes(account.model))
    return f"{waiting:,} rows wait for the store" + (f", {outcomes:,} of them outcomes" if outcomes else "")


def _model(loop: FeedbackLoop, name: str) -> str:
    scorer = loop.scorer(loop.champion(name))
    loop.context.check_storable(scorer)
    chains(loop, name)  # raises where a schedule can't be read
    check_metrics(scorer.logged)
    missing = "" if scorer.contract.key else "; no key: outcomes must name a prediction_id"
    features = len(scorer.contract.features)
    words = (
        f"{scorer.version} as {type(scorer.engine).__name__}, {scorer.contract.task}, {features} features{missing}"
    )
    limit = f"models.{name}.segment_values ({scorer.logged.segment_values})"
    folded = (
        f"; {segment!r} has more values than {limit}, others are told together"
        for segment in coverage.overflowing_segments(loop.store, scorer.logged)
    )
    return words + "".join(folded)


def _writable(folder: Path) -> str:
    new_folder(folder)
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    return f"{folder} is writable, {free / 2**30:.0f} GiB free"

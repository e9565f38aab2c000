"""Where a rehearsal is played: a folder with a store and a registry of its own, and a copy of the champion in it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow.compute as pc

from feedback_loop.clock import ManualClock
from feedback_loop.config import (
    AlertSettings,
    CaptureSettings,
    ModelSettings,
    OutcomeSettings,
    RegistrySettings,
    SchedulerSettings,
    ScheduleSettings,
    ServingSettings,
    Settings,
    StoreSettings,
)
from feedback_loop.errors import Refused
from feedback_loop.loop import FeedbackLoop
from feedback_loop.private import new_folder
from feedback_loop.registry import ModelVersion
from feedback_loop.store import migrate

MARK = ".feedback-loop-rehearsal"
"""The file that says that a folder is a rehearsal's, and may be replaced by the next one."""


def fresh_folder(folder: Path, mark: str = MARK) -> Path:
    """Makes an empty folder with that mark; one that has the mark is replaced. Raises Refused for any other."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / mark).exists():
            raise Refused(f"{folder} is not empty, and none of ours.", cure="Name another --folder.")
        shutil.rmtree(folder)
    new_folder(folder)
    (folder / mark).touch()
    return folder


def own_loop(
    loop: FeedbackLoop, model: str, folder: Path, clock: ManualClock, store: str = ""
) -> tuple[FeedbackLoop, ModelVersion]:
    """A loop in the folder whose champion of that model is a copy of the user's; nothing of the user's is changed.

    It keeps its reference where all of that is from before the clock's moment. Later rows nobody knew yet: then the
    first rows of the history are its reference instead. `store` is the URL of its database (default: SQLite in the
    folder); raises Refused for one that is in use.
    """
    champion = loop.champion(model)
    loaded = loop.scorer(champion).loaded
    settings = _own_settings(loop, model, folder, store)
    own = FeedbackLoop(settings, clock=clock, bits=random.Random(0).getrandbits)  # noqa: S311 (no secret)
    if migrate.current(own.store) is not None:
        own.close()
        raise Refused(
            f"{own.store.name} has the tables of a loop: a rehearsal is played in an empty database.",
            cure="Name another --store, or none: then it is SQLite in the folder.",
        )
    migrate.prepare(own.store)
    copied = shutil.copytree(loaded.path, folder / "champion")
    version = own.registry.adopt(model, str(copied))
    own.registry.tag(version, {"trained_until": min(champion.trained_until, clock()).isoformat()})
    rows = loop.registry.reference_rows(champion)
    if rows is not None and "predicted_at" in rows.column_names:
        newest = pc.max(rows.column("predicted_at")).as_py()
        if newest is not None and newest < clock():
            own.registry.keep_reference(version, rows, clock())
    own.promote(model, version.version, reason="the first version", force=True)
    return own, own.champion(model)


def _own_settings(loop: FeedbackLoop, model: str, folder: Path, store: str) -> Settings:
    """The user's settings of that model; nothing in them leads out of the folder, and no variable overrides them."""
    theirs = loop.settings
    return theirs.model_copy(
        update={
            "home": folder,
            "store": StoreSettings(url=store) if store else StoreSettings(),
            "registry": RegistrySettings(trusted=loop.registry.is_trusted),
            "serving": ServingSettings(),
            "capture": CaptureSettings(hash_key=theirs.capture.hash_key),
            "alerts": AlertSettings(),
            "scheduler": SchedulerSettings(),
            "models": {model: _own_model(loop, theirs.model(model))},
        }
    )


def _own_model(loop: FeedbackLoop, theirs: ModelSettings) -> ModelSettings:
    """Outcomes come from the history alone, all rows are kept, and no alert goes out."""
    history = theirs.retraining.history
    retraining = {"history": str(loop.settings.path(history))} if history else {}
    return theirs.model_copy(
        update={
            "outcomes": OutcomeSettings(),
            "schedule": ScheduleSettings(),
            "silence": None,
            "log": theirs.log.model_copy(update={"retention": None, "sample": 1.0, "durability": "committed"}),
            "retraining": theirs.retraining.model_copy(update=retraining),
        }
    )

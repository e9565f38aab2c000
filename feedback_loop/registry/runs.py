"""Runs in MLflow from begin to end: each that we begin ends FINISHED, FAILED or KILLED, also where a process died."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from feedback_loop.registry.client import Connection
from feedback_loop.registry.run_owners import is_abandoned, this_process
from feedback_loop.registry.versions import TAG
from feedback_loop.run_tags import current_tags

_log = structlog.get_logger(__name__)

OWNER = TAG + "owner"
"""The tag that says which process works on a run."""

MONITORING = "monitoring"
"""The kind of a version's run to which each window's metrics are added, for as long as it is watched."""


class Runs:
    """Begins and ends runs, through the client and without an active run."""

    def __init__(self, connection: Connection) -> None:
        self._mlflow = connection
        self._name = uuid.uuid4().hex[:8]
        self._open: set[str] = set()  # that are worked on here

    def start(self, name: str, now: datetime, tags: Mapping[str, str]) -> str:
        """Begins a run; returns its id."""
        run = self._mlflow.client.create_run(
            self._mlflow.experiment_id,
            start_time=milliseconds(now),
            tags={**current_tags(), **tags, OWNER: str(this_process(self._name))},
            run_name=name,
        )
        self._open.add(run.info.run_id)
        return str(run.info.run_id)

    def end(self, run_id: str, now: datetime, status: str = "FINISHED") -> None:
        """Ends a run: FINISHED, FAILED or KILLED."""
        self._open.discard(run_id)
        self._mlflow.client.set_terminated(run_id, status, end_time=milliseconds(now))

    def fail(self, run_id: str, now: datetime, status: str = "FAILED") -> None:
        """Ends a run and the models that it has logged as failed, and takes versions of these back."""
        client = self._mlflow.client
        with self.leaving(run_id):
            for version in client.search_model_versions(f"run_id = '{run_id}'"):
                client.delete_model_version(version.name, version.version)
            for model in client.search_logged_models([self._mlflow.experiment_id], f"source_run_id = '{run_id}'"):
                client.finalize_logged_model(model.model_id, "FAILED")
            self.end(run_id, now, status)

    @contextmanager
    def running(self, name: str, now: datetime, tags: Mapping[str, str]) -> Iterator[str]:
        """A run for as long as the block takes: FAILED where that raises, KILLED where its process is told to end.

        One that can't be ended, since MLflow is away, is ended by `end_abandoned`.
        """
        began = time.monotonic()
        with self._mlflow.translated("run", name):
            run_id = self.start(name, now, tags)
        status = "FAILED"
        try:
            yield run_id
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            try:
                self.end(run_id, now + timedelta(seconds=time.monotonic() - began), status)
            except Exception as error:  # noqa: BLE001 (what the block raised is what counts)
                _log.warning("run_not_ended", run_id=run_id, cause=repr(error))

    @contextmanager
    def leaving(self, run_id: str) -> Iterator[None]:
        """Works on a run in the block. One that is not ended there is left to `end_abandoned`."""
        try:
            yield
        finally:
            self._open.discard(run_id)

    def give_up(self, now: datetime) -> None:
        """Ends the runs that are worked on here as KILLED, for a process that is about to end."""
        for run_id in list(self._open):
            self.fail(run_id, now, "KILLED")

    def end_abandoned(self, model: str, now: datetime) -> list[str]:
        """Ends the runs of a model that nobody works on: their processes died, or could not end them.

        Their versions are taken back. Returns their ids. Runs of processes that live are left alone.
        """
        wanted = f"tags.`{TAG}model` = '{escaped(model)}' and attributes.status = 'RUNNING'"
        ended = []
        with self._mlflow.translated("model", model):
            for run in self._mlflow.client.search_runs([self._mlflow.experiment_id], wanted):
                if run.info.run_id not in self._open and self._is_abandoned(run, now):
                    is_whole = run.data.tags.get(TAG + "kind") == MONITORING  # it waits for nothing
                    self.fail(run.info.run_id, now, "FINISHED" if is_whole else "KILLED")
                    ended.append(str(run.info.run_id))
        return ended

    def _is_abandoned(self, run: Any, now: datetime) -> bool:
        begun = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        return is_abandoned(run.data.tags.get(OWNER, ""), begun, this_process(self._name), now)


def escaped(text: str) -> str:
    """Text within the quotes of MLflow's filters."""
    return text.replace("'", "\\'")


def milliseconds(moment: datetime) -> int:
    """A moment as MLflow has it."""
    return int(moment.timestamp() * 1000)

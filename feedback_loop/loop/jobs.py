"""Runs of jobs: which there were, and the end of one that runs."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedback_loop.errors import BadInput, Refused
from feedback_loop.loop.context import Context
from feedback_loop.store.leases import holder_of
from feedback_loop.store.ledger import JobRun, ask_cancel, drop_asked, find_run, load_runs


@dataclass(frozen=True)
class Jobs:
    """The ledger of runs, and what people ask of them."""

    context: Context

    def list(self, model: str | None = None, *, newest: int = 40) -> Sequence[JobRun]:
        """The newest runs, of a model or of all, newest first; raises NotFound."""
        if model is not None:
            self.context.settings.model(model)
        return load_runs(self.context.store, model, newest)

    def cancel(self, run_id: int, *, reason: str, by: str | None = None) -> JobRun:
        """Asks for the end of a run: its job ends at its next access to the store, within seconds where it has many.

        The jobs after it in the same turn go on. Raises NotFound, BadInput, and Refused where it does not run.
        """
        if not reason.strip():
            raise BadInput.of("reason", "is empty", cure="Give --reason a few words.")
        store, now = self.context.store, self.context.clock()
        run = find_run(store, run_id)
        if run is not None and run.asked is not None:  # it may be waiting for somebody to begin it
            cause = f"{by or getpass.getuser()} has cancelled it: {reason.strip()}"
            if drop_asked(store, run_id, state="cancelled", now=now, cause=cause):
                return replace(run, state="cancelled", finished_at=now, cause=cause)
        if run is not None and run.state == "running" and holder_of(store, f"model:{run.model}") != run.holder:
            cause = f"The process of run {run_id} ({run.job} of {run.model}) has died: nothing runs."
            raise Refused(cause, cure="The next turn of the loop makes it anew.")
        return ask_cancel(store, run_id, by=by or getpass.getuser(), reason=reason.strip(), now=now)

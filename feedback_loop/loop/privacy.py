"""Retention and erasure: how long a model's rows are kept, and the removal of a person's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from feedback_loop.capture import erase_waiting
from feedback_loop.clock import floor_moment
from feedback_loop.loop.context import Context
from feedback_loop.privacy import Eraser, Erasure, erased_key
from feedback_loop.store import retention


@dataclass(frozen=True)
class Privacy:
    """The part of the loop that removes rows."""

    context: Context

    def prune(self, model: str) -> retention.Pruned:
        """Removes records of before `store.history`, as far as nothing goes on from them."""
        history = self.context.settings.store.history
        if history is None:
            return retention.Pruned()
        return retention.prune_records(self.context.store, model, self.context.clock() - history)

    def retain(self, model: str) -> retention.Retained | None:
        """Removes predictions older than the model's `log.retention`, in whole windows; None: it has none."""
        settings = self.context.settings.model(model)
        if settings.log.retention is None:
            return None
        since = floor_moment(self.context.clock() - settings.log.retention, settings.window)
        return retention.retain(self.context.store, model, self.context.contract(model).join, since)

    def erase(self, model: str, key: Mapping[str, object], *, text: bool = False, dry_run: bool = False) -> Erasure:
        """Removes every row with that key, or part of a composite key, wherever it is, and says what was removed.

        Rows of it that still come from before now are left out from now on. With `text`, values are parsed. Raises
        BadInput for what is no part of the key. See `feedback_loop.privacy` for the order of things.
        """
        context, now = self.context, self.context.clock()
        redaction, deployments = context.scorer(context.champion(model)).redaction, context.deployments()
        eraser = Eraser(
            context.store,
            context.registry,
            redaction,
            context.reports,
            context.forwarder().erase,
            lambda key, dry_run: erase_waiting(context.store, deployments, model, key, now, dry_run=dry_run),
        )
        erasure = eraser.run(erased_key(redaction, key, text=text), now, dry_run=dry_run)
        context.references.forget(model)
        return erasure

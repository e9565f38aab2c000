"""Tags of the loop's work on every run that MLflow begins within it. Imported with MLflow itself: kept small."""

from __future__ import annotations

from mlflow.tracking.context.abstract_context import RunContextProvider

from feedback_loop.run_tags import current_tags


class LoopRunContext(RunContextProvider):
    """Says of which model, incident, retraining and window a run is, where it is begun for one."""

    def in_context(self) -> bool:
        """Whether there is anything to say."""
        return bool(current_tags())

    def tags(self) -> dict[str, str]:
        """What `feedback_loop.run_tags` says at this moment."""
        return current_tags()

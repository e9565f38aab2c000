"""Whether rows of the log can be learned from: for some models the log does not hold what they saw."""

from __future__ import annotations

from feedback_loop.errors import Refused
from feedback_loop.inference.scorer import Scorer


def why_unfit(scorer: Scorer) -> str:
    """Why nothing can be learned from the log of a version; empty where something can."""
    if scorer.redaction.hides_features:
        return "some of its features are logged hashed or not at all"
    return "it predicts several labels" if scorer.contract.more_labels else ""


def refuse_unfit(scorer: Scorer, done: str, *, instead: str = "", of_labels: str = "") -> None:
    """Raises Refused for such a version: it can't be `done`, with what the user may do `instead`."""
    cause = why_unfit(scorer)
    if not cause:
        return
    plain = f"Log them plain (models.{scorer.contract.model}.log.columns){instead}."
    cure = plain if scorer.redaction.hides_features else of_labels
    raise Refused(f"{scorer.version} can't be {done}: {cause}.", cure=cure)

"""Whether a version is fit to be served, and its log to be learned from: it need not hold what the model saw."""

from __future__ import annotations

import pyarrow as pa

from feedback_loop.errors import BadInput, ModelFault, Refused
from feedback_loop.inference.inputs import made_up_table
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


def refuse_single_rows(scorer: Scorer) -> None:
    """Raises ModelFault for a model that answers one row, and not two of them: a vectorizer that is handed a frame
    takes the names of its columns for texts, and answers one whatever it is asked.
    """
    one = made_up_table(scorer.contract)
    try:
        scorer.score(one)
    except (BadInput, ModelFault):  # a row of zeros need not make sense to every model
        return
    scorer.score(pa.concat_tables([one, one]))

"""Rows of the churn model as a log has them, and their outcomes."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import run_cycle
from tests.builders import churn_loop, play_days, prediction_rows

FEATURES = ("customer", "month", "age", "plan")


def labelled(rows):
    return {name: rows[name] for name in ("customer", "month", "churned")}


def logged(loop, rows, moments, version="1", role="champion"):
    """Rows in the log as if version 1 or its shadow had answered at these moments."""
    scorer = loop.scorer(loop.find(f"churn/{version}"))
    outputs = scorer.score(pa.table({name: pa.array(rows[name]) for name in ("age", "plan")})).outputs
    columns = {name: rows[name].tolist() for name in FEATURES}
    columns |= {name: outputs.column(name).to_pylist() for name in outputs.column_names}
    columns |= {"model_version": [version] * len(moments), "role": [role] * len(moments)}
    loop.context.log.append(scorer.logged, prediction_rows(scorer.logged, moments, **columns), loop.clock())


def become_worse(folder):
    """A folder whose churn model became worse four days ago: an incident is open, nothing was retrained."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    clock = ManualClock(midnight - timedelta(days=12) + timedelta(hours=4))  # commands look at the real one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__MODE", "observe")
        loop = churn_loop(folder, clock)
    with closing(loop):
        for harder in (0.0, 0.45):
            play_days(loop, clock, 5, harder=harder, seed=int(100 * harder))
            assert {each.state for each in run_cycle(loop, "churn")} == {"succeeded"}

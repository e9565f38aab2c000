"""Rows of the churn model as a log has them, and their outcomes."""

import pyarrow as pa

from tests.builders import prediction_rows

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

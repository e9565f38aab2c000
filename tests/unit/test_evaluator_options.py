"""What `evaluator_config` of MLflow's evaluation may say to our evaluator."""

import pytest

from feedback_loop.errors import BadInput
from feedback_loop.mlflow_plugin.evaluating import Options


def test_one_segment_needs_no_list():
    assert Options.of({"segments": "plan"}).segments == ["plan"]
    assert Options.of({"segments": ["plan"]}).segments == ["plan"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0), ("alpha", 0.5), ("alpha", float("nan")), ("alpha", "0.05"), ("margin", -0.1), ("margin", "x")],
)
def test_a_gate_that_could_not_fail_or_be_computed_is_refused(name, value):
    with pytest.raises(BadInput, match=f"{name}: is {value!r}"):
        Options.of({name: value})

"""A server of several models as real processes: the first ones answer while others are still being made ready."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from feedback_loop.clock import ManualClock
from tests.builders import churn_loop
from tests.integration.processes import call, server, wait_until
from tests.integration.test_server import RECORD

ROW = {"dataframe_records": [{"x": 1.5}]}


def adopt(loop, name, gate):
    """A champion that loads for as long as the file is not there."""
    import mlflow

    class Slow(mlflow.pyfunc.PythonModel):
        def load_context(self, context):
            del context
            while not Path(gate).exists():
                time.sleep(0.02)

        def predict(self, model_input):
            return 2 * model_input["x"].to_numpy()

    folder = str(loop.settings.home / f"saved-{name}")
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    mlflow.pyfunc.save_model(folder, python_model=Slow(), input_example=frame, pip_requirements=[])
    loop.promote(name, loop.registry.adopt(name, folder).version, reason="first")


def test_a_server_answers_for_the_models_that_are_there_while_one_takes_its_time_or_never_comes(tmp_path, warm):
    more = "".join(f'[models.{name}]\ntask = "regression"\nlabel = "y"\n' for name in ("slow", "late"))
    loop = churn_loop(tmp_path, ManualClock(datetime.now(UTC)), more=more)
    gate, log = tmp_path / "gate", tmp_path / "server.log"
    gate.touch()
    for name in ("slow", "late"):
        adopt(loop, name, gate)
    loop.close()
    gate.unlink()
    with server(tmp_path / "feedback_loop.toml", "slow", "late", log=log, warm=warm) as (port, process):
        for name in ("slow", "late"):
            status, answer, headers = call(port, "POST", f"/models/{name}/invocations", ROW)
            assert (status, headers["retry-after"]) == (503, "2")
            assert answer["message"] == f"Model {name!r} is still being made ready. Nothing was logged."
        assert call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})[0] == 200
        status, ready, _ = call(port, "GET", "/ready")
        assert (status, ready["being_made_ready"]) == (200, ["slow", "late"])
        assert call(port, "GET", "/v2/health/ready")[0] == 503
        assert call(port, "GET", "/v2/models/slow/ready")[0] == 503
        gate.touch()
        wait_until(lambda: call(port, "GET", "/v2/health/ready")[0] == 200, process, log)
        for name in ("slow", "late"):
            assert call(port, "POST", f"/models/{name}/invocations", ROW)[1]["predictions"] == [3.0]
        assert call(port, "GET", "/ready")[1]["models"] == {"churn": "1", "slow": "1", "late": "1"}
    assert "model not served" not in log.read_text()

"""A server of several models as real processes: the first ones answer while others are still being made ready."""

import time
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd

from feedback_loop.clock import ManualClock
from feedback_loop.config import ModelSettings
from feedback_loop.inference import open_bundle, write_bundle
from feedback_loop.registry import ModelVersion, load_folder
from feedback_loop.serving import Endpoints
from feedback_loop.serving.memory import held_bytes
from feedback_loop.serving.publication import Part, Place, Publication
from tests.builders import churn_loop, customers
from tests.integration.processes import call, server, wait_until
from tests.integration.test_server import RECORD

ROW = {"dataframe_records": [{"x": 1.5}]}


def adopt(loop, name, gate):
    """A champion that loads for as long as the file is not there."""

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
        assert "feedback_loop_models_being_made_ready 2.0" in call(port, "GET", "/metrics")[1].decode()
        assert call(port, "GET", "/v2/health/ready")[0] == 503
        assert call(port, "GET", "/v2/models/slow/ready")[0] == 503
        gate.touch()
        wait_until(lambda: call(port, "GET", "/v2/health/ready")[0] == 200, process, log)
        for name in ("slow", "late"):
            assert call(port, "POST", f"/models/{name}/invocations", ROW)[1]["predictions"] == [3.0]
        assert call(port, "GET", "/ready")[1]["models"] == {"churn": "1", "slow": "1", "late": "1"}
        assert "feedback_loop_models_being_made_ready 0.0" in call(port, "GET", "/metrics")[1].decode()
    assert "model not served" not in log.read_text()
    bound = {"FEEDBACK_LOOP_SERVING__LOADED_BYTES": "1"}  # each makes room for the next, and is served
    asked = {"churn": {"dataframe_records": [RECORD]}, "slow": ROW, "late": ROW}
    with server(tmp_path / "feedback_loop.toml", "slow", "late", log=log, warm=warm, **bound) as (port, _):
        for name, body in [*asked.items(), *asked.items()]:
            assert call(port, "POST", f"/models/{name}/invocations", body)[0] == 200
        assert "feedback_loop_models_put_away_total 5.0" in call(port, "GET", "/metrics")[1].decode()


def test_a_worker_that_may_take_so_many_bytes_keeps_to_them_with_real_models_and_gives_back_what_they_took(
    tmp_path, now
):
    from sklearn.ensemble import RandomForestClassifier

    rows, settings = pd.DataFrame(customers(3000, 0))[["age"]], ModelSettings(task="binary", label="churned")
    forest = RandomForestClassifier(100, random_state=0).fit(rows, rows["age"] * 7 % 2 > 1)
    options = {"input_example": rows.head(3), "pip_requirements": [], "serialization_format": "cloudpickle"}
    mlflow.sklearn.save_model(forest, str(tmp_path / "saved"), **options)
    loaded = load_folder(tmp_path / "saved", ModelVersion("m", "1", None, now, (), {}), trusted=True)
    assert write_bundle(loaded, settings, tmp_path / "bundle").engine == "onnx"
    names = [f"m{number}" for number in range(8)]
    places = {name: Place.of(tmp_path, name, "champion", "a") for name in names}
    for place in places.values():
        place.bundle("1-a").mkdir(parents=True)
        place.publish(Publication("a", Part("1", "1-a")))

    def load(*_):
        return open_bundle(tmp_path / "bundle", settings, trusted=True), None

    def takes(most_bytes):
        """What each call leaves in memory, of all models in turn."""
        endpoints = Endpoints(places, load, most_loaded=len(names) - 1, most_bytes=most_bytes)
        endpoints.load()
        before = held_bytes()
        taken = [(endpoints.traffic(name), held_bytes() - before)[1] for name in names * 2]
        endpoints.stop()
        return taken

    takes(None)  # libraries take something with the first one
    free = takes(None)
    one = free[0]
    most = held_bytes() + 3 * one + one // 2
    bound = takes(most)
    assert max(free) > 6 * one
    assert max(bound) < 4 * one
    assert max(bound) > 2 * one

"""Our server and `mlflow models serve`, the same model and the same requests: who says what."""

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.registry.sklearn_model import serializations
from tests.builders import open_loop
from tests.integration.conformance import CASES, DIFFERENCES, OTHER, ROW, told
from tests.integration.processes import call, free_port, running, wait_until
from tests.warm import FRESH

CONFIG = """\
[store]
url = "sqlite:///store.db"
[registry]
tracking_uri = "sqlite:///mlflow.db"
"""
MODEL = """\
[models.{}]
task = "regression"
label = "paid"
key = ["order"]
key_types = {{ order = "long" }}
"""
DOCS = Path(__file__).parents[2] / "docs" / "protocols.md"
KINDS = {"amount": "double", "count": "long", "small": "integer", "plan": "string", "active": "boolean"}


def save(folder, optional):
    """A model that every required column changes the answer of, saved as MLflow does."""
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    def by_the_day(frame):
        """A moment makes it dearer by what its bytes say, as a model may that was fitted on nanoseconds."""
        if "when" not in frame:
            return frame
        days = frame["when"].astype("int64") / 86_400e9 - 20_454
        return frame.assign(amount=frame["amount"] + days.where(frame["when"].notna(), 0.0))

    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "amount": random.uniform(0, 100, 300),
            "count": random.integers(0, 10, 300),
            "small": random.integers(0, 10, 300).astype(np.int32),
            "plan": random.choice(["basic", "plus", "pro"], 300),
            "active": random.random(300) < 0.5,
        }
    )
    paid = rows["amount"] + 3 * rows["count"] + 7 * rows["small"] + 11 * rows["active"] + 20 * (rows["plan"] == "pro")
    columns = make_column_transformer(
        (SimpleImputer(), ["amount"]),
        ("passthrough", ["count", "small", "active"]),
        (OneHotEncoder(handle_unknown="ignore"), ["plan"]),
    )
    steps = [FunctionTransformer(by_the_day)] if "when" in optional else []  # no ONNX has that
    model = make_pipeline(*steps, columns, LinearRegression()).fit(rows, paid)
    inputs = [ColSpec(kind, name) for name, kind in KINDS.items()]
    inputs += [ColSpec(kind, name, required=False) for name, kind in optional.items()]
    signature = ModelSignature(
        Schema(inputs), Schema([ColSpec("double")]), ParamSchema([ParamSpec("threshold", "double", 0.5)])
    )
    requirements = ["scikit-learn", "skops"]
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=signature,
        input_example=rows.head(20).assign(**dict.fromkeys(optional)),
        pip_requirements=requirements,
        **next(serializations(model)),
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(
        tmp_path_factory.mktemp("orders") / "model", {"ratio": "float", "flag": "boolean", "when": "datetime"}
    )


@pytest.fixture(scope="module")
def port(model, empty_mlflow, warm, tmp_path_factory):
    """Our server, which answers for `orders`, and for `plain`: the same without moments, so that ONNX can hold it."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    config = folder / "feedback_loop.toml"
    config.write_text(CONFIG + MODEL.format("orders") + MODEL.format("plain"))
    loop = open_loop(config, ManualClock(datetime.now(UTC)))
    for name, source in (("orders", model), ("plain", save(folder / "plain", {"ratio": "float", "flag": "boolean"}))):
        loop.promote(name, loop.registry.adopt(name, str(source)).version, reason="first")
    loop.close()
    found = free_port()
    command = [warm / "feedback-loop", "serve", "orders", "plain", "--port", str(found)]
    with running([*command, "--config", str(config)], folder / "server.log") as process:
        wait_until(lambda: call(found, "GET", "/v2/health/ready")[0] == 200, process, folder / "server.log", 180)
        yield found


@pytest.fixture(scope="module")
def mlflow_port(model, warm, tmp_path_factory):
    """MLflow's."""
    log = tmp_path_factory.mktemp("mlflow") / "server.log"
    found = free_port()
    command = [warm / "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    path = f"{warm}{os.pathsep}{os.environ['PATH']}"  # it starts uvicorn by its name
    with running([*command, "--port", str(found)], log, PATH=path) as process:
        wait_until(lambda: call(found, "GET", "/ping")[0] == 200, process, log, 180)
        yield found


def same(mine, theirs):
    if mine[0] == theirs[0] == 200:
        return mine[1] == pytest.approx(theirs[1], rel=1e-6)
    return mine == theirs


def test_every_request_is_answered_as_mlflow_answers_it_but_for_what_is_listed(port, mlflow_port):
    def ask(case):
        headers = {"content-type": case.content_type}
        asked = [(port, "/invocations"), (mlflow_port, "/invocations"), (port, "/models/plain/invocations")]
        return [told(call(each, "POST", path, case.body, headers)[:2]) for each, path in asked]

    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip((case.name for case in CASES), pool.map(ask, CASES), strict=True))
    differing = {name: (mine, theirs) for name, (mine, theirs, _) in answers.items() if not same(mine, theirs)}
    listed = {name for names in DIFFERENCES.values() for name in names}
    assert {name: both for name, both in differing.items() if name not in listed} == {}
    assert listed - set(differing) == set(), "these are the same by now"
    text = DOCS.read_text()
    assert [reason for reason in DIFFERENCES if f"| {reason} |" not in text] == []

    # The same by ONNX, which has no words of scikit-learn's; its signature has no moments.
    plain = {name: (mine[0], mine[1] if mine[0] == 200 else "") for name, (mine, *_) in answers.items()}
    onnx = {name: (third[0], third[1] if third[0] == 200 else "") for name, (*_, third) in answers.items()}
    others = [
        name for name in plain if not {"when", "moment"} & set(name.split()) and not same(plain[name], onnx[name])
    ]
    assert others == []


def columns(binary):
    """Two rows as Triton's client has them."""
    import tritonclient.http as triton
    from tritonclient.utils import triton_to_np_dtype

    found = []
    for name, datatype in (
        ("amount", "FP64"),
        ("count", "INT64"),
        ("small", "INT32"),
        ("plan", "BYTES"),
        ("active", "BOOL"),
    ):
        values = np.array([ROW[name], OTHER[name]], triton_to_np_dtype(datatype))
        tensor = triton.InferInput(name, [2], datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        found.append(tensor)
    return found


@pytest.fixture(scope="module")
def predictions(port):
    """What MLflow's protocol says of those rows."""
    return call(port, "POST", "/invocations", {"dataframe_records": [ROW, OTHER]})[1]["predictions"]


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "JSON"])
def test_tritons_client_is_answered_as_mlflows_protocol_is(port, predictions, binary):
    import tritonclient.http as triton

    with closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as client:
        result = client.infer("orders", columns(binary), request_id="seven", headers={"x-key-order": "[1, 2]"})
        assert result.as_numpy("prediction").tolist() == predictions
        assert len(set(result.as_numpy("prediction_id").tolist())) == 2
        answer = result.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "orders", "1")
        wanted = [triton.InferRequestedOutput("prediction", binary_data=binary)]
        result = client.infer("orders", columns(binary), model_version="1", outputs=wanted)
        assert result.as_numpy("prediction").tolist() == predictions
        assert result.as_numpy("prediction_id") is None
        assert len(result.get_response()["parameters"]["prediction_ids"].split(",")) == 2


def test_tritons_client_sees_health_and_metadata_and_is_told_what_is_wrong(port):
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    with closing(triton.InferenceServerClient(f"127.0.0.1:{port}")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("orders")
        assert client.is_model_ready("orders", "1")
        assert not client.is_model_ready("orders", "2")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        metadata = client.get_model_metadata("orders")
        assert metadata["versions"] == ["1"]
        assert [each["name"] for each in metadata["inputs"]] == [*KINDS, "ratio", "flag", "when"]
        with pytest.raises(InferenceServerException, match=r"expected the inputs \['count'"):
            client.infer("orders", columns(binary=True)[:1])
        with pytest.raises(InferenceServerException, match="It is answered by version 1"):
            client.infer("orders", columns(binary=True), model_version="9")


def test_mlflows_own_clients_are_answered(port, predictions):
    import pandas as pd
    from mlflow.deployments import get_deploy_client
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    scoring = ScoringServerClient("127.0.0.1", port)
    scoring.ping()
    frame = pd.DataFrame([ROW, OTHER]).astype({"small": "int32"})
    answer = scoring.invoke(frame, params={"threshold": 1})
    assert answer.get_predictions()[0].tolist() == predictions
    body = json.dumps({"dataframe_records": [ROW, OTHER]}).encode()
    slashed = call(port, "POST", "/invocations/", body, {"content-type": "application/json"})
    assert (slashed[0], slashed[1]["predictions"]) == (200, predictions)
    deployed = get_deploy_client(f"http://127.0.0.1:{port}")
    assert (
        deployed.predict(endpoint="orders", inputs={"dataframe_records": [ROW, OTHER]})["predictions"] == predictions
    )


def test_nothing_that_the_description_allows_or_forbids_is_a_server_error(port, tmp_path):
    """Schemathesis makes requests of the description, right ones and wrong ones."""
    command = [Path(FRESH).parent / "schemathesis", "run", f"http://127.0.0.1:{port}/openapi.json"]
    command += ["--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1", "--request-timeout", "10"]
    command += [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]
    done = subprocess.run(
        [*command, "--exclude-path-regex", "plain", "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "generated" in done.stdout


HOSTILE = [
    b"\0",
    b"\xff" * 1000,
    b"[" * 200_000,
    b'{"instances": ' + b'{"a":' * 100_000,
    b'{"inputs": [' + b'{"name": [' * 50_000,
    b'{"inputs": [{"name": "amount", "datatype": "FP64", "shape": [' + b"9" * 5000 + b'], "data": []}]}',
    b'{"inputs": [{"name": "amount", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}',
    b'{"outcomes": [{"order": ' + b"9" * 5000 + b"}]}",
]
"""Bodies that are made to do harm."""


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:30]))
@pytest.mark.parametrize("path", ["/invocations", "/v2/models/orders/infer", "/models/orders/outcomes"])
def test_a_hostile_body_gets_its_400_at_once(port, path, body):
    began = time.monotonic()
    status, answer, _ = call(port, "POST", path, body)
    assert status == 400
    assert answer.get("message") or answer.get("error")
    assert time.monotonic() - began < 30


def test_a_hundred_megabytes_are_refused_while_they_come(port):
    """In parts, so that nothing says before how many there will be."""
    sent = 0
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        part = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with suppress(ConnectionError):
            for sent in range(1, 101):  # noqa: B007 (how far it came)
                connection.sendall(part)
        with suppress(ConnectionError):
            assert connection.recv(100).split()[1] == b"413"
    assert sent < 100
    assert call(port, "GET", "/ping")[0] == 200

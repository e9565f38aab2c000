"""No pickle that comes in a request is ever loaded: each of these would make a file."""

import base64
import http.client
import io
import pickle
import shutil
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback_loop.clock import ManualClock
from tests.builders import churn_loop
from tests.integration.processes import call, server

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}

CONTENT_TYPES = [
    "application/json",
    "application/x-ndjson",
    "text/csv",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
    "application/vnd.apache.parquet",
    "application/octet-stream",
    "application/x-pickle",
    "application/python-pickle",
    "application/x-python-serialize",
    "application/cloudevents+json",
    "multipart/form-data; boundary=x",
    "",
]
PATHS = [
    "/invocations",
    "/models/churn/invocations",
    "/models/churn/outcomes",
    "/models/churn/events",
    "/events",
    "/v2/models/churn/infer",
    "/webhooks/mlflow",
    "/ping",
    "/metrics",
]


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def arrow_with(pickled):
    """A table whose schema asks for a type that is unpickled (CVE-2023-47248), and holds pickles as values."""
    asking = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    fields = [pa.field("customer", pa.int64(), metadata=asking), pa.field("churned", pa.binary())]
    schema = pa.schema(fields, metadata={b"pandas": pickled})
    return pa.table({"customer": [1], "churned": [pickled]}, schema=schema)


def bodies(pickled):
    table = arrow_with(pickled)
    stream, file, parquet, array = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, parquet)
    np.save(array, np.array([None], dtype=object), allow_pickle=True)
    text = base64.b64encode(pickled).decode()
    records = f'{{"dataframe_records": [{{"age": 1.0, "plan": "{text}"}}], "outcomes": [{{"churned": "{text}"}}]}}'
    npy = array.getvalue().partition(b"\n")[0] + b"\n" + pickled
    return [pickled, stream.getvalue(), file.getvalue(), parquet.getvalue(), npy, records.encode(), text.encode()]


@pytest.fixture(scope="module")
def port(empty_mlflow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickles")
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    churn_loop(folder, ManualClock(datetime.now(UTC))).close()
    with server(folder / "feedback_loop.toml", log=folder / "server.log") as (port, _):
        yield port


def test_the_payload_does_what_it_is_feared_for(tmp_path):
    made = pickle.loads(pickle.dumps(Payload(tmp_path / "made")))  # noqa: S301 (our own)
    made.close()
    assert (tmp_path / "made").exists()


def test_no_route_loads_a_pickle_in_any_content_type(port, tmp_path):
    target = tmp_path / "made"
    statuses = set()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for body in bodies(pickle.dumps(Payload(target))):
            for path in PATHS:
                for content_type in CONTENT_TYPES:
                    headers = {"ce-type": "org.kubeflow.serving.inference.request", "ce-id": "p"}
                    connection.request("POST", path, body, {**headers, "content-type": content_type})
                    answer = connection.getresponse()
                    said = answer.read()
                    statuses.add(answer.status)
                    assert answer.status < 500, (path, content_type, body[:40], said)
                    assert not target.exists(), (path, content_type, body[:40])
    assert statuses & {400, 415}
    assert call(port, "POST", "/invocations", {"dataframe_records": [RECORD]})[0] == 200

"""Guards of the server as a real process: keys and scopes, readiness."""

import json
import shutil
from datetime import UTC, datetime

import pytest

from feedback_loop.clock import ManualClock
from feedback_loop.store import keys
from feedback_loop.store.keys import Scope
from tests.builders import churn_loop
from tests.integration.processes import call, server, wait_until

RECORD = {"age": 40.0, "plan": "pro", "customer": 1, "month": "2026-03"}
BODY = {"dataframe_records": [RECORD]}
OUTCOMES = {"outcomes": [{"customer": 1, "month": "2026-03", "churned": True}]}
EVENT = {"ce-type": "org.kubeflow.serving.inference.request", "ce-id": "guarded"}

ROUTES = [
    ("POST", "/invocations", BODY, {}, "predict"),
    ("POST", "/models/churn/invocations", BODY, {}, "predict"),
    ("POST", "/models/churn/events", BODY, EVENT, "predict"),
    ("POST", "/models/churn/outcomes", OUTCOMES, {}, "outcomes"),
    ("GET", "/metrics", None, {}, "read"),
]


@pytest.fixture(scope="module")
def guarded(empty_mlflow, tmp_path_factory):
    """A loop, and a server of it that asks for keys."""
    folder = tmp_path_factory.mktemp("guards")
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    loop = churn_loop(folder, ManualClock(datetime.now(UTC)))
    made = {scope.value: keys.create_key(loop.store, scope, loop.clock(), [scope]) for scope in Scope}
    settings = {"FEEDBACK_LOOP_SERVING__REQUIRE_KEY": "always", "FEEDBACK_LOOP_SERVING__POLL_ALIAS": "1s"}
    log = folder / "server.log"
    with server(folder / "feedback_loop.toml", log=log, **settings) as (port, process):
        yield loop, port, process, log, made
    loop.close()


@pytest.mark.parametrize(("method", "path", "body", "headers", "scope"), ROUTES)
def test_each_route_wants_its_scope(guarded, method, path, body, headers, scope):
    _, port, _, _, made = guarded
    status, answer, told = call(port, method, path, body, headers)
    assert (status, told["www-authenticate"], answer["error_code"]) == (401, "Bearer", "UNAUTHENTICATED")
    for held, key in made.items():
        status, answer, _ = call(port, method, path, body, {**headers, "authorization": f"Bearer {key}"})
        if held in (scope, "admin"):
            assert status in (200, 202)
        else:
            assert (status, answer["error_code"]) == (403, "PERMISSION_DENIED")


def test_whether_it_lives_and_is_ready_anybody_may_ask(guarded):
    _, port, _, _, _ = guarded
    assert [call(port, "GET", path)[0] for path in ("/ping", "/health", "/version")] == [200, 200, 200]
    assert call(port, "GET", "/ready")[:2] == (200, {"ready": True, "models": {"churn": "1"}, "reasons": []})


def test_a_key_that_is_revoked_is_refused_without_a_restart(guarded):
    loop, port, process, log, _ = guarded
    key = keys.create_key(loop.store, "short", loop.clock(), [Scope.PREDICT])
    shown = {"authorization": f"Bearer {key}"}
    wait_until(lambda: call(port, "POST", "/invocations", BODY, shown)[0] == 200, process, log)
    keys.revoke_key(loop.store, "short", loop.clock())
    wait_until(lambda: call(port, "POST", "/invocations", BODY, shown)[0] == 401, process, log)


def test_a_server_whose_spool_takes_nothing_says_why_it_is_not_ready(empty_mlflow, tmp_path):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    churn_loop(tmp_path, ManualClock(datetime.now(UTC))).close()
    (tmp_path / "spool").write_text("in the way")
    with server(tmp_path / "feedback_loop.toml", log=tmp_path / "server.log") as (port, _):
        status, answer, _ = call(port, "GET", "/ready")
        assert (status, answer["ready"], answer["models"]) == (503, False, {"churn": "1"})
        assert "the spool takes no rows" in json.dumps(answer["reasons"])
        assert call(port, "GET", "/health")[0] == 200
        (tmp_path / "spool").unlink()
        assert call(port, "GET", "/ready")[0] == 200

"""What the access log has of a request, and what it leaves out."""

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from feedback_loop.serving.access import ERRORS_PER_SECOND, AccessLog
from feedback_loop.serving.guard import Caller
from feedback_loop.serving.request import Request


def request(path="/invocations", headers=None, **learned):
    made = Request(SimpleNamespace(method="POST", path=path, headers=headers or {}))
    for name, value in learned.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def now():
    return [100.0]


def test_a_line_says_who_asked_what_and_who_answered_and_never_the_key():
    headers = {"authorization": "Bearer fl_secret", "x-request-id": "r1"}
    asked = request(headers=headers, caller=Caller("web"), model="churn", version="3", rows=2)
    with capture_logs() as lines:
        AccessLog(every_request=True).done(asked, 200, 0.0012)
    expected = {"method": "POST", "path": "/invocations", "status": 200, "ms": 1.2, "model": "churn", "version": "3"}
    assert lines == [
        {"event": "request", "log_level": "info", **expected, "rows": 2, "request_id": "r1", "key": "web"}
    ]


def test_what_is_not_known_is_left_out_and_what_is_long_is_cut():
    with capture_logs() as lines:
        AccessLog(every_request=True).done(request("/" + "x" * 999, {"x-request-id": "y" * 999}), 404, 0.0)
    [line] = lines
    assert (len(line["path"]), len(line["request_id"]), line["log_level"]) == (200, 200, "warning")
    assert not {"model", "version", "rows", "key"} & set(line)


def test_where_not_all_requests_are_logged_some_errors_of_each_second_are(now):
    log = AccessLog(every_request=False, clock=lambda: now[0])
    with capture_logs() as lines:
        for _ in range(ERRORS_PER_SECOND + 5):
            log.done(request(), 500, 0.001)
        now[0] += 1
        log.done(request(), 400, 0.001)
        log.done(request(), 400, 0.001)
    assert [line["status"] for line in lines] == [500] * ERRORS_PER_SECOND + [400, 400]
    assert [line.get("left_out") for line in lines[-3:]] == [None, 5, None]


def test_callers_that_went_away_are_told_once_a_minute_and_all_are_counted(now):
    log = AccessLog(every_request=False, clock=lambda: now[0])
    with capture_logs() as lines:
        for _ in range(1_000):
            log.done(request(has_gone=True), 400, 0.001)
        now[0] += 60
        log.done(request(has_gone=True), 400, 0.001)
    assert [line["requests"] for line in lines] == [1, 1_000]

"""Who is let in, and what `/ready` says."""

import base64
import hashlib
import hmac
import json

import pytest

from feedback_loop.config import ServingSettings
from feedback_loop.errors import Unavailable
from feedback_loop.serving.guard import ANYONE, Caller, Guard, needs_key
from feedback_loop.serving.health import readiness
from feedback_loop.serving.http_errors import HttpError
from feedback_loop.serving.origins import Origins, forget_proxied, read_proxied, tell_proxied
from feedback_loop.serving.room import Room
from feedback_loop.serving.webhooks import is_genuine
from feedback_loop.store.keys import KeyRight, Scope, digest


def right(name, *scopes):
    return KeyRight(digest(f"fl_{name}"), name, frozenset(scopes))


@pytest.fixture
def guard():
    rights = [
        right("caller", Scope.PREDICT, Scope.OUTCOMES),
        right("scraper", Scope.READ),
        right("boss", Scope.ADMIN),
    ]
    made = Guard(lambda: rights, is_needed=True)
    made.refresh()
    return made


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("caller", Scope.PREDICT),
        ("caller", Scope.OUTCOMES),
        ("scraper", Scope.READ),
        *(("boss", scope) for scope in Scope),
    ],
)
def test_a_key_is_let_in_by_its_scopes_and_admin_is_all_of_them(guard, name, scope):
    assert guard.admits(f"Bearer fl_{name}", scope) == Caller(name)
    assert guard.admits(f"bearer  fl_{name} ", scope) == Caller(name)


@pytest.mark.parametrize(
    ("name", "scope"), [("caller", Scope.READ), ("caller", Scope.ADMIN), ("scraper", Scope.PREDICT)]
)
def test_a_key_without_the_scope_is_refused_and_told_which(guard, name, scope):
    with pytest.raises(HttpError) as caught:
        guard.admits(f"Bearer fl_{name}", scope)
    denied = caught.value
    assert (denied.status, denied.code) == (403, "PERMISSION_DENIED")
    assert f"{name!r} lacks the scope {scope}" in denied.message
    assert f'scope="{scope}"' in denied.headers["www-authenticate"]


def test_a_key_of_certain_models_is_refused_for_every_other_one_and_for_all_of_them():
    guard = Guard(
        lambda: [KeyRight(digest("fl_x"), "x", frozenset({Scope.ADMIN}), frozenset({"churn"}))], is_needed=True
    )
    guard.refresh()
    caller = guard.admits("Bearer fl_x", Scope.OUTCOMES)
    caller.require("churn")
    for model, said in (("tip", "the model 'tip'"), (None, "all models")):
        with pytest.raises(HttpError, match=said) as caught:
            caller.require(model)
        assert caught.value.status == 403
    Caller("anything").require("tip")
    ANYONE.require(None)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic fl_boss",
        "fl_boss",
        "Bearer fl_boss2",
        "Bearer fl_bos\ud800",
    ],
)
def test_without_a_valid_key_nobody_is_let_in(guard, authorization):
    with pytest.raises(HttpError) as caught:
        guard.admits(authorization, Scope.READ)
    assert (caught.value.status, caught.value.code) == (401, "UNAUTHENTICATED")
    assert caught.value.headers == {"www-authenticate": "Bearer"}


def test_where_no_key_is_needed_everybody_is_let_in_and_none_is_read():
    def read():
        raise AssertionError

    guard = Guard(read, is_needed=False)
    guard.refresh()
    assert guard.admits(None, Scope.ADMIN) is ANYONE


def test_a_key_that_is_not_known_is_looked_for_soon_but_not_while_the_store_is_away():
    known, reads = [], []

    def read():
        reads.append(1)
        if len(reads) == 4:
            raise Unavailable("database", "It is away.")
        return known

    guard = Guard(read, is_needed=True)
    guard.refresh()
    guard.refresh_if_asked()
    with pytest.raises(HttpError):
        guard.admits(None, Scope.PREDICT)  # who shows none has no new one
    guard.refresh_if_asked()
    assert len(reads) == 1
    known.append(right("caller", Scope.PREDICT))
    with pytest.raises(HttpError):
        guard.admits("Bearer fl_caller", Scope.PREDICT)
    guard.refresh_if_asked()
    assert guard.admits("Bearer fl_caller", Scope.PREDICT).key == "caller"
    for _ in range(5):  # however many guess
        with pytest.raises(HttpError):
            guard.admits("Bearer fl_guess", Scope.PREDICT)
    for _ in range(5):
        guard.refresh_if_asked()
    assert len(reads) == 3
    guard.refresh()
    with pytest.raises(HttpError):
        guard.admits("Bearer fl_guess", Scope.PREDICT)
    guard.refresh_if_asked()
    assert len(reads) == 4


def test_keys_of_before_stay_while_the_store_is_away():
    answers = [[right("caller", Scope.PREDICT)]]

    def read():
        if not answers:
            raise Unavailable("database", "It is away.")
        return answers.pop()

    guard = Guard(read, is_needed=True)
    with pytest.raises(HttpError):
        guard.admits("Bearer fl_caller", Scope.PREDICT)
    guard.refresh()
    guard.refresh()
    assert guard.admits("Bearer fl_caller", Scope.PREDICT).key == "caller"
    answers.append([])
    guard.refresh()
    with pytest.raises(HttpError):
        guard.admits("Bearer fl_caller", Scope.PREDICT)


@pytest.mark.parametrize(
    ("host", "required", "needed"),
    [
        ("127.0.0.1", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("0.0.0.0", "auto", True),  # noqa: S104 (nothing listens)
        ("models.example", "auto", True),
        ("127.0.0.1", "always", True),
        ("0.0.0.0", "never", False),  # noqa: S104 (likewise)
    ],
)
def test_a_key_is_needed_unless_only_this_machine_can_call(host, required, needed):
    assert needs_key(ServingSettings(host=host, require_key=required)) is needed


@pytest.mark.parametrize(("sent", "genuine"), [("1000", True), ("1299", True), ("1301", False), ("9" * 5000, False)])
def test_a_webhook_is_genuine_if_its_time_is_near_and_no_number_of_thousands_of_digits(sent, genuine):
    signed = base64.b64encode(hmac.new(b"secret", f"id.{sent}.{{}}".encode(), hashlib.sha256).digest()).decode()
    headers = {"x-mlflow-delivery-id": "id", "x-mlflow-timestamp": sent, "x-mlflow-signature": f"v1,{signed}"}
    assert is_genuine("secret", headers.get, b"{}", 1000.0) is genuine


def test_a_server_is_ready_once_every_model_is_loaded_and_the_spool_takes_rows():
    ready = readiness({"churn": "3"}, None, {})
    assert ready.status == 200
    assert json.loads(ready.body) == {"ready": True, "models": {"churn": "3"}, "reasons": []}
    unready = readiness({"churn": None, "price": None}, "its disk is full", {"price": 3})
    assert unready.status == 503
    assert json.loads(unready.body)["reasons"] == [
        "churn: no version is loaded yet",
        "price: no version is loaded yet",
        "the spool takes no rows: its disk is full",
    ]


def test_a_server_is_ready_for_the_models_that_it_can_serve_and_names_the_others():
    found = readiness({"churn": "3", "price": None}, None, {})
    assert found.status == 200
    assert json.loads(found.body)["not_served"] == ["price"]


def test_a_server_some_of_whose_models_are_still_being_made_ready_answers_for_the_others():
    found = readiness({"churn": "3", "price": None, "fraud": None}, None, {}, ["fraud"])
    body = json.loads(found.body)
    assert (found.status, body["not_served"], body["being_made_ready"]) == (200, ["price", "fraud"], ["fraud"])
    assert (found.of_all().status, found.of_all().reasons) == (503, ("fraud: it is still being made ready",))
    everything = readiness({"churn": "3", "price": None}, None, {}, [])
    assert everything.of_all() == everything
    assert "being_made_ready" not in json.loads(everything.body)


def test_a_server_that_answers_is_ready_and_tells_of_rows_that_the_store_refused():
    found = readiness({"wide": "3", "slim": "1"}, None, {"wide": 7})
    assert found.status == 200
    assert json.loads(found.body)["put_aside"] == {"wide": 7}


class Headers(dict):
    """As RSGI has them."""

    def get_all(self, name):
        value = self.get(name)
        return value if isinstance(value, list) else [] if value is None else [value]


def checked(headers, seen=None, **settings):
    origins = Origins(ServingSettings(**settings), (seen if seen is not None else []).append)
    try:
        return origins.check(Headers(headers))
    except HttpError as problem:
        return problem.status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:5001"}, None),
        ({"host": "LOCALHOST"}, None),
        ({"host": "127.0.0.1:5001", "origin": "http://localhost:3000"}, None),
        ({"host": "[::1]:5001"}, None),
        ({"host": "models.example.com"}, None),
        ({"host": "api.lan.:80", "origin": "https://api.lan"}, None),
        ({}, 400),
        ({"host": ""}, 400),
        ({"host": ["localhost", "localhost"]}, 400),
        ({"host": "evil.example:5001"}, 400),
        ({"host": "localhost.evil.example"}, 400),
        ({"host": "localhost:5001@evil.example"}, 400),
        ({"host": "localhost:port"}, 400),
        ({"host": "localhost/evil"}, 400),
        ({"host": "[::1"}, 400),
        ({"host": "localhost", "origin": "http://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": ""}, 403),
    ],
)
def test_other_sites_and_hosts_are_refused_where_no_key_is_asked_for(headers, status):
    assert checked(headers, allowed_hosts=("models.example.com", "*.LAN")) == status


def test_where_a_key_is_asked_for_any_one_host_will_do():
    assert checked({"host": "evil.example", "origin": "null"}, require_key="always") is None
    assert checked({"host": ["a", "b"]}, require_key="always") == 400
    assert checked({"host": "evil.example"}, host="192.0.2.1", require_key="never") == 400
    assert checked({"host": "10.0.0.3:5001"}, host="192.0.2.1", require_key="never") is None


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_a_proxy_before_an_open_server_is_noticed_and_told(header, tmp_path):
    seen = []
    checked({"host": "localhost", header: "203.0.113.7"}, seen)
    assert seen == [header]
    checked({"host": "localhost", header: "203.0.113.7"}, seen, require_key="always")
    assert seen == [header]
    tell_proxied(tmp_path / "cache", header)
    assert read_proxied(tmp_path / "cache").startswith(f"{header} 2")
    forget_proxied(tmp_path / "cache")
    assert read_proxied(tmp_path / "cache") == ""


def test_there_is_room_for_so_many_bytes_together_and_for_one_body_of_any_size():
    room = Room(100)
    with room.share() as first, room.share() as second:
        first.grow(60)
        second.grow(40)
        for share in (first, second):
            with pytest.raises(HttpError) as refused:
                share.grow(1)
            assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
        first.grow(0)
        second.grow(-7)
    with room.share() as alone:
        for _ in range(3):
            alone.grow(1000)

"""The API and the pages over it: what programs and people are told and may do, by the scopes of their keys."""

import csv
import io
import json
import re
import threading
from datetime import timedelta

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from starlette.testclient import TestClient

from feedback_loop.clock import ManualClock
from feedback_loop.cycle import run_cycle
from feedback_loop.dashboard import backtests, create_app
from feedback_loop.dashboard.api import MOST_BACKTESTS
from feedback_loop.plain import plain
from feedback_loop.store import ledger
from feedback_loop.store.approvals import Approval, ask
from feedback_loop.store.keys import Scope, create_key
from feedback_loop.views.jobs import model_jobs
from feedback_loop.views.policy import try_policy
from feedback_loop.views.predictions import logged_predictions
from feedback_loop.views.status import loop_status
from tests.builders import churn_loop, play_days, register_churn
from tests.conftest import NOW

DAY = timedelta(days=1)
OTHER = '\n[models.other]\ntask = "binary"\nlabel = "late"\n'


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A loop with a day of predictions, a version that waits for approval, a run that failed, and a second model."""
    clock = ManualClock(NOW)
    made = churn_loop(tmp_path_factory.mktemp("api"), clock, more=OTHER)
    play_days(made, clock, 1, per_day=20)
    made.join("churn")
    register_churn(made.registry, clock(), seed=3)
    failed = ledger.begin_run(made.store, "retrain", "churn", clock(), "host:1", clock())
    ledger.end_run(made.store, failed, state="failed", now=clock(), cause="<b>no rows</b>")
    yield made
    made.close()


def question(loop, **changes):
    """A question whether version 2 may replace version 1."""
    evidence = {
        "summary": "Better.",
        "gain": 0.01,
        "gain_at_least": 0.002,
        "gate": {"loss": "log_loss"},
        "gates": [{"name": "loss", "passed": True, "summary": "It is <i>better</i>.", "figures": {}}],
        "parameters": {"C": [1.0, 0.5], "old": [1, None]},
    }
    now = loop.clock()
    asked = {"model": "churn", "retraining_id": None, "needed": 2, "state": "open"} | changes
    options = {"asked_at": now, "expires_at": now + 7 * DAY, "evidence": evidence}
    return ask(loop.store, Approval(0, candidate="2", champion="1", **asked, **options), ["ops"]).approval_id


@pytest.fixture(scope="module")
def keys(loop):
    """The header of a key of each kind, by name."""
    scopes = {
        "reader": [Scope.READ],
        "approver": [Scope.APPROVE],
        "second": [Scope.APPROVE],
        "caller": [Scope.PREDICT],
    }
    made = {name: create_key(loop.store, name, NOW, scopes) for name, scopes in scopes.items()}
    made["admin of other"] = create_key(loop.store, "admin of other", NOW, [Scope.ADMIN], ["other"])
    made["of other"] = create_key(loop.store, "of other", NOW, [Scope.READ, Scope.APPROVE], ["other"])
    return {name: {"authorization": f"Bearer {key}"} for name, key in made.items()}


@pytest.fixture(scope="module")
def app(loop):
    return create_app(loop, host="0.0.0.0")  # noqa: S104 (nothing listens)


@pytest.fixture
def api(app):
    return TestClient(app, base_url="https://pages.example", follow_redirects=False)


@pytest.fixture(scope="module")
def pages(loop):
    """As who is on the same machine sees them: no key is asked for."""
    return TestClient(create_app(loop, host="127.0.0.1"), base_url="http://127.0.0.1", follow_redirects=False)


def test_programs_are_told_what_the_commands_tell(api, keys, loop):
    def get(path, **query):
        answer = api.get(f"/api{path}", params=query, headers=keys["reader"])
        assert answer.status_code == 200, answer.text
        return answer.json()

    told = json.loads(json.dumps(loop_status(loop)))
    assert get("/status") == {name: told[name] for name in ("now", "models")}  # not where the database is
    assert get("/models") == ["churn", "other"]
    assert get("/models/churn") == get("/status")["models"]["churn"]
    assert [version["state"] for version in get("/models/churn/versions")] == ["champion"]
    assert get("/models/churn/versions/1")["promotions"][0]["reason"] == "first"
    assert [event["kind"] for event in get("/models/churn/history")] == ["first"]
    assert get("/models/churn/retrainings") == get("/models/churn/incidents") == get("/models/other/versions") == []
    rows = get("/models/churn/predictions", key=["customer=3"], newest=5)
    assert rows == json.loads(json.dumps(logged_predictions(loop, "churn", {"customer": "3"})))
    assert (rows[0]["outcome"], rows[0]["key"]["customer"]) == ("observed", 3)
    before = get("/models/churn/predictions", key=["customer=3"], as_of=plain(NOW + DAY / 2))
    assert (before[0]["outcome"], before[0]["revisions"]) == ("awaited", [])
    assert get("/models/churn/jobs")["failed"][0]["cause"] == "<b>no rows</b>"
    assert get("/models/churn/policy")["toml"].startswith("[models.churn]\n")
    assert get("/models/churn/performance")["coverage"]


def test_the_doctor_is_asked_by_who_may_do_everything(api, keys, pages):
    assert api.get("/api/doctor", headers=keys["reader"]).status_code == 403
    assert api.get("/api/doctor", headers=keys["admin of other"]).status_code == 403
    assert "store" not in api.get("/api/status", headers=keys["admin of other"]).json()
    assert pages.get("/api/status").json()["store"].startswith("sqlite")
    named = {check["name"]: check["ok"] for check in pages.get("/api/doctor").json()}
    assert (named["database"], named["model churn"]) == (True, True)


def test_what_is_asked_wrongly_is_said_and_not_guessed(api, keys):
    for path, status, words in [
        ("/models/nobody", 404, "no model 'nobody'"),
        ("/models/churn/versions/9", 404, "churn/9"),
        ("/models/churn/retrainings/9", 404, "retraining"),
        ("/models/churn/incidents/9", 404, "incident"),
        ("/models/churn/approvals/99", 404, "approval"),
        ("/models/churn/approvals/x", 422, "number"),
        ("/models/churn/predictions?key=customer", 400, "column=value"),
        ("/models/churn/predictions?as_of=soon", 400, "as_of: 'soon' is not ISO 8601"),
        ("/models/churn/predictions?key=age%3D1", 400, "not in the key"),
    ]:
        answer = api.get(f"/api{path}", headers=keys["reader"])
        assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    body = {"changes": {"alpa": 1}}
    answer = api.post("/api/models/churn/policy/backtest", json=body, headers=keys["reader"])
    assert (answer.status_code, "Did you mean policy.alpha" in answer.text) == (400, True)
    for every in ("99999999999999w", "1s"):
        body = {"changes": {}, "every": every}
        assert api.post("/api/models/churn/policy/backtest", json=body, headers=keys["reader"]).status_code == 400


def test_only_so_many_backtests_are_played_at_once(api, app, keys):
    def play():
        return api.post(
            "/api/models/churn/policy/backtest", json={"changes": {}, "every": "0"}, headers=keys["reader"]
        )

    assert [play().status_code for _ in range(4)] == [400] * 4  # each gives its place back
    places = app.state.backtests
    while places.acquire(blocking=False):
        pass
    assert (play().status_code, "Try again" in play().text) == (409, True)
    places.release(MOST_BACKTESTS)
    assert play().status_code == 400


def test_an_answer_needs_its_scope_and_is_given_in_the_name_of_the_key(api, keys, loop):
    number = question(loop)
    path, yes = f"/api/models/churn/approvals/{number}", {"answer": "approve", "reason": "the figures are good"}
    assert api.get(path, headers=keys["approver"]).status_code == 403
    for name in ("reader", "caller", "of other"):
        assert api.post(path, json=yes, headers=keys[name]).status_code == 403
    assert api.post(path, json=yes).status_code == 401
    other = f"/api/models/other/approvals/{number}"
    assert api.post(other, json=yes, headers=keys["of other"]).status_code == 404
    assert api.post(path, json={**yes, "reason": " "}, headers=keys["approver"]).status_code == 400
    for change in ({"answer": "maybe"}, {"reason": "a\0b"}):  # PostgreSQL has no NUL
        assert api.post(path, json=yes | change, headers=keys["approver"]).status_code == 422
    story = api.post(path, json=yes, headers=keys["approver"]).json()
    assert (story["state"], story["missing"], story["votes"][0]["voter"]) == ("open", 1, "approver")
    assert api.post(path, json=yes, headers=keys["approver"]).status_code == 409  # a second yes of the same key
    story = api.post(path, json={"answer": "reject", "reason": "no"}, headers=keys["second"]).json()
    assert (story["state"], story["ended_because"]) == ("rejected", "second: no")
    assert api.get(path, headers=keys["reader"]).json() == story


def test_a_person_answers_on_the_page_that_shows_the_evidence(pages, loop):
    number = question(loop, needed=1)
    shown = pages.get(f"/approvals/{number}").text
    assert "May version 2 replace version 1?" in shown
    assert "It is &lt;i&gt;better&lt;/i&gt;." in shown
    token = re.search(r'name="csrf" value="(\w+)"', shown)[1]
    form = {"answer": "reject", "reason": "not before\0 Christmas"}
    assert pages.post(f"/approvals/{number}", data=form).status_code == 403  # of no page of ours
    assert pages.post(f"/approvals/{number}", data={**form, "csrf": token, "reason": ""}).status_code == 400
    assert pages.post(f"/approvals/{number}", data={**form, "csrf": token}).status_code == 303
    assert "not before Christmas" in pages.get(f"/approvals/{number}").text
    decided = list(csv.DictReader(io.StringIO(pages.get("/approvals?format=csv&table=decided").text)))
    assert decided[0]["ended_because"].endswith("not before Christmas")


def test_who_lacks_the_scope_is_shown_how_to_get_it(api, keys, loop):
    number = question(loop)
    shown = api.get(f"/approvals/{number}", headers=keys["reader"]).text
    assert "--scope approve" in shown
    assert "<textarea" not in shown
    answer = api.post(f"/approvals/{number}", data={"answer": "approve", "reason": "r"}, headers=keys["reader"])
    assert answer.status_code == 403


PAGES = [
    ("/approvals", "Decided"),
    ("/models/churn/versions", "the first champion"),
    ("/models/churn/versions/1", "It went through no gate"),
    ("/models/churn/predictions", "customer"),
    ("/models/churn/predictions?key.customer=3", "observed"),
    ("/models/churn/jobs", "&lt;b&gt;no rows&lt;/b&gt;"),
    ("/models/churn/policy", "the probability of any false retraining"),
    ("/models/other/predictions", "No prediction is like that"),
    ("/models/other/jobs", "Nothing has run yet"),
]


@pytest.mark.parametrize(("path", "words"), PAGES)
def test_every_page_shows_what_there_is(pages, path, words):
    answer = pages.get(path)
    assert (answer.status_code, words in answer.text) == (200, True), answer.text
    assert len(answer.content) < 200_000
    for link in re.findall(r'class="export" href="([^"]+)"', answer.text):
        table = pages.get(link.replace("&amp;", "&"))
        assert table.headers["content-type"].startswith("text/csv")
        assert len(list(csv.reader(io.StringIO(table.text)))) > 1


def test_a_prediction_has_a_page_of_its_own_as_of_a_moment(pages):
    links = re.findall(r'href="(/models/churn/predictions/[^"]+)"', pages.get("/models/churn/predictions").text)
    assert "Named by" in pages.get(links[0]).text
    then = f"{NOW + DAY / 2:%Y-%m-%dT%H:%M:%S}"
    assert "No outcome names it" in pages.get(f"{links[0]}?as_of={then}").text
    assert "is not a UUID" in pages.get("/models/churn/predictions/x").text
    assert pages.get("/models/churn/predictions?as_of=2099-01-01T00:00").status_code == 400
    assert "No prediction is like that" in pages.get("/models/churn/predictions?as_of=0001-01-01T00:00").text
    assert "Ask" not in pages.get(f"/models/churn/predictions?as_of={then}").text


def test_a_job_that_runs_is_asked_to_end(pages, api, keys, loop):
    form = {"reason": "the machine is needed", "sure": "yes"}
    assert api.post("/models/churn/jobs/cancel", data=form, headers=keys["reader"]).status_code == 403
    with loop.runner.leased("churn"):
        run = ledger.begin_run(loop.store, "adapt", "churn", loop.clock(), loop.runner.holder, loop.clock())
        shown = pages.get("/models/churn/jobs").text
        assert f'<option value="{run}">adapt' in shown
        form["csrf"] = re.search(r'name="csrf" value="(\w+)"', shown)[1]
        for path, more, status in [
            ("churn", {"run": str(run), "sure": ""}, 400),
            ("churn", {"run": "9" * 30}, 404),
            ("other", {"run": str(run)}, 404),
            ("churn", {"run": str(run)}, 303),
        ]:
            assert pages.post(f"/models/{path}/jobs/cancel", data={**form, **more}).status_code == status
    assert ledger.find_run(loop.store, run).cancel_asked_at == loop.clock()
    ledger.end_run(loop.store, run, state="abandoned", now=loop.clock())


POLICY = "/models/churn/policy"


def play(pages, path=POLICY, **fields):
    token = re.search(r'name="csrf" value="(\w+)"', pages.get(path).text)[1]
    return pages.post(path, data={"csrf": token, "every": "1d", "known_now": "1", **fields})


def ended(loop):
    """Waits for the backtests that are played; the next one is at another moment."""
    for thread in threading.enumerate():
        if thread.name.startswith("backtest "):
            thread.join()
    loop.clock.set(loop.clock() + timedelta(seconds=1))


def test_a_changed_policy_is_played_on_the_log_before_it_is_written(pages, loop):
    assert pages.post(POLICY, data={"alpha": "0.01"}).status_code == 403  # of no page of ours
    answer = play(pages, alpha="0.01", refresh="never")
    assert (answer.status_code, answer.headers["location"]) == (303, POLICY)
    ended(loop)
    shown = pages.get(POLICY).text
    lines = re.search(r"<pre[^>]*>(.*?)</pre>", shown, re.DOTALL)[1].splitlines()
    assert [line.replace("&#34;", '"') for line in lines] == [
        "[models.churn.policy]",
        "alpha = 0.01",
        'refresh = "never"',
    ]
    assert "configured" in shown
    assert play(pages, alpha="[" * 5000).status_code == 400
    refused = play(pages, alpha="7")
    assert (refused.status_code, 'value="7"' in refused.text) == (400, True)


def test_a_backtest_goes_on_by_itself_shows_how_far_it_is_and_is_alone(pages, loop, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def slow(*given, progress, **more):
        with progress.track("replay", 5) as advance:
            advance(2)
            begun.set()
            assert go.wait(60)
        return try_policy(*given, progress=progress, **more)

    monkeypatch.setattr(backtests, "try_policy", slow)
    assert play(pages, alpha="0.02").status_code == 303
    assert begun.wait(60)
    shown = pages.get(POLICY).text
    assert "2 of 5 looks are played." in shown
    assert 'hx-trigger="every 2s"' in shown
    again = play(pages, alpha="0.03")
    assert (again.status_code, "has begun already" in again.text) == (409, True)
    (running,) = [job for job in model_jobs(loop, "churn")["running"] if job["job"] == "backtest"]
    assert running["alive"]
    run_cycle(loop, "churn")  # the loop's own turns wait for none
    go.set()
    ended(loop)
    shown = pages.get(POLICY).text
    assert ("alpha = 0.02" in shown, "every 2s" in shown) == (True, False)


def test_a_backtest_that_can_not_be_played_says_why_and_is_no_failed_job(pages, loop):
    assert play(pages, "/models/other/policy", alpha="0.04").status_code == 303
    ended(loop)
    assert "A backtest plays what was predicted" in pages.get("/models/other/policy").text
    assert model_jobs(loop, "other")["failed"] == []


def test_a_backtest_whose_process_ended_is_told_to_be_cut(pages, loop):
    for holder in ("gone:1", loop.runner.holder):  # another process, or one of before that bore our number
        run = ledger.begin_run(loop.store, "backtest", "churn", loop.clock(), holder, loop.clock())
        shown = pages.get(POLICY).text
        assert "Its process ended before it did" in shown
        assert "every 2s" not in shown
        loop.clock.set(loop.clock() + timedelta(seconds=1))
    ledger.end_run(loop.store, run, state="abandoned", now=loop.clock())
    assert play(pages, alpha="0.04").status_code == 303
    ended(loop)
    assert "alpha = 0.04" in pages.get(POLICY).text


def schema_of(app):
    """The API's own description, with names that there are: of others nothing but 404 would come."""
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    known = {"model": ["churn", "other", "nobody"], "version": ["1", "x"], "number": [1, 2, 999]}
    for path in schema.raw_schema["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"enum": known[parameter["name"]]}
    return schema


CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def test_whatever_is_asked_nothing_breaks_and_nothing_outside_a_keys_scope_is_told_or_changed(app, keys, loop):
    question(loop)
    before = plain(loop.approvals.list(closed=True))
    operations = [result.ok() for result in schema_of(app).get_all_operations()]
    assert len(operations) > 15
    kinds = {"nobody": {}, **{name: keys[name] for name in ("reader", "caller", "of other")}}

    def refused(name, case):
        """Whether a key of that kind may not do that, whatever the rest of the request."""
        if name == "reader":
            return case.operation.path.endswith("approvals/{number}") and case.method == "POST"
        return name == "caller" or case.path_parameters.get("model", "other") != "other"

    def play(operation):
        @settings(
            max_examples=4, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
        )
        @given(case=operation.as_strategy())
        def asked_by_everybody(case):
            for name, headers in kinds.items():
                case.headers = dict(headers)
                answer = case.call()
                case.validate_response(answer, checks=CHECKS)
                if name == "nobody":
                    assert answer.status_code == 401
                elif refused(name, case):
                    assert answer.status_code in (403, 422)
                elif name == "of other":
                    assert "churn" not in answer.text

        asked_by_everybody()

    for operation in operations:
        play(operation)
    assert plain(loop.approvals.list(closed=True)) == before

"""The web pages over a real store: who gets in, what they may do, and that whatever is in the data stays text."""

import csv
import html
import io
import json
import re
import threading
from datetime import timedelta

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from feedback_loop.clock import ManualClock, Window
from feedback_loop.dashboard import create_app
from feedback_loop.dashboard.pages.incident import router as incident_routes
from feedback_loop.store import conclusions, incidents, retrainings
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.evaluations import DriftValue, Evaluation, save_evaluation
from feedback_loop.store.keys import Scope, create_key, revoke_key
from feedback_loop.store.ledger import load_runs
from tests.builders import churn_loop, register_churn
from tests.conftest import NOW
from tests.integration.pages import DAY, HOSTILE, MORE, attributes_of, evaluated, sign_in, token


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A loop with a model that does badly, and one whose name is markup."""
    made = churn_loop(tmp_path_factory.mktemp("pages"), ManualClock(NOW), more=MORE)
    for model in ("churn", HOSTILE):
        words = f"=brier .1 → .3 {HOSTILE}"
        verdict = Verdict(model, "1", NOW, DAY, State.DEGRADED, words, {"acts": ["brier"], "loss": "brier"}, {})
        incidents.record_verdict(made.store, verdict, ["log"], None)
        save_evaluation(made.store, evaluated(model))
    wide = [DriftValue(f"c{n}", "psi", n / 1000, 0.1, None, drifted=False, rows=9, decides=True) for n in range(250)]
    save_evaluation(made.store, Evaluation("calm", "1", DAY, NOW, True, 100, 100, drift=tuple(wide)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def open_pages(loop):
    """The pages as who is on the same machine sees them: no key is asked for."""
    return TestClient(create_app(loop, host="127.0.0.1"), base_url="http://127.0.0.1", follow_redirects=False)


@pytest.fixture(scope="module")
def keyed_app(loop):
    return create_app(loop, host="0.0.0.0")  # noqa: S104 (nothing listens)


@pytest.fixture(scope="module")
def keys(loop):
    """A key of each kind, by name."""
    scopes = {"reader": [Scope.READ], "admin": [Scope.ADMIN], "caller": [Scope.PREDICT]}
    made = {name: create_key(loop.store, name, NOW, scopes) for name, scopes in scopes.items()}
    return {**made, "of churn": create_key(loop.store, "of churn", NOW, [Scope.ADMIN], ["churn"])}


@pytest.fixture
def keyed(keyed_app):
    """A browser's session at pages that ask for a key."""
    return TestClient(keyed_app, base_url="https://pages.example", follow_redirects=False)


def test_who_has_not_signed_in_is_led_to_it_and_back(keyed, keys):
    asked = keyed.get("/models/churn?x=1")
    assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=%2Fmodels%2Fchurn%3Fx%3D1")
    assert keyed.get("/", headers={"hx-request": "true"}).headers["hx-redirect"].startswith("/sign-in")
    answer = sign_in(keyed, keys["reader"], "/models/churn?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/models/churn?x=1")
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure", "max-age=43200"))
    assert keys["reader"] not in cookie
    assert keyed.get("/models/churn").status_code == 200
    keyed.post("/sign-out", data={"csrf": token(keyed, "/")})
    assert keyed.get("/").status_code == 303


@pytest.mark.parametrize("goes_to", ["//evil.example", "/\\evil.example", "https://evil.example", "/\n/evil.example"])
def test_signing_in_leads_to_no_other_site(keyed, keys, goes_to):
    assert sign_in(keyed, keys["reader"], goes_to).headers["location"] == "/"


def test_a_link_from_elsewhere_comes_once_more_with_the_sessions_cookie(keyed):
    answer = keyed.get("/models/churn", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text
    assert "brier" not in answer.text


def test_a_wrong_key_and_one_that_may_not_read_do_not_get_in(keyed, keys):
    assert "is not valid" in sign_in(keyed, "fl_guess").text
    assert "lacks the scope read" in sign_in(keyed, keys["caller"]).text
    assert keyed.get("/").status_code == 303
    assert keyed.get("/", headers={"authorization": f"Bearer {keys['caller']}"}).status_code == 403
    assert keyed.get("/", headers={"authorization": f"Bearer {keys['reader']}"}).status_code == 200


def test_a_session_ends_with_its_key_and_can_not_be_made_up(keyed, loop):
    key = create_key(loop.store, "short", NOW, [Scope.READ])
    sign_in(keyed, key)
    cookie = keyed.cookies["feedback_loop_session"]
    assert keyed.get("/").status_code == 200
    revoke_key(loop.store, "short", NOW)
    assert keyed.get("/").status_code == 303
    keyed.cookies.set("feedback_loop_session", cookie[:-1] + ("A" if cookie[-1] != "A" else "B"))
    assert keyed.get("/").status_code == 303


def test_a_key_for_one_model_sees_no_other(keyed, keys):
    keyed.headers["authorization"] = f"Bearer {keys['of churn']}"
    assert "onerror" not in keyed.get("/").text
    assert keyed.get("/models/churn").status_code == keyed.get("/incidents/1").status_code == 200
    assert keyed.get(f"/models/{HOSTILE}").status_code == 403
    assert keyed.get("/incidents/2").status_code == 403
    assert "onerror" not in keyed.get("/incidents/2").text


def test_a_form_of_another_page_is_refused(keyed, keys, open_pages):
    signed_out = token(keyed)
    sign_in(keyed, keys["admin"])
    own = token(keyed, "/")
    for given in ({}, {"csrf": signed_out}, {"csrf": "0" * 64}):
        assert keyed.post("/sign-out", data=given).status_code == 403
    foreign = [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}]
    for headers in foreign:
        assert keyed.post("/sign-out", data={"csrf": own}, headers=headers).status_code == 403
    assert keyed.post("/sign-out", data={"csrf": own}, headers={"authorization": "Basic eDp5"}).status_code == 303
    assert open_pages.post("/sign-out").status_code == 403


def test_where_no_key_is_asked_for_other_hosts_and_sites_are_refused(open_pages):
    assert open_pages.get("/").status_code == 200
    assert open_pages.get("/", headers={"host": "rebound.example"}).status_code == 400
    assert open_pages.get("/", headers={"origin": "https://evil.example"}).status_code == 403


def test_every_answer_has_the_headers_that_browsers_obey(open_pages):
    for path in ("/", "/nothing", "/static/style.css", "/plotly.min.js", "/health"):
        headers = open_pages.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    assert open_pages.post("/sign-in", content=b"x" * 300_000).status_code == 413


def test_an_error_that_nobody_expected_is_a_page_with_the_same_headers(loop):
    app = create_app(loop, host="127.0.0.1")
    app.add_api_route("/broken", lambda: 1 / 0)
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    answer = client.get("/broken")
    assert (answer.status_code, "log under" in answer.text, "division" in answer.text) == (500, True, False)
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert 'path="/broken",status="500"' in client.get("/metrics").text


def test_what_no_browser_sends_is_refused_and_is_no_error_of_ours(keyed, open_pages):
    assert open_pages.get(f"/incidents/{'9' * 30}").status_code == 422
    assert open_pages.post("/sign-in", data={f"field{n}": "x" for n in range(200)}).status_code == 400
    assert keyed.post("/sign-out", headers={"origin": "http://["}).status_code == 403


def test_a_link_leads_to_a_model_whatever_its_name_is(open_pages):
    links = {value for _, value in attributes_of(open_pages.get("/").text) if (value or "").startswith("/models/")}
    assert len(links) == 3
    assert [open_pages.get(link).status_code for link in links] == [200, 200, 200]


def test_what_is_in_the_data_is_text_on_every_page(open_pages):
    for path in ("/", f"/models/{HOSTILE}", "/incidents/2"):
        answer = open_pages.get(path)
        assert answer.status_code == 200
        assert "<img" not in answer.text
        assert "\u202e" not in answer.text
        assert "&lt;img src=x onerror=alert(1)&gt;\\u202e" in answer.text
        assert len(answer.content) < 200_000
        attributes = attributes_of(answer.text)
        assert not [name for name, _ in attributes if name == "style" or name.startswith("on")]
        assert not [value for _, value in attributes if (value or "").startswith(("http", "//", "javascript"))]


def test_each_link_of_the_navigation_leads_to_a_page(open_pages):
    hrefs = re.findall(r'<a href="([^"]*)"[^>]*>\w+</a>', open_pages.get("/models/churn").text.partition("<main")[0])
    assert len(hrefs) == len(set(hrefs)) == 7
    for href in hrefs:
        page = open_pages.get(href)
        assert page.status_code == 200
        assert page.text.count('aria-current="page"') == 1, href


def test_a_models_page_draws_what_it_knows_as_text(open_pages):
    page = open_pages.get("/models/churn?metric=brier").text
    figures = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    drawn = {trace["type"]: trace for figure in figures for trace in figure["data"]}
    assert drawn["heatmap"]["y"] == ["&lt;img src=x onerror=alert(1)&gt;\\u202e"]
    assert drawn["heatmap"]["text"] == [["▲"]]
    assert [figure["data"][-1]["y"] for figure in figures[:1]] == [[0.3]]
    assert open_pages.get("/models/churn?metric=other&segment=<b>").status_code == 200
    rows = csv.DictReader(io.StringIO(open_pages.get("/models/churn?format=csv&table=segments").text))
    assert [(row["segment"], row["value"]) for row in rows] == [("(all)", "0.3"), (f"plan={HOSTILE}", "0.4")]
    assert open_pages.get("/models/churn/column?name=age").status_code == 404


def test_a_table_is_a_csv_that_no_spreadsheet_obeys(open_pages):
    answer = open_pages.get("/?format=csv&table=models")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["model"], row["state"], row["champion"]) for row in rows] == [
        ("churn", "degraded", "1"),
        (HOSTILE, "degraded", ""),
        ("calm", "not judged yet", ""),
    ]
    story = list(csv.DictReader(io.StringIO(open_pages.get("/incidents/1?format=csv").text)))
    assert story[0]["words"].startswith("version 1: =brier")


def test_prometheus_reads_requests_and_the_loop_with_a_key_for_all_models(keyed, keys):
    def asked(name):
        return keyed.get("/metrics", headers={"authorization": f"Bearer {keys[name]}"})

    assert keyed.get("/metrics").status_code == 401  # no page to sign in at
    assert [asked(name).status_code for name in ("caller", "of churn")] == [403, 403]
    keyed.get("/nothing/here")
    lines = asked("reader").text.splitlines()
    assert 'feedback_loop_verdict{model="churn",state="degraded",version="1"} 1.0' in lines
    assert 'feedback_loop_incident_open{model="churn"} 1.0' in lines
    assert any(line.startswith('feedback_loop_pages_requests_total{path="/metrics",status="403"}') for line in lines)
    assert any(line.startswith('feedback_loop_pages_requests_total{path="other",status="404"}') for line in lines)


def test_of_very_many_rows_a_page_shows_the_first_and_the_csv_has_all(open_pages):
    page = open_pages.get("/models/calm").text
    assert "210 more are in the CSV." in page
    assert len(page) < 200_000
    assert len(open_pages.get("/models/calm?format=csv&table=drift").text.splitlines()) == 251


def test_all_columns_of_a_wide_model_are_found_by_name_and_page_by_page(open_pages):
    def shown(**asked):
        page = open_pages.get("/models/calm/columns", params=asked).text
        return re.findall(r"name=(c\d+)\"", page), page

    assert ">All 250 columns, to be searched<" in open_pages.get("/models/calm").text
    assert "to be searched" not in open_pages.get("/models/churn").text
    first, page = shown()
    assert (len(first), first[0], 'rel="next"' in page, 'rel="prev"' in page) == (40, "c249", True, False)
    last, page = shown(page=7)
    assert (last, 'rel="next"' in page, 'rel="prev"' in page) == ([f"c{n}" for n in range(9, -1, -1)], False, True)
    assert shown(page=900)[0] == last
    assert shown(search="C24", page=1)[0] == [*(f"c{n}" for n in range(249, 239, -1)), "c24"]
    assert shown(search="<b>")[0] == []
    assert open_pages.get("/models/calm/columns?page=0").status_code == 422


def test_an_error_is_a_page_with_its_cause(open_pages):
    for path, status, words in [
        ("/models/other", 404, "There is no model &#39;other&#39;"),
        ("/incidents/77", 404, "There is no incident"),
        ("/incidents/seven", 422, "incident_id"),
        ("/nowhere", 404, "nothing at this address"),
    ]:
        answer = open_pages.get(path)
        assert (answer.status_code, words in answer.text) == (status, True), path
    assert open_pages.get("/api/nowhere").json()["error_code"] == "NOT FOUND"


def test_mounted_below_a_path_every_address_is_below_it(loop):
    whole = Starlette()
    whole.mount("/loop", create_app(loop, host="0.0.0.0"))  # noqa: S104 (nothing listens)
    client = TestClient(whole, base_url="http://127.0.0.1", follow_redirects=False)
    assert client.get("/loop/models/churn").headers["location"] == "/loop/sign-in?next=%2Fmodels%2Fchurn"
    page = client.get("/loop/sign-in").text
    assert set(re.findall(r'(?:href|src|action)="(/[^/"?]*)', page)) == {"/loop"}
    stylesheet = re.search(r'href="([^"]+style\.css[^"]*)"', page)[1]
    assert client.get(stylesheet).status_code == 200


@pytest.fixture
def incident(loop):
    """A new incident of a model; whichever was open is closed."""
    moments = iter(range(1, 1000))

    def opened(model):
        for one in loop.incidents.list(model):
            loop.incidents.close(str(one.incident_id), "the next begins")
        while True:
            end = NOW + next(moments) * timedelta(days=1)
            if not [one for one in conclusions.load_verdicts(loop.store, model) if one.window.end == end]:
                break
        window = Window(end - timedelta(days=1), end)
        verdict = Verdict(model, "1", NOW, window, State.DEGRADED, "worse", {"acts": [], "loss": "brier"}, {})
        incidents.record_verdict(loop.store, verdict, ["log"], None)
        return loop.incidents.find(model).incident_id

    return opened


def acting(client, number, action, **fields):
    page = f"/incidents/{number}"
    return client.post(f"{page}/{action}", data={"csrf": token(client, page), **fields})


def test_a_key_that_may_only_read_changes_nothing(keyed, keys, loop, incident):
    number = incident("calm")
    sign_in(keyed, keys["reader"])
    posts = [route for route in incident_routes.routes if "POST" in route.methods]
    assert len(posts) == 6
    csrf = token(keyed, f"/incidents/{number}")
    for route in posts:
        path = route.path.format(incident_id=number)
        everything = {"csrf": csrf, "sure": "yes", "reason": "x", "because": "x", "version": "1", "for": "1h"}
        assert keyed.post(path, data=everything).status_code == 403, path
        assert keyed.post(path, headers={"authorization": f"Bearer {keys['of churn']}"}).status_code == 403, path
    assert "sign in with a key that has the scope" in keyed.get(f"/incidents/{number}").text
    assert incidents.load_events(loop.store, number) == []


def test_what_somebody_does_about_an_incident_is_recorded_with_the_name_of_their_key(keyed, keys, loop, incident):
    number = incident("calm")
    sign_in(keyed, keys["admin"])
    assert acting(keyed, number, "acknowledge").headers["location"] == f"/incidents/{number}?done=acknowledged"
    acting(keyed, number, "silence", **{"for": "8h"})
    acting(keyed, number, "silence", **{"for": ""})
    assert acting(keyed, number, "silence", **{"for": "soon"}).status_code == 400
    assert acting(keyed, number, "close", because="known").status_code == 400  # not confirmed
    assert acting(keyed, number, "close", because=" ", sure="yes").status_code == 400
    closed = acting(keyed, number, "close", because="its feed was broken", sure="yes")
    assert "It is closed." in keyed.get(closed.headers["location"]).text
    assert [(event.kind, event.told) for event in incidents.load_events(loop.store, number)] == [
        ("acknowledged", "by admin"),
        ("silenced", "until 2026-03-02T12:00Z, by admin"),
        ("silenced", "no longer, by admin"),
        ("closed", "its feed was broken (by admin)"),
    ]
    again = acting(keyed, number, "acknowledge")
    assert (again.status_code, "is closed" in again.text) == (409, True)


def test_a_retraining_is_begun_and_its_end_is_shown(keyed, keys, loop, incident):
    number = incident("churn")
    sign_in(keyed, keys["admin"])
    with loop.runner.leased("churn"):
        busy = acting(keyed, number, "retrain", sure="yes")
        assert (busy.status_code, "Another run is at work" in busy.text) == (409, True)
    begun = acting(keyed, number, "retrain", sure="yes")
    assert begun.status_code == 303, begun.text
    for thread in threading.enumerate():
        if thread.name == "retrain churn":
            thread.join()
    page = keyed.get(f"/incidents/{number}").text
    assert "Retraining by hand" in page
    [run] = load_runs(loop.store, "churn", job="retrain by hand")
    assert (run.state, run.result["asked_by"], run.result["state"]) == ("succeeded", "admin", "not_made")
    assert run.result["summary"] in html.unescape(page)  # nothing is labelled
    assert ("retraining asked", "by admin") in [(e.kind, e.told) for e in incidents.load_events(loop.store, number)]


def test_a_version_is_promoted_and_rolled_back_by_name(keyed, keys, loop, incident):
    version = register_churn(loop.registry, NOW).version
    sign_in(keyed, keys["admin"])
    missing = acting(keyed, incident("churn"), "promote", version="99", reason="better", sure="yes")
    assert (missing.status_code, "99" in missing.text) == (404, True)
    done = acting(keyed, incident("churn"), "promote", version=version, reason="better", sure="yes")
    assert done.status_code == 303
    number = incident("churn")
    assert "Version 1 becomes the champion again" in keyed.get(f"/incidents/{number}").text
    assert acting(keyed, number, "roll-back", reason="worse after all", sure="yes").status_code == 303
    assert "There is no champion of before" in keyed.get(f"/incidents/{number}").text  # nobody goes on to 2 by that
    promotions = retrainings.load_promotions(loop.store, "churn")[-2:]
    assert [(one.to_version, one.reason, one.made_by) for one in promotions] == [
        (version, "better", "admin"),
        ("1", "worse after all", "admin"),
    ]


def test_a_report_is_shown_without_the_pages_rights(keyed, keys, loop):
    folder = loop.reports / "churn"
    folder.mkdir(parents=True)
    about = {"about": "x", "model": "churn", "version": "1", "name": "march", "kind": "drift", "rows": 5}
    moments = {"window": ["2026-03-01T00:00Z", "2026-04-01T00:00Z"], "as_of": "2026-04-02T00:00Z"}
    (folder / "drift-march.json").write_text(json.dumps({**about, **moments}))
    (folder / "drift-march.html").write_text("<script>1</script>")
    sign_in(keyed, keys["reader"])
    answer = keyed.get("/models/churn/reports/drift-march.html")
    assert answer.text == "<script>1</script>"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in answer.headers["content-security-policy"]
    assert "drift-march.html" in keyed.get("/incidents/1").text
    assert keyed.get("/models/calm/reports/drift-march.html").status_code == 404
    assert keyed.get("/models/churn/reports/..%2F..%2Fstore.db").status_code == 404

"""Signing in to the pages at a real provider of OpenID Connect: who gets in, what they may do, what is refused."""

import time
from datetime import timedelta

import itsdangerous.timed
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from feedback_loop.clock import ManualClock, Window
from feedback_loop.config import load_settings
from feedback_loop.dashboard import create_app
from feedback_loop.loop import FeedbackLoop
from feedback_loop.store import incidents, migrate
from feedback_loop.store.conclusions import State, Verdict
from feedback_loop.store.keys import Scope, create_key
from tests.builders import churn_loop
from tests.conftest import NOW
from tests.integration.pages import sign_in, token
from tests.integration.processes import free_port
from tests.integration.provider import BENT, RULES, challenge_of, changed, configured, query_of, running_provider

PAGES = "https://pages.example"


@pytest.fixture(scope="module")
def running():
    with running_provider() as provider:
        yield provider


@pytest.fixture
def provider(running):
    """As it is by itself."""
    running.bend, running.metadata, running.said = None, {}, {}
    running.asked.clear()
    return running


@pytest.fixture(scope="module")
def loop(tmp_path_factory, running):
    more = configured(running.issuer, PAGES)
    made = churn_loop(tmp_path_factory.mktemp("pages"), ManualClock(NOW), more=more)
    for model in ("churn", "calm"):
        day = Window(NOW - timedelta(days=1), NOW)
        incidents.record_verdict(made.store, Verdict(model, "1", NOW, day, State.DEGRADED, "worse", {}, {}), [], None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(loop):
    return create_app(loop, host="127.0.0.1")  # where no key would be asked for


@pytest.fixture
def browser(app):
    """Somebody's browser at the pages."""
    return TestClient(app, base_url=PAGES, follow_redirects=False)


def sent_to(browser, goes_to="/"):
    """The provider's address that the pages send somebody to."""
    answer = browser.get("/sign-in/oidc", params={"next": goes_to})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def come_back(browser, address):
    """What the pages answer whom the provider sends back to that address."""
    assert address.startswith(PAGES)
    return browser.get(address.removeprefix(PAGES))


def signs_in(browser, provider, who, goes_to="/"):
    return come_back(browser, provider.sign_in(sent_to(browser, goes_to), who))


def is_signed_in(browser):
    return browser.get("/").status_code == 200


def pages_with(tmp_path, issuer, rules=""):
    """A loop of its own with the same pages, but for what is changed of them."""
    more = configured(issuer, PAGES, rules)
    (tmp_path / "feedback_loop.toml").write_text('[models.churn]\ntask = "binary"\nlabel = "late"\n' + more)
    return FeedbackLoop(load_settings(tmp_path / "feedback_loop.toml"), clock=ManualClock(NOW))


def test_who_signs_in_at_the_provider_is_let_in_under_their_email_and_led_on(browser, provider):
    assert browser.get("/models/churn").headers["location"] == "/sign-in?next=%2Fmodels%2Fchurn"
    form = browser.get("/sign-in?next=%2Fmodels%2Fchurn").text
    assert 'href="/sign-in/oidc?next=%2Fmodels%2Fchurn">Sign in with Example</a>' in form
    answer = signs_in(browser, provider, "ann", "/models/churn?metric=brier")
    assert '<meta http-equiv="refresh" content="0; url=/models/churn?metric=brier">' in answer.text
    page = browser.get("/models/churn").text
    assert "ann@example.org" in page
    assert browser.get("/api/models").json() == ["churn", "calm"]


def test_the_provider_is_asked_with_pkce_state_and_nonce_and_the_secret_goes_to_it_alone(browser, provider):
    address = sent_to(browser)
    asked = query_of(address)
    assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", "pages", "openid email profile")
    assert asked["redirect_uri"] == f"{PAGES}/sign-in/oidc/callback"
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43
    answer = come_back(browser, provider.sign_in(address, "ann"))
    [(headers, form)] = provider.asked
    assert (asked["code_challenge_method"], asked["code_challenge"]) == ("S256", challenge_of(form["code_verifier"]))
    assert headers["Authorization"].startswith("Basic ")
    seen = address + answer.text + str(answer.headers) + str(browser.cookies)
    assert not [secret for secret in ("5ecret", form["code_verifier"], form["code"]) if secret in seen]


def test_a_sessions_cookie_is_for_this_site_and_for_a_while_and_no_older_one_goes_on(browser, provider):
    before, older = token(browser), "of somebody else"
    browser.cookies.set("feedback_loop_session", older, domain="pages.example", path="/")
    set_by = signs_in(browser, provider, "ann").headers.get_list("set-cookie")
    [cookie] = [line.lower() for line in set_by if line.startswith("feedback_loop_session=")]
    assert all(word in cookie for word in ("httponly", "samesite=strict", "secure", "max-age=43200", "path=/;"))
    assert older not in str(browser.cookies)
    assert any(line.startswith('feedback_loop_attempt="";') for line in set_by)
    assert browser.post("/sign-out", data={"csrf": before}).status_code == 403


ELSEWHERE = ["//evil.example", "/\\evil.example", "https://evil.example", "/\n/evil.example", "/evil" * 1000]


@pytest.mark.parametrize("goes_to", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_signing_in_leads_to_no_other_site(browser, provider, goes_to):
    answer = signs_in(browser, provider, "ann", goes_to)
    assert 'content="0; url=/"' in answer.text
    assert "evil" not in answer.text


def test_what_was_begun_in_another_browser_is_not_ended_in_this_one(browser, provider, app):
    """Else somebody could be made to work in the session of another, who sees what they do."""
    other = TestClient(app, base_url=PAGES, follow_redirects=False)
    address = provider.sign_in(sent_to(other), "ann")
    assert come_back(browser, address).status_code == 403
    sent_to(browser)
    answer = come_back(browser, address)
    assert (answer.status_code, "not begun in this browser" in answer.text) == (403, True)
    assert not is_signed_in(browser)
    assert provider.asked == []


def test_a_state_that_was_changed_and_a_cookie_that_was_made_up_are_refused(browser, provider):
    address = provider.sign_in(sent_to(browser), "ann")
    assert come_back(browser, address.replace("state=", "state=0")).status_code == 403
    address = provider.sign_in(sent_to(browser), "ann")
    browser.cookies.delete("feedback_loop_attempt")
    browser.cookies.set("feedback_loop_attempt", "eyJpZCI6IngifQ.aaaa.bbbb", domain="pages.example")
    assert come_back(browser, address).status_code == 403
    assert not is_signed_in(browser)
    assert provider.asked == []


def test_a_code_is_good_for_one_time(browser, provider):
    address = sent_to(browser)
    attempt = browser.cookies["feedback_loop_attempt"]
    back = provider.sign_in(address, "ann")
    assert come_back(browser, back).status_code == 200
    browser.cookies.clear()
    assert come_back(browser, back).status_code == 403
    browser.cookies.set("feedback_loop_attempt", attempt, domain="pages.example")
    answer = come_back(browser, back)
    assert (answer.status_code, "did not accept it (invalid_grant)" in answer.text) == (403, True)
    assert not is_signed_in(browser)


def test_an_attempt_is_good_for_ten_minutes(browser, provider, monkeypatch):
    address = provider.sign_in(sent_to(browser), "ann")
    later = int(time.time()) + 601
    monkeypatch.setattr(itsdangerous.timed.TimestampSigner, "get_timestamp", lambda _: later)
    assert come_back(browser, address).status_code == 403


@pytest.mark.parametrize("how", BENT)
def test_a_token_that_does_not_hold_lets_nobody_in(browser, provider, how):
    provider.bend, reason = BENT[how]
    answer = signs_in(browser, provider, "ann")
    assert (answer.status_code, f"does not hold ({reason})" in answer.text) == (403, True)
    assert not is_signed_in(browser)


def test_a_provider_may_bend_what_does_not_matter(browser, provider):
    """So that the refusals above are not those of bending itself."""
    provider.bend = changed(more="claims", aud=["pages"], exp=int(time.time()) - 5, nbf=int(time.time()) + 5)
    assert signs_in(browser, provider, "ann").status_code == 200


def test_whom_no_rule_names_gets_nothing(browser, provider):
    answer = signs_in(browser, provider, "eve")
    assert (answer.status_code, "eve@example.org is known to localhost" in answer.text) == (403, True)
    assert "feedback_loop_session" not in browser.cookies
    assert browser.get("/api/models").status_code == 401


def test_an_email_that_the_provider_has_not_verified_is_nobodys(browser, provider):
    """It can be written by whoever registers there."""
    assert signs_in(browser, provider, "liar").status_code == 200
    page = browser.get("/").text
    assert ("liar" in page, "boss" in page) == (True, False)
    assert browser.post("/incidents/1/acknowledge", data={"csrf": token(browser, "/")}).status_code == 403


def test_scopes_are_for_the_models_of_their_rule(browser, provider):
    signs_in(browser, provider, "bob")
    assert browser.get("/api/models").json() == ["churn"]
    assert browser.get("/models/churn").status_code == browser.get("/incidents/1").status_code == 200
    assert browser.get("/models/calm").status_code == browser.get("/incidents/2").status_code == 403
    assert browser.get("/metrics").status_code == browser.get("/api/doctor").status_code == 403
    answer = browser.post("/incidents/1/acknowledge", data={"csrf": token(browser, "/")})
    assert (answer.status_code, "bob@example.org lacks the scope admin" in answer.text) == (403, True)
    says = {"json": {"answer": "approve", "reason": "good"}}
    assert browser.post("/api/models/calm/approvals/1", **says).status_code == 403
    assert browser.post("/api/models/churn/approvals/1", **says).status_code == 404  # there is none


def test_rules_that_fit_count_together_and_none_lends_its_models_to_another(browser, provider):
    provider.bend = changed(groups=["readers", "churn-leads"])
    signs_in(browser, provider, "bob")
    assert browser.get("/api/models").json() == ["churn", "calm"]
    says = {"json": {"answer": "approve", "reason": "good"}}
    assert browser.post("/api/models/calm/approvals/1", **says).status_code == 403
    assert browser.post("/api/models/churn/approvals/1", **says).status_code == 404


def test_what_somebody_does_is_recorded_under_their_email(browser, provider, loop):
    signs_in(browser, provider, "boss")
    answer = browser.post("/incidents/1/acknowledge", data={"csrf": token(browser, "/")})
    assert answer.status_code == 303
    assert loop.incidents.find(1).acknowledged_by == "boss@example.org"


def test_what_the_token_leaves_out_is_asked_for_and_must_be_of_the_same_person(browser, provider):
    provider.bend = changed(groups=None, email=None, email_verified=None)
    assert signs_in(browser, provider, "ann").status_code == 200
    assert "ann@example.org" in browser.get("/").text
    browser.cookies.clear()
    provider.said = {"sub": "boss"}
    answer = signs_in(browser, provider, "ann")
    assert (answer.status_code, "two people" in answer.text) == (403, True)


def test_a_key_gets_nothing_from_a_persons_name_nor_a_person_from_a_keys(browser, provider, loop):
    key = create_key(loop.store, "boss@example.org", NOW, [Scope.READ], ["calm"])
    sign_in(browser, key)
    assert browser.get("/api/models").json() == ["calm"]
    browser.cookies.clear()
    signs_in(browser, provider, "boss")
    assert browser.get("/api/models").json() == ["churn", "calm"]


def test_a_session_ends_by_itself(browser, provider, monkeypatch):
    signs_in(browser, provider, "ann")
    later = int(time.time()) + 12 * 3600 + 1
    monkeypatch.setattr(itsdangerous.timed.TimestampSigner, "get_timestamp", lambda _: later)
    assert not is_signed_in(browser)


def test_a_rule_that_is_taken_away_ends_what_it_gave(browser, provider, app, tmp_path):
    signs_in(browser, provider, "ann")
    door = app.state.door
    cookie = browser.cookies["feedback_loop_session"]
    session = door.sessions.open(cookie)
    assert door.person(session) is not None
    with_fewer = pages_with(tmp_path, provider.issuer, RULES.replace('"readers"', '"nobody"'))
    of_another = pages_with(tmp_path, "https://another.example", RULES)
    for loop in (with_fewer, of_another):
        changed_door = create_app(loop, host="0.0.0.0").state.door  # noqa: S104 (nothing listens)
        assert changed_door.person(session) is None
        loop.close()


def test_signing_out_ends_the_session_here_and_leads_to_the_providers_end_of_it(browser, provider):
    signs_in(browser, provider, "ann")
    answer = browser.post("/sign-out", data={"csrf": token(browser, "/")})
    [line] = [line for line in answer.text.splitlines() if "refresh" in line]
    address = line.split("url=")[1].rstrip('">').replace("&amp;", "&")
    assert address.startswith(f"{provider.issuer}/oauth2/end_session?")
    asked = query_of(address)
    assert (asked["client_id"], asked["post_logout_redirect_uri"]) == ("pages", f"{PAGES}/sign-in")
    assert asked["id_token_hint"].count(".") == 2
    assert not is_signed_in(browser)
    assert "feedback_loop" not in str(browser.cookies)


def test_signing_out_works_where_the_provider_has_no_end_of_it_or_is_away(browser, provider):
    for metadata in ({"end_session_endpoint": None}, {"issuer": "another"}):
        provider.metadata = {}
        signs_in(browser, provider, "ann")
        provider.metadata = metadata
        answer = browser.post("/sign-out", data={"csrf": token(browser, "/")})
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        assert not is_signed_in(browser)


def test_while_the_provider_is_away_a_page_says_so_and_keys_let_in(tmp_path):
    loop = pages_with(tmp_path, f"http://localhost:{free_port()}", RULES)
    migrate.prepare(loop.store)
    browser = TestClient(create_app(loop), base_url=PAGES, follow_redirects=False)
    answer = browser.get("/sign-in/oidc?next=/models/churn")
    assert (answer.status_code, "where people sign in, can&#39;t be reached" in answer.text) == (503, True)
    assert 'name="next" value="/models/churn"' in answer.text
    assert sign_in(browser, create_key(loop.store, "reader", NOW, [Scope.READ])).status_code == 303
    assert browser.get("/api/models").json() == ["churn", "calm"]
    loop.close()


def test_a_provider_that_goes_away_meanwhile_lets_nobody_in(browser, provider):
    address = provider.sign_in(sent_to(browser), "ann")
    provider.metadata = {"token_endpoint": f"http://localhost:{free_port()}/token"}
    assert come_back(browser, address).status_code == 503
    assert not is_signed_in(browser)


def test_who_does_not_want_to_sign_in_there_is_told_so_without_words_of_the_address(browser, provider):
    state = query_of(sent_to(browser))["state"]
    answer = browser.get(f"/sign-in/oidc/callback?error=access_denied&error_description=call+us&state={state}")
    assert (answer.status_code, "did not sign you in" in answer.text, "call us" in answer.text) == (403, True, False)
    state = query_of(sent_to(browser))["state"]
    assert browser.get(f"/sign-in/oidc/callback?code=x&iss=https://evil.example&state={state}").status_code == 403
    assert provider.asked == []


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ({"issuer": "https://evil.example"}, "writes itself"),
        ({"token_endpoint": None}, "names no safe token_endpoint"),
        ({"token_endpoint": "ftp://evil.example"}, "names no safe token_endpoint"),
    ],
)
def test_a_provider_that_is_another_or_none_is_not_trusted(browser, provider, says, told):
    provider.metadata = says
    answer = browser.get("/sign-in/oidc")
    assert (answer.status_code, told in answer.text) == (403, True)


def test_where_a_provider_is_configured_nobody_gets_in_without_signing_in(browser):
    assert browser.get("/").status_code == 303
    local = TestClient(browser.app, base_url="http://127.0.0.1", follow_redirects=False)
    assert local.get("/api/status").status_code == 401
    assert browser.get("/api/status", headers={"authorization": "Bearer an.id.token"}).status_code == 401


def test_where_no_provider_is_configured_there_is_no_way_to_one(loop):
    settings = loop.settings
    dashboard = settings.dashboard.model_copy(update={"oidc": None})
    without = FeedbackLoop(settings.model_copy(update={"dashboard": dashboard}), clock=loop.clock)
    browser = TestClient(create_app(without, host="0.0.0.0"), base_url=PAGES)  # noqa: S104 (nothing listens)
    assert browser.get("/sign-in/oidc").status_code == browser.get("/sign-in/oidc/callback").status_code == 404
    assert "Sign in with" not in browser.get("/sign-in").text
    without.close()


def test_pages_below_a_path_are_come_back_to_there(loop, provider):
    outer = Starlette()
    outer.mount("/loop", create_app(loop))
    browser = TestClient(outer, base_url=PAGES, follow_redirects=False)
    address = browser.get("/loop/sign-in/oidc?next=/models/churn").headers["location"]
    back = provider.sign_in(address, "ann").replace("/sign-in", "/loop/sign-in")  # as dashboard.url would have it
    assert 'content="0; url=/loop/models/churn"' in browser.get(back).text
    assert browser.get("/loop/").status_code == 200


def test_the_api_has_what_doctor_says_of_the_provider(browser, provider):
    signs_in(browser, provider, "boss")
    [told] = [check["detail"] for check in browser.get("/api/doctor").json() if check["name"] == "sign-in"]
    assert told == f"people sign in at {provider.issuer}, whose tokens are verified by these keys of it: 1"


def test_doctor_says_whether_people_can_sign_in(provider, tmp_path, plain):
    amiss = {}
    for issuer, rules in ((provider.issuer, ""), ("https://127.0.0.1:1", RULES)):
        pages_with(tmp_path, issuer, rules).close()
        [amiss[issuer]] = [check for check in plain("doctor")[1] if check["name"] == "sign-in" and not check["ok"]]
    assert amiss[provider.issuer]["cure"] == "Say who: [[dashboard.oidc.rules]]."
    away = amiss["https://127.0.0.1:1"]["detail"]
    assert away == "127.0.0.1:1, where people sign in, can't be reached (ConnectError)."

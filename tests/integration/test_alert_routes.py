"""Which alerts a route gets and what they say there, over real HTTP and SMTP; those that don't get through."""

import re
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy

import pytest
from aiosmtpd.controller import Controller

from feedback_loop.alerts import alert_routes, deliver_alerts
from feedback_loop.alerts.delivery import Delivery
from feedback_loop.clock import Window
from feedback_loop.config import AlertSettings, load_settings
from feedback_loop.dashboard import pages
from feedback_loop.errors import ConfigError, NotFound, Refused, Unavailable
from feedback_loop.store import conclusions, incidents
from feedback_loop.store.alerts import Message, list_alerts, raise_alert, raise_message, try_again
from feedback_loop.store.conclusions import Diagnosis, State, Verdict
from tests.builders import open_loop, write_config
from tests.integration.processes import free_port

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
URL = "json://127.0.0.1:1"


class Inbox:
    """What a mail server has taken; it answers with `first` (one each), then takes all."""

    def __init__(self):
        self.mails, self.first = [], []

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 (aiosmtpd's name)
        if self.first:
            return self.first.pop(0)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
def mail(inbox):
    """The URL of a route to a real mail server."""
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield f"mailto://127.0.0.1:{controller.port}?from=loop@example.org&to=ml@example.org"
    controller.stop()


def judged(store, routes, summary="brier 0.1 → 0.3"):
    """An incident of the model churn, opened by a verdict."""
    verdict = Verdict("churn", "1", START, Window(START - DAY, START), State.DEGRADED, summary, {}, {"state": None})
    return incidents.record_verdict(store, verdict, routes)[1]


@pytest.mark.parametrize(
    ("route", "taken"),
    [
        ({}, {"incident", "drift", "fraud", "approval", "over"}),
        ({"severity": "critical"}, {"incident"}),
        ({"severity": "warning"}, {"incident", "drift", "fraud", "approval"}),
        ({"models": ["fraud"]}, {"fraud"}),
        ({"models": ["churn"], "severity": "warning"}, {"incident", "drift", "approval"}),
        ({"kinds": ["drift"]}, {"drift", "fraud", "over"}),
        ({"kinds": ["approval"], "models": ["churn"]}, {"approval"}),
    ],
)
def test_a_route_gets_alerts_of_its_severity_its_models_and_its_kinds(sqlite_store, route, taken):
    routes = alert_routes(AlertSettings(routes={"ops": {"url": URL, **route}}))
    judged(sqlite_store, routes)
    sent = {
        "drift": Message("drift:churn version 1:age", "", "", model="churn"),
        "fraud": Message("drift:fraud version 1:age", "", "", model="fraud"),
        "approval": Message("approval:churn:1", "", "", model="churn"),
        "over": Message("drift:churn version 1:age:recovered", "", "", model="churn"),
    }
    for message in sent.values():
        raise_message(sqlite_store, message, routes, START)
    subjects = {message.subject: name for name, message in sent.items()}
    assert {subjects.get(alert.subject, "incident") for alert in list_alerts(sqlite_store, route="ops")} == taken
    assert len(list_alerts(sqlite_store, route="log")) == 5


def test_that_it_is_over_is_told_where_it_was_told(sqlite_store):
    routes = alert_routes(AlertSettings(routes={"pager": {"url": URL, "severity": "critical"}, "ops": URL}))
    opened = judged(sqlite_store, routes)
    verdict = Verdict("churn", "1", START + DAY, Window(START, START + DAY), State.OK, "", {}, {"state": None})
    followed = incidents.Followed(opened.incident_id, None, "recovered")
    incidents.record_verdict(sqlite_store, verdict, routes, followed)
    over = [alert for alert in list_alerts(sqlite_store) if alert.severity == "info"]
    assert {(alert.route, alert.subject) for alert in over} == {
        (name, f"incident:{opened.incident_id}:recovered") for name in ("log", "ops", "pager")
    }


def test_an_incidents_alert_has_its_evidence_its_diagnosis_and_a_link_to_its_page(sqlite_store, receiver):
    settings = AlertSettings(routes={"ops": f"json://127.0.0.1:{receiver.server_port}"})
    opened = judged(sqlite_store, alert_routes(settings))
    found = Diagnosis("churn", "1", opened.incident_id, Window(START - DAY, START), START, "repair", "Repair it.", {})
    conclusions.record_diagnosis(sqlite_store, found)
    raise_alert(sqlite_store, "drift:churn version 1:age", "age", "words", ["ops"], START, model="churn")
    approval = Message("approval:churn:7", "asked", "words", fields={"approval": "7"}, model="churn")
    raise_message(sqlite_store, approval, ["ops"], START)
    deliver_alerts(sqlite_store, settings, START, "https://loop.example/")
    incident, drift, asked = receiver.received
    page = "https://loop.example" + pages.incident.router.url_path_for("incident", incident_id=opened.incident_id)
    assert asked["link"] == "https://loop.example" + pages.approvals.router.url_path_for("approval", approval_id=7)
    assert incident["message"] == f"brier 0.1 → 0.3\nDiagnosis: Repair it.\n{page}"
    fields = ("kind", "severity", "model", "evidence", "diagnosis", "link")
    assert [incident[name] for name in fields] == [
        "incident", "critical", "churn", "brier 0.1 → 0.3", "Repair it.", page,
    ]  # fmt: skip
    assert drift["link"] == "https://loop.example" + pages.model.router.url_path_for("model", model="churn")
    assert drift["message"] == f"words\n{drift['link']}"
    assert "diagnosis" not in drift


def test_titles_and_texts_are_the_users_own_and_what_data_say_is_text(sqlite_store, receiver, inbox, mail):
    settings = AlertSettings(
        title="[$severity] $model: $title",
        body="$evidence",
        routes={
            "ops": f"json://127.0.0.1:{receiver.server_port}",
            "mail": {"url": f"{mail}&format=html", "body": "$$5 on $model $model_version\n$body"},
        },
    )
    hostile = "<b>$model</b> {model} {{ 7*7 }} <script>alert(1)</script>\r\nBcc: x@example.org \x1b[31m"
    judged(sqlite_store, alert_routes(settings), hostile)
    assert deliver_alerts(sqlite_store, settings, START) == Delivery(sent=3)
    [message], [sent] = receiver.received, inbox.mails
    assert message["title"] == "[critical] churn: churn version 1 has become worse"
    text = hostile.replace("\r", "\\r").replace("\x1b", "\\x1b")
    assert message["message"] == text
    assert sent["subject"] == message["title"]
    assert (sent["to"], sent["bcc"]) == ("ml@example.org", None)
    html = sent.get_body(("html",)).get_content().replace("&nbsp;", " ")
    assert "$5 on churn 1<br/>&lt;b&gt;$model&lt;/b&gt; {model}" in html
    assert "<script>" not in html


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('title = "$modell"', r"alerts\.title: .*there is no \$modell: there are \$title"),
        ('body = "5 $"', r"alerts\.body: .*write \$\$ for a dollar"),
        ('[alerts.routes.ops]\nurl = "json://h"\nbody = "$x"', r"alerts\.routes\.ops\.body: .*there is no \$x"),
        ('[alerts.routes.ops]\nurl = "json://h"\nseverity = "loud"', r"alerts\.routes\.ops\.severity"),
        ('[alerts.routes.ops]\nurl = "json://h"\nmodels = ["chrun"]', r"'chrun' is not among the models"),
        ('[alerts.routes.ops]\nurl = "json://h"\nmodel = ["churn"]', r"Did you mean alerts\.routes\.ops\.models"),
        ("[alerts.routes.ops]\nmodels = []", r"alerts\.routes\.ops\.url: is missing"),
    ],
)
def test_a_template_or_a_route_that_can_not_be_meant_is_refused_by_its_key(tmp_path, table, words):
    with pytest.raises(ConfigError, match=words):
        load_settings(write_config(tmp_path, more=f"[alerts]\n{table}\n"))


def test_a_mail_server_that_is_busy_gets_it_later_and_one_that_is_not_there_is_said(sqlite_store, inbox, mail):
    gone = f"mailto://127.0.0.1:{free_port()}?from=a@example.org&to=b@example.org"
    settings = AlertSettings(routes={"mail": mail, "gone": gone})
    inbox.first = ["451 try again", "554 no"]
    judged(sqlite_store, alert_routes(settings))
    assert deliver_alerts(sqlite_store, settings, START) == Delivery(sent=1, failed=2)
    assert deliver_alerts(sqlite_store, settings, START + MINUTE) == Delivery(failed=2)
    assert deliver_alerts(sqlite_store, settings, START + 3 * MINUTE) == Delivery(sent=1, failed=1)
    [sent] = inbox.mails
    assert sent["subject"] == "churn version 1 has become worse"
    [waiting] = list_alerts(sqlite_store, "pending")
    assert (waiting.route, waiting.attempts, bool(waiting.cause)) == ("gone", 3, True)


def test_a_route_that_hangs_or_fails_is_asked_once_and_keeps_no_other_waiting(sqlite_store, receiver):
    place = f"json://127.0.0.1:{receiver.server_port}"
    settings = AlertSettings(
        routes={"hangs": f"{place}/hangs?rto=0.2&cto=0.2", "ops": f"json://127.0.0.1:{free_port()}"}
    )
    for number in range(20):
        raise_alert(sqlite_store, f"drift:churn:{number}", "title", "words", ["hangs", "ops", "log"], START)
    receiver.pause = 0.5
    assert deliver_alerts(sqlite_store, settings, START) == Delivery(sent=20, failed=2)
    assert len(receiver.received) == 1
    receiver.pause, receiver.first = 0.0, [500]
    assert deliver_alerts(sqlite_store, settings, START + MINUTE) == Delivery(failed=2)
    assert deliver_alerts(sqlite_store, settings, START + 9 * MINUTE) == Delivery(sent=20, failed=1)


@pytest.fixture
def letters(tmp_path, clock, receiver):
    """A loop with an alert that its route has refused for good; from now on it takes all."""
    url = f"json://127.0.0.1:{receiver.server_port}/s3cr3t-t0ken"
    more = f'[alerts]\nattempts = 2\nroutes = {{ ops = "{url}" }}\n'
    loop = open_loop(write_config(tmp_path, more=more), clock)
    raise_alert(loop.store, "drift:churn version 1:age", "age has drifted", "words", ["ops"], clock(), model="churn")
    receiver.status = 500
    for _ in range(2):
        loop.deliver_alerts()
        clock.set(clock() + DAY)
    receiver.status = 200
    yield loop
    loop.close()


def test_a_dead_letter_is_kept_and_shown_and_delivered_again_on_demand(letters, run, plain, receiver):
    assert letters.deliver_alerts() == Delivery()
    assert "UNDELIVERED   alert 1 on ops (given_up): " in run("status")[1]
    code, [row] = plain("alerts", "list")
    shown = (code, row["state"], row["attempts"], row["severity"], row["model"], "500" in row["cause"])
    assert shown == (0, "given_up", 2, "warning", "churn", True)
    code, out, _ = run("alerts", "list", "churn")
    assert (code, "age has drifted" in out, "given_up" in out, "s3cr3t" in out) == (0, True, True, False)
    assert run("alerts", "retry", "--given-up") == (0, "1 sent, 0 failed, 0 given up.\n", "")
    assert receiver.received[-1]["title"] == "age has drifted"
    assert run("alerts", "list")[1] == "All alerts have gone out.\n"
    assert plain("alerts", "list", "--all")[1][0]["state"] == "sent"
    assert letters.alerts.retry() == Delivery()
    for numbers, cause in (([1], Refused), ([99], NotFound)):
        with pytest.raises(cause):
            letters.alerts.retry(numbers)
    code, _, err = run("alerts", "retry")
    assert (code, "--given-up" in err) == (1, True)


def test_one_that_is_tried_again_has_all_its_attempts_before_it(letters, receiver, clock):
    receiver.status = 500
    try_again(letters.store, [1], clock())
    assert letters.deliver_alerts() == Delivery(failed=1)
    [alert] = letters.alerts.list("churn")
    assert (alert.state, alert.attempts) == ("pending", 1)


def test_a_route_is_tried_as_alerts_on_it_look(letters, run, plain, receiver):
    assert run("alerts", "test", "ops") == (0, "The route ops has taken it.\n", "")
    assert re.search("nothing is amiss", receiver.received[-1]["message"])
    receiver.status = 404
    code, _, err = run("alerts", "test", "ops")
    assert (code, "404" in err, "s3cr3t" in err) == (1, True, False)
    code, answer = plain("alerts", "test", "pager")
    assert (code, answer["error"]) == (1, "There is no route 'pager': there are ops.")
    with pytest.raises(Unavailable):
        letters.alerts.test("ops")
    assert len(letters.alerts.list(everything=True)) == 1  # nothing of a trial is stored

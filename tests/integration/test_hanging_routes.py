"""A mail server that hangs, at whatever step: no route waits for it, it has failed in time, it is tried again."""

import socket
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from feedback_loop.alerts import deliver_alerts
from feedback_loop.alerts.delivery import Delivery
from feedback_loop.alerts.sending import is_under_way
from feedback_loop.config import AlertSettings
from feedback_loop.store.alerts import list_alerts, raise_alert

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE, LONG = timedelta(minutes=1), timedelta(minutes=2)
STEPS = {"accepts": b"", "HELO": b"EHLO", "DATA": b"DATA", "the mail's end": b"."}


class MailServer:
    """A mail server that hangs at a step until it `goes_on`, or sends another byte there for ever."""

    def __init__(self, step, *, drips=False):
        self.hangs_at, self.drips = STEPS[step], drips
        self.goes_on, self.hangs, self.mails = threading.Event(), threading.Event(), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    @property
    def url(self):
        # Apprise itself would wait so long for each answer.
        return f"mailto://127.0.0.1:{self.listener.getsockname()[1]}?from=loop@example.org&to=ml@example.org&cto=60"

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection):
        with closing(connection), connection.makefile("rwb") as lines:
            try:
                self.talk(lines)
            except OSError:  # the caller has gone
                return

    def answer(self, lines, step, words):
        if step == self.hangs_at:
            self.hangs.set()
            while not self.goes_on.wait(0.01 if self.drips else None):
                lines.write(b"250-wait\r\n" if words.startswith(b"250") else b".")
                lines.flush()
        lines.write(words + b"\r\n")
        lines.flush()

    def talk(self, lines):
        self.answer(lines, b"", b"220 here")
        mail = None
        for line in lines:
            words = line.rstrip(b"\r\n")
            if mail is None:
                verb = words.split()[0].upper()
                self.answer(
                    lines, verb, b"354 go on" if verb == b"DATA" else b"221 bye" if verb == b"QUIT" else b"250 OK"
                )
                mail = [] if verb == b"DATA" else None
            elif words == b".":
                self.mails.append(b"\n".join(mail))
                self.answer(lines, words, b"250 OK")
                mail = None
            else:
                mail.append(words)

    def close(self):
        self.goes_on.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def mail_server(request):
    with closing(MailServer(request.param)) as server:
        yield server


@pytest.fixture
def dripping():
    with closing(MailServer("HELO", drips=True)) as server:
        yield server


def tell(store, *routes):
    raise_alert(store, "drift:churn:1", "title", "words", routes, START)


@pytest.mark.parametrize("mail_server", STEPS, indirect=True)
def test_others_are_told_while_a_mail_server_hangs(sqlite_store, receiver, mail_server):
    webhook = f"json://127.0.0.1:{receiver.server_port}"
    settings = AlertSettings(routes={"mail": mail_server.url, "ops": webhook}, timeout=LONG)
    receiver.got = mail_server.goes_on.set  # it hangs until the other has got its alert
    tell(sqlite_store, "mail", "ops")
    assert deliver_alerts(sqlite_store, settings, START) == Delivery(sent=2)
    assert (len(mail_server.mails), len(receiver.received)) == (1, 1)


@pytest.mark.parametrize("mail_server", STEPS, indirect=True)
def test_a_mail_server_that_hangs_has_failed_in_time_and_is_tried_again_later(sqlite_store, mail_server):
    settings = AlertSettings(routes={"mail": mail_server.url}, timeout=timedelta(seconds=1))
    tell(sqlite_store, "mail", "log")
    assert deliver_alerts(sqlite_store, settings, START) == Delivery(sent=1, failed=1)
    [alert] = list_alerts(sqlite_store, "pending")
    told = (alert.route, alert.attempts, alert.next_attempt_at, alert.cause)
    assert told == ("mail", 1, START + MINUTE, "it gave no answer within 1 s")
    assert deliver_alerts(sqlite_store, settings, START + MINUTE) == Delivery()  # it hangs still: it is left alone
    mail_server.goes_on.set()
    wait_for_end(mail_server.url)
    assert deliver_alerts(sqlite_store, settings.model_copy(update={"timeout": LONG}), START + MINUTE) == Delivery(
        sent=1
    )
    assert len(mail_server.mails) == 2  # the one that was left behind has arrived too


def test_a_mail_server_that_sends_another_byte_for_ever_has_failed_in_time(sqlite_store, dripping):
    settings = AlertSettings(routes={"mail": dripping.url}, timeout=timedelta(seconds=1))
    tell(sqlite_store, "mail")
    assert deliver_alerts(sqlite_store, settings, START) == Delivery(failed=1)
    assert dripping.hangs.is_set()
    dripping.goes_on.set()
    wait_for_end(dripping.url)


def wait_for_end(url):
    """Until the thread that was left behind has ended."""
    for thread in threading.enumerate():
        if thread.name == "alert mail":
            thread.join(60)
    assert not is_under_way(url)

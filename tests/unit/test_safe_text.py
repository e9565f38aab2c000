"""What callers send is shown to people as text: nothing in it is obeyed by a terminal, a table or a mail."""

import ast
import io
import json
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop import safe_text
from feedback_loop.cli.output import configure_logging, emit, fail, table
from feedback_loop.config import RegistrySettings, Settings, StoreSettings
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.loop import FeedbackLoop
from feedback_loop.safe_text import all_as_text, as_text, without_secrets
from feedback_loop.views.doctor import doctor

SOURCES = sorted(Path(safe_text.__file__).parent.rglob("*.py"))

NASTY = "\x1b]0;owned\x07\x1b[31mred [red]hid[/red]den [/x] a\nall 999 \u202egnp.exe \u200b\r\x9b2J :smile:"


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self):
        return True


@given(st.text())
def test_no_text_holds_what_a_terminal_obeys_and_once_is_enough(text):
    shown = as_text(text)
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in shown)
    assert as_text(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zürich 東京 – [a]", "Zürich 東京 – [a]"),
        ("a\x1b[31m", r"a\x1b[31m"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202eexe", r"\u202eexe"),
        ("a\u200bb\u2028c", r"a\u200bb\u2028c"),
    ],
)
def test_control_and_invisible_characters_are_written_out(text, shown):
    assert as_text(text) == shown
    assert all_as_text({text: [text, (text, 1, None)]}) == {shown: [shown, (shown, 1, None)]}


def test_a_table_prints_values_as_they_are_each_in_its_row(monkeypatch):
    """Values in brackets are no markup: `[/x]` broke the command with a traceback."""
    monkeypatch.delenv("COLUMNS", raising=False)  # in a narrow terminal values are folded
    drawn = table([{"segment": f"g={NASTY}", "rows": 3}, {"segment": "g=[/x]", "rows": None}], "nothing")
    assert "[red]hid[/red]den [/x]" in drawn
    assert ":smile:" in drawn
    assert "\x1b" not in drawn
    assert not any(line.lstrip().startswith("all 999") for line in drawn.splitlines())
    assert len(drawn.splitlines()) == 3


def test_results_and_errors_hold_no_escape_sequence(capsys):
    emit({"title": NASTY}, as_json=False, words=lambda value: f"first\n{value['title']}")
    emit({"title": NASTY}, as_json=False, words=lambda _: NASTY)
    fail(FeedbackLoopError(f"There is no {NASTY}."), as_json=False)
    said = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\u200b"} & set(said.out + said.err)
    assert "[red]hid[/red]den" in said.out
    assert said.out.splitlines()[1].startswith(r"\x1b]0;owned\x07\x1b[31mred")
    assert len(said.err.splitlines()) == 1
    emit({"title": NASTY}, as_json=True, words=str)
    assert json.loads(capsys.readouterr().out) == {"title": NASTY}


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_log_holds_no_escape_sequence_of_a_callers(stream):
    configure_logging(stream)
    log = structlog.get_logger()
    log.warning("refused", cause=NASTY)
    try:
        int(NASTY)
    except ValueError:
        log.exception("failed")
    said = stream.getvalue()
    assert "\x1b]0;owned" not in said
    assert "\x1b[31mred" not in said
    assert not {"\x07", "\x9b", "\r", "\u202e"} & set(said)
    assert "Traceback" in said
    assert sys.stderr is not stream


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cr3t@db.example.org:5432/loop", "postgresql://ada:***@db.example.org:5432/loop"),
        ("postgresql://ada@db/loop", "postgresql://ada@db/loop"),
        ("https://ada:s3cr3t@mlflow.example.org/x", "https://ada:***@mlflow.example.org/x"),
        ("https://s3cr3t@mlflow.example.org", "https://***@mlflow.example.org"),
        ("postgresql://ada:s3/cr3t@x@db/loop", "postgresql://ada:***@db/loop"),
        ("postgresql:///loop?host=db&user=ada&password=s3cr3t", "postgresql:///loop?host=db&user=ada&password=***"),
        ("az://container?sig=s3cr3t&x=1", "az://container?sig=***&x=1"),
        ("no host at 'http://a:s3cr3t@b' or 'http://c:s3cr3t@d'", "no host at 'http://a:***@b' or 'http://c:***@d'"),
        ("dsn: host=db password=s3cr3t dbname=x", "dsn: host=db password=*** dbname=x"),
        ("sqlite:////home/ada/loop.db", "sqlite:////home/ada/loop.db"),
        ("churn@champion, a: b@c", "churn@champion, a: b@c"),
    ],
)
def test_a_url_is_shown_without_its_secrets_wherever_it_is(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
    error = FeedbackLoopError(f"Gone: {text}", cure=f"See {text}")
    assert "s3cr3t" not in f"{error} {error.args}"
    stream = io.StringIO()
    configure_logging(stream)
    structlog.get_logger().warning("gone", cause=text, exception=f"Traceback\n{text}")
    assert "s3cr3t" not in stream.getvalue()
    assert shown.split()[-1][-3:] in stream.getvalue()


def test_of_a_url_that_is_a_secret_nothing_is_shown_but_its_scheme():
    url = "slack://T0ken1/T0ken2:s3cr3t@host.example.org/#channel?key=other"
    said = f"Failed to send to {url}: slack answered T0ken1 401 for s3cr3t at https://ada:pass@proxy"
    shown = without_secrets(said, secret_url=url)
    assert shown == "Failed to send to ***: slack answered *** 401 for *** at https://ada:***@proxy"
    assert without_secrets("other host.example.org", secret_url=url) == "*** ***"
    assert without_secrets(said, secret_url="") == without_secrets(said)


def test_where_registry_and_database_are_is_shown_without_passwords(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url, uri = "postgresql://ada:s3cr3t@127.0.0.1:1/x?sslpassword=s3cr3t", "http://ada:s3cr3t@127.0.0.1:1"
    registry = RegistrySettings(tracking_uri=uri)
    loop = FeedbackLoop(Settings(store=StoreSettings(url=url), registry=registry, home=tmp_path))
    assert "s3cr3t" not in f"{loop.store.name} {loop.registry.name}"
    assert "ada:***@127.0.0.1:1" in loop.registry.name
    checks = doctor(loop)
    assert [check.name for check in checks if not check.ok] == ["database", "registry"]
    assert "s3cr3t" not in repr(checks)


def test_nothing_that_we_advise_is_taken_for_a_secret():
    nodes = (node for source in SOURCES for node in ast.walk(ast.parse(source.read_text())))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    assert [text for text in texts if isinstance(text, str) and without_secrets(text) != text] == []

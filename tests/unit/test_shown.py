"""What callers send is shown to people as text: nothing in it is obeyed by a terminal, a table or a mail."""

import io
import json
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from feedback_loop.cli.output import configure_logging, emit, fail, table
from feedback_loop.errors import FeedbackLoopError
from feedback_loop.shown import all_as_text, as_text

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


def test_a_table_prints_values_as_they_are_each_in_its_row():
    """Values in brackets are no markup: `[/x]` broke the command with a traceback."""
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

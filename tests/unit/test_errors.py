"""What an error says."""

import pytest
import structlog

from feedback_loop.errors import BadInput, ConfigError, RowError, traceback_of


def test_a_librarys_full_stop_does_not_make_two():
    found = BadInput([RowError(0, "a", "is bad."), RowError(1, "b", "is worse.")], cure="Mend it.")
    assert str(found) == "row 0: a: is bad; row 1: b: is worse. Mend it."
    assert (
        str(ConfigError("It can't be read: not a file..", cure="Mend it."))
        == "It can't be read: not a file. Mend it."
    )


@pytest.mark.parametrize("cause", ["There is none.", "and so on …", "no stop"])
def test_other_words_stay_as_they_are(cause):
    assert ConfigError(cause).cause == cause


def test_a_traceback_in_the_log_shows_no_variable_however_the_log_is_set_up(capsys):
    def failing(settings):
        raise ValueError("it broke")

    value = "hunter-2"
    try:
        failing({"url": value})
    except ValueError as error:
        structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.dev.ConsoleRenderer()]).error(
            "job failed", exception=traceback_of(error)
        )
    told = capsys.readouterr().out
    assert "ValueError: it broke" in told
    assert "in failing" in told
    assert value not in told

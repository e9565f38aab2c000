"""What an error says."""

import pytest

from feedback_loop.errors import BadInput, ConfigError, Problem


def test_a_librarys_full_stop_does_not_make_two():
    found = BadInput([Problem(0, "a", "is bad."), Problem(1, "b", "is worse.")], cure="Mend it.")
    assert str(found) == "row 0: a: is bad; row 1: b: is worse. Mend it."
    assert (
        str(ConfigError("It can't be read: not a file..", cure="Mend it."))
        == "It can't be read: not a file. Mend it."
    )


@pytest.mark.parametrize("cause", ["There is none.", "and so on …", "no stop"])
def test_other_words_stay_as_they_are(cause):
    assert ConfigError(cause).cause == cause

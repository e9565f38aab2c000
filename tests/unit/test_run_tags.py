"""Tags of runs that are begun within a piece of the loop's work."""

from feedback_loop.run_tags import VARIABLE, as_variables, current_tags, run_tags


def test_tags_are_those_of_the_blocks_and_of_what_the_process_was_started_for(monkeypatch):
    assert current_tags() == {}
    with run_tags(model="churn", incident=None), run_tags(retraining=3):
        assert current_tags() == {"feedback_loop.model": "churn", "feedback_loop.retraining": "3"}
        variables = as_variables()
    assert current_tags() == {}
    monkeypatch.setenv(VARIABLE, variables[VARIABLE])
    with run_tags(retraining=4):
        assert current_tags() == {"feedback_loop.model": "churn", "feedback_loop.retraining": "4"}
    monkeypatch.setenv(VARIABLE, "not JSON")
    assert current_tags() == {}

"""Commands that need no loop: the list of them, the version, the configuration."""

import re

import typer

from feedback_loop.cli import app
from tests.builders import write_config


def test_without_a_configuration_the_cure_is_init(run):
    code, _, err = run("status")
    assert (code, "feedback-loop init" in err) == (1, True)


def commands_below(group, *path):
    """The paths of all commands of a group, as the command line itself has them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_below(command, *path, name)
        else:
            yield (*path, name), command


def test_every_command_takes_json():
    options = {
        path: {option for parameter in command.params for option in parameter.opts}
        for path, command in commands_below(typer.main.get_command(app))
    }
    stay = {("serve",), ("stage",), ("dashboard",), ("up",)}  # they print nothing but what they log
    assert {path for path, taken in options.items() if "--json" not in taken} == stay
    assert ("import", "predictions") in options  # a group of one command is a group


def test_the_version_is_told(run):
    from feedback_loop import __version__

    assert run("--version") == (0, f"{__version__}\n", "")


READ = ("registry.trusted", "serving.providers", "models.churn.metrics", "models.churn.log.retention")


def test_the_configuration_is_shown_with_where_each_value_is_from_and_no_secret(run, plain, tmp_path, monkeypatch):
    more = '[alerts.routes]\nops = "json://host/s3cr3t"\n[serving]\nwebhook_secret = "s3cr3t"\n'
    write_config(tmp_path, store="postgresql://ada:s3cr3t@db/x", more=more)
    monkeypatch.setenv("FEEDBACK_LOOP_REGISTRY__TRACKING_URI", "https://ada:s3cr3t@mlflow")
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__WINDOW", "2d")
    code, rows = plain("config", "show")
    shown = {row["setting"]: (row["value"], row["from"]) for row in rows}
    assert code == 0
    assert shown["store.url"] == ("postgresql://ada:***@db/x", "feedback_loop.toml")
    assert shown["registry.tracking_uri"] == ("https://ada:***@mlflow", "FEEDBACK_LOOP_REGISTRY__TRACKING_URI")
    assert shown["alerts.routes.ops.url"] == ("json://***", "feedback_loop.toml")
    assert shown["serving.webhook_secret"] == ("***", "feedback_loop.toml")
    assert shown["serving.port"] == (5001, "default")
    assert shown["models.churn.window"] == ("2d", "FEEDBACK_LOOP_MODELS__CHURN__WINDOW")
    assert shown["capture.forward_every"] == ("0.2s", "default")
    assert (shown["store.history"][0], shown["models.churn.log.retention"][0]) == ("400d", "never")
    code, out, _ = run("config", "show")
    assert [re.search(rf"^{name} +(\S+) ", out, re.MULTILINE)[1] for name in READ] == ["–", '["CPU"]', "{}", "never"]
    assert (code, "s3cr3t" in out, "models.churn.policy.reference" in out) == (0, False, True)

import os
import re
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feedback_loop.config import Settings, load_settings
from feedback_loop.config_errors import _section
from feedback_loop.config_template import HEAD, model_text, process_text, toml
from feedback_loop.errors import ConfigError, NotFound

MODEL = '[models.churn]\ntask = "binary"\nlabel = "churned"\n'


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "feedback_loop.toml"
        path.write_text(text)
        return load_settings(path)

    return load


def test_defaults_suit_a_laptop(load, tmp_path):
    settings = load(MODEL)
    assert settings.url(settings.store.url) == f"sqlite:///{tmp_path}/feedback_loop.db"
    assert settings.model("churn").alias == "champion"
    assert settings.model("churn").policy.alpha == 0.05


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        (MODEL + 'maturty = "2d"', "models.churn.maturty", "models.churn.maturity"),
        (MODEL + "[models.churn.policy]\nalhpa = 0.1", "models.churn.policy.alhpa", "models.churn.policy.alpha"),
        ('[stor]\nurl = "x"', "stor", "store"),
        ("[serving]\nports = 1", "serving.ports", "serving.port"),
        ('home = "x"', "home", "Known here"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(load, text, key, nearest):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.key == key
    assert nearest in caught.value.cure
    assert "feedback_loop.toml" in caught.value.cause


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (MODEL + 'maturity = "2 fortnights"', "models.churn.maturity"),
        (MODEL + "[models.churn.policy]\nalpha = 2", "models.churn.policy.alpha"),
        ('[models.churn]\ntask = "guessing"\nlabel = "x"', "models.churn.task"),
        ('[models.churn]\ntask = "binary"', "models.churn.label"),
        ("[serving]\nport = 70000", "serving.port"),
        ('[alerts]\nquiet = "22-7"', "alerts.quiet"),
        ("[alerts]\nquiet = 22", "alerts.quiet"),
        ('[alerts]\nquiet = "22:00-07:00"\ntimezone = "Europe/Zuerich"', "alerts.timezone"),
        ('[alerts]\nquiet_except = ["degraded"]', "alerts.quiet_except.0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(load, text, key):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.key == key


def test_what_is_not_toml_is_refused_with_its_line(load):
    with pytest.raises(ConfigError, match="line 2"):
        load("[store]\nurl = oops")


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(ConfigError, match="feedback-loop init"):
        load_settings(tmp_path / "none.toml")


def test_a_variable_goes_before_the_file(load, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__MATURITY", "3d")
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__POLICY__ALPHA", "0.01")
    monkeypatch.setenv("FEEDBACK_LOOP_STORE__URL", "postgresql://somewhere/db")
    settings = load(MODEL + 'maturity = "1d"\n')
    assert settings.model("churn").maturity == timedelta(days=3)
    assert settings.model("churn").policy.alpha == 0.01
    assert settings.model("churn").label == "churned"
    assert settings.url(settings.store.url) == "postgresql://somewhere/db"


def test_variables_find_a_model_whose_name_has_capitals(load, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_MODELS__CHURN__MATURITY", "3d")
    settings = load(MODEL.replace("churn]", "Churn]"))
    assert list(settings.models) == ["Churn"]
    assert settings.model("Churn").maturity == timedelta(days=3)


def test_models_that_differ_in_capitals_alone_are_never_merged(load):
    with pytest.raises(ConfigError, match=r"models.Churn and models.churn differ in capitals alone"):
        load(MODEL.replace("churn]", "Churn]") + MODEL)


SECRET = 4815162342
SQL = '[models.c]\ntask = "binary"\nlabel = "y"\n[models.c.outcomes'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"[capture]\nhash_key = {SECRET}", "capture.hash_key"),
        (f"[capture]\nhash_key = [{SECRET}]", "capture.hash_key"),
        (f"[serving]\nwebhook_secret = {SECRET}", "serving.webhook_secret"),
        (f"[serving]\nwebhook_secret = {{ is = {SECRET} }}", "serving.webhook_secret"),
        (f"[alerts]\nroutes = {{ ops = {SECRET} }}", "alerts.routes.ops"),
        (f'[alerts]\nroutes = ["slack://{SECRET}"]', "alerts.routes"),
        (f'[alerts]\nroutes = "slack://{SECRET}"', "alerts.routes"),
        (f'alerts = "slack://{SECRET}"', "alerts"),
        (f"[store]\nurl = {SECRET}", "store.url"),
        (f"[registry]\ntracking_uri = {SECRET}", "registry.tracking_uri"),
        (f'{SQL}]\nsql = "pg://u:{SECRET}@h"', "models.c.outcomes.sql"),
        (f'{SQL}.sql]\nurl = {SECRET}\nquery = ""\nwatermark = ""', "models.c.outcomes.sql.url"),
    ],
)
def test_a_secret_of_the_wrong_type_is_named_and_never_printed(load, text, key):
    with pytest.raises(ConfigError) as raised:
        load(text)
    told = "".join(traceback.format_exception(raised.value))
    assert raised.value.key == key
    assert str(SECRET) not in str(raised.value)
    assert str(SECRET) not in told.replace(text, "")


def test_a_variable_that_is_no_json_is_named_and_not_printed(load, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_ALERTS__ROUTES", f"slack://{SECRET}")
    with pytest.raises(ConfigError) as raised:
        load(MODEL)
    assert "alerts" in str(raised.value)
    assert str(SECRET) not in "".join(traceback.format_exception(raised.value))


def test_a_variable_that_sets_nothing_is_refused(load, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_STOR__URL", "x")
    with pytest.raises(ConfigError, match="FEEDBACK_LOOP_STORE__"):
        load(MODEL)


def test_the_configuration_is_found_by_a_variable(tmp_path, monkeypatch):
    (tmp_path / "other.toml").write_text(MODEL)
    monkeypatch.setenv("FEEDBACK_LOOP_CONFIG", str(tmp_path / "other.toml"))
    assert list(load_settings().models) == ["churn"]


def test_a_model_that_is_not_configured_is_not_found(load):
    with pytest.raises(NotFound, match="Known: churn"):
        load(MODEL).model("chrun")


def test_never_is_an_answer_to_when_to_retrain(load):
    assert load(MODEL + '[models.churn.policy]\nrefresh = "never"').model("churn").policy.refresh is None


def test_rows_can_not_go_before_they_are_judged(load):
    text = MODEL + 'maturity = "30d"\n[models.churn.log]\nretention = '
    assert load(text + '"32d"').model("churn").log.retention.days == 32
    with pytest.raises(ConfigError, match=r"log\.retention must be at least maturity and two windows") as caught:
        load(text + '"31d"')
    assert "{" not in str(caught.value)


def test_settings_can_not_be_changed(load):
    settings = load(MODEL)
    with pytest.raises(ValueError, match="frozen"):
        settings.model("churn").label = "other"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[models.churn.metrics]\nprofit = { path = "a:b", colums = [] }', "metrics.profit.columns"),
        ('[models.churn.outcomes.sql]\nurl = ""\nquery = ""\nwatermark = ""\nstrt = 1', "outcomes.sql.start"),
    ],
)
def test_an_unknown_key_is_named_however_deep_it_is(load, text, key):
    with pytest.raises(ConfigError) as raised:
        load(MODEL + text)
    assert raised.value.cure == f"Did you mean models.churn.{key}?"


def test_quiet_hours_go_by_the_clocks_of_their_place_wherever_it_is_said(load):
    alerts = load('[alerts]\nquiet = "22:00-07:00"\ntimezone = "Europe/Zurich"').alerts
    assert datetime(2026, 7, 1, 20, tzinfo=UTC) in alerts.quiet
    assert datetime(2026, 7, 1, 19, 59, tzinfo=UTC) not in alerts.quiet
    assert datetime(2026, 7, 1, 21, 59, tzinfo=UTC) not in load('[alerts]\nquiet = "22:00-07:00"').alerts.quiet
    assert load("").alerts.quiet is None


def test_wrong_quiet_hours_are_refused_with_how_to_write_them(load):
    with pytest.raises(ConfigError, match=r"'24:00-07:00' are no hours of a day\. Write 22:00-07:00"):
        load('[alerts]\nquiet = "24:00-07:00"')


def test_the_page_about_the_configuration_has_every_key_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    parts = re.split(r"^## `\[+(.+?)\]+`$", page, flags=re.MULTILINE)[1:]
    told = {
        name: set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }
    known = {name: _section(Settings, tuple(name.split("."))) for name in told if name != "models.NAME.metrics"}
    tables = {name.rpartition(".")[2] for name in told if name.startswith("models.NAME.")}
    for name, section in known.items():
        inner = tables if name == "models.NAME" else set()
        assert told[name] == {field.alias or key for key, field in section.model_fields.items()} - inner, name
    assert {name.partition(".")[0] for name in told} == set(Settings.model_fields) - {"home"}


def test_the_page_says_of_each_key_what_the_configuration_itself_says():
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    parts = re.split(r"^## `\[+(.+?)\]+`$", page, flags=re.MULTILINE)[1:]
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        for key, default, says in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", part, re.MULTILINE):
            fields = _section(Settings, tuple(name.split("."))).model_fields
            field = next(field for known, field in fields.items() if key in (known, field.alias))
            assert re.sub(r" \(\[.+?\]\(.+?\)\)", "", says) == field.description, (name, key)
            value = field.get_default(call_default_factory=True)
            if field.is_required():
                assert default in ("required", "must be set"), (name, key)
            elif value is None or str(value) in ("", "{}"):
                assert default == "–", (name, key)
            else:
                assert default == f"`{toml(value).strip(chr(34))}`", (name, key)


def test_what_a_new_file_has_commented_out_can_be_set_as_it_stands_there(tmp_path):
    values = {"task": "binary", "label": "late", "key": ["flight"], "key_types": {"flight": "long"}}
    text = process_text("sqlite:///a.db", "sqlite:///b.db").removeprefix(HEAD)
    text += model_text("on time", {**values, "segments": ["origin"], "inference.answers": "probability"})
    (tmp_path / "plain.toml").write_text(text)
    (tmp_path / "all.toml").write_text(re.sub(r"(?m)^# ", "", text))
    plain, everything = (load_settings(tmp_path / name) for name in ("plain.toml", "all.toml"))
    assert everything.capture == plain.capture
    model = everything.model("on time")
    assert [each.words for each in model.conditions] == ["recall of origin=JFK below 0.7 for 2 windows"]
    assert (model.inference.answers, model.query, model.policy.budget) == ("probability", "search_id", 4)
    assert (model.log, model.drift) == (plain.model("on time").log, plain.model("on time").drift)


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ('"own_training:train"', {"function": "own_training:train"}),
        ('["python", "train.py"]', {"command": ("python", "train.py")}),
        ('{ project = "trainers", params = { depth = 4 } }', {"project": "trainers", "params": {"depth": 4}}),
    ],
)
def test_a_trainer_is_a_function_a_command_or_a_project(load, trainer, told):
    settings = load(f"{MODEL}[models.churn.retraining]\ntrainer = {trainer}\n").model("churn").retraining.trainer
    assert {name: getattr(settings, name) for name in told} == told


@pytest.mark.parametrize(
    "wrong",
    [
        'trainer = "train"',
        "trainer = []",
        'trainer = { function = "a:b", command = ["c"] }',
        'trainer = "a:b"\nsearch_space = { trials = 1 }',
    ],
)
def test_what_is_no_trainer_or_one_too_many_is_refused(load, wrong):
    with pytest.raises(ConfigError, match="retraining"):
        load(f"{MODEL}[models.churn.retraining]\n{wrong}\n")


def test_the_space_of_the_example_is_one(load):
    path = Path(__file__).parents[2] / "examples" / "own_trainer" / "space.toml"
    settings = load(MODEL.replace("churn", "offers") + path.read_text())
    assert settings.model("offers").retraining.search_space.trials == 10


def test_a_file_that_may_not_be_read_is_told_with_who_would_read_it(tmp_path, monkeypatch):
    """As in a container, where a file that `init` wrote belongs to somebody else."""

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=f"can't be read: Permission denied. Let user {os.getuid()} read it"):
        load_settings(tmp_path / "feedback_loop.toml")

"""Whatever the doctor finds amiss, each line of it names what is wrong and a cure."""

import sqlite3
from contextlib import closing

import pytest

from feedback_loop.capture import Spool
from feedback_loop.config import CaptureSettings, LogSettings, load_settings
from feedback_loop.config_policy import TrainerSettings
from feedback_loop.loop import FeedbackLoop
from feedback_loop.serving import tell_proxied
from feedback_loop.views.doctor import doctor
from feedback_loop.views.hardware import Machine, too_much
from tests.builders import customers, prediction_rows

GIB = 2**30


def at_another_revision(loop):
    with closing(sqlite3.connect(loop.settings.home / "store.db")) as store:
        store.execute("UPDATE fl_alembic_version SET version_num = '0001'")
        store.commit()


def damaged(loop):
    loop.close()
    (loop.settings.home / "store.db").write_bytes(b"no database at all" * 1000)


def rows_put_aside(loop):
    spool = Spool(loop.settings.path("spool"), CaptureSettings(), lambda _: LogSettings())
    contract = loop.scorer(loop.champion("churn")).logged
    spool.append(contract, prediction_rows(contract, [loop.clock()], model_version=[None]), loop.clock())
    loop.forward()
    spool.close()


def behind_a_proxy(loop):
    tell_proxied(loop.settings.path(loop.settings.serving.cache), "x-forwarded-for")


def reports_are_a_file(loop):
    (loop.settings.home / "reports").write_text("")


def with_a_log(loop):
    rows = customers(2, 1)
    loop.predict("churn", {name: rows[name] for name in ("customer", "month", "age", "plan")})


MODEL = "FEEDBACK_LOOP_MODELS__CHURN__"
AWAY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
BROKEN = {
    "a database at another revision": (at_another_revision, {}, "database", "feedback-loop db upgrade"),
    "a damaged database": (damaged, {}, "database", "restore it from a backup"),
    "a database that is away": (
        None,
        {"FEEDBACK_LOOP_STORE__URL": "postgresql://ada@127.0.0.1:1/x"},
        "database",
        "that it runs",
    ),
    "a registry that is away": (
        None,
        {"FEEDBACK_LOOP_REGISTRY__TRACKING_URI": "http://127.0.0.1:1", **AWAY},
        "registry",
        "registry.tracking_uri",
    ),
    "reports that can't be written": (reports_are_a_file, {}, "reports", "path"),
    "rows that were put aside": (rows_put_aside, {}, "spools", "spool drain --rejected"),
    "a proxy before a server without keys": (behind_a_proxy, {}, "serving", "require_key"),
    "an alias that nobody has": (None, {f"{MODEL}ALIAS": "nobody"}, "model churn", "models list"),
    "a schedule that is none": (None, {f"{MODEL}SCHEDULE__CYCLE": "whenever"}, "model churn", "cron line"),
    "a metric that is not there": (None, {f"{MODEL}METRICS": '{"own": "nothing:here"}'}, "model churn", "PYTHONPATH"),
    "another key than the log has": (with_a_log, {f"{MODEL}KEY": '["customer"]'}, "model churn", "set it back"),
    "a host that loads no pickles": (
        None,
        {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        "model churn",
        "registry.trusted = false",
    ),
    "a provider that is not installed": (
        None,
        {"FEEDBACK_LOOP_SERVING__PROVIDERS": '["CUDA"]'},
        "hardware",
        "Install onnxruntime-gpu in the place of onnxruntime, or set serving.providers to what there is: CPU.",
    ),
    "a model's own provider that is not installed": (
        None,
        {f"{MODEL}INFERENCE__PROVIDERS": '["MIGraphX", "CPU"]'},
        "hardware",
        "or set models.churn.inference.providers to what there is: CPU.",
    ),
    "a provider that nobody knows": (None, {"FEEDBACK_LOOP_SERVING__PROVIDERS": '["GPU"]'}, "hardware", "CUDA"),
    "a segment that is no column": (None, {f"{MODEL}SEGMENTS": '["shoe"]'}, "model churn", "customer"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_finding_names_a_cure(case, loop, monkeypatch):
    disturb, environment, name, cure = BROKEN[case]
    if disturb is not None:
        disturb(loop)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    broken = FeedbackLoop(load_settings(loop.settings.home / "feedback_loop.toml"), clock=loop.clock)
    failed = {check.name: check for check in doctor(broken) if not check.ok}
    broken.close()
    assert name in failed, failed
    assert cure in failed[name].cure
    assert all(check.detail and check.cure for check in failed.values())


def test_settings_that_ask_for_more_than_the_machine_has_are_told_and_what_it_has(loop):
    settings = loop.settings
    model = settings.models["churn"]
    trainer = TrainerSettings(command=("train",), memory_limit=3 * GIB)
    trained = model.model_copy(update={"retraining": model.retraining.model_copy(update={"trainer": trainer})})
    serving = settings.serving.model_copy(update={"workers": 2, "threads": 2, "max_unpacked_bytes": 2 * GIB})
    asks = settings.model_copy(update={"serving": serving, "models": {"churn": trained}})
    assert list(too_much(asks, Machine(4, 4 * GIB, 2 * GIB))) == []
    told = " ".join(note.cause for note in too_much(asks, Machine(3, GIB, GIB)))
    for words in ("serving.threads (2)", "4.0 GiB in 2 workers", "Spools may take", "churn.retraining.trainer"):
        assert words in told


def test_a_setting_that_asks_for_too_much_is_a_note_of_the_doctors_and_no_fault(loop, monkeypatch):
    monkeypatch.setenv("FEEDBACK_LOOP_SERVING__WORKERS", "100000")
    asking = FeedbackLoop(load_settings(loop.settings.home / "feedback_loop.toml"), clock=loop.clock)
    checks = [check for check in doctor(asking) if check.name == "hardware"]
    asking.close()
    assert [check.ok for check in checks] == [True] * len(checks)
    assert "cores: they wait for each other" in next(check for check in checks if check.is_note).detail

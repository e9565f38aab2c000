"""The built wheel, with the sources gone: it carries its migrations, and all of it loads where nothing else is; and
the demo, installed (`make statistics`) and in the checkout."""

import json
import os
import sqlite3
import subprocess
import sysconfig
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.processes import running
from tests.warm import FRESH

PROJECT = Path(__file__).parents[2]
BIN = Path(FRESH).parent
COUNTS = (
    "SELECT count(*), count(DISTINCT prediction_id) FROM predictions_flights",
    "SELECT count(*) FROM (SELECT DISTINCT carrier, flight, date, origin FROM predictions_flights)",
    "SELECT count(*) FROM predictions_flights WHERE source = 'online'",
)
DEMO = ("demo", "--fast", "--months", "1", "--from", "2013-02-17", "--seed", "3", "--json")
LOAD = """
import importlib, pkgutil
import feedback_loop
from feedback_loop.store import Store, migrate
for module in pkgutil.walk_packages(feedback_loop.__path__, "feedback_loop."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
store = Store("sqlite:///store.db")
migrate.prepare(store)
store.close()
print(feedback_loop.__file__)
"""
SOON = {"FEEDBACK_LOOP_MODELS__FLIGHTS__POLICY__REFRESH": "8d"}  # so that it retrains within these days, once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [FRESH, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(PROJECT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An empty environment with the locked dependencies and the wheel; made offline, from what set-up has fetched."""
    environment = tmp_path_factory.mktemp("empty") / "venv"
    uv = [str(BIN / "uv"), "--offline", "--quiet"]
    where = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment)}
    locked = ["sync", "--frozen", "--no-dev", "--extra", "demo", "--no-install-project", "--project", str(PROJECT)]
    subprocess.run([*uv, *locked, "--python", FRESH], check=True, env=where)
    subprocess.run(
        [*uv, "pip", "install", "--no-deps", "--python", str(environment), str(wheel)], check=True, env=where
    )
    link_bytecode(Path(purelib_of(BIN.parent)), Path(purelib_of(environment)))
    return environment / "bin"


def purelib_of(environment):
    return sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})


def link_bytecode(source, target):
    """The same packages, so the same bytecode: to compile them anew takes longer than the demo."""
    for made in source.rglob("*.pyc"):
        place = target / made.relative_to(source)
        if place.parent.parent.is_dir() and not place.exists():
            place.parent.mkdir(exist_ok=True)
            place.hardlink_to(made)


def test_the_wheel_holds_the_package_and_its_migrations_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = Counter(name.split("/")[0] for name in names)
    assert set(tops) == {"feedback_loop", next(name for name in tops if name.endswith(".dist-info"))}
    assert "feedback_loop/migrations/env.py" in names
    assert "feedback_loop/py.typed" in names
    sources = {f"feedback_loop/{path.relative_to(PROJECT / 'feedback_loop')}" for path in _sources("feedback_loop")}
    assert sources <= set(names)


def run_in(folder, command):
    """What the command writes, run in this empty folder; the sources are not there."""
    folder.mkdir()
    clean = SOON | {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
    with running(["env", "-C", str(folder), *map(str, command)], folder / "log", **clean) as process:
        code = process.wait()
    log = (folder / "log").read_text()
    assert code == 0, log
    return log


def test_the_installed_package_loads_whole_and_makes_its_store(installed, tmp_path):
    log = run_in(tmp_path / "empty", [installed / "python", "-c", LOAD])
    assert Path(log.splitlines()[-1]).is_relative_to(installed.parent)
    with closing(sqlite3.connect(tmp_path / "empty" / "store.db")) as database:
        assert database.execute("SELECT count(*) FROM fl_evaluations").fetchone() == (0,)


def demo(program, folder):
    """What the demo says of itself."""
    log = run_in(folder, [program, *DEMO])
    return json.loads(log[log.index("{") :])


def test_the_demo_is_counted_by_plain_sql(warm, tmp_path):
    told = demo(warm / "feedback-loop", tmp_path / "empty")
    with closing(sqlite3.connect(tmp_path / "empty" / "demo" / "feedback_loop.db")) as database:
        (rows, ids), (flights,), (over_http,) = (database.execute(query).fetchone() for query in COUNTS)
    assert rows == ids == flights == told["flights"] == told["answered"] == told["logged"] > 2_000
    assert 0 < over_http == told["answered_over_http"] < rows

    left = {path.name for path in (tmp_path / "empty" / "demo").iterdir()}
    assert {"feedback_loop.db", "mlflow.db", "mlartifacts", "loss.png", "loss.html", "reports"} <= left
    assert told["strategies"][-1]["promotions"] == 1  # 8 days in: what comes after a retraining is compared too
    assert {"2013-02-drift.html", "2013-02-validation.html"} <= {
        path.name for path in (tmp_path / "empty" / "demo" / "reports" / "flights").iterdir()
    }


@pytest.mark.statistics
def test_the_installed_demo_is_the_checkouts_given_the_seed(installed, tmp_path):
    told = demo(installed / "feedback-loop", tmp_path / "empty")
    again = demo(BIN / "feedback-loop", tmp_path / "checkout")
    for one, other in zip(told.pop("strategies"), again.pop("strategies"), strict=True):
        near = {name: pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for name, v in other.items()}
        assert one == near  # scikit-learn answers there, ONNX here: a last digit
    assert {name for name in told if told[name] != again[name]} <= {"folder", "seconds"}


def _sources(folder):
    return (PROJECT / folder).rglob("*.py")


def test_a_release_says_what_it_is_made_of(tmp_path):
    """Every package that the lock file has for users, by name, version and the digests of its files."""
    subprocess.run(["make", "sbom", f"DIST={tmp_path}"], cwd=PROJECT, check=True, capture_output=True)
    bill = json.loads((tmp_path / "feedback-loop.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "feedback-loop")
    parts = {part["name"]: part for part in bill["components"]}
    assert {"mlflow", "sqlalchemy", "psycopg", "onnxruntime"} <= set(parts)
    assert "pytest" not in parts
    hashes = [file["hashes"] for part in parts.values() for file in part["externalReferences"]]
    assert all(each[0]["alg"] == "SHA-256" for each in hashes)

"""Every fenced block of the documents is run or loaded, or says itself why it can't be.

A page's blocks are run in their order, in a folder of their own with the churn model that became worse four days ago
(an incident is open, a candidate waits for approval) and with the files and names that pages speak of.
"""

import configparser
import json
import re
import shlex
import tomllib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml

from feedback_loop import FeedbackLoop
from feedback_loop.cli import app
from feedback_loop.config import Settings
from feedback_loop.errors import Refused
from tests.builders import copy_home, customers
from tests.integration.churn_log import become_worse
from tests.once import once

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "adr" not in path.parts)
FENCE = re.compile(r"^```(\w*)[^\S\n]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

KINDS = {"", "bash", "console", "ini", "json", "python", "sh", "sql", "text", "toml", "yaml"}

MARKED = {
    ("coming-from/evidently-cron.md", "cron"): 1,
    ("coming-from/nannyml.md", "python"): 1,
    ("coming-from/sagemaker.md", "python"): 1,
    ("coming-from/whylogs.md", "python"): 1,
    ("dashboard.md", "sh"): 1,
    ("mlflow.md", "console"): 3,
    ("mlflow.md", "python"): 4,
    ("operations.md", "console"): 1,
    ("operations.md", "cron"): 1,
    ("serving.md", "console"): 1,
    ("tutorial.md", "console"): 3,
}
"""Blocks that are marked `title="Not run here: …"`, by page and kind. Think twice before you add one."""

ELSEWHERE = {
    ("databases.md", "sql"): "test_databases.py, with roles of its own",
    ("tutorial.md", "console"): "test_examples.py, in the example's folder",
}
"""Blocks that another test runs."""

WORDS_ONLY = {
    "alerts test": "sends; test_alert_routes.py",
    "dashboard": "stays; tests/browser",
    "demo": "takes minutes; test_wheel.py",
    "rehearse": "takes minutes; test_rehearsing.py",
    "serve": "stays; test_readme.py",
    "scheduler": "stays; test_readme.py",
    "up": "stays",
}
"""Commands of which only words and options are checked: those that stay or take long, and who starts them."""


@dataclass(frozen=True)
class Block:
    page: str
    kind: str
    info: str
    text: str

    @property
    def is_marked(self):
        return self.info.startswith('title="Not run here: ')

    @property
    def commands(self):
        """The commands of a console block, each a list of words; a comment is none."""
        if self.kind not in ("bash", "console", "sh"):
            return []
        text = re.sub(r"\$\(date -u -d '?([\w ]+?)'? \+%F\)", day, self.text.replace("\\\n", " "))
        lines = re.findall(r"^\$ (.*)$", text, re.MULTILINE) if self.kind == "console" else text.splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def day(said):
    """`yesterday`, `tomorrow` or `3 days ago`, as date(1) prints it."""
    days = {"yesterday": 1, "tomorrow": -1}.get(said[1]) or int(said[1].split()[0])
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}"


def blocks_of(page):
    return [Block(page, *found) for found in FENCE.findall((DOCS / page).read_text())]


def run_here(page, *kinds):
    """The page's blocks of these kinds that are neither marked nor run by another test."""
    here = [block for block in blocks_of(page) if block.kind in kinds and not block.is_marked]
    return [block for block in here if (page, block.kind) not in ELSEWHERE]


def prepare(folder):
    """The store, the registry and the files that pages speak of."""
    copy_home(once("became-worse", become_worse), folder)
    rows = pd.DataFrame(customers(300, 900, month="later"))
    rows.drop(columns="churned").to_parquet(folder / "customers.parquet")
    rows[["customer", "month", "churned"]].to_csv(folder / "what-happened.csv", index=False)
    held_out = pd.DataFrame(customers(1500, 77))
    held_out["predicted_at"] = pd.Timestamp.now("UTC") - pd.Timedelta(days=20)
    held_out.to_parquet(folder / "held_out.parquet")
    known = pd.DataFrame(customers(200, 5, month="before"))
    chance = np.random.default_rng(0).random(200)
    times = pd.Timestamp.now("UTC") - pd.Timedelta(days=3)
    predicted = known.drop(columns="churned").assign(prediction=chance > 0.5, probability=chance, predicted_at=times)
    predicted.to_parquet(folder / "predictions.parquet")
    (folder / "other.toml").write_text('[policy]\nrule = "harm"\n')
    config = folder / "feedback_loop.toml"
    config.write_text(config.read_text().replace("[models.churn.policy]", '[models.churn.policy]\nmode = "propose"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEEDBACK_LOOP_MODELS__CHURN__RETRAINING__HOLDOUT", "0.5")
        loop = FeedbackLoop.open(config)
    with closing(loop):
        result = loop.retrain("churn", despite_diagnosis=True)
        assert result.candidate is not None, (result.summary, result.trials)
        loop.registry.set_alias("churn", "challenger", result.candidate)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What Python blocks speak of, in a folder with all the files that console blocks do."""
    monkeypatch.chdir(tmp_path)
    copy_home(once("documented", prepare), tmp_path)
    rows = pd.DataFrame(customers(300, 901, month="soon"))
    chance = np.random.default_rng(1).random(300)
    labelled = rows.assign(probability=chance)

    async def answer(scope, receive, send):
        """An ASGI application."""

    with closing(FeedbackLoop.open(tmp_path / "feedback_loop.toml")) as loop:
        yield {
            "loop": loop,
            "customers": rows.drop(columns="churned"),
            "features": rows.drop(columns="churned"),
            "what_happened": rows[["customer", "month", "churned"]],
            "answers": chance > 0.5,
            "reference": labelled,
            "current": labelled,
            "app": answer,
        }


def check_words(command, words):
    """Whether there is such a command, with such options and arguments."""
    while hasattr(command, "commands"):
        word, *words = words
        command = command.commands[word]
    command.make_context(command.name, list(words))


def test_versions_that_have_learned_all_that_has_matured_are_compared_in_a_window_only(names):
    """`models compare` without one has nothing to compare them on, and says what to give."""
    with pytest.raises(Refused, match=r"No row has matured that .* have not learned from") as refused:
        names["loop"].models.compare("churn/2", "churn/1")
    assert "Give a --window" in refused.value.cure


def test_what_can_not_be_run_says_so_and_is_on_the_list():
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert not {(block.page, block.kind) for block in blocks if block.kind not in KINDS and not block.is_marked}
    assert Counter((block.page, block.kind) for block in blocks if block.is_marked) == MARKED


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_of_the_configuration_can_be_set(page, tmp_path):
    for block in run_here(page, "toml"):
        content = tomllib.loads(block.text)
        content["models"] = {"churn": {}} | content.get("models", {})
        for model in content["models"].values():
            model.update({"task": "binary", "label": "churned", "segments": ["plan"]} | model)
        Settings(**content, home=tmp_path)
    for block in run_here(page, "yaml"):
        assert yaml.safe_load(block.text)
    for block in run_here(page, "json"):
        json.loads(block.text)
    for block in run_here(page, "ini"):
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)


@pytest.mark.parametrize("page", [page for page in PAGES if run_here(page, "bash", "console", "python", "sh")])
def test_the_commands_and_the_code_of_a_page_run(page, names, run):
    for block in run_here(page, "bash", "console", "python", "sh"):
        if block.kind == "python":
            exec(compile(block.text, page, "exec"), names)  # noqa: S102 (our own documents)
        for program, *words in block.commands:
            assert program == "feedback-loop", f"{page} is to mark blocks with {program}"
            if "--once" not in words and any(" ".join(words).startswith(command) for command in WORDS_ONLY):
                check_words(typer.main.get_command(app), words)
            else:
                code, printed, complaints = run(*words)
                assert code in ((0, 3, 4) if words[0] == "scheduler" else (0,)), (page, words, complaints)
                assert printed.strip()

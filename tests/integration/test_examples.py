"""The examples' pages and the tutorial, typed in as they stand."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TUTORIAL = EXAMPLES.parent / "docs" / "tutorial.md"
"""Its commands are typed in the folder of the flights."""

TOLD = {
    "flights": (
        "6,083 rows",
        "5,991 outcomes: 5,991 new, 0 corrected, 0 unchanged, 0 without a prediction yet.",
    ),
    "own_metric": (
        "1,800 outcomes: 1,800 new, 0 corrected, 0 unchanged, 0 without a prediction yet.",
        '"metric": "profit"',
        '"metric": "return_on_offers"',
        '"metric": "best_tenth"',
    ),
    "own_trainer": (
        "How long the trainer takes is not known",
        "promoted (version 3)",
        "  | 60 trees: log loss ",
        "refused: No trial succeeded: trainer, all: LookupError: own_training has no function no_such_function.",
    ),
}
"""What the commands of each page print, among others."""


def test_every_page_with_commands_is_typed_in():
    pages = [path for path in EXAMPLES.glob("*/README.md") if "```console" in path.read_text()]
    assert {path.parent.name for path in pages} | {"flights"} == set(TOLD)


@pytest.mark.parametrize("name", sorted(TOLD))
def test_every_command_of_an_examples_page_works(name, warm, tmp_path):
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder)
    page = (TUTORIAL if name == "flights" else folder / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)  # those with a title are marked
    commands = re.findall(r"^\$ (.*)$", "".join(blocks), re.MULTILINE)
    assert len(commands) > 5
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)],
        check=False,
        cwd=folder,
        env={**os.environ, "PATH": f"{warm}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in TOLD[name]:
        assert line in done.stdout

"""The examples' pages, typed in as they stand."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

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
}
"""What the commands of each page print, among others."""


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/README.md")))
def test_every_command_of_an_examples_page_works(name, warm, tmp_path):
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder)
    page = (folder / "README.md").read_text()
    commands = re.findall(r"^\$ (.*)$", page, re.MULTILINE)
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

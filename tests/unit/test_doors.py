"""What the package costs before it is used, and what its public names are."""

import json
import os
import subprocess

import pytest

import feedback_loop
from tests.warm import FRESH

HEAVY = (
    "mlflow",
    "sklearn",
    "evidently",
    "pandas",
    "numpy",
    "pyarrow",
    "sqlalchemy",
    "scipy",
    "pydantic",
    "structlog",
)


HELP = """
import sys
from feedback_loop.cli import main
sys.argv = ["feedback-loop", "--help"]
try:
    main()
except SystemExit:
    pass
"""


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([FRESH, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import feedback_loop",
        "import feedback_loop.cli",
        HELP,
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code):
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.parametrize(("own", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_of_a_fit_wait_without_spinning_unless_the_user_says_otherwise(own, found):
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    script = HELP + "import os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([FRESH, "-c", script], capture_output=True, text=True, check=True, env={**clean, **own})
    assert done.stdout.splitlines()[-1] == found


def test_public_names_are_what_they_say():
    assert feedback_loop.__all__ == [
        "CaptureMiddleware",
        "FeedbackLoop",
        "FeedbackLoopError",
        "SumMetric",
        "Window",
        "__version__",
        "open_client",
    ]
    for name in feedback_loop.__all__:
        assert getattr(feedback_loop, name)
    with pytest.raises(AttributeError):
        _ = feedback_loop.nothing

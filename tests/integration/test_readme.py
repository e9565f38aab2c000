"""The README's own lines, as they stand there, for a model that was logged with nothing of ours."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.builders import customers
from tests.integration.processes import call, free_port, running, wait_until

README = Path(__file__).parents[2] / "README.md"
COMMAND = [sys.executable, "-m", "feedback_loop"]

LOG_MODEL = """
import mlflow, pandas as pd
from tests.builders import churn_pipeline, customers
known = pd.DataFrame(customers(500, 0))
model = churn_pipeline().fit(known[["age", "plan"]], known["churned"])
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.sklearn.log_model(model, name="model", input_example=known[["age", "plan"]].head(3),
    registered_model_name="churn", serialization_format="cloudpickle")
"""


def lines_of(title):
    """The commands of the first console block under a heading, without their comments."""
    section = README.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    block = re.search(r"```console\n(.*?)```", section, re.DOTALL).group(1)
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in block.splitlines()]


def sent_by_curl():
    """The path, the content type and the body of the README's request."""
    text = re.search(r"\$ curl (.*?)'\n\{\"predictions\"", README.read_text(), re.DOTALL).group(1) + "'"
    place, header, content_type, data, body = shlex.split(text)
    assert (header, data) == ("-H", "-d")
    return place.removeprefix("localhost:5001"), content_type.removeprefix("content-type: "), json.loads(body)


def test_the_readmes_way_to_ones_own_model_is_a_way(mlflow_uri, tmp_path):
    def do(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    do(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(README.parent)!r})\n{LOG_MODEL}")
    import pandas as pd

    rows = pd.DataFrame(customers(40, 3))
    rows.drop(columns="churned").to_parquet(tmp_path / "customers.parquet")
    rows[["customer", "month", "churned"]].to_csv(tmp_path / "what-happened.csv", index=False)
    install, *lines = lines_of("Your own model")
    assert install[:2] == ["pip", "install"]
    port = free_port()
    shown = []
    for _, command, *arguments in lines:
        if command == "serve":
            process = [*COMMAND, command, *arguments, "--port", str(port)]
            log = tmp_path / "log"
            with running(process, log, FEEDBACK_LOOP_CONFIG=str(tmp_path / "feedback_loop.toml")) as server:
                wait_until(lambda: call(port, "GET", "/ping")[0] == 200, server, log)
                path, content_type, body = sent_by_curl()
                status, answer, _ = call(port, "POST", path, body, {"content-type": content_type})
            assert (status, answer["model_version"], len(answer["prediction_ids"])) == (200, "1", 1)
        elif command == "scheduler":
            process, log = [*COMMAND, command, *arguments], tmp_path / "log"
            with running(process, log, FEEDBACK_LOOP_CONFIG=str(tmp_path / "feedback_loop.toml")) as scheduler:
                wait_until(lambda log=log: log.stat().st_size > 0, scheduler, log)
        else:
            shown.append(do(*COMMAND, command, *arguments))
    written, promoted, predicted, loaded, status = shown
    assert "Next: feedback-loop models promote churn 1" in written
    assert "Version 1 is the champion" in promoted
    assert "40" in predicted
    assert "40" in loaded
    assert "41" in status

"""What `mlflow deployments explain` says: how the model is judged, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feedback_loop.loop import FeedbackLoop
from feedback_loop.mlflow_plugin.server_process import Deployment
from feedback_loop.plain import plain
from feedback_loop.store.conclusions import latest_verdict, load_diagnoses
from feedback_loop.store.incidents import open_incident


def explanation(config: Path, deployment: Deployment) -> dict[str, Any]:
    """The newest verdict on a deployment's model, its open incident, and the newest diagnosis of that."""
    loop, model = FeedbackLoop.open(config), deployment.model
    try:
        verdict, incident = latest_verdict(loop.store, model), open_incident(loop.store, model)
        diagnoses = load_diagnoses(loop.store, model, incident.incident_id) if incident is not None else []
    finally:
        loop.close()
    explained: dict[str, Any] = plain(
        {
            "deployment": deployment.name,
            "model": model,
            "explains": "why the model is judged as it is; single rows are not explained",
            "summary": verdict.summary if verdict is not None else "nothing has been judged yet",
            "verdict": verdict,
            "incident": incident,
            "diagnosis": diagnoses[-1] if diagnoses else None,
        }
    )
    if verdict is not None:
        del explained["verdict"]["monitor"]  # what the next verdict goes on from: long, and explains nothing
    return explained

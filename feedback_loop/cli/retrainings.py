"""`feedback-loop retrainings`: the searches for better versions, and what became of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell, group
from feedback_loop.cli.output import table
from feedback_loop.cli.retrain import gate_words, trial_table

app = group("Retrainings: the searches for better versions, and what became of them.")


MOST_LINES = 20
"""So many of the last lines of a trainer's output are shown."""


@app.command("list")
def list_retrainings(
    shell: Shell, model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None
) -> None:
    """Lists all retrainings, oldest first."""
    from feedback_loop.store.retrainings import load_retrainings
    from feedback_loop.views.history import retraining_row

    loop = shell.loop()
    if model is not None:
        loop.settings.model(model)
    names = loop.settings.models if model is None else [model]
    rows = [retraining_row(loop.store, search) for name in names for search in load_retrainings(loop.store, name)]
    shell.emit(rows, lambda rows: table(list(map(_row, rows)), "Nothing was retrained yet."))


@app.command("show")
def show(
    shell: Shell, retraining: Annotated[int, typer.Argument(metavar="RETRAINING", help="The retraining's number.")]
) -> None:
    """Shows one with its trials, gates, cost, and what became of its candidate: approval, rollout, promotion."""
    from feedback_loop.views.history import retraining_story

    shell.emit(retraining_story(shell.loop().store, retraining), _story)


def _row(search: dict[str, Any]) -> dict[str, Any]:
    difference = (search["gate"] or {}).get("difference")
    return {
        "retraining": search["retraining_id"],
        "model": search["model"],
        "at": search["started_at"],
        "reason": search["reason"],
        "state": search["state"],
        "champion": search["champion"],
        "candidate": search["candidate"] or "",
        "difference": "–" if difference is None else f"{difference:+.4f}",
        "fits": f"{search['fit_seconds']:.1f} s",
    }


def _story(search: dict[str, Any]) -> str:
    candidate = f", candidate version {search['candidate']}" if search["candidate"] else ""
    lines = [
        f"{search['model']}, {search['started_at']} ({search['reason']}): {search['state']}{candidate}",
        f"  {search['cause'] or ''}",
        trial_table(search["trials"]),
        *(_printed(trial) for trial in search["trials"] if trial["run_id"]),
        *(gate_words(gate) for gate in search["gates"] or ()),
    ]
    lines += [
        f"approval {approval['approval_id']}: {approval['state']}. {approval['ended_because'] or ''}"
        for approval in search["approvals"]
    ]
    lines += [
        f"{rollout['stage']}: {rollout['state']}. {rollout['ended_because'] or ''}" for rollout in search["rollouts"]
    ]
    lines += [
        f"{promotion['kind']} of version {promotion['to_version']} at {promotion['done_at']}: {promotion['state']}"
        for promotion in search["promotions"]
    ]
    return "\n".join(line.rstrip() for line in lines)


def _printed(trial: dict[str, Any]) -> str:
    """What a trainer took, where its output is, and how that ends."""
    memory = f"{(trial['peak_bytes'] or 0) / 1e6:,.0f} MB of memory"
    head = f"{trial['recipe']}: {trial['seconds']:.1f} s, {memory}; its output: trainer.log of run {trial['run_id']}"
    return "\n".join([head, *(f"  | {line}" for line in trial["log"][-MOST_LINES:])])

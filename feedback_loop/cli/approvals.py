"""`feedback-loop approvals`: candidates that wait for a person's yes or no."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import ByOption, Shell, group
from feedback_loop.cli.output import table
from feedback_loop.cli.retrain import gate_words

app = group("Approvals: candidates that wait for a person's yes or no.")

Number = Annotated[int, typer.Argument(metavar="APPROVAL", help="The approval's number.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept, and written to the version in MLflow.")]


@app.command("list")
def list_approvals(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
) -> None:
    """Lists what waits for an answer."""
    from feedback_loop.views.approvals import list_approvals as rows_of

    shell.emit(
        rows_of(shell.loop(), model, closed=everything),
        lambda rows: table(list(map(_row, rows)), "None waits."),
    )


@app.command("show")
def show(shell: Shell, approval: Number) -> None:
    """Shows the evidence of one, its gate, what is different from the champion, and the answers so far."""
    from feedback_loop.views.approvals import approval_story

    shell.emit(approval_story(shell.loop(), approval), _story)


@app.command("approve")
def approve(shell: Shell, approval: Number, reason: Reason, by: ByOption = None) -> None:
    """Says yes; with the last yes that is needed the candidate becomes the champion."""
    shell.emit(shell.loop().approvals.approve(approval, reason=reason, by=by), _answered)


@app.command("reject")
def reject(shell: Shell, approval: Number, reason: Reason, by: ByOption = None) -> None:
    """Says no, which is enough: the champion stays."""
    shell.emit(shell.loop().approvals.reject(approval, reason=reason, by=by), _answered)


def _row(approval: dict[str, Any]) -> dict[str, Any]:
    return {
        "approval": approval["approval_id"],
        "model": approval["model"],
        "candidate": approval["candidate"],
        "champion": approval["champion"],
        "state": approval["state"],
        "asked": approval["asked_at"],
        "expires": approval["expires_at"],
        "gain": _gain(approval["evidence"]),
    }


def _gain(evidence: dict[str, Any]) -> str:
    if evidence.get("gain_at_least") is None:
        return "–"
    return f"{evidence['gain']:+.4f} of {evidence['gate']['loss']}, at least {evidence['gain_at_least']:+.4f}"


def _answered(approval: dict[str, Any]) -> str:
    words = f"Approval {approval['approval_id']} is {approval['state']}"
    if approval["state"] == "open":
        return f"{words}: {approval['needed']} people are needed."
    if approval["state"] == "promoted":
        return f"{words}: version {approval['candidate']} is the champion of {approval['model']}."
    return f"{words}: {approval['ended_because'] or 'the next turn of the loop promotes it'}"


def _differences(evidence: dict[str, Any]) -> list[str]:
    """Each parameter that is another one (those of other steps are counted), and what it was fitted with."""
    fitted = [
        f"  data  {name}: {new}" if old is None else f"  data  {name}: {old} → {new}"
        for name, (old, new) in evidence.get("data", {}).items()
    ]
    pairs = evidence.get("parameters", {})
    changed = [f"  parameters  {name}: {old} → {new}" for name, (old, new) in pairs.items() if None not in (old, new)]
    gone, added = (sum(pair[side] is None for pair in pairs.values()) for side in (1, 0))
    counted = [f"  parameters  {gone} are gone and {added} are new: --json has them"] if gone or added else []
    return [*changed, *counted, *fitted]


def _story(approval: dict[str, Any]) -> str:
    evidence = approval["evidence"]
    lines = [
        "{model} version {candidate}, to replace version {champion}: {state}".format(**approval),
        f"  asked {approval['asked_at']}, expires {approval['expires_at']}; people needed: {approval['needed']}",
        f"  expected gain {_gain(evidence)}",
        f"  {evidence['summary']}",
    ]
    lines += [f"  {gate_words(gate)}" for gate in evidence.get("gates", ())]
    lines += _differences(evidence)
    for vote in approval["votes"]:
        answer = "yes" if vote["approves"] else "no"
        lines.append(f"  {vote['voted_at']}  {vote['voter']}: {answer}, {vote['reason']}")
    if approval["ended_because"]:
        lines.append(f"  {approval['ended_at']}  {approval['state']}: {approval['ended_because']}")
    return "\n".join(lines)

"""`feedback-loop incidents`: what has become worse, who looks after it, and all that happened."""

from __future__ import annotations

import getpass
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.options import ByOption, Shell, duration_option, group, moment_option
from feedback_loop.cli.output import table
from feedback_loop.errors import BadInput
from feedback_loop.plain import plain

if TYPE_CHECKING:
    from feedback_loop.store.incidents import Incident

app = group("Incidents: what has become worse, who looks after it, and all that happened.")

IncidentArgument = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="The incident's number, or its model: the one that is open.")
]


@app.command("list")
def list_incidents(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are closed.")] = False,
) -> None:
    """Lists the open incidents."""
    incidents = shell.loop().incidents.list(model, closed=everything)
    none = "There are no incidents." if everything else "No incident is open."
    shell.emit([_with_state(incident) for incident in incidents], lambda rows: table(list(map(_row, rows)), none))


@app.command("show")
def show(
    shell: Shell,
    incident: Annotated[str, typer.Argument(help="The incident's number, or its model: the newest one.")],
) -> None:
    """Tells all that happened in an incident, in the order of time."""
    from feedback_loop.views.incident import incident_story

    chosen, story = incident_story(shell.loop(), incident)
    shell.emit({**_with_state(chosen), "story": story}, _story_words)


@app.command("ack")
def ack(
    shell: Shell,
    incident: IncidentArgument,
    by: Annotated[str | None, typer.Option(help="Who looks after it; default: who is logged in.")] = None,
) -> None:
    """Says who looks after it; somebody else takes it over the same way."""
    changed = shell.loop().incidents.ack(incident, getpass.getuser() if by is None else by)
    _emit(shell, changed, "acknowledged by {acknowledged_by}")


@app.command("silence")
def silence(
    shell: Shell,
    incident: IncidentArgument,
    until: Annotated[datetime | None, moment_option(help="A moment, ISO 8601 (UTC if it says nothing).")] = None,
    duration: Annotated[timedelta | None, duration_option("--for", help="So long from now: 8h, 2d.")] = None,
    off: Annotated[bool, typer.Option("--off", help="No longer: what was held back goes out.")] = False,
    by: ByOption = None,
) -> None:
    """Holds its alerts back for a while. What is held back goes out afterwards, unless it is over by then."""
    if [until is not None, duration is not None, off].count(True) != 1:
        raise BadInput.of("silence", "needs its end", cure="Give one of --until, --for and --off.")
    loop = shell.loop()
    if duration is not None:
        until = (loop.clock() + duration).replace(microsecond=0)
    words = "silenced no longer" if off else "silenced until {silenced_until}"
    _emit(shell, loop.incidents.silence(incident, until, by), words)


@app.command("close")
def close(
    shell: Shell,
    incident: IncidentArgument,
    because: Annotated[str, typer.Option(help="Why it is over.")],
    by: ByOption = None,
) -> None:
    """Closes it by hand: nobody is told, and the monitor of one by a verdict starts anew.

    By itself it closes where the model recovers, with the next champion (rollback), or as the adapter learns again.
    """
    _emit(shell, shell.loop().incidents.close(incident, because, by), "closed")


def _emit(shell: Shell, changed: Incident, words: str) -> None:
    sentence = f"Incident {{incident_id}} of {{model}} is {words}."
    shell.emit(_with_state(changed), lambda row: sentence.format(**row))


def _with_state(incident: Incident) -> dict[str, Any]:
    return {**plain(incident), "state": "open" if incident.closed_at is None else "closed"}


def _row(incident: dict[str, Any]) -> dict[str, Any]:
    by = incident["acknowledged_by"]
    return {
        "incident": incident["incident_id"],
        "cause": incident["cause"],
        "title": incident["title"],
        "opened": _to_seconds(incident["opened_at"]),
        "acknowledged": f"by {by}" if by else "no",
        "silenced until": _to_seconds(incident["silenced_until"] or "–"),
        "closed": _to_seconds(incident["closed_at"] or "–"),
    }


def _to_seconds(moment: str) -> str:
    """Nobody reads microseconds."""
    return re.sub(r"\.\d+Z", "Z", moment)


def _story_words(incident: dict[str, Any]) -> str:
    lines = [f"incident {incident['incident_id']} ({incident['state']}): {incident['title']}"]
    lines += [f"  {_to_seconds(entry['at'])}  {entry['what']}: {entry['words']}" for entry in incident["story"]]
    if incident["state"] == "open" and incident["recovery"]:
        from feedback_loop.decisions.recovery import Recoveries

        tests = Recoveries.from_json(incident["recovery"]).tests
        lines += [f"  so far     {name}: {test.words}" for name, test in tests.items()]
    return "\n".join(lines)

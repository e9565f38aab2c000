"""`feedback-loop incidents`: what has become worse, who looks after it, and all that happened."""

from __future__ import annotations

import getpass
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feedback_loop.cli.output import Commands, Shell, table
from feedback_loop.clock import format_moment, parse_duration, parse_moment
from feedback_loop.errors import BadInput

if TYPE_CHECKING:
    from feedback_loop.store.incidents import Incident

app = Commands(
    help="Incidents: what has become worse, who looks after it, and all that happened.", no_args_is_help=True
)

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
    found = shell.loop().incidents.list(model, closed=everything)
    none = "There are no incidents." if everything else "No incident is open."
    shell.emit([_incident(each) for each in found], lambda rows: table(list(map(_short, rows)), none))


@app.command("show")
def show(
    shell: Shell,
    incident: Annotated[str, typer.Argument(help="The incident's number, or its model: the newest one.")],
) -> None:
    """Tells all that happened in an incident, in the order of time."""
    from feedback_loop.views.incident import incident_story

    found, story = incident_story(shell.loop(), incident)
    entries = [{**asdict(each), "at": format_moment(each.at)} for each in story]
    shell.emit(_incident(found) | {"story": entries}, _story_words)


@app.command("ack")
def ack(
    shell: Shell,
    incident: IncidentArgument,
    by: Annotated[str | None, typer.Option(help="Who looks after it; default: who is logged in.")] = None,
) -> None:
    """Says who looks after it; somebody else takes it over the same way."""
    found = shell.loop().incidents.ack(incident, getpass.getuser() if by is None else by)
    shell.emit(_incident(found), _done("acknowledged by {acknowledged_by}"))


@app.command("silence")
def silence(
    shell: Shell,
    incident: IncidentArgument,
    until: Annotated[str | None, typer.Option(help="A moment, ISO 8601 (UTC if it says nothing).")] = None,
    duration: Annotated[str | None, typer.Option("--for", help="So long from now: 8h, 2d.")] = None,
    off: Annotated[bool, typer.Option("--off", help="No longer: what was held back goes out.")] = False,
) -> None:
    """Holds its alerts back for a while. What is held back goes out afterwards, unless it is over by then."""
    if [until is not None, duration is not None, off].count(True) != 1:
        raise BadInput.of("silence", "needs its end", cure="Give one of --until, --for and --off.")
    loop = shell.loop()
    end = parse_moment(until) if until is not None else None
    if duration is not None:
        end = (loop.clock() + parse_duration(duration)).replace(microsecond=0)
    words = "silenced no longer" if off else "silenced until {silenced_until}"
    shell.emit(_incident(loop.incidents.silence(incident, end)), _done(words))


@app.command("close")
def close(
    shell: Shell,
    incident: IncidentArgument,
    because: Annotated[str, typer.Option(help="Why it is over.")],
) -> None:
    """Closes it by hand: nobody is told, and the monitor starts anew. Recovery closes it by itself."""
    found = shell.loop().incidents.close(incident, because)
    shell.emit(_incident(found), _done("closed"))


def _incident(found: Incident) -> dict[str, Any]:
    plain = {**asdict(found), "state": "open" if found.closed_at is None else "closed"}
    moments = ("opened_at", "closed_at", "acknowledged_at", "silenced_until")
    return plain | {name: format_moment(plain[name]) if plain[name] is not None else None for name in moments}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    by = row["acknowledged_by"]
    return {
        "incident": row["incident_id"],
        "title": row["title"],
        "opened": _to_seconds(row["opened_at"]),
        "acknowledged": f"by {by}" if by else "no",
        "silenced until": _to_seconds(row["silenced_until"] or "–"),
        "closed": _to_seconds(row["closed_at"] or "–"),
    }


def _to_seconds(moment: str) -> str:
    """Nobody reads microseconds."""
    return re.sub(r"\.\d+Z", "Z", moment)


def _story_words(told: dict[str, Any]) -> str:
    lines = [f"incident {told['incident_id']} ({told['state']}): {told['title']}"]
    lines += [f"  {_to_seconds(each['at'])}  {each['what']}: {each['words']}" for each in told["story"]]
    if told["state"] == "open":
        lines += [f"  so far     {name}: {words}" for name, words in _recovery_words(told["recovery"]).items()]
    return "\n".join(lines)


def _recovery_words(recovery: dict[str, Any] | None) -> dict[str, str]:
    from feedback_loop.decisions.recovery import Recoveries

    return {name: test.words for name, test in Recoveries.from_json(recovery).tests.items()} if recovery else {}


def _done(words: str) -> Any:
    return lambda row: f"Incident {row['incident_id']} of {row['model']} is {words.format(**row)}."

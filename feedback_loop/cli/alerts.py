"""`feedback-loop alerts`: what has not gone out, tried again on demand, and routes tried."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell, group
from feedback_loop.cli.output import table
from feedback_loop.errors import BadInput
from feedback_loop.plain import plain

app = group("Alerts: what has not gone out, tried again on demand, and routes tried.")

RouteOption = Annotated[str | None, typer.Option("--route", help="Only on this route.")]


@app.command("list")
def list_alerts(
    shell: Shell,
    model: Annotated[str | None, typer.Argument(help="Only this model's.")] = None,
    route: RouteOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were sent.")] = False,
) -> None:
    """Lists the alerts that wait, and those that were given up, with what their routes said."""
    alerts = shell.loop().alerts.list(model, route=route, everything=everything)
    none = "There are no alerts." if everything else "All alerts have gone out."
    rows = [{**plain(alert), "severity": alert.severity} for alert in alerts]
    shell.emit(rows, lambda rows: table(list(map(_row, rows)), none))


@app.command("retry")
def retry(
    shell: Shell,
    alerts: Annotated[list[int] | None, typer.Argument(metavar="[ALERT]...", help="The alerts' numbers.")] = None,
    route: RouteOption = None,
    given_up: Annotated[bool, typer.Option("--given-up", help="All that were given up.")] = False,
) -> None:
    """Tries alerts again now, as if they were new: those that were given up, or that wait for their next attempt."""
    if bool(alerts) == given_up:
        raise BadInput.of("alerts", "are to be named in one way", cure="Give their numbers, or --given-up.")
    shell.emit(shell.loop().alerts.retry(alerts or None, route=route), _delivered)


@app.command("test")
def test(shell: Shell, route: Annotated[str, typer.Argument(help="The route's name.")]) -> None:
    """Sends a message for trial on a route, as alerts on it look; exit code 1 with what it says if it takes none."""
    sent = shell.loop().alerts.test(route)
    shell.emit({"route": sent, "state": "sent"}, lambda row: f"The route {row['route']} has taken it.")


def _row(alert: dict[str, Any]) -> dict[str, Any]:
    return {
        "alert": alert["alert_id"],
        "route": alert["route"],
        "model": alert["model"] or "–",
        "severity": alert["severity"],
        "state": alert["state"],
        "attempts": alert["attempts"],
        "next attempt": alert["next_attempt_at"] if alert["state"] == "pending" else "–",
        "title": alert["title"],
        "cause": alert["cause"] or "–",
    }


def _delivered(delivery: dict[str, Any]) -> str:
    return "{sent} sent, {failed} failed, {given_up} given up.".format(**delivery)

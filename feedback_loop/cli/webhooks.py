"""`feedback-loop webhooks`: MLflow's server tells ours at once that an alias was moved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feedback_loop.cli.options import Shell, group
from feedback_loop.cli.output import table
from feedback_loop.errors import Refused

app = group("MLflow's webhooks: aliases that are moved there are noticed here at once.")

UrlArgument = Annotated[str, typer.Argument(help="Where MLflow reaches the server: https://models.example.com.")]


@app.command("add")
def add(shell: Shell, url: UrlArgument) -> None:
    """Has MLflow's server tell a server of ours about aliases, signed with serving.webhook_secret, and tries it."""
    loop = shell.loop()
    secret = loop.settings.serving.webhook_secret.get_secret_value()
    if not secret:
        cure = "Set FEEDBACK_LOOP_SERVING__WEBHOOK_SECRET, for this command and for the server."
        raise Refused("There is no serving.webhook_secret to sign with.", cure=cure)
    shell.emit(loop.registry.webhooks.add(url, secret), _words)


@app.command("list")
def list_webhooks(shell: Shell) -> None:
    """Lists those that lead to servers of ours, each tried by MLflow just now."""
    from feedback_loop.registry import cure_of_webhook

    webhooks = [
        {"url": webhook.url, "answer": webhook.cause or "taken", "cure": cure_of_webhook(webhook.cause)}
        for webhook in shell.loop().registry.webhooks.tried()
    ]
    shell.emit(webhooks, lambda rows: table(rows, "There is none. Make one: feedback-loop webhooks add URL."))


@app.command("remove")
def remove(shell: Shell, url: UrlArgument) -> None:
    """Deletes one."""
    shell.emit(shell.loop().registry.webhooks.remove(url), lambda webhook: f"{webhook['url']} is told no more.")


def _words(webhook: dict[str, Any]) -> str:
    from feedback_loop.registry import cure_of_webhook

    if cause := webhook["cause"]:
        return f"{webhook['url']} is on record, but was not reached: {cause}\n{cure_of_webhook(cause)}"
    return f"MLflow tells {webhook['url']} of aliases; it has tried that."

"""Webhooks of an MLflow server that tell ours of aliases that were moved: made, listed, tried, removed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from feedback_loop.errors import NotFound, Refused
from feedback_loop.registry.client import Connection

EVENTS = ["model_version_alias.created", "model_version_alias.deleted"]
"""Of what MLflow tells us."""

PATH = "/webhooks/mlflow"
"""Where our servers take it."""

SECRET_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"  # noqa: S105 (a variable's name)

VARIABLES: Mapping[str, str] = {
    SECRET_KEY: "the output of: python -c 'from cryptography.fernet import Fernet; "
    "print(Fernet.generate_key().decode())'",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https, for an address with http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true, for localhost or a private address",
}
"""What MLflow's server has to be started with, and when.

Without the first each of its processes makes a key of its own, and can't read what another has written.
"""


@dataclass(frozen=True)
class Webhook:
    """One that leads to a server of ours. `cause` says why MLflow's attempt to reach it failed; empty: it did not."""

    url: str
    webhook_id: str
    cause: str = ""


class Webhooks:
    """Those of one MLflow server."""

    def __init__(self, connection: Connection) -> None:
        self._mlflow = connection

    def add(self, url: str, secret: str) -> Webhook:
        """Has MLflow tell a server of ours about aliases, signed with `secret`, and try it.

        One with that address gets the secret. Raises Refused, with what MLflow's server needs, where it does not
        take the address, or where there is no server.
        """
        url = url.rstrip("/")
        url = url if url.endswith(PATH) else url + PATH
        self._refuse_without_server()
        with self._mlflow.translated("webhook", url):
            from mlflow.exceptions import MlflowException

            client = self._mlflow.client
            same = next((webhook for webhook in self.found() if webhook.url == url), None)
            try:
                if same is not None:
                    client.update_webhook(same.webhook_id, secret=secret, events=EVENTS)
                    made = same.webhook_id
                else:
                    made = client.create_webhook(_name_of(url), url, EVENTS, secret=secret).webhook_id
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                raise Refused(f"MLflow does not take {url}: {error.message}", cure=cure_of(error.message)) from error
            return self._tried(Webhook(url, str(made)))

    def found(self) -> list[Webhook]:
        """All that lead to a server of ours, untried; raises Refused where MLflow can't read their secrets."""
        with self._mlflow.translated("webhook", "*"):
            webhooks, token = list[Webhook](), None
            while True:
                page: Any = self._page(token)
                webhooks += [Webhook(entry.url, str(entry.webhook_id)) for entry in page if entry.url.endswith(PATH)]
                token = page.token
                if not token:
                    return webhooks

    def _page(self, token: str | None) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._mlflow.client.list_webhooks(page_token=token)
        except MlflowException as error:
            if error.error_code != "INTERNAL_ERROR":
                raise
            cause = f"MLflow's server fails to list its webhooks: {error.message}"
            raise Refused(cause, cure=_start_with(SECRET_KEY)) from error

    def tried(self) -> list[Webhook]:
        """The same, each tried by MLflow just now; none where there is no server."""
        return [self._tried(webhook) for webhook in self.found()] if self._mlflow.is_server else []

    def remove(self, url: str) -> Webhook:
        """Deletes one by its address; raises NotFound."""
        self._refuse_without_server()
        for webhook in self.found():
            if webhook.url in (url, url.rstrip("/") + PATH):
                with self._mlflow.translated("webhook", url):
                    self._mlflow.client.delete_webhook(webhook.webhook_id)
                return webhook
        raise NotFound("webhook", url, cure="See: feedback-loop webhooks list.")

    def _tried(self, webhook: Webhook) -> Webhook:
        with self._mlflow.translated("webhook", webhook.url):
            result = self._mlflow.client.test_webhook(webhook.webhook_id)
        if result.success:
            return webhook
        cause = str(result.error_message or f"{result.response_status}: {result.response_body}")
        system = re.search(r"\[Errno \d+\] ([^\"')]+)", cause)  # within the words of three libraries
        return Webhook(webhook.url, webhook.webhook_id, system[1] if system else cause[:500])

    def _refuse_without_server(self) -> None:
        if not self._mlflow.is_server:
            cause = "The registry is a database without a server, which tells nobody of anything."
            raise Refused(cause, cure="Aliases are asked for every serving.poll_alias all the same.")


def cure_of(cause: str) -> str:
    """What to do where MLflow can't deliver, by what it says."""
    wanted = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "scheme" in cause,
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "non-public" in cause,
    }
    names = [name for name, is_wanted in wanted.items() if is_wanted]
    if not cause:
        return ""
    if "401" in cause:
        return "Its secret is not the server's: feedback-loop webhooks add URL, with the same serving.webhook_secret."
    if not names:
        return "See that the server runs, and that MLflow's host reaches it."
    return _start_with(*names)


def _start_with(*names: str) -> str:
    return "Start MLflow's server with " + "; ".join(f"{name}={VARIABLES[name]}" for name in names) + "."


def _name_of(url: str) -> str:
    """A name that MLflow takes: of letters, digits, dots and dashes."""
    return "feedback-loop-" + re.sub(r"[^A-Za-z0-9.-]+", "-", urlsplit(url).netloc).strip("-.")[:50]

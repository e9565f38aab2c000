"""What an alert says on a route: its title, its text, and fields for programs. All of it is text, never markup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from urllib.parse import quote

from feedback_loop.config import AlertSettings
from feedback_loop.config_process import TEMPLATE_FIELDS
from feedback_loop.safe_text import as_text
from feedback_loop.store import Store
from feedback_loop.store.alerts import RECOVERED, Alert
from feedback_loop.store.conclusions import load_diagnoses, load_verdict
from feedback_loop.store.incidents import load_incident


@dataclass(frozen=True)
class Content:
    """A title, a text, and the same in parts: `fields` go to webhooks, as far as they are not empty."""

    title: str
    body: str
    fields: dict[str, str] = field(default_factory=dict)


def content_of(store: Store, settings: AlertSettings, alert: Alert, pages: str = "") -> Content:
    """The alert as its route has it, by the templates; `pages` is the URL of our pages, if there are any.

    An incident's has its evidence, and its diagnosis as far as there is one when it goes out.
    """
    link = link_of(settings, alert, pages)
    of_it = {"kind": alert.kind, "severity": alert.severity, **alert.fields, **_details(store, alert), "link": link}
    known = dict.fromkeys(TEMPLATE_FIELDS, "") | of_it
    known |= {"title": alert.title, "body": alert.body, "subject": alert.subject, "model": alert.model}
    known = {name: as_text(value, keep="\n") for name, value in known.items()}
    route = settings.routes.get(alert.route)
    title = (route.title if route else "") or settings.title
    body = (route.body if route else "") or settings.body
    fields = {name: value for name, value in of_it.items() if value}
    text = Template(body).substitute(known) if body else _usual(known)
    return Content(" ".join(Template(title).substitute(known).splitlines()), text, fields)


def _usual(known: Mapping[str, str]) -> str:
    """The text where there is no template."""
    more = [name for name in ("evidence", "diagnosis") if known[name] not in known["body"]]
    parts = [known["body"], *(f"{name.capitalize()}: {known[name]}" for name in more), known["link"]]
    return "\n".join(part for part in parts if part)


def _details(store: Store, alert: Alert) -> dict[str, str]:
    """What an incident rests on, and what is recommended, as it is known now; nothing once it is over."""
    if alert.incident_id is None or alert.subject.endswith(RECOVERED):
        return {}
    incident = load_incident(store, alert.incident_id)
    diagnoses = load_diagnoses(store, incident.model, incident.incident_id)
    evidence = (incident.evidence or {}).get("summary", "")
    if incident.verdict_id is not None:
        evidence = load_verdict(store, incident.verdict_id).summary
    return {"evidence": evidence, "diagnosis": diagnoses[-1].summary if diagnoses else ""}


def link_of(settings: AlertSettings, alert: Alert, pages: str) -> str:
    """The page about an alert's incident (the one that is configured, or ours), approval or model; empty for none."""
    if settings.link and alert.fields.get("incident"):
        link = settings.link
        for name in ("model", "model_version", "incident", "recommendation"):
            link = link.replace(f"{{{name}}}", quote(alert.fields.get(name, ""), safe=""))
        return link
    if not pages or not alert.model:
        return ""
    page = f"models/{quote(alert.model, safe='')}"
    for name in ("incident", "approval"):
        if number := alert.fields.get(name):
            page = f"{name}s/{quote(number, safe='')}"
    return f"{pages.rstrip('/')}/{page}"

"""Sections of the configuration that are of a process and not of a model: stores, server, spools, alerts."""

from __future__ import annotations

from datetime import timedelta
from string import Template
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from feedback_loop.clock import DailyHours, parse_hours
from feedback_loop.config_policy import Duration, OptionalDuration, Section, setting
from feedback_loop.errors import BadInput

SQLITE = "sqlite:///"

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class StoreSettings(Section):
    """Where predictions, outcomes and everything concluded from them are kept."""

    url: str = setting(
        SQLITE + "feedback_loop.db",
        "the database: `sqlite:///file.db` (relative to the file's folder) or `postgresql://user@host/name`",
    )
    history: OptionalDuration = setting(
        timedelta(days=400),
        "how long runs, told alerts and verdicts stay that nothing goes on from; `never`: for ever",
    )


class RegistrySettings(Section):
    """The MLflow server or store that holds the models."""

    tracking_uri: str = setting(SQLITE + "mlflow.db", "the MLflow server, or its database")
    registry_uri: str = setting("", "where models are registered, if that is elsewhere; empty: the same")
    artifact_root: str = setting("mlartifacts", "where artifacts go if `tracking_uri` is a database and no server")
    experiment: str = setting("feedback-loop", "the MLflow experiment of runs that the loop makes")
    trusted: bool | None = setting(
        None, "whether models may hold code (pickles); left out: if the registry is on this host"
    )


class ServingSettings(Section):
    """The HTTP server. `require_key` is `auto`: off on loopback, on for every other address."""

    host: str = setting(
        "127.0.0.1", "address to listen on; on any but loopback callers need a key: `feedback-loop keys create`"
    )
    port: int = setting(5001, "port to listen on; 0: any that is free", ge=0, le=65535)
    poll_alias: Duration = setting(
        timedelta(seconds=10),
        "how often aliases, traffic and keys are asked for (keys within a second of one that is not known)",
    )
    require_key: Literal["auto", "always", "never"] = setting(
        "auto", "`auto`: keys on every address but loopback; `always`; `never`"
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), "names (`*.example.com`) that it answers to where no key is asked for"
    )
    workers: int = setting(1, "processes that answer", gt=0)
    webhook_secret: SecretStr = setting(SecretStr(""), "of MLflow's registry webhook; empty: none is expected")
    max_body_bytes: int = setting(16 * 1024 * 1024, "of one request", gt=0)
    max_rows: int = setting(100_000, "of one request", gt=0)
    max_in_flight: int = setting(512, "requests under way, per worker", gt=0)
    max_unpacked_bytes: int = setting(
        1024**3, "of all requests under way together once they are unpacked, per worker", gt=0
    )
    loaded_models: int = setting(
        100, "in memory at a time, per worker; of more, each is loaded when it is asked for", gt=0
    )
    loaded_bytes: int | None = setting(
        None,
        "of a worker's memory; beyond it models are put away, and each is loaded when it is asked for; left out: any",
        examples=[500_000_000],
        gt=0,
    )
    threads: int = setting(1, "of one call of a model", gt=0)
    providers: tuple[str, ...] = setting(("CPU",), "what ONNX Runtime computes on, the preferred first")
    access_log: bool = setting(False, "a JSON line for every request; some of the failed ones are logged in any case")
    trace: bool = setting(False, "OpenTelemetry's spans (the extra `tracing`), sent where its own variables say")
    cache: str = setting("models", "folder of versions that were made ready, and of what the workers count")
    tls_certificate: str = setting("", "a PEM file with the chain; empty: no TLS")
    tls_key: str = setting("", "its key, a PEM file without a password")
    header_timeout: Duration = setting(timedelta(seconds=10), "a connection without a whole head by then is closed")
    body_timeout: Duration = setting(timedelta(seconds=30), "408 for a body that is not there by then")
    max_connections: int = setting(1024, "of each worker, idle ones too; others wait in the backlog", gt=0)
    max_connections_per_address: int = setting(512, "of each worker; a proxy is one address", gt=0)
    backlog: int = setting(1024, "connections that the system holds until a worker takes them", ge=128)

    @model_validator(mode="after")
    def _both_or_none(self) -> ServingSettings:
        """A certificate is of no use without its key."""
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key: give both, or neither")
        return self


AlertKind = Literal[
    "incident",
    "condition",
    "spool",
    "serving",
    "stream",
    "drift",
    "quality",
    "outcomes",
    "promotion",
    "approval",
    "retraining",
    "adapter",
    "jobs",
]


def _hours(value: object, info: ValidationInfo) -> object:
    """Hours by the clocks of the section's `timezone`; where that is wrong, it is what is told."""
    if isinstance(value, DailyHours):
        return value
    if "timezone" not in info.data:
        return None
    try:
        return parse_hours(str(value), info.data["timezone"])
    except BadInput as error:
        raise ValueError(str(error)) from error


Severity = Literal["info", "warning", "critical"]

TEMPLATE_FIELDS = (
    *("title", "body", "kind", "severity", "model", "model_version", "incident"),
    *("evidence", "diagnosis", "link", "subject"),
)
"""What the templates of alerts may name. What an alert does not have is empty."""


def _template(text: str) -> str:
    """A text with `$names`; raises ValueError for a name that there is not."""
    template = Template(text)
    if not template.is_valid():
        raise ValueError(f"{text!r} has a $ that begins no name: write $$ for a dollar")
    for name in template.get_identifiers():
        if name not in TEMPLATE_FIELDS:
            raise ValueError(f"there is no ${name}: there are {', '.join(f'${known}' for known in TEMPLATE_FIELDS)}")
    return text


AlertTemplate = Annotated[str, AfterValidator(_template)]


class RouteSettings(Section):
    """One route of alerts: where to, and which of them. Its URL alone may stand in the place of the table."""

    url: str = setting(..., "an Apprise URL; it holds secrets, so only the route's name is stored")
    severity: Severity = setting("info", "alerts of at least this severity")
    models: tuple[str, ...] = setting((), "alerts about these models; empty: about any, and about none")
    kinds: tuple[AlertKind, ...] = setting((), "alerts of these kinds; empty: of any")
    title: AlertTemplate = setting("", "in the place of `alerts.title`")
    body: AlertTemplate = setting("", "in the place of `alerts.body`")


def _route(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class AlertSettings(Section):
    """Alert routes by name, each an Apprise URL. The URLs hold secrets: only the names are stored.

    In the `quiet` hours (`22:00-07:00`) alerts wait until their end, but for those that are named in `quiet_except`.
    """

    routes: dict[str, Annotated[RouteSettings, BeforeValidator(_route)]] = Field(
        default_factory=dict, description="Apprise URLs by name, or a table for each", examples=[{"ops": "slack://…"}]
    )
    title: AlertTemplate = setting(
        "$title", f"the title; it may name {', '.join(f'`${name}`' for name in TEMPLATE_FIELDS)}"
    )
    body: AlertTemplate = setting("", "the text, likewise; empty: the alert's own, evidence, diagnosis and link")
    link: str = setting(
        "", "a page about an incident in the place of ours (`dashboard.url`): `https://…/{model}/{incident}`"
    )
    attempts: int = setting(8, "until an alert is given up", gt=0)
    backoff: Duration = setting(timedelta(minutes=1), "wait after the first failure; it doubles")
    timeout: Duration = setting(timedelta(seconds=20), "what a route does not answer in this time has failed")
    timezone: ZoneInfo = Field(default_factory=lambda: ZoneInfo("UTC"), description="by whose clocks hours are quiet")
    quiet: Annotated[DailyHours | None, BeforeValidator(_hours)] = setting(
        None, "hours in which alerts wait, such as `22:00-07:00`", examples=["22:00-07:00"]
    )
    quiet_except: tuple[AlertKind, ...] = setting(
        (),
        f"kinds that do not wait: {', '.join(f'`{kind}`' for kind in get_args(AlertKind))}",
        examples=[["incident"]],
    )


class SchedulerSettings(Section):
    """How long a job's lease lasts unless it is renewed, and where reports are written."""

    lease: Duration = setting(
        timedelta(seconds=20), "how long others leave a model alone after a run that was killed"
    )
    reports: str = setting("reports", "folder of reports")
    late_after: Duration = setting(timedelta(hours=1), "a run that is not made so long after its time is told about")
    metrics: str = setting("", "`host:port` that a scheduler answers Prometheus on; empty: none")
    trace: bool = setting(
        False, "OpenTelemetry's spans of the loop's turns, as `serving.trace` gives those of requests"
    )


class OidcRule(Section):
    """What people may do at the pages of whom the provider says so. Whom no rule names may do nothing."""

    claim: str = setting(
        ..., "what the provider says of people: `groups`, `roles`, `email`; a dot leads on: `realm_access.roles`"
    )
    value: str = setting(..., "its value, or one of several, in the same letters", min_length=1)
    scopes: tuple[Literal["read", "approve", "admin"], ...] = setting(
        ..., "what they may do: `read`, `approve`, `admin`; without `read` or `admin` nobody is let in", min_length=1
    )
    models: tuple[str, ...] = setting((), "for these models; empty: for all")


def _secure(url: str) -> str:
    """An address over which secrets may go: HTTPS, or this host itself."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError("it is no https:// address")
    return url


class OidcSettings(Section):
    """Signing in to the pages by OpenID Connect, besides by keys: then everybody does, wherever the pages listen."""

    issuer: Annotated[str, AfterValidator(_secure)] = setting(
        ..., "the provider's address, to the letter as it writes it in its tokens"
    )
    client_id: str = setting(..., "what the provider knows these pages by", min_length=1)
    client_secret: SecretStr = setting(
        SecretStr(""), "its secret: `FEEDBACK_LOOP_DASHBOARD__OIDC__CLIENT_SECRET`; empty: a public client"
    )
    scopes: tuple[str, ...] = setting(("openid", "email", "profile"), "what the provider is asked for")
    name: str = setting(
        "email", "the claim that people's acts are recorded under (an email only if it is verified), else `sub`"
    )
    title: str = setting("OpenID Connect", "the provider's name on the page where people sign in")
    rules: tuple[OidcRule, ...] = setting((), "who may do what; all that fit count together")

    @field_validator("scopes")
    @classmethod
    def _asks_for_a_token(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        """Without this scope a provider speaks OAuth alone, and says of nobody who they are."""
        if "openid" not in scopes:
            raise ValueError("openid is not among them")
        return scopes


class DashboardSettings(Section):
    """The web pages. Whether a key is asked for there follows `serving.require_key`, by the pages' own address."""

    host: str = setting(
        "127.0.0.1",
        "address to listen on; on any but loopback people sign in with a key: `keys create NAME --scope read`",
    )
    port: int = setting(5002, "port to listen on; 0: any that is free", ge=0, le=65535)
    session: Duration = setting(timedelta(hours=12), "how long somebody stays signed in")
    secret: SecretStr = setting(
        SecretStr(""),
        "signs sessions, the same on every host of the pages; empty: one is made in `serving.cache`",
    )
    trace: bool = setting(
        False, "OpenTelemetry's spans of the pages' requests, as `serving.trace` gives those of others"
    )
    url: str = setting("", "where people reach the pages, for links in alerts: `https://loop.example.org`")
    oidc: OidcSettings | None = setting(None, "people sign in at a provider of OpenID Connect, too")

    @model_validator(mode="after")
    def _way_back(self) -> DashboardSettings:
        """No header of a request may say where a provider sends people back to."""
        if self.oidc is not None and not self.url:
            raise ValueError("dashboard.oidc needs dashboard.url: people are sent back there")
        return self


class CaptureSettings(Section):
    """The spools: where they lie, how large one may become, how often they are forwarded to the store."""

    folder: str = setting("spool", "where spools lie, on this host's own disk")
    max_bytes: int = setting(1024**3, "of one process's spool; beyond that: `log.on_full`", gt=0)
    forward_every: Duration = setting(timedelta(milliseconds=200), "how often waiting rows go to the store")
    max_backoff: Duration = setting(timedelta(seconds=30), "longest wait between attempts while the store is away")
    pair_within: Duration = setting(timedelta(hours=1), "how long a request of another server waits for its answer")
    alert_after: Duration = setting(timedelta(minutes=10), "a row that waits longer for the store is told about")
    hash_key: SecretStr = setting(
        SecretStr(""),
        "of hashed columns and erased keys' digests, the same on every host: `FEEDBACK_LOOP_CAPTURE__HASH_KEY`",
    )

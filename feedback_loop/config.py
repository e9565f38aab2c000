"""`feedback_loop.toml` and `FEEDBACK_LOOP_…` variables, read into frozen settings."""

from __future__ import annotations

import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from feedback_loop.clock import DailyHours, parse_hours
from feedback_loop.config_errors import explained, nearest, unknown_setting
from feedback_loop.config_policy import (
    ConditionSettings,
    DriftSettings,
    Duration,
    OptionalDuration,
    PolicySettings,
    RetrainingSettings,
    Section,
)
from feedback_loop.errors import BadInput, ConfigError, NotFound

FILE_NAME = "feedback_loop.toml"
PREFIX = "FEEDBACK_LOOP_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
SQLITE = "sqlite:///"


class StoreSettings(Section):
    """Where predictions, outcomes and everything concluded from them are kept."""

    url: str = SQLITE + "feedback_loop.db"
    history: OptionalDuration = timedelta(days=400)  # of runs, told alerts and verdicts that nothing goes on from


class RegistrySettings(Section):
    """The MLflow server or store that holds the models."""

    tracking_uri: str = SQLITE + "mlflow.db"
    registry_uri: str = ""  # empty: the same as tracking_uri
    artifact_root: str = "mlartifacts"  # used where tracking_uri is a database, not a server
    experiment: str = "feedback-loop"
    # Whether what lies there may be executed as code (pickles, code beside models); None: unless it is remote.
    trusted: bool | None = None


class ServingSettings(Section):
    """The HTTP server. `require_key` is `auto`: off on loopback, on for every other address."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 5001
    poll_alias: Duration = timedelta(seconds=10)
    require_key: Literal["auto", "always", "never"] = "auto"
    allowed_hosts: tuple[str, ...] = ()  # names (`*.example.com`) that it answers to where no key is asked for
    workers: Annotated[int, Field(gt=0)] = 1
    webhook_secret: SecretStr = SecretStr("")  # of MLflow's registry webhook; empty: none is expected
    max_body_bytes: Annotated[int, Field(gt=0)] = 16 * 1024 * 1024
    max_rows: Annotated[int, Field(gt=0)] = 100_000  # of one request
    max_in_flight: Annotated[int, Field(gt=0)] = 512  # requests, per worker
    max_unpacked_bytes: Annotated[int, Field(gt=0)] = 1024**3  # of all requests under way together, per worker
    threads: Annotated[int, Field(gt=0)] = 1
    providers: tuple[str, ...] = ("CPU",)  # what ONNX Runtime computes on, the preferred first
    access_log: bool = False  # a line for every request; some of the failed ones are logged in any case
    trace: bool = False  # OpenTelemetry; where to is said by its own variables (OTEL_EXPORTER_OTLP_ENDPOINT)
    cache: str = "models"  # versions that were made ready to answer, and what the workers count
    tls_certificate: str = ""  # PEM files; empty: no TLS
    tls_key: str = ""
    header_timeout: Duration = timedelta(seconds=10)  # a connection that has sent no whole head by then is closed
    body_timeout: Duration = timedelta(seconds=30)  # a request whose body is not there by then is refused
    max_connections: Annotated[int, Field(gt=0)] = 1024  # of each worker, idle ones too; others wait in the backlog
    max_connections_per_address: Annotated[int, Field(gt=0)] = 512  # of each worker; a proxy is one address
    backlog: Annotated[int, Field(ge=128)] = 1024  # connections that the system holds until a worker takes them

    @model_validator(mode="after")
    def _both_or_none(self) -> ServingSettings:
        """A certificate is of no use without its key."""
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key: give both, or neither")
        return self


AlertKind = Literal[
    "incident", "spool", "serving", "stream", "drift", "quality", "outcomes", "promotion", "retraining", "jobs"
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


class AlertSettings(Section):
    """Alert routes by name, each an Apprise URL. The URLs hold secrets: only the names are stored.

    In the `quiet` hours (`22:00-07:00`) alerts wait until their end, but for those that are named in `quiet_except`.
    """

    routes: dict[str, str] = Field(default_factory=dict)
    link: str = ""  # a page about an incident, for people and webhooks: https://…/{model}/{incident}
    attempts: Annotated[int, Field(gt=0)] = 8
    backoff: Duration = timedelta(minutes=1)
    timezone: ZoneInfo = Field(default_factory=lambda: ZoneInfo("UTC"))  # by whose clocks the hours are quiet
    quiet: Annotated[DailyHours | None, BeforeValidator(_hours)] = None
    quiet_except: tuple[AlertKind, ...] = ()


class SchedulerSettings(Section):
    """How long a job's lease lasts unless it is renewed, and where reports are written."""

    lease: Duration = timedelta(minutes=2)
    reports: str = "reports"
    late_after: Duration = timedelta(hours=1)  # a run that is not made so long after its time is told about
    metrics: str = ""  # host:port that a scheduler answers Prometheus on; empty: none


class CaptureSettings(Section):
    """The spools: where they lie, how large one may become, how often they are forwarded to the store."""

    folder: str = "spool"
    max_bytes: Annotated[int, Field(gt=0)] = 1024**3
    forward_every: Duration = timedelta(milliseconds=200)
    max_backoff: Duration = timedelta(seconds=30)
    pair_within: Duration = timedelta(hours=1)  # a logged request and its answer, events of others' servers
    alert_after: Duration = timedelta(minutes=10)  # a row that waits longer for the store is told about
    hash_key: SecretStr = SecretStr("")  # of columns that are logged as hashes: FEEDBACK_LOOP_CAPTURE__HASH_KEY


class ScheduleSettings(Section):
    """When the loop runs: a duration (`1d`), a line as crontab has it (`0 4 * * mon`, UTC) or `never`."""

    cycle: str = "1d"
    report: str = "0 6 1 * *"
    # A dead man's switch: this URL is asked for after each cycle of which no job has failed.
    heartbeat: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""


class SqlSourceSettings(Section):
    """A database that outcomes are polled from: `query` gives those with a `watermark` column above `:watermark`."""

    url: str
    query: str
    watermark: str
    start: str | int = "1970-01-01T00:00:00"  # the watermark before the first poll
    # So far each poll looks back, for rows that were committed late: a time (default: 1h), or a number (1000).
    overlap: Annotated[int, Field(strict=True, ge=0)] | Duration | None = None


class OutcomeSettings(Section):
    """Where the scheduler takes outcomes in from: a folder (or object store URL) of files, a SQL query."""

    folder: str = ""
    sql: SqlSourceSettings | None = None


class JoinSettings(Section):
    """Which outcome belongs to which prediction, where it names the key (see `feedback_loop.schema.JoinRule`)."""

    horizon: OptionalDuration = None
    which: Literal["all", "first", "last"] = "all"
    absent_means: bool | int | float | str | None = None


class LogSettings(Section):
    """What of the predictions is logged, how safely, and for how long."""

    durability: Literal["committed", "buffered", "off"] = "committed"
    on_full: Literal["refuse", "drop"] = "refuse"
    columns: dict[str, Literal["plain", "hash", "drop"]] = Field(default_factory=dict)
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    retention: OptionalDuration = None


class OwnMetricSettings(Section):
    """A metric of the user's making: `package.module:name`, or the name of an entry point of `feedback_loop.metrics`.

    Beside the label and the outputs it is given these `columns` (one that is given whole tables has all).
    """

    path: Annotated[str, Field(pattern=r"^[\w.-]+(:[\w.]+)?$")]
    columns: tuple[str, ...] = ()


OwnMetrics = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,99}$")],
    Annotated[OwnMetricSettings, BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value)],
]


class InferenceSettings(Section):
    """What a version is scored by. `auto` takes ONNX where it answers within `tolerance` of the model itself.

    `providers` (CPU, CUDA, TensorRT, OpenVINO, CoreML, …) are tried in this order; empty: those of `serving`.
    Requests are answered together where that is proven to change no answer; with `batching` off, never. `answers`
    says that a model which is no estimator of scikit-learn's answers probabilities, and not classes.
    """

    engine: Literal["auto", "native"] = "auto"
    batching: Literal["auto", "off"] = "auto"
    answers: Literal["auto", "probability"] = "auto"
    tolerance: Annotated[float, Field(gt=0)] = 1e-6
    providers: tuple[str, ...] = ()


class ModelSettings(Section):
    """One registered model: what it predicts, how its outcomes are found, what to do about them."""

    task: Literal["binary", "multiclass", "regression"]
    label: (
        str | Annotated[tuple[str, ...], Field(min_length=1, max_length=50)]
    )  # several: of several outputs, of several labels
    key: tuple[str, ...] = ()
    key_types: dict[str, Literal["boolean", "integer", "long", "float", "double", "string", "datetime"]] = Field(
        default_factory=dict
    )
    # Of a version that shows no classes: all of them; else those that outcomes may be beside the ones it knows.
    classes: tuple[bool | int | str, ...] = ()
    positive: bool | int | str | None = None
    segments: tuple[str, ...] = ()
    # Of each column of segments so many values are counted by themselves, all others together as "(other)".
    segment_values: Annotated[int, Field(ge=1, le=1000)] = 50
    query: str = ""  # the column that says which rows were ranked against each other: they are judged by NDCG and MRR
    find_slices: bool = False  # of each matured window, whose labelled rows are read for that
    alias: str = "champion"
    maturity: Duration = timedelta(days=1)
    window: Duration = timedelta(days=1)
    silence: Duration | None = None
    drift: DriftSettings = DriftSettings()
    policy: PolicySettings = PolicySettings()
    conditions: tuple[ConditionSettings, ...] = ()
    retraining: RetrainingSettings = RetrainingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    outcomes: OutcomeSettings = OutcomeSettings()
    join: JoinSettings = JoinSettings()
    log: LogSettings = LogSettings()
    inference: InferenceSettings = InferenceSettings()
    metrics: Annotated[OwnMetrics, Field(max_length=100)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _judged_by_the_log(self) -> ModelSettings:
        """Rows that went before they matured can't be judged, nor how a query was ranked by a sample of its rows."""
        if self.log.retention is not None and self.log.retention < self.maturity + 2 * self.window:
            raise ValueError("log.retention must be at least maturity and two windows")
        if self.query and self.log.sample < 1:
            raise ValueError("query needs all rows of each query: log.sample must be 1")
        return self

    @model_validator(mode="after")
    def _watches_what_is_declared(self) -> ModelSettings:
        """A segment is known by a column that is logged with each prediction."""
        watched = [("policy.watch", each.segment) for each in self.policy.watch]
        watched += [("conditions", each.segment) for each in self.conditions]
        for place, segment in watched:
            column = segment.partition("=")[0]
            if column and column not in self.segments:
                known = ", ".join(self.segments) or "none"
                raise ValueError(f"{place}: {column!r} is not among the segments, which are: {known}")
        words = [each.words for each in self.conditions]
        if twice := next((each for each in words if words.count(each) > 1), None):
            raise ValueError(f"conditions: {twice!r} is there twice")
        pairs = [("auto" if each.loss == self.policy.loss else each.loss, each.segment) for each in self.policy.watch]
        if len({*pairs, ("auto", "")}) < len(pairs) + 1:
            raise ValueError("policy.watch: each loss of a segment can be watched once; that of all rows is already")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """All that is predicted of a row."""
        return (self.label,) if isinstance(self.label, str) else self.label


class Settings(BaseSettings):
    """All of it. `home` is the folder that relative paths start from: the configuration file's."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", env_nested_max_split=5
    )

    store: StoreSettings = StoreSettings()
    registry: RegistrySettings = RegistrySettings()
    serving: ServingSettings = ServingSettings()
    capture: CaptureSettings = CaptureSettings()
    alerts: AlertSettings = AlertSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    models: dict[str, ModelSettings] = {}
    home: Path = Path()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file; no other source is read."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="before")
    @classmethod
    def _fold_model_names(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Variables come in lower case: `…MODELS__CHURN__ALIAS` means the file's `[models.Churn]`."""
        models = data.get("models")
        if not isinstance(models, dict):
            return data
        folded: dict[str, Any] = {str(name): value for name, value in models.items() if name != name.lower()}
        spelling = {name.lower(): name for name in folded}
        for name, value in models.items():
            if name in folded:
                continue
            known = spelling.get(name) or str(name)
            folded[known] = _merged(folded.get(known), value)
        return {**data, "models": folded}

    def model(self, name: str) -> ModelSettings:
        """The settings of one model; raises NotFound with the names that there are."""
        if name not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise NotFound("model in the configuration", name, cure=f"Known: {known}. Add it: feedback-loop init.")
        return self.models[name]

    @property
    def hash_key(self) -> bytes:
        """The key of hashes in the log; empty: there is none."""
        return self.capture.hash_key.get_secret_value().encode()

    def path(self, text: str) -> Path:
        """A path of the configuration, relative ones from the configuration's folder."""
        return (self.home / Path(text).expanduser()).absolute()

    def url(self, text: str) -> str:
        """A database URL of the configuration; SQLite files are relative to the configuration's folder."""
        name = text.removeprefix(SQLITE)
        if name == text or not name or name == ":memory:":
            return text
        return f"{SQLITE}{self.path(name)}"


def load_settings(path: Path | None = None) -> Settings:
    """Reads the file (default: `$FEEDBACK_LOOP_CONFIG`, then `./feedback_loop.toml`) and the environment.

    Raises ConfigError, which names the file, the key and the nearest right one.
    """
    place = path or Path(os.environ.get(CONFIG_VARIABLE, FILE_NAME))
    content = read_toml(place, "configuration", "Write one: feedback-loop init.")
    if "home" in content:
        raise unknown_setting(Settings, place, ("home",))
    _refuse_unknown_variables(place)
    _refuse_twins(content, place)
    try:
        return Settings(**content, home=place.absolute().parent)
    except ValidationError as error:
        raise explained(Settings, place, error.errors()[0]) from None  # its own words hold what is no one's to read
    except SettingsError as error:
        cure = "A variable of a table or a list is JSON."
        raise ConfigError(f"The variables can't be read: {error}.", cure=cure, path=place) from None


def read_toml(place: Path, kind: str, cure: str) -> dict[str, Any]:
    """What a file of that kind says; raises ConfigError, with the cure where there is none."""
    try:
        with place.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        cause = f"There is no {kind} {str(place)!r}." if missing else f"{place} can't be read: {error.strerror}."
        raise ConfigError(cause, cure=cure if missing else "Mend that.", path=place) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place} is not TOML: {error}.", cure="Mend that line.", path=place) from error


def with_overrides(settings: ModelSettings, content: dict[str, Any], place: Path) -> ModelSettings:
    """A model's settings, but for what a file says of them; raises ConfigError, as for the configuration itself."""
    configured = settings.model_dump()
    values = {
        key: _merged(configured.get(key), content.get(key, configured.get(key))) for key in configured | content
    }
    try:
        return ModelSettings(**values)
    except ValidationError as error:
        raise explained(ModelSettings, place, error.errors()[0]) from None


def keep_telemetry_off() -> None:
    """Says no to what MLflow and Evidently would report home, unless the user already answered.

    Both read the environment when they are first imported, so this is called just before.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _merged(base: object, over: object) -> object:
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: _merged(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return over


def _refuse_twins(content: dict[str, Any], place: Path) -> None:
    """Two names that differ in capitals alone: a variable, which comes in lower case, could mean either."""
    names = [str(name) for name in content["models"]] if isinstance(content.get("models"), dict) else []
    spelled: dict[str, str] = {}
    for name in names:
        twin = spelled.setdefault(name.lower(), name)
        if twin != name:
            raise ConfigError(
                f"{place}: models.{twin} and models.{name} differ in capitals alone.",
                cure="Variables can't tell them apart: leave one out, or put it into a configuration of its own.",
                path=place,
                key=f"models.{name}",
            )


def _refuse_unknown_variables(place: Path) -> None:
    known = set(Settings.model_fields) - {"home"}
    for variable in os.environ:
        first = variable.removeprefix(PREFIX).split("__")[0].lower()
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE and first not in known:
            raise ConfigError(
                f"The variable {variable} sets nothing.",
                cure=nearest(first, known, lambda name: f"{PREFIX}{name.upper()}__…"),
                path=place,
                key=variable,
            )

"""`feedback_loop.toml` and `FEEDBACK_LOOP_…` variables, read into frozen settings."""

from __future__ import annotations

import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from feedback_loop.config_errors import explained, nearest, unknown_setting
from feedback_loop.config_outcomes import ExplorationSettings, JoinSettings, OutcomeSettings, SqlSourceSettings
from feedback_loop.config_policy import (
    ApprovalSettings,
    ConditionSettings,
    DriftSettings,
    Duration,
    OptionalDuration,
    PolicySettings,
    RetrainingSettings,
    RolloutSettings,
    Section,
    setting,
)
from feedback_loop.config_process import (
    SQLITE,
    AlertSettings,
    CaptureSettings,
    DashboardSettings,
    OidcRule,
    OidcSettings,
    RegistrySettings,
    SchedulerSettings,
    ServingSettings,
    StoreSettings,
)
from feedback_loop.errors import ConfigError, NotFound
from feedback_loop.run_tags import VARIABLE as RUN_TAGS

FILE_NAME = "feedback_loop.toml"
PREFIX = "FEEDBACK_LOOP_"
CONFIG_VARIABLE = PREFIX + "CONFIG"

KEY_VARIABLE = PREFIX + "API_KEY"
"""A caller's key, by which MLflow's commands ask a server that wants one."""

NO_SETTINGS = {CONFIG_VARIABLE, KEY_VARIABLE, RUN_TAGS}
"""Variables that say something else than a setting."""

__all__ = [
    "SQLITE",
    "AlertSettings",
    "CaptureSettings",
    "DashboardSettings",
    "OidcRule",
    "OidcSettings",
    "OutcomeSettings",
    "RegistrySettings",
    "SchedulerSettings",
    "ServingSettings",
    "SqlSourceSettings",
    "StoreSettings",
]


class ScheduleSettings(Section):
    """When the loop runs: a duration (`1d`), a line as crontab has it (`0 4 * * mon`, UTC) or `never`."""

    cycle: str = setting("1d", "when the loop turns: `1d`, `0 4 * * mon` (UTC), or `never`")
    report: str = setting("0 6 1 * *", "when reports are made")
    heartbeat: str = setting(
        "",
        "dead man's switch: a URL that is asked for after each cycle without a failure",
        pattern=r"^(https?://\S+)?$",
    )


class LogSettings(Section):
    """What of the predictions is logged, how safely, and for how long."""

    durability: Literal["committed", "buffered", "off"] = setting(
        "committed", "`committed`: on disk before the answer; `buffered`: after it; `off`: nothing is logged"
    )
    on_full: Literal["refuse", "drop"] = setting(
        "refuse", "a spool without room: `refuse` answers (503), or `drop` rows, and count them"
    )
    columns: dict[str, Literal["plain", "hash", "drop"]] = Field(
        default_factory=dict, description="by name: `plain`, `hash`, `drop`; the others are logged plain"
    )
    sample: float = setting(1.0, "share of rows that is logged, with its weight", gt=0, le=1)
    retention: OptionalDuration = setting(None, "how long predictions stay; `never`: for ever")


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

    engine: Literal["auto", "native"] = setting("auto", "`auto`: ONNX where it is proven; `native`")
    batching: Literal["auto", "off"] = setting("auto", "`auto`, `off`")
    answers: Literal["auto", "probability"] = setting(
        "auto", "`probability`: of what is no scikit-learn model and answers these"
    )
    tolerance: float = setting(1e-6, "how far ONNX may be from the model", gt=0)
    providers: tuple[str, ...] = setting((), "its own, else the server's")


class AdapterSettings(Section):
    """Whether answers learn from outcomes between retrainings; what is served then differs from the model's own.

    For models with probabilities, and regressions; of one label, without `query`.
    """

    mode: Literal["on", "off"] = setting("off", "`on`: answers are adapted, and learned on with each day's outcomes")
    intervals: float | None = setting(
        None, "0.9: a regression's answers have `lower` and `upper` beside them, also in the log", ge=0.9, le=0.9
    )


class ModelSettings(Section):
    """One registered model: what it predicts, how its outcomes are found, what to do about them."""

    task: Annotated[
        Literal["binary", "multiclass", "regression"], Field(description="`binary`, `multiclass` or `regression`")
    ]
    label: Annotated[
        str | Annotated[tuple[str, ...], Field(min_length=1, max_length=50)],
        Field(description="the outcome's column, or a list of several"),
    ]
    key: tuple[str, ...] = setting((), "columns by which outcomes find their prediction; empty: by its id")
    key_types: dict[str, Literal["boolean", "integer", "long", "float", "double", "string", "datetime"]] = Field(
        default_factory=dict,
        description="types of those that are no features: `string`, `long`, `double`, `boolean`, `datetime`",
    )
    classes: tuple[bool | int | str, ...] = setting(
        (), "all of them, where the version shows none; else those that outcomes may be beside"
    )
    positive: bool | int | str | None = setting(None, "the positive class of a binary task")
    features: tuple[str, ...] = setting(
        (), "of a model that takes a tensor: what its columns are called, in its order; else `feature_0` …"
    )
    segments: tuple[str, ...] = setting((), "columns whose values are looked at one by one")
    segment_values: int = setting(
        50, "of each of them, so many values; all others together as `(other)`", ge=1, le=1000
    )
    query: str = setting(
        "", "column of rows that were ranked against each other: NDCG and MRR", examples=["search_id"]
    )
    find_slices: bool = setting(
        False, "look in each matured window for rows where it does worst; its labelled rows are read for that"
    )
    alias: str = setting("champion", "whose version answers")
    maturity: Duration = setting(timedelta(days=1), "after this a prediction has had its chance of an outcome")
    window: Duration = setting(timedelta(days=1), "what is evaluated and judged at once")
    silence: Duration | None = setting(
        None, "alert when nothing was predicted for so long; left out: never", examples=["2h"]
    )
    drift: DriftSettings = DriftSettings()
    policy: PolicySettings = PolicySettings()
    conditions: tuple[ConditionSettings, ...] = ()
    adapter: AdapterSettings = AdapterSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    approval: ApprovalSettings = ApprovalSettings()
    rollout: RolloutSettings = RolloutSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    outcomes: OutcomeSettings = OutcomeSettings()
    exploration: ExplorationSettings = ExplorationSettings()
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
        watched = [("policy.watch", watch.segment) for watch in self.policy.watch]
        watched += [("conditions", condition.segment) for condition in self.conditions]
        for place, segment in watched:
            column = segment.partition("=")[0]
            if column and column not in self.segments:
                declared = ", ".join(self.segments) or "none"
                raise ValueError(f"{place}: {column!r} is not among the segments, which are: {declared}")
        words = [condition.words for condition in self.conditions]
        if twice := next((text for text in words if words.count(text) > 1), None):
            raise ValueError(f"conditions: {twice!r} is there twice")
        main = self.policy.loss
        pairs = [("auto" if watch.loss == main else watch.loss, watch.segment) for watch in self.policy.watch]
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
    dashboard: DashboardSettings = DashboardSettings()
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
            spelled = spelling.get(name) or str(name)
            folded[spelled] = _merged(folded.get(spelled), value)
        return {**data, "models": folded}

    @model_validator(mode="after")
    def _models_that_there_are(self) -> Settings:
        """A route or a rule for a model that there is not would be of no use, and nobody would know."""
        named = [(f"alerts.routes.{name}.models", route.models) for name, route in self.alerts.routes.items()]
        rules = self.dashboard.oidc.rules if self.dashboard.oidc is not None else ()
        named += [(f"dashboard.oidc.rules.{place}.models", rule.models) for place, rule in enumerate(rules)]
        for key, models in named:
            if unknown := [model for model in models if model not in self.models]:
                raise ValueError(f"{key}: {unknown[0]!r} is not among the models")
        return self

    def model(self, name: str) -> ModelSettings:
        """The settings of one model; raises NotFound with the names that there are."""
        if name not in self.models:
            names = ", ".join(sorted(self.models)) or "none"
            raise NotFound("model in the configuration", name, cure=f"Known: {names}. Add it: feedback-loop init.")
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
        readable = (
            f"Let user {os.getuid()} read it: chmod, or chown."
            if isinstance(error, PermissionError)
            else "Mend that."
        )
        raise ConfigError(cause, cure=cure if missing else readable, path=place) from None
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
    sections = set(Settings.model_fields) - {"home"}
    for variable in os.environ:
        first = variable.removeprefix(PREFIX).split("__")[0].lower()
        if variable.startswith(PREFIX) and variable not in NO_SETTINGS and first not in sections:
            raise ConfigError(
                f"The variable {variable} sets nothing.",
                cure=nearest(first, sections, lambda name: f"{PREFIX}{name.upper()}__…"),
                path=place,
                key=variable,
            )
